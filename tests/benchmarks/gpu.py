"""
What a GPU makes of the solver, of training steps, of generation and of half precision, beside what others make of it.

    python tests/benchmarks/gpu.py [transport] [step] [generation] [precision] [compile]

`make bench-gpu` runs all of it. Runs alternate in one process, and a ratio is the median of those of the pairs.
"""

import argparse
import gc
import itertools
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

os.environ.setdefault("CI", "true")  # TRL reports trainers to the Hub, except where this is set

import datasets  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from llava_generation import make_runs  # noqa: E402
from llava_pair import VIT_BASE  # noqa: E402
from llava_step import CHUNKED, SIZES, make_steps  # noqa: E402
from optimal_transport import gradient, pot_plan, problem  # noqa: E402
from step_share import QWEN_HALF_BILLION  # noqa: E402
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline  # noqa: E402

from otdrg_hf import DEMO_CHECKPOINT  # noqa: E402
from otdrg_hf.data import load_study_dataset  # noqa: E402
from otdrg_hf.modeling import modeling_otdrg  # noqa: E402
from otdrg_hf.modeling.optimal_transport import sinkhorn  # noqa: E402

ITERATIONS = 100
STEP_SIZES = SIZES | {"ViT-B/16 + 0.5 B": (VIT_BASE, QWEN_HALF_BILLION)}
MIB = 2**20


