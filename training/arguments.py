"""The arguments of a training run: its own, besides TRL's `SFTConfig` and `ModelConfig`, and how recipes are read."""

import json
import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
import yaml
from transformers.utils import is_torch_bf16_gpu_available
from trl import ModelConfig, SFTConfig, TrlParser

PRECISIONS = ("bf16", "fp16", "tf32")
# What of an alignment recipe says which model the recipe of the next stage starts from.
MODEL_FIELDS = ("vision_model", "text_model", "vision_config", "text_config", "image_size", "label_encoder")
LABEL_RATES = ("predicted_label_rate", "changed_report_rate", "overridden_label_rate")
RATES = (*LABEL_RATES, "indication_dropout")
# The stages that act on an option; in others it is refused. "reward" is that of training/grpo.py.
ACTS_IN = {
    **dict.fromkeys(("changed_report_rate", "indication_dropout", "finding_weight"), ("warmup", "finetune", "joint")),
    **dict.fromkeys(("predicted_label_rate", "overridden_label_rate", "generate_eval_studies"), ("finetune", "joint")),
    "text_learning_rate": ("warmup", "finetune", "joint"),
    **dict.fromkeys(("augment", "freeze_vision", "vision_learning_rate"), ("align", "finetune", "joint")),
    "train_vision_blocks": ("align", "joint"),
    "lora_vision": ("finetune",),
    "feature_cache": ("align", "finetune", "joint", "reward"),
    **dict.fromkeys(("labels_from", "label_encoder"), ("warmup", "align", "finetune", "joint")),
}


