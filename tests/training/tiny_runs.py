"""Runs of the training script that end within a second, and what it says of those that it refuses."""

import contextlib
import io
from pathlib import Path

import pytest
import yaml
from tiny_training import LLAMA, OTDRG, VIT

from otdrg_hf.training.sft import main

LORA = {"stage": "finetune", "use_peft": True, "lora_r": 2}
UNTIED = {**LLAMA, "tie_word_embeddings": False}
GPT2 = {"model_type": "gpt2", "vocab_size": 320, "n_embd": 32, "n_layer": 1, "n_head": 2}
EVALUATED = {"eval_strategy": "steps", "eval_steps": 1}
SAVED = {**EVALUATED, "save_strategy": "steps", "save_steps": 1}


def write_recipe(folder: Path, data: Path, name: str = "out", **changes) -> str:
    """A recipe of 2 steps of 2 studies whose output_dir is `folder/name`; changes to `None` leave a field out."""
    fields = {
        "dataset": str(data),
        "load_kwargs": {"cache_dir": str(folder / "cache")},
        "labels_from": "dataset",
        "vision_config": VIT,
        "text_config": LLAMA,
        "otdrg_config": OTDRG,
        "output_dir": str(folder / name),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in fields.items() if value is not None}))
    return str(path)


def train(folder: Path, data: Path, *arguments: str, name: str = "out", **changes) -> Path:
    """Runs such a recipe to its end and gives its output_dir."""
    main(["--config", write_recipe(folder, data, name, **changes), *arguments])
    return Path(changes.get("output_dir", folder / name))


def refusal(folder: Path, data: Path, *arguments: str, **changes) -> str:
    """The one line by which such a recipe is refused before its first step, with exit code 2 and nothing trained."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as stop:
        train(folder, data, *arguments, **changes)
    lines = [line for line in errors.getvalue().splitlines() if line.startswith("error: ")]
    assert stop.value.code == 2 and len(lines) == 1, errors.getvalue()
    assert not list(folder.glob("out/**/*.safetensors"))
    return lines[0]