def timed(function: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(function: Callable[[], object]) -> int:
    """Bytes that tensors take at most while `function` runs, beyond those from before."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def alternate(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each function in each round, after one round that warms up."""
    rounds = [{name: timed(function) for name, function in functions.items()} for _ in range(repeats + 1)][1:]
    return {name: [each[name] for each in rounds] for name in functions}


def print_ratios(seconds: dict[str, list[float]], ours: str) -> None:
    for name in (name for name in seconds if name != ours):
        ratios = sorted(one / other for one, other in zip(seconds[ours], seconds[name], strict=True))
        low, median, high = ratios[0], statistics.median(ratios), ratios[-1]
        print(f"  {ours} / {name:28} time {median:.3f} ({low:.3f} to {high:.3f})", flush=True)


def plain_sinkhorn(cost: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The log-domain loop that anybody writes, through which autograd goes back."""
    _, n, m = cost.shape
    kernel, f, g = -cost / epsilon, cost.new_zeros(len(cost), n), cost.new_zeros(len(cost), m)
    for _ in range(ITERATIONS):
        f = -(kernel + g[:, None]).logsumexp(2) - math.log(n)
        g = -(kernel + f[:, :, None]).logsumexp(1) - math.log(m)
    return (kernel + f[:, :, None] + g[:, None]).exp()


def compare_transport(repeats: int) -> None:
    """Forward and backward of the solver, of a plain loop and of POT's batch solver."""
    solvers = {
        "ours": lambda cost, epsilon: sinkhorn(cost, None, None, epsilon, ITERATIONS, 0.0),
        "plain loop": plain_sinkhorn,
        "POT": pot_plan,
    }
    for (n, m), epsilon in itertools.product(((196, 15), (1369, 15)), (0.05, 0.005)):
        compare_one_transport(n, m, epsilon, solvers, repeats)


def compare_one_transport(n: int, m: int, epsilon: float, solvers: dict, repeats: int) -> None:
    cost, cotangent = (each.detach().cuda() for each in problem(32, n, m))
    cost.requires_grad_()
    solvers = solvers | {"ours, stopping": lambda cost, epsilon: sinkhorn(cost, epsilon=epsilon)}

    def of(solve):
        return lambda: gradient(solve(cost, epsilon), cost, cotangent)

    runs = {name: of(solve) for name, solve in solvers.items()}
    print(f"\nTransport, 32 x {n} x {m}, eps {epsilon}, {ITERATIONS} iterations, fp32, forward + backward")
    seconds = alternate(runs, repeats)
    for name, values in seconds.items():
        peak = peak_bytes(runs[name]) / MIB
        print(f"  {name:14} {statistics.median(values) * 1e3:8.2f} ms   peak {peak:7.1f} MiB")
    print_ratios(seconds, "ours")
    print(f"  ours waits for the GPU {count_waits(cost, epsilon)} times")


def count_waits(cost: torch.Tensor, epsilon: float) -> int:
    """How often the host waits for the device in one forward pass of the solver."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sinkhorn(cost, epsilon=epsilon)
        return len(caught)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def compare_steps(repeats: int) -> None:
    """A training step under OTDRGTrainer beside one of LLaVA under TRL's stock trainer, in bf16."""
    for size, (_, text) in STEP_SIZES.items():
        names = ("otdrg", "otdrg, all logits", "llava")
        peaks = {name: step_peak(name, size) / MIB for name in names}
        steps = {name: make_steps(name, size, 8, STEP_SIZES, bf16=True) for name in ("otdrg", "llava")}
        steps["otdrg, all logits"] = steps["otdrg"]
        tokens, supervised = steps["otdrg"].tokens
        print(f"\nTraining step, {size}: batch 8, {tokens} tokens, {supervised} supervised, ", end="")
        print(f"vocabulary {text['vocab_size']:,}, bf16")
        seconds = alternate({name: with_chunks(name, steps[name]) for name in names}, repeats)
        for name in names:
            print(f"  {name:20} {statistics.median(seconds[name]) * 1e3:8.1f} ms   peak {peaks[name]:8.0f} MiB")
        print_ratios(seconds, "otdrg")
        print(f"  otdrg / llava: peak {peaks['otdrg'] / peaks['llava']:.3f}")
        del steps
        gc.collect()
        torch.cuda.empty_cache()


def step_peak(name: str, size: str) -> int:
    """Bytes of all tensors at the peak of the second step, weights and the optimizer's states among them."""
    before = torch.cuda.memory_allocated()
    run = with_chunks(name, make_steps(name, size, 8, STEP_SIZES, bf16=True))
    run()
    held = torch.cuda.memory_allocated() - before
    peak = held + peak_bytes(run)
    del run
    gc.collect()
    torch.cuda.empty_cache()
    return peak


def with_chunks(name: str, run: Callable[[], object]) -> Callable[[], None]:
    def step() -> None:
        modeling_otdrg.chunked_cross_entropy = (lambda *each: None) if name.endswith("all logits") else CHUNKED
        run()

    return step


def compare_generation(repeats: int) -> None:
    """Tokens a second, greedy and by four beams, beside LLaVA with the same tokens, and with fewer visual ones."""
    for batch, beams in itertools.product((1, 16, 64), (1, 4)):
        runs = make_runs(batch, 60, "cuda", torch.bfloat16)
        runs["otdrg, 49 visual tokens"] = make_runs(batch, 60, "cuda", torch.bfloat16, pooling=2)["otdrg"]
        seconds = alternate({name: partial(run, beams) for name, run in runs.items()}, repeats)
        for name, values in seconds.items():
            print(f"  {name:24} {beams} beams {batch * 60 / statistics.median(values):9.0f} tokens/s")
        print_ratios(seconds, "otdrg")


def compare_precision(studies: int = 200) -> None:
    """Of phantoms, how many states and reports of the bundled model are those of fp32."""
    images = load_study_dataset("phantom", split="test", num_studies=studies)["images"]
    answers = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        report = pipeline("radiology-report", model=str(DEMO_CHECKPOINT), device="cuda", dtype=dtype)
        answers[dtype] = report(list(images), batch_size=50)
    exact = answers.pop(torch.float32)
    print(f"\nReports of {studies} phantoms by the bundled model, beside fp32")
    for dtype, given in answers.items():
        pairs = list(zip(exact, given, strict=True))
        texts = sum(one["generated_text"] == other["generated_text"] for one, other in pairs)
        states = [
            a["state"] == b["state"]
            for one, other in pairs
            for a, b in zip(one["findings"], other["findings"], strict=True)
        ]
        print(f"  {str(dtype):15} {texts} reports and {sum(states)} of {len(states)} states the same", flush=True)


def compare_compiled(repeats: int) -> None:
    """Forward and backward of the bundled model compiled by Inductor, and with gradient checkpointing."""
    studies = load_study_dataset("phantom", split="test", num_studies=16)
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)
    inputs = processor(
        images=list(studies["images"]), text=[processor.build_prompt(len(each)) for each in studies["images"]]
    ).to("cuda")
    labels = processor.encode_labels(studies["disease_labels"]).to("cuda")
    runs, peaks = {}, {}
    for name in ("eager", "checkpointing", "compiled"):
        model = AutoModelForImageTextToText.from_pretrained(DEMO_CHECKPOINT).cuda().train()
        if name == "checkpointing":
            model.gradient_checkpointing_enable()
        forward = torch.compile(model, fullgraph=True) if name == "compiled" else model

        def run(model=model, forward=forward) -> None:
            with torch.autocast("cuda", torch.bfloat16):
                loss = forward(
                    **inputs, labels=inputs["input_ids"], disease_labels=labels, skip_logits=True, use_cache=False
                ).loss
            loss.backward()
            model.zero_grad()

        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        print(f"  {name}: first step {time.perf_counter() - start:.1f} s", flush=True)
        runs[name], peaks[name] = run, peak_bytes(run) / MIB
    print("\nForward and backward of the bundled model, 16 phantoms, bf16 autocast")
    seconds = alternate(runs, repeats)
    for name, values in seconds.items():
        print(f"  {name:16} {statistics.median(values) * 1e3:8.1f} ms   peak {peaks[name]:7.0f} MiB")


PARTS = {
    "transport": compare_transport,
    "step": compare_steps,
    "generation": compare_generation,
    "precision": lambda repeats: compare_precision(),
    "compile": compare_compiled,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    datasets.disable_progress_bars()
    device = torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}, transformers {transformers.__version__}")
    failed = []
    for name in options.parts or PARTS:
        try:
            PARTS[name](options.repeats)
        except Exception as error:  # the parts do not depend on each other, and a GPU is not had every day
            failed.append(name)
            print(f"{name} failed: {type(error).__name__}: {error}", flush=True)
    if failed:
        raise SystemExit(f"error: {', '.join(failed)} failed.")


if __name__ == "__main__":
    main()