@dataclass
class StudyArguments:
    """The studies to train on and the model to build; see training/recipes for complete files."""

    dataset: str = field(default="phantom", metadata={"help": "'phantom', 'iu_xray', 'mimic_cxr' or a folder."})
    # `| None` is what lets the parser take a string for it from the command line.
    load_kwargs: dict[str, Any] | str | None = field(
        default_factory=dict, metadata={"help": "Further arguments of load_study_dataset, such as data_dir."}
    )
    train_studies: int | None = field(default=None, metadata={"help": "How many to train on. Default: all."})
    eval_studies: int | None = field(default=None, metadata={"help": "How many to validate on. Default: all."})
    generate_eval_studies: int = field(
        default=0,
        metadata={
            "help": "How many validation studies to write the reports of at each evaluation, for metrics such as "
            "eval_bleu_4 and eval_ce13_micro_f1 to choose the best checkpoint by. Default: none."
        },
    )
    target: Literal["report", "findings", "impression"] = field(
        default="report", metadata={"help": "The text that the LLM learns to write."}
    )
    labels_from: Literal["labeler", "dataset"] = field(
        default="labeler", metadata={"help": "Read the disease labels off the report, or take the dataset's column."}
    )
    stage: Literal["warmup", "align", "finetune", "joint"] = field(
        default="joint",
        metadata={
            "help": "'warmup' trains the LLM to write reports from their labels, without images, 'align' the vision "
            "encoder, transport and disease head, 'finetune' all but the vision encoder (the LLM by LoRA with "
            "--use_peft), 'joint' everything."
        },
    )
    vision_model: str | None = field(default=None, metadata={"help": "Pretrained vision encoder (folder or Hub id)."})
    text_model: str | None = field(default=None, metadata={"help": "Pretrained language model (folder or Hub id)."})
    label_encoder: str | None = field(
        default=None,
        metadata={
            "help": "Text encoder (folder or Hub id) of a new model's label phrases. Default: the LLM's embeddings."
        },
    )
    vision_config: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Configuration of a vision encoder to train from scratch."}
    )
    text_config: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Configuration of a language model to train from scratch."}
    )
    otdrg_config: dict[str, Any] | str | None = field(default_factory=dict, metadata={"help": "Fields of OTDRGConfig."})
    label_prompt: bool | None = field(
        default=None,
        metadata={"help": "Show the LLM the labels. Default: as the checkpoint does; yes for a new model."},
    )
    predicted_label_rate: float = field(
        default=0.0,
        metadata={"help": "Share of training studies whose prompt shows predicted labels, as at test time."},
    )
    changed_report_rate: float = field(
        default=0.0,
        metadata={
            "help": "Share of training studies whose prompt shows labels changed against the image, with a report "
            "changed to match by sentences of others: what makes the LLM read its labels where reports are few."
        },
    )
    overridden_label_rate: float = field(
        default=0.0,
        metadata={"help": "Share of labels, of the other studies, shown as overrides, without what is seen of them."},
    )
    indication_dropout: float = field(
        default=0.0,
        metadata={
            "help": "Share of training studies whose prompt leaves out indication and comparison, from which the LLM "
            "else takes what it should read in the labels."
        },
    )
    finding_weight: float = field(
        default=1.0,
        metadata={"help": "Weight, in the language-model loss, of the tokens of sentences that state a finding."},
    )
    augment: bool = field(
        default=False,
        metadata={
            "help": "Rotate, scale and shift training images a little and change their exposure, differently in each "
            "epoch. They are never flipped."
        },
    )
    freeze_vision: bool = field(
        default=False, metadata={"help": "Freeze the vision encoder in the stages 'align' and 'joint' as well."}
    )
    train_vision_blocks: int | None = field(
        default=None,
        metadata={
            "help": "Train only the last so many transformer blocks of the vision encoder and its final norm, in the "
            "stages 'align' and 'joint'. Default: all of it."
        },
    )
    vision_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the vision encoder. Default: learning_rate."}
    )
    text_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the language model. Default: learning_rate."}
    )
    image_size: int | None = field(default=None, metadata={"help": "Side in pixels. Default: the vision encoder's."})
    lora_vision: bool = field(
        default=False, metadata={"help": "With use_peft: adapt the vision encoder by LoRA as well, not the LLM alone."}
    )
    feature_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder for features of a frozen vision encoder (stage finetune, or freeze_vision), or of frozen "
            "blocks (train_vision_blocks in the stage align), which are run once per image and not in every epoch."
        },
    )
    frozen_dtype: str | None = field(
        default=None,
        metadata={
            "help": "dtype, such as bfloat16, of backbones that are not trained or have adapters. Default: --dtype."
        },
    )
    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Print parameters, tokens per study, steps and an estimate of memory and time, and stop. Weights "
            "are not read. vision_model and text_model may stand in for a model_name_or_path that is not there yet."
        },
    )
    resume: bool = field(default=True, metadata={"help": "Resume from the last complete checkpoint in output_dir."})

    def __post_init__(self):
        for name in ("load_kwargs", "vision_config", "text_config", "otdrg_config"):
            value = getattr(self, name)
            if isinstance(value, str):
                try:
                    setattr(self, name, json.loads(value))
                except json.JSONDecodeError as error:
                    raise ValueError(f"--{name} must be JSON, such as '{{\"key\": 1}}': {error}.") from None
            if not isinstance(getattr(self, name), (dict, type(None))):
                raise ValueError(f"--{name} must be a mapping of fields to values, got {value!r}.")
        if self.generate_eval_studies < 0:
            raise ValueError(f"--generate_eval_studies is {self.generate_eval_studies}: give 0 for none, or a number.")
        self._check_stage()
        self._check_vision()
        first_blocks = self.stage == "align" and self.train_vision_blocks
        frozen = self.freeze_vision or self.stage in ("finetune", "reward") or first_blocks
        if self.feature_cache and (not frozen or self.lora_vision):
            raise ValueError(
                "--feature_cache needs a frozen vision encoder, or frozen blocks of it: --freeze_vision, the stage "
                "'finetune', or --train_vision_blocks in the stage 'align'; without --lora_vision."
            )
        if self.feature_cache and self.augment:
            raise ValueError(
                "--augment changes each image in each epoch, and --feature_cache encodes it once: drop one."
            )
        rates = {name: getattr(self, name) for name in RATES}
        for name, rate in rates.items():
            if not 0 <= rate <= 1:
                raise ValueError(f"--{name} is {rate}: give a share from 0 to 1.")
        if not self.finding_weight > 0:
            raise ValueError(f"--finding_weight is {self.finding_weight}: give a number above 0.")
        if self.predicted_label_rate + self.changed_report_rate > 1:
            raise ValueError("--predicted_label_rate and --changed_report_rate are shares of the studies: at most 1.")
        self.load_kwargs, self.otdrg_config = self.load_kwargs or {}, self.otdrg_config or {}

    def _check_stage(self):
        """Options that another stage than this one acts on."""
        if self.stage not in {stage for stages in ACTS_IN.values() for stage in stages}:
            return  # it is refused with the other choices
        for option in fields(self):
            stages = ACTS_IN.get(option.name, (self.stage,))
            if self.stage not in stages and getattr(self, option.name) != option.default:
                names = ", ".join(stages)
                raise ValueError(
                    f"--{option.name} is for the stages {names}: leave it out of the stage {self.stage!r}."
                )

    def _check_vision(self):
        """Options of a vision encoder that is trained, where it is not."""
        blocks, rate = self.train_vision_blocks, self.vision_learning_rate
        if self.freeze_vision and (self.lora_vision or rate is not None or blocks):
            raise ValueError(
                "--freeze_vision leaves nothing for --lora_vision, --vision_learning_rate or --train_vision_blocks to "
                "train."
            )
        if self.stage == "finetune" and rate is not None and not self.lora_vision:
            raise ValueError("--vision_learning_rate goes with --lora_vision in the stage 'finetune'.")
        if blocks is not None and blocks < 1:
            raise ValueError(f"--train_vision_blocks is {blocks}: give 1 or more, or --freeze_vision.")


