"""What a training run is told, besides TRL's `SFTConfig` and `ModelConfig`."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

LABEL_RATES = ("predicted_label_rate", "changed_report_rate", "told_label_rate")


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
            "help": "How many validation studies to write the reports of at each evaluation, for figures such as "
            "eval_bleu_4 and eval_ce14_micro_f1 to choose the best checkpoint by. Default: none."
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
    told_label_rate: float = field(
        default=0.0,
        metadata={"help": "Share of labels, of the other studies, shown as overrides, without what is seen of them."},
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
            "help": "Folder to keep features of a vision encoder that rests (stage finetune, or freeze_vision) in, so "
            "that it is run once per image instead of in every epoch. Without generate_eval_studies."
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
    resume: bool = field(default=True, metadata={"help": "Go on from the last complete checkpoint in output_dir."})

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
        if self.generate_eval_studies and self.stage == "align":
            raise ValueError("--generate_eval_studies needs an LLM that is trained: leave it out of the stage 'align'.")
        if self.stage == "warmup":
            self._check_warmup()
        self._check_vision()
        rests = self.freeze_vision or self.stage == "finetune"
        if self.feature_cache and (not rests or self.lora_vision or self.generate_eval_studies):
            raise ValueError(
                "--feature_cache needs a vision encoder that rests: --freeze_vision or the stage 'finetune', without "
                "--lora_vision; and images are needed for --generate_eval_studies."
            )
        if self.feature_cache and self.augment:
            raise ValueError(
                "--augment changes each image in each epoch, and --feature_cache encodes it once: drop one."
            )
        rates = {name: getattr(self, name) for name in LABEL_RATES}
        for name, rate in rates.items():
            if not 0 <= rate <= 1:
                raise ValueError(f"--{name} is {rate}: give a share from 0 to 1.")
        if not self.finding_weight > 0:
            raise ValueError(f"--finding_weight is {self.finding_weight}: give a number above 0.")
        if self.predicted_label_rate + self.changed_report_rate > 1:
            raise ValueError("--predicted_label_rate and --changed_report_rate are shares of the studies: at most 1.")
        self.load_kwargs, self.otdrg_config = self.load_kwargs or {}, self.otdrg_config or {}

    def _check_warmup(self):
        """Options of images, or of labels predicted from them, in a stage that reads none."""
        needs_images = (
            *("augment", "feature_cache", "generate_eval_studies", "predicted_label_rate", "told_label_rate"),
            *("train_vision_blocks", "vision_learning_rate"),
        )
        for name in needs_images:
            if getattr(self, name):
                raise ValueError(f"--{name} needs images, which the stage 'warmup' does not read: leave it out.")
        if self.label_prompt is False:
            raise ValueError("--label_prompt false leaves the stage 'warmup' nothing to write a report from.")

    def _check_vision(self):
        """Options of a vision encoder that is trained, where it is not."""
        blocks = self.train_vision_blocks
        if self.freeze_vision and (self.lora_vision or self.vision_learning_rate is not None or blocks):
            raise ValueError(
                "--freeze_vision leaves nothing for --lora_vision, --vision_learning_rate or --train_vision_blocks to "
                "train."
            )
        if blocks is None:
            return
        if blocks < 1:
            raise ValueError(f"--train_vision_blocks is {blocks}: give 1 or more, or --freeze_vision.")
        if self.lora_vision or self.stage not in ("align", "joint"):
            raise ValueError("--train_vision_blocks is for the stages 'align' and 'joint', without --lora_vision.")
