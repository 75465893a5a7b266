"""
A training step of OTDRG under OTDRGTrainer beside one of transformers' LLaVA under TRL's stock SFTTrainer.

    python tests/benchmarks/llava_step.py [--sizes small large_vocabulary] [--pairs 7]

Same backbones, prompt and tokens; steps alternate, and the ratio is the median of those of the pairs. Time is that of
the processor, on one thread, which other work on the machine hardly changes. Peak memory is that of the tensors in one
step, each model in a process of its own. TRL's fused LM head scores supervised positions
alone on a GPU, but all positions on a CPU; "compact" makes it do on the CPU what it does on a GPU. "otdrg, all logits"
is OTDRG without its loss in chunks, which large vocabularies get.
"""

import argparse
import gc
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CI", "true")  # TRL reports trainers to the Hub, except where this is set

import datasets  # noqa: E402
import torch  # noqa: E402
import trl.trainer.utils  # noqa: E402
from llava_pair import VIT_SMALL, llava_prompts, make_llava, make_otdrg, make_studies  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

from otdrg_hf.modeling import modeling_otdrg  # noqa: E402
from otdrg_hf.training.collator import StudyCollator  # noqa: E402
from otdrg_hf.training.stages import apply_stage  # noqa: E402
from otdrg_hf.training.trainer import OTDRGTrainer  # noqa: E402

LLAMA = {"model_type": "llama", "num_attention_heads": 8, "num_key_value_heads": 8}
SIZES = {
    "small": (
        VIT_SMALL,
        {**LLAMA, "vocab_size": 32_000, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8},
    ),
    "large_vocabulary": (
        VIT_SMALL,
        {**LLAMA, "vocab_size": 128_000, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4}
        | {"tie_word_embeddings": True},
    ),
}
NAMES = ("llava", "llava compact", "otdrg", "otdrg, all logits")
SENTENCES = 6
CHUNKED = modeling_otdrg.chunked_cross_entropy


class Steps:
    """Training steps taken one at a time, as the loop of the trainer takes them."""

    def __init__(self, trainer: SFTTrainer):
        self.trainer = trainer
        trainer.current_gradient_accumulation_steps = 1
        trainer.create_optimizer()
        self.model, self.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.model_wrapped = self.model
        batches = iter(trainer.get_train_dataloader())
        self.batch, self.items = trainer.get_batch_samples(batches, 1, trainer.args.device)

    def __call__(self):
        self.trainer.training_step(self.model, dict(self.batch[0]), self.items)
        self.optimizer.step()
        self.model.zero_grad()

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of the batch, and those that are supervised."""
        return self.batch[0]["input_ids"].numel(), int((self.batch[0]["labels"] != -100).sum())


def make_steps(name: str, size: str, batch: int, sizes: dict = SIZES, **precision) -> Steps:
    """Of one of NAMES; `precision` are arguments of the trainer that say where it computes, and in what."""
    studies = make_studies(2 * batch, SENTENCES)
    options = {"per_device_train_batch_size": batch, "max_length": None}
    options |= precision or {"bf16": False, "use_cpu": True}
    options |= {"gradient_checkpointing": False, "report_to": "none", "save_strategy": "no", "seed": 0}
    args = SFTConfig(output_dir=tempfile.mkdtemp(), **options)
    if name.startswith("otdrg"):
        model, processor = make_otdrg(*sizes[size])
        trainer = OTDRGTrainer(
            model=model,
            args=args,
            data_collator=StudyCollator(processor, "findings"),
            train_dataset=studies,
            processing_class=processor,
            stage="joint",
            frozen_modules=apply_stage(model, "joint"),
        )
    else:
        model, processor, writer = make_llava(*sizes[size])
        rows = llava_prompts(studies, writer)
        trainer = SFTTrainer(model=model, args=args, train_dataset=rows, processing_class=processor)
    return Steps(trainer)


def score_supervised_alone(name: str) -> None:
    """What TRL's fused head asks before it leaves out positions without a label; its kernels ask a name of theirs."""
    trl.trainer.utils._use_triton = lambda device: name.endswith("compact") or device.type == "cuda"


def set_chunks(name: str) -> None:
    modeling_otdrg.chunked_cross_entropy = (lambda *each: None) if name.endswith("all logits") else CHUNKED


def timed(name: str, steps: Steps) -> float:
    score_supervised_alone(name)
    set_chunks(name)
    start = time.process_time()
    steps()
    return time.process_time() - start


def held_bytes() -> int:
    """Bytes of all tensors that are alive, each storage once."""
    gc.collect()
    storages = {}
    for each in gc.get_objects():
        if issubclass(type(each), torch.Tensor) and each.device.type == "cpu":
            storage = each.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def measure_memory(name: str, size: str, batch: int, answer) -> None:
    """Sends bytes before, and at the peak of, the second step; the first makes the optimizer's state."""
    datasets.disable_progress_bars()
    score_supervised_alone(name)
    set_chunks(name)
    steps = make_steps(name, size, batch)
    steps()
    held = held_bytes()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        steps()
    trace = Path(tempfile.mkdtemp(), "trace.json")
    profiled.export_chrome_trace(str(trace))
    totals = [
        (event["ts"], event["args"]["Total Allocated"])
        for event in json.loads(trace.read_text())["traceEvents"]
        if event.get("name") == "[memory]" and event["args"].get("Device Type") == 0
    ]
    first = min(totals)[1]
    answer.send((held, held + max(total for _, total in totals) - first))


def memory(name: str, size: str, batch: int) -> tuple[int, int]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure_memory, args=(name, size, batch, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def compare(size: str, batch: int, pairs: int) -> None:
    peaks = {name: memory(name, size, batch) for name in NAMES}
    steps = {name: make_steps(name, size, batch) for name in ("llava", "otdrg")}
    steps |= {"llava compact": steps["llava"], "otdrg, all logits": steps["otdrg"]}
    tokens, supervised = steps["otdrg"].tokens
    if steps["llava"].tokens != (tokens, supervised):
        sys.exit(f"error: LLaVA has {steps['llava'].tokens} tokens, OTDRG {(tokens, supervised)}.")
    text = SIZES[size][1]
    print(f"\n{size}: batch {batch}, {tokens} tokens, {supervised} supervised, vocabulary {text['vocab_size']:,}")
    rounds = [{name: timed(name, steps[name]) for name in NAMES} for _ in range(pairs + 1)][1:]  # the first warms up
    for name in NAMES:
        seconds = statistics.median(each[name] for each in rounds)
        held, peak = (value / 2**20 for value in peaks[name])
        print(f"  {name:17} {seconds:7.3f} s   tensors {peak:6.0f} MiB (weights, optimizer {held:.0f})")
    for ours, name in itertools.product(NAMES[2:], NAMES[:2]):
        ratios = sorted(each[ours] / each[name] for each in rounds)
        peak = peaks[ours][1] / peaks[name][1]
        print(
            f"  {f'{ours} / {name}':34} time {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
            end="",
        )
        print(f"   tensors {peak:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args()
    datasets.disable_progress_bars()
    print(f"torch {torch.__version__}, trl {trl.__version__}, {torch.get_num_threads()} threads, CPU, fp32")
    for size in options.sizes:
        compare(size, options.batch, options.pairs)


if __name__ == "__main__":
    main()
