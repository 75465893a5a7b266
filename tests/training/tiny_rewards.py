"""Runs of training/grpo.py of a second or two, from a tiny model that tells studies apart."""

from pathlib import Path

import torch
import yaml
from tiny_training import speak_up, tiny_model

from otdrg_hf.training.grpo import main


def seen_words(completions, **columns):
    """A reward that varies between any two texts, to be named on the command line."""
    return [sum(map(ord, text)) % 97 / 97 for text in completions]


def constant(completions, **columns):
    return [0.5] * len(completions)


def varies_in_the_first_step(completions, trainer_state, **columns):
    first = trainer_state is None or trainer_state.global_step == 0  # there is no state where rewards are tried
    return seen_words(completions) if first else constant(completions)


def not_a_number(completions, **columns):
    """One that has no reward for the second of each four samples."""
    return [float("nan") if index % 4 == 1 else index % 4 for index in range(len(completions))]


def too_few(completions, **columns):
    return [1.0]


def save_start(folder: Path, **config) -> Path:
    """A checkpoint that writes reports, of a kind."""
    model, processor = tiny_model()
    speak_up(model)
    model.config.trained_on_reports = True
    for name, value in config.items():
        setattr(model.config, name, value)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_recipe(folder: Path, data: Path, start: Path, **changes) -> str:
    """2 steps of 2 studies with 4 samples each."""
    fields = {
        "dataset": str(data),
        "load_kwargs": {"cache_dir": str(folder / "cache")},
        "model_name_or_path": str(start),
        "rewards": {"tiny_rewards:seen_words": 1.0, "rouge_l": 0.5},
        "output_dir": str(folder / "out"),
        "max_steps": 2,
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 4,
        "max_completion_length": 10,
        "watch_studies": 3,
        "learning_rate": 1.0e-3,
        "lr_scheduler_type": "constant",
        "beta": 0.1,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in fields.items() if value is not None}))
    return str(path)


def reward(folder: Path, data: Path, start: Path, *arguments: str, **changes) -> Path:
    """Runs such a recipe to its end and gives its output_dir."""
    main(["--config", write_recipe(folder, data, start, **changes), *arguments])
    return Path(changes.get("output_dir", folder / "out"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
