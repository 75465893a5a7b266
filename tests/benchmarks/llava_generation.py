"""
Generation by OTDRG beside transformers' LLaVA of the same backbones, prompt and tokens, greedy and with four beams.

    python tests/benchmarks/llava_generation.py [--pairs 5]

Both are made to write the same number of tokens. Runs alternate, and the ratio is the median of those of the pairs.
Time is that of the processor, on one thread, which other work on the machine hardly changes.
"""

import argparse
import os
import statistics
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
import transformers  # noqa: E402
from llava_pair import VIT_SMALL, expand_findings, make_llava, make_otdrg, make_studies  # noqa: E402

LLAMA = {
    "model_type": "llama",
    "vocab_size": 32_000,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}


def make_runs(batch: int, new_tokens: int, device: str = "cpu", dtype=torch.float32, pooling: int = 1) -> dict:
    """
    For each model, a function that generates with a number of beams; prompts are of the same ids.

    With `pooling`, OTDRG has fewer visual tokens and no LLaVA to compare it with.
    """
    films = list(make_studies(batch, 1)["images"])
    otdrg, processor = make_otdrg(VIT_SMALL, LLAMA, pooling=pooling)
    prompts = [processor.build_prompt(1, ["frontal"])] * batch
    inputs = processor(images=films, text=prompts)
    forced = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}

    def run(model, given):
        model.eval().to(device, dtype)
        given = given.to(device, dtype)

        def generate(beams: int) -> float:
            start = time.process_time()
            ids = model.generate(**given, **forced, num_beams=beams)
            spent = time.process_time() - start
            written = ids.shape[1] - (given["input_ids"].shape[1] if ids.shape[1] > new_tokens else 0)
            if written != new_tokens:
                sys.exit(f"error: {type(model).__name__} wrote {written} tokens, not {new_tokens}.")
            return spent

        return generate

    print(f"batch {batch}, prompts of {inputs['input_ids'].shape[1]} tokens, {new_tokens} new ones")
    if pooling > 1:
        return {"otdrg": run(otdrg, inputs)}
    llava, llava_processor, _ = make_llava(VIT_SMALL, LLAMA)
    expanded = [expand_findings(prompt, processor) for prompt in prompts]
    llava_inputs = llava_processor(images=films, text=expanded, add_special_tokens=False, return_tensors="pt")
    llava_inputs.pop("token_type_ids", None)
    if not torch.equal(inputs["input_ids"], llava_inputs["input_ids"]):
        sys.exit("error: the two prompts are not of the same tokens.")
    return {"llava": run(llava, llava_inputs), "otdrg": run(otdrg, inputs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--new_tokens", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads, CPU")
    runs = make_runs(options.batch, options.new_tokens)
    for beams in (1, 4):
        rounds = [{name: run(beams) for name, run in runs.items()} for _ in range(options.pairs + 1)][1:]
        ratios = sorted(each["otdrg"] / each["llava"] for each in rounds)
        seconds = {name: statistics.median(each[name] for each in rounds) for name in runs}
        print(
            f"{f'{beams} beams' if beams > 1 else 'greedy':8} LLaVA {seconds['llava']:.3f} s   OTDRG "
            f"{seconds['otdrg']:.3f} s   ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