class RecipeParser(TrlParser):
    """
    Reads `StudyArguments`, `SFTConfig` and `ModelConfig` from a recipe and the command line, which wins over it.

    A recipe is fitted to the machine and to the command line first, see [`fit_recipe`]. Mistakes of a user are
    `ValueError`s of one line instead of a page of usage.

    Args:
        studies (`type`, *optional*): `StudyArguments`, or a subclass of it.
        trainer (`type`, *optional*): The configuration of the trainer.
    """

    def __init__(self, studies: type = StudyArguments, trainer: type = SFTConfig):
        super().__init__((studies, trainer, ModelConfig))

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def parse_args_and_config(self, args: Sequence[str] | None = None, **kwargs):
        args = list(sys.argv[1:] if args is None else args)
        self.given = self._given(args)
        self.folder = Path(args[args.index("--config") + 1]).parent if "--config" in args[:-1] else None
        try:
            if "--config" not in args:
                self.set_defaults_with_config()
            with warnings.catch_warnings():
                # Of fields that TRL itself sets by the names that transformers has given up.
                warnings.simplefilter("ignore", FutureWarning)
                return super().parse_args_and_config(args, **kwargs)
        except TypeError as error:  # of a mapping that is not an option of what it configures
            raise ValueError(str(error)) from error

    def set_defaults_with_config(self, **recipe) -> list[str]:
        return super().set_defaults_with_config(**fit_recipe(recipe, self.given, self.folder))

    def _given(self, args: list[str]) -> dict[str, Any]:
        """The fields that the command line names, with their values."""
        absent = object()
        fields = Namespace(**{action.dest: absent for action in self._actions})
        self.parse_known_args(args, fields)
        return {name: value for name, value in vars(fields).items() if value is not absent}


