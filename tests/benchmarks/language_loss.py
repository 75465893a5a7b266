"""
Time and memory of the language loss, forward and backward: chunks of ours, chunks of torch, and all logits at once.

    python tests/benchmarks/language_loss.py [--vocab 32000] [--hidden 576] [--tokens 2048]

Each variant runs in a process of its own, interleaved; printed are medians and their ratios to all logits at once.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

VARIANTS = ("logits", "ours", "torch")


def measure(variant: str, vocab: int, hidden: int, tokens: int) -> dict[str, float]:
    import torch
    from torch.nn import functional as F

    from otdrg_hf.modeling.losses_otdrg import chunked_cross_entropy

    torch.manual_seed(0)
    head = torch.nn.Linear(hidden, vocab, bias=False)
    states = torch.randn(tokens, hidden, requires_grad=True)
    targets = torch.randint(0, vocab, (tokens,))

    def loss():
        if variant == "ours":
            return chunked_cross_entropy(states, head, targets)
        if variant == "torch":
            options = torch.nn.LinearCrossEntropyOptions()
            return F.linear_cross_entropy(states, head.weight, targets, reduction="sum", options=options)
        return F.cross_entropy(head(states), targets, reduction="sum")

    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(5):
        head.weight.grad = states.grad = None
        start = time.perf_counter()
        loss().backward()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": statistics.median(times), "mebibytes": peak / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--tokens", type=int, default=2_048)
    parser.add_argument("--variant", choices=VARIANTS)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args.variant, args.vocab, args.hidden, args.tokens)))
        return
    sizes = [f"--{name}={getattr(args, name)}" for name in ("vocab", "hidden", "tokens")]
    runs: dict[str, list[dict]] = {variant: [] for variant in VARIANTS}
    for _ in range(3):
        for variant in VARIANTS:
            command = [sys.executable, __file__, *sizes, f"--variant={variant}"]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            runs[variant].append(json.loads(output.splitlines()[-1]))
    medians = {v: {k: statistics.median(r[k] for r in rows) for k in rows[0]} for v, rows in runs.items()}
    for variant, figures in medians.items():
        ratios = {key: figures[key] / medians["logits"][key] for key in figures}
        print(
            f"{variant:7s} {figures['seconds']:.3f} s ({ratios['seconds']:.2f})  "
            f"{figures['mebibytes']:.0f} MiB ({ratios['mebibytes']:.2f})"
        )


if __name__ == "__main__":
    main()
