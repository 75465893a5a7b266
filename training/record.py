"""The record of a run, `training_record.json`: its options, data and results, from which the model card is filled."""

import json
import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from huggingface_hub import RepoCard
from trl import ModelConfig
from yaml import YAMLError

from otdrg_hf.data.sources import source_of
from otdrg_hf.files import write_json
from otdrg_hf.hub.card_file import CARD_FILE, is_replaceable
from otdrg_hf.hub.model_card import write_model_card
from otdrg_hf.hub.provenance import FORMAT, RECORD_FILE, read_file, read_stages
from otdrg_hf.training.arguments import RATES, StudyArguments
from otdrg_hf.training.report_metrics import LOGGED

RECIPE = (
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "weight_decay",
    "max_grad_norm",
    "seed",
)
OPTIONS = ("augment", "freeze_vision", "train_vision_blocks", "vision_learning_rate", "text_learning_rate")  # if given
RESULTS = ("loss", "lm_loss", "ot_loss", "disease_loss", "disease_micro_f1", "disease_macro_f1", *LOGGED)
PACKAGES = {"otdrg_hf": "otdrg-hf", "transformers": "transformers", "trl": "trl", "torch": "torch", "peft": "peft"}


def write_record(trainer, args: StudyArguments, model_args: ModelConfig, more: dict[str, Any] | None = None) -> None:
    """
    Writes `training_record.json`, with the records of the stages before, and the model card of it to `output_dir`.

    Neither holds a path of this machine or anything of a study.

    Args:
        more (`dict`, *optional*): What else the stage has to say of itself.
    """
    output_dir = Path(trainer.args.output_dir)
    start = model_args.model_name_or_path
    stage = {**describe_stage(trainer, args, model_args), **(more or {})}
    stages = [*(read_stages(start) if start else []), stage]
    write_json(output_dir / RECORD_FILE, {"format": FORMAT, "stages": stages})
    if is_replaceable(output_dir / CARD_FILE):
        write_model_card(output_dir)


def training_data(args: StudyArguments, model_args: ModelConfig, studies) -> list[str]:
    """
    All that a model has learned from at the end of a run: for its configuration, which goes wherever the weights go,
    into checkpoints and whatever is saved of the model later.
    """
    start = model_args.model_name_or_path
    before = [stage["dataset"] for stage in (read_stages(start) if start else [])]
    return list(dict.fromkeys([*before, source_of(args.dataset, studies)]))


def describe_stage(trainer, args: StudyArguments, model_args: ModelConfig) -> dict[str, Any]:
    """One stage, ready for JSON."""
    training, model = trainer.args, trainer.model
    recipe = {name: getattr(training, name) for name in RECIPE}
    recipe = {name: getattr(value, "value", value) for name, value in recipe.items()}  # enumerations by their names
    lora = {"r": model_args.lora_r, "alpha": model_args.lora_alpha, "dropout": model_args.lora_dropout}
    cuda = training.device.type == "cuda"
    return {
        "stage": args.stage,
        "dataset": source_of(args.dataset, trainer.train_dataset),
        "image_size": _image_size(trainer.processing_class),
        "studies": {"train": len(trainer.train_dataset), "validation": len(trainer.eval_dataset)},
        "target": args.target,
        "labels_from": args.labels_from,
        "label_prompt": trainer.processing_class.label_prompt,
        "vision_model": _hub_id(args.vision_model),
        "text_model": _hub_id(args.text_model),
        "starts_from": _hub_id(model_args.model_name_or_path),
        "backbones": _backbones(args),
        "otdrg_config": {key: value for key, value in args.otdrg_config.items() if key != "state_priors"},
        "recipe": recipe
        | {name: getattr(args, name) for name in (*RATES, "finding_weight")}
        | {name: value for name in OPTIONS if (value := getattr(args, name))},
        "lora": lora if is_peft_model(model) else None,
        "precision": "bf16" if training.bf16 else "fp16" if training.fp16 else "fp32",
        "device": torch.cuda.get_device_name(training.device) if cuda else training.device.type.upper(),
        "processes": trainer.accelerator.num_processes,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "steps": trainer.state.global_step,
        "epochs": round(trainer.state.epoch or 0.0, 3),
        "validation": _results(trainer),
        "versions": _versions(),
    }


def _hub_id(name: str | None) -> str | None:
    """The name if it is one on the Hub; paths of folders stay private."""
    return name if name and not os.path.exists(name) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) else None


def _backbones(args: StudyArguments) -> list[dict[str, str | None]]:
    """What a new model was joined of, by the name that it is known by and the licence that it states."""
    parts = {name: getattr(args, name) for name in ("vision_model", "text_model", "label_encoder")}
    return [
        {"part": part, "name": _public_name(source), "license": _stated_license(source)}
        for part, source in parts.items()
        if source
    ]


def _public_name(source: str) -> str:
    """A name on the Hub, also of a folder in its cache; else that of the folder, without where it lies."""
    path = os.path.abspath(source)
    in_cache = re.search(r"models--([\w.-]+?)--([\w.-]+)", path)
    return _hub_id(source) or ("/".join(in_cache.groups()) if in_cache else os.path.basename(path))


def _stated_license(source: str) -> str | None:
    """What the card of a model, or else its config.json, says of its licence."""
    try:
        card = read_file(source, CARD_FILE)
        found = RepoCard(card, ignore_metadata_errors=True).data.to_dict() if card else {}
        found = {**json.loads(read_file(source, "config.json") or "{}"), **found}
    except (ValueError, YAMLError):
        return None
    stated = found.get("license_name") if found.get("license") == "other" else None
    stated = stated or found.get("license")
    return " ".join(str(stated).split())[:100] if stated else None


def _image_size(processor) -> list[int]:
    size = processor.image_processor.size
    return [size["height"], size["width"]]


def _results(trainer) -> dict[str, float]:
    """Metrics of the last evaluation, or of the one whose weights were kept."""
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    if trainer.args.load_best_model_at_end:
        evaluations = [entry for entry in evaluations if entry["step"] == trainer.state.best_global_step]
    last = evaluations[-1] if evaluations else {}
    return {name: last[f"eval_{name}"] for name in RESULTS if f"eval_{name}" in last}


def _versions() -> dict[str, str]:
    versions = {}
    for name, package in PACKAGES.items():
        try:
            versions[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