def fit_recipe(recipe: dict[str, Any], given: dict[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """
    The fields of a recipe as they are meant where it is run.

    - `load_kwargs` are options of the recipe's own dataset, such as how large phantoms are drawn: another dataset on
      the command line comes without them.
    - The steps of a recipe, before which transformers ignores epochs, give way to epochs on the command line.
    - YAML reads an unquoted `no` as false, which is not a strategy.
    - A precision that this machine does not compute in gives way to fp32, and `frozen_dtype` with it. What the command
      line names stays, as does the precision of a recipe that says `use_cpu`; a dry run plans for another machine and
      has only to start here.
    - A dry run of a stage whose checkpoint is not there yet takes the model from the recipe that writes it.

    Args:
        recipe (`dict`): The fields of the file.
        given (`dict`): The fields that the command line names.
        folder (`Path`, *optional*): Of the file, with the recipes of other stages.
    """
    recipe = {name: "no" if value is False and name.endswith("_strategy") else value for name, value in recipe.items()}
    if given.get("dataset", recipe.get("dataset")) != recipe.get("dataset") and recipe.get("load_kwargs"):
        recipe["load_kwargs"] = {}
    if "num_train_epochs" in given:
        recipe.pop("max_steps", None)
    dry_run = given.get("dry_run", recipe.get("dry_run"))
    if dry_run and folder is not None:
        recipe = _with_planned_model(recipe, given, folder)
    return {**recipe, **_device_options(recipe, given, dry_run)}


def _device_options(recipe: dict[str, Any], given: dict[str, Any], dry_run: bool) -> dict[str, bool | None]:
    use_cpu = given.get("use_cpu", recipe.get("use_cpu"))
    accelerator = torch.accelerator.is_available()
    options = {} if accelerator or use_cpu is not None else {"use_cpu": True}
    if dry_run:
        return options
    on_cpu = not accelerator or use_cpu
    if on_cpu and recipe.get("use_cpu"):
        unfit = () if "bf16" in recipe else ("bf16",)
    else:
        unfit = PRECISIONS if on_cpu else () if is_torch_bf16_gpu_available() else ("bf16", "tf32")
    # bf16 is TRL's default.
    asked = {"bf16": "fp16" in unfit or not recipe.get("fp16"), **recipe}
    left_out = [name for name in unfit if asked.get(name) and name not in given]
    if left_out and os.environ.get("RANK", "0") == "0":
        print(f"No GPU for {' or '.join(left_out)}: computing in fp32. --{left_out[0]} true asks for it all the same.")
    options |= dict.fromkeys(left_out, False)
    # A CPU without units for bf16 encodes an image 30 times more slowly in it than in fp32.
    if "bf16" in unfit and not given.get("bf16") and "frozen_dtype" in recipe.keys() - given.keys():
        options["frozen_dtype"] = None
    return options


def _with_planned_model(recipe: dict[str, Any], given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A recipe and, if its checkpoint is not there, the model of the recipe in the same folder that will write it."""
    start = given.get("model_name_or_path", recipe.get("model_name_or_path"))
    if not start or os.path.isdir(start):
        return recipe
    for path in sorted(folder.glob("*.yaml")):
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        # An adapter is merged into its base before a reward trains another one on it.
        if not isinstance(fields, dict) or fields.get("output_dir") not in (start, start.removesuffix("_merged")):
            continue
        if not any(name in fields for name in MODEL_FIELDS):  # it starts from a model itself
            before = {"model_name_or_path": fields.get("model_name_or_path")}
            others = {name: value for name, value in given.items() if name != "model_name_or_path"}
            fields = {**fields, **_with_planned_model(before, others, folder)}
            if os.path.isdir(fields["model_name_or_path"] or ""):
                return {**recipe, "model_name_or_path": fields["model_name_or_path"]}
        # A backbone on the command line stands in for that of the recipe.
        named = {name.split("_")[0] for name in given if name in MODEL_FIELDS[:4]}
        model = {name: fields[name] for name in MODEL_FIELDS if name in fields and name.split("_")[0] not in named}
        return {**model, **recipe, "otdrg_config": {**fields.get("otdrg_config", {}), **recipe.get("otdrg_config", {})}}
    return recipe
