"""
Time and memory of a step of clinical-reward training and of fine-tuning, of as many sequences each.

    python tests/benchmarks/reward_step.py [--studies 8] [--samples 8] [--steps 3]

The demo model on hard phantoms, on one CPU thread, by phantom_hard_finetune.yaml and phantom_hard_grpo.yaml:
fine-tuning on studies x samples studies; a reward of as many samples; and the same without shared features, which are
then computed for each sample in the rollout, for the reference and for the loss (and once per study on top). Each
variant runs in a process of its own. Printed are medians over the steps after the first: processor time, and what the
peak of memory lies above the loaded trainer; each with its ratio to fine-tuning.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

RECIPES = Path(__file__).resolve().parents[2] / "training/recipes"
VARIANTS = {"finetune": "fine-tuning", "reward": "reward", "unshared": "reward, features of each sample"}


def measure(variant: str, studies: int, samples: int, steps: int, folder: str) -> dict[str, float]:
    from transformers import TrainerCallback, logging
    from trl import GRPOConfig

    from otdrg_hf import DEMO_CHECKPOINT
    from otdrg_hf.training import grpo, sft
    from otdrg_hf.training.arguments import RecipeParser
    from otdrg_hf.training.reward_arguments import RewardArguments

    class Clock(TrainerCallback):
        times: list[float] = []

        def on_step_end(self, *args, **kwargs):
            self.times.append(time.process_time())

    logging.set_verbosity_error()
    count = studies * samples
    options = {
        "model_name_or_path": DEMO_CHECKPOINT,
        "output_dir": folder,
        "train_studies": count,
        "eval_studies": 8,
        "load_kwargs": '{"image_size": 128}',
        "per_device_train_batch_size": count,
        "max_steps": steps + 1,
        "save_strategy": "no",
        "use_cpu": "true",
        "disable_tqdm": "true",
    }
    if variant == "finetune":
        arguments, parser, script = [], RecipeParser(), sft
    else:
        arguments = ["--num_generations", samples, "--watch_studies", 8, "--watch", "phantom_hard:test"]
        parser, script = RecipeParser(RewardArguments, GRPOConfig), grpo
    recipe = RECIPES / ("phantom_hard_finetune.yaml" if variant == "finetune" else "phantom_hard_grpo.yaml")
    arguments += ["--config", recipe, *(part for name, value in options.items() for part in (f"--{name}", value))]
    prepared = script.set_up(*parser.parse_args_and_config([str(part) for part in arguments]))
    trainer = prepared if variant == "finetune" else prepared[0]
    if variant != "finetune":
        trainer.remove_callback(prepared[1])  # the reports of watched studies
    clock = Clock()
    trainer.add_callback(clock)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with unshared(trainer) if variant == "unshared" else contextlib.nullcontext():
        trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    spent = [end - start for start, end in zip(clock.times, clock.times[1:], strict=False)]
    return {"seconds": statistics.median(spent), "mebibytes": peak / 1024}


@contextlib.contextmanager
def unshared(trainer):
    """Computes features for each sample, wherever those of its study would be taken."""
    from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration, OTDRGStudyFeatures

    get_features, of_studies = OTDRGForConditionalGeneration.get_image_features, OTDRGStudyFeatures.of_studies
    inputs: dict = {}

    def keep_inputs(model, *args, **kwargs):
        inputs.update(kwargs)
        return get_features(model, *args, **kwargs)

    def compute(features, rows):
        if len(rows) <= len(inputs["pixel_values"]):  # of the studies themselves
            return of_studies(features, rows)
        repeated = {name: value[rows] if hasattr(value, "shape") else value for name, value in inputs.items()}
        return of_studies(get_features(trainer.body, **repeated), rows.new_tensor(range(len(rows))))

    with (
        patch.object(OTDRGForConditionalGeneration, "get_image_features", keep_inputs),
        patch.object(OTDRGStudyFeatures, "of_studies", compute),
    ):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = [args.studies, args.samples, args.steps]
    if args.variant:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(args.variant, *sizes, folder)))
        return
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = [f"--{name}={value}" for name, value in zip(("studies", "samples", "steps"), sizes, strict=True)]
    print(f"{args.studies * args.samples} sequences per step" + " " * 13 + "CPU s  ratio    MiB  ratio")
    first = None
    for variant, title in VARIANTS.items():
        command = [sys.executable, __file__, *options, f"--variant={variant}"]
        output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        found = json.loads(output.splitlines()[-1])
        first = first or found
        columns = (
            f"{found[key]:6.{digits}f} {found[key] / first[key]:6.2f}"
            for key, digits in (("seconds", 2), ("mebibytes", 0))
        )
        print(f"{title:34}{'  '.join(columns)}", flush=True)


if __name__ == "__main__":
    main()
