"""
Share of label encoder, optimal transport and disease head in a training step at ViT-B/16 and a 0.5 B-shaped LLM.

    python tests/benchmarks/step_share.py [--batch 2] [--steps 3]

From torch.profiler: the forward pass of a part is a named range, and an operation of the backward pass belongs to the
part whose forward pass made it (by the sequence number of autograd). Time is an operation's own, on one thread.
"""

import argparse
import os
from collections import defaultdict
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from llava_pair import VIT_BASE, make_otdrg, make_studies  # noqa: E402
from torch.profiler import ProfilerActivity, profile, record_function  # noqa: E402

from otdrg_hf.modeling import modeling_otdrg  # noqa: E402
from otdrg_hf.training.collator import (
    OtherStates,  # noqa: E402
    StudyCollator,  # noqa: E402
)

QWEN_HALF_BILLION = {
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
MODULES = ("vision_tower", "patch_projection", "label_encoder", "alignment", "disease_head", "fusion", "language_model")
FUNCTIONS = {"transport_loss": "alignment", "disease_loss": "disease_head", "label_positions": "fusion"}
COUNTED = ("label_encoder", "alignment", "disease_head")


def named(name: str, function):
    def run(*args, **kwargs):
        with record_function(f"part: {name}"):
            return function(*args, **kwargs)

    return run


def self_seconds(events) -> tuple[dict[str, float], dict[str, float]]:
    """
    Seconds per part and pass, as `"alignment forward"`; every operation counts where its own time was spent.

    And seconds per operation of what no part's forward pass made.
    """
    spent, owners, unowned = defaultdict(float), {}, defaultdict(float)

    def part_of(event) -> str | None:
        while event is not None and not event.name.startswith("part: "):
            event = event.cpu_parent
        return None if event is None else event.name.removeprefix("part: ")

    def backward_node(event):
        while event is not None and not event.name.startswith("autograd::engine::evaluate_function"):
            event = event.cpu_parent
        return event

    def step_of(event):
        while event is not None and event.name not in ("step: forward", "step: backward", "step: optimizer"):
            event = event.cpu_parent
        return None if event is None else event.name.removeprefix("step: ")

    for event in events:
        if event.sequence_nr >= 0 and backward_node(event) is None:
            part = part_of(event)
            # Of nested operations with the same number, one in a part says whose it is.
            if part is not None or event.sequence_nr not in owners:
                owners[event.sequence_nr] = part
    for event in events:
        node, step = backward_node(event), step_of(event)
        part = part_of(event) if node is None else owners.get(node.sequence_nr)
        passed = "backward" if node is not None else step
        if passed is not None:
            spent[f"{part or 'rest'} {passed}"] += event.self_cpu_time_total / 1e6
            if part is None and passed != "optimizer":
                made_by = node.name.rsplit(" ", 1)[-1] if node is not None else "forward"
                unowned[f"{event.name} ({made_by})"] += event.self_cpu_time_total / 1e6
    return spent, unowned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    model, processor = make_otdrg(VIT_BASE, QWEN_HALF_BILLION)
    model.train()
    studies = make_studies(options.batch + 8, 6)
    others = OtherStates(np.array(studies["disease_labels"]))
    batch = StudyCollator(processor, "findings", others=others)(list(studies)[: options.batch])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    for name in MODULES:
        module = getattr(model.model, name)
        if name != "fusion":
            module.forward = named(name, module.forward)
    fusion = model.model.fusion
    fusion.visual_tokens = named("fusion", fusion.visual_tokens)
    fusion.label_tokens.forward = named("fusion", fusion.label_tokens.forward)
    model._language_loss = named("LM head and loss", model._language_loss)

    def step():
        with record_function("step: forward"):
            loss = model(**batch, skip_logits=True, use_cache=False).loss
        with record_function("step: backward"):
            loss.backward()
        with record_function("step: optimizer"):
            optimizer.step()
        optimizer.zero_grad()

    replaced = {name: named(part, getattr(modeling_otdrg, name)) for name, part in FUNCTIONS.items()}
    with patch.multiple(modeling_otdrg, **replaced):
        step()  # warms up
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(options.steps):
                step()
    spent, unowned = self_seconds(profiled.events())
    total = sum(spent.values())
    millions = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.model.vision_tower, model)]
    print(
        f"ViT-B/16 ({millions[0]:.0f} M) + Qwen2.5-0.5B's shape, {millions[1]:.0f} M in all; random weights, fp32, CPU"
    )
    print(f"batch {options.batch} of {batch['input_ids'].shape[1]} tokens, {options.steps} steps of ", end="")
    print(f"{total / options.steps:.1f} s, {torch.get_num_threads()} threads")
    print(f"{'':20}{'forward':>10}{'backward':>10}{'of the step':>13}")
    parts = sorted({key.rsplit(" ", 1)[0] for key in spent} - {"rest"}) + ["rest"]
    share = {}
    for part in parts:
        seconds = [spent.get(f"{part} {name}", 0) / options.steps for name in ("forward", "backward")]
        share[part] = sum(seconds) * options.steps / total
        print(f"{part:20}{seconds[0]:>8.3f} s{seconds[1]:>8.3f} s{share[part]:>12.2%}")
    print(f"{'optimizer':20}{'':>20}{spent['rest optimizer'] / total:>12.2%}")
    for name in sorted(unowned, key=unowned.get, reverse=True)[:5]:
        print(f"  rest: {name:60}{unowned[name] / total:>8.2%}")
    counted = sum(share[part] for part in COUNTED)
    of_passes = counted * total / (total - spent["rest optimizer"])
    print(f"{' + '.join(COUNTED)}: {counted:.2%} of a step, {of_passes:.2%} without the optimizer's part")


if __name__ == "__main__":
    main()
