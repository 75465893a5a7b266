"""The model and processor of a run: a checkpoint, pretrained backbones to join, or a small model from scratch."""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from trl import ModelConfig, SFTConfig

from otdrg_hf.data.phantom import PHANTOM_NAMES
from otdrg_hf.modeling.backbones_otdrg import (
    add_placeholders,
    build_tower,
    empty_from_backbones,
    join_backbones,
    pretrained_vision,
    square_image_processor,
)
from otdrg_hf.modeling.configuration_otdrg import OTDRGConfig
from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration
from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor
from otdrg_hf.modeling.prompt_otdrg import IMAGE_TOKEN
from otdrg_hf.training.arguments import LABEL_RATES, StudyArguments
from otdrg_hf.training.disease_metrics import state_priors

PHANTOM_NOTICE = "Trained on synthetic phantoms only: a demonstration, not for clinical use."
# Fields of OTDRGConfig that follow from the backbones.
READ_OFF = {
    "vision_config",
    "text_config",
    "image_grid",
    "patch_offset",
    "vision_feature_size",
    "image_token_id",
    "finding_token_id",
    "label_phrase_ids",
    "label_word_ids",
    "label_feature_size",
    "lm_head_bias",
}


def prepare_model(
    args: StudyArguments, training_args: SFTConfig, model_args: ModelConfig, train: Dataset
) -> tuple[OTDRGForConditionalGeneration, OTDRGProcessor]:
    """
    The model and processor of a run, as the run words prompts and with what its training studies say of the labels.

    Raises:
        ValueError: see [`load_model_and_processor`] and [`apply_text_options`].
        OSError: for a model that cannot be loaded.
    """
    if not model_args.model_name_or_path:
        labels = np.array(train["disease_labels"])  # [N, m]
        args.otdrg_config = {"state_priors": state_priors(labels, num_states=4), **args.otdrg_config}
    if args.dataset in PHANTOM_NAMES:
        args.otdrg_config = {"notice": PHANTOM_NOTICE, **args.otdrg_config}
    try:
        model, processor = load_model_and_processor(args, model_args, train[args.target])
    except (OSError, RuntimeError, SafetensorError) as error:
        sources = [name for name in (model_args.model_name_or_path, args.vision_model, args.text_model) if name]
        raise OSError(f"Cannot load {' or '.join(sources)}: {error}") from error
    if args.dataset not in PHANTOM_NAMES and model.config.notice == PHANTOM_NOTICE:
        model.config.notice = None  # of a checkpoint that is no longer trained on phantoms only
    apply_text_options(args, training_args, model, processor)
    model.config.trained_on_reports |= args.stage != "align"
    return model, processor


def load_model_and_processor(
    args: StudyArguments, model_args: ModelConfig, reports: Iterable[str]
) -> tuple[OTDRGForConditionalGeneration, OTDRGProcessor]:
    """
    Loads or builds what a run trains, in fp32 unless `--dtype` says otherwise.

    Args:
        reports (`Iterable[str]`): Training reports; a tokenizer is learned from them if the LLM is from scratch.

    Raises:
        ValueError: if none or several of checkpoint, backbones and configurations are given, or a field is unknown.
    """
    check_source(args, model_args)
    dtype = model_args.dtype or "float32"
    attention = {"attn_implementation": model_args.attn_implementation} if model_args.attn_implementation else {}
    if model_args.model_name_or_path:
        path = model_args.model_name_or_path
        config, processor = _changed_checkpoint(path, args)
        model = OTDRGForConditionalGeneration.from_pretrained(path, config=config, dtype=dtype, **attention)
        return model, processor
    if args.vision_model and args.text_model:
        fields = _backbone_fields(args)
        model = OTDRGForConditionalGeneration.from_backbones(
            args.vision_model, args.text_model, dtype=dtype, **attention, **fields
        )
        return model, OTDRGProcessor.from_model(model)
    loading = {"dtype": torch.float32 if dtype == "auto" else getattr(torch, dtype), **attention}
    return _new_model(args, reports, loading)


def empty_model_and_processor(
    args: StudyArguments, model_args: ModelConfig, reports: Iterable[str]
) -> tuple[OTDRGForConditionalGeneration, OTDRGProcessor]:
    """
    What `load_model_and_processor` loads or builds, with its weights on the meta device, for counting.

    Backbones in addition to a `model_name_or_path` stand in for it: a stage can be planned before the one before it
    has run.
    """
    path = model_args.model_name_or_path
    if path and (args.vision_model or args.vision_config):
        model_args = dataclasses.replace(model_args, model_name_or_path=None)
        path = None
    check_source(args, model_args)
    dtype = getattr(torch, model_args.dtype or "float32", None)  # None for "auto"
    if args.vision_model and args.text_model:
        backbones = (args.vision_model, args.text_model)
        model, processor = empty_from_backbones(OTDRGForConditionalGeneration, *backbones, **_backbone_fields(args))
    elif path:
        config, processor = _changed_checkpoint(path, args)
        with torch.device("meta"):
            model = OTDRGForConditionalGeneration(config)
        dtype = dtype or config.dtype
    else:
        model, processor = _new_model(args, reports, {})
    return model.to("meta", dtype), processor


def apply_text_options(
    args: StudyArguments,
    training_args: SFTConfig,
    model: OTDRGForConditionalGeneration,
    processor: OTDRGProcessor,
) -> None:
    """
    How prompts and reports are worded: `label_prompt`, `chat_template_path` and `eos_token`. TRL would do the last two
    as well, but after the base of an adapter is saved.

    Raises:
        ValueError: for a template or a token that cannot be used, and for labels to show in prompts that have none:
            changed reports would teach the LLM to make findings up.
    """
    if args.label_prompt is not None:
        processor.label_prompt = args.label_prompt
    if args.stage == "warmup" and not processor.label_prompt:
        raise ValueError("The stage 'warmup' writes reports from labels, which this model's prompts do not show.")
    for name in LABEL_RATES:
        if getattr(args, name) and not processor.label_prompt:
            raise ValueError(f"{name} is about the labels of the prompt, and label_prompt is false: leave one out.")
    # TRL's GRPOConfig has neither.
    end_of_text, path = (getattr(training_args, name, None) for name in ("eos_token", "chat_template_path"))
    if end_of_text is not None:
        _set_end_of_text(end_of_text, model, processor)
    if path is not None:
        if not path.endswith((".jinja", ".j2")) or not os.path.isfile(path):
            raise ValueError(f"chat_template_path {path!r} is not a .jinja file: give one with the template.")
        processor.chat_template = Path(path).read_text(encoding="utf-8")
    try:
        prompt = processor.build_prompt(1, fit=False)
    except (TemplateError, TypeError) as error:
        raise ValueError(f"The chat template cannot be used: {error}") from error
    if prompt.count(IMAGE_TOKEN) != 1:
        raise ValueError("The chat template does not show what the user says, once and as it is.")


def _set_end_of_text(token: str, model: OTDRGForConditionalGeneration, processor: OTDRGProcessor) -> None:
    tokenizer, generation = processor.tokenizer, model.generation_config
    if token not in tokenizer.get_vocab():
        raise ValueError(f"eos_token {token!r} is not a token of the LLM's tokenizer.")
    tokenizer.eos_token = token
    model.config.text_config.eos_token_id = tokenizer.eos_token_id
    others = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
    others = [each for each in others if each not in (None, tokenizer.eos_token_id)]
    generation.eos_token_id = [tokenizer.eos_token_id, *others]


def _backbone_fields(args: StudyArguments) -> dict:
    return {"image_size": args.image_size, "label_encoder": args.label_encoder, **args.otdrg_config}


def check_source(args: StudyArguments, model_args: ModelConfig):
    """`ValueError` unless it is said, once, what the model is made of; no study or weight is read for that."""
    vision, text = (args.vision_model, args.vision_config), (args.text_model, args.text_config)
    counts = [sum(bool(each) for each in backbone) for backbone in (vision, text)]
    if counts != ([0, 0] if model_args.model_name_or_path else [1, 1]):
        raise ValueError(
            "Give either model_name_or_path (an OTDRG checkpoint), or a vision encoder (vision_model, pretrained, or "
            "vision_config, from scratch) and a language model (text_model or text_config)."
        )
    if args.label_encoder and model_args.model_name_or_path:
        raise ValueError("label_encoder is for a new model: model_name_or_path holds its label phrases.")
    unknown = set(args.otdrg_config) - {field.name for field in dataclasses.fields(OTDRGConfig)}
    if unknown:
        raise ValueError(f"otdrg_config has fields that OTDRGConfig has not: {', '.join(sorted(unknown))}.")
    read_off = sorted(READ_OFF.intersection(args.otdrg_config))
    if read_off:
        raise ValueError(f"otdrg_config names {', '.join(read_off)}, which the backbones and their tokenizer decide.")


def checkpoint_fields(path: str) -> dict[str, Any]:
    """The fields of an OTDRG checkpoint's configuration; `ValueError` where there is none."""
    try:
        fields, _ = OTDRGConfig.get_config_dict(path)
    except (OSError, ValueError) as error:
        if os.path.isdir(path):
            raise
        raise ValueError(
            f"Cannot load {path}: model_name_or_path is neither a folder here nor a model that the Hub gives; if "
            "another stage writes it, run that one first."
        ) from error
    if fields.get("model_type") != OTDRGConfig.model_type:
        raise ValueError(
            f"model_name_or_path {path} is not an OTDRG checkpoint; for backbones use vision_model, text_model."
        )
    return fields


def _changed_checkpoint(path: str, args: StudyArguments) -> tuple[OTDRGConfig, OTDRGProcessor]:
    """The checkpoint's configuration with the run's changes, validated again, and the processor that goes with it."""
    fields = checkpoint_fields(path)
    config = OTDRGConfig.from_dict({**fields, **args.otdrg_config})
    processor = OTDRGProcessor.from_pretrained(path)
    if args.image_size not in (None, processor.image_processor.size["height"]):
        raise ValueError(
            f"image_size is {args.image_size}, but {path} was built for {processor.image_processor.size['height']}: "
            "leave it out."
        )
    if "label_phrases" in args.otdrg_config:
        if config.label_feature_size:
            raise ValueError("otdrg_config names label_phrases, but those of the checkpoint are a text encoder's.")
        config.label_phrase_ids = processor.label_phrase_ids(config)
        config.label_word_ids = processor.label_word_ids(config)
    processor.label_names = list(config.label_names)
    processor.num_image_tokens, processor.context_length = config.image_seq_length, config.context_length
    processor.num_finding_tokens = config.finding_seq_length
    return config, processor


def _new_model(args: StudyArguments, reports: Iterable[str], loading: dict):
    """Joins a vision encoder and a language model of which at least one is from scratch."""
    vision_tower, image_processor = _vision(args, loading)
    fields = {"vision_config": vision_tower.config, **args.otdrg_config}
    if args.text_model:
        tokenizer = AutoTokenizer.from_pretrained(args.text_model)
        text_model = AutoModelForCausalLM.from_pretrained(args.text_model, **loading)
    else:
        phrases = [phrase for label in OTDRGConfig(**fields).label_phrases for phrase in label]
        tokenizer, text_model = _language_model(args, [*reports, *phrases], loading)
    processor = OTDRGProcessor(image_processor, add_placeholders(tokenizer))
    model = join_backbones(
        OTDRGForConditionalGeneration,
        vision_tower,
        text_model,
        processor,
        loading.get("attn_implementation"),
        args.label_encoder,
        loading.get("dtype", torch.float32),
        **args.otdrg_config,
    )
    return model, processor


def _vision(args: StudyArguments, loading: dict):
    if args.vision_model:
        return pretrained_vision(args.vision_model, args.image_size, **loading)
    fields = _config_fields("vision_config", args.vision_config, "model_type")
    image_size = args.image_size or fields.get("image_size")
    if image_size is None:
        raise ValueError("A vision encoder from scratch needs image_size, the side of its images in pixels.")
    config = _config_of("vision_config", **fields)
    tower = build_tower(lambda **options: AutoModel.from_config(config, **{**loading, **options}))
    return tower, square_image_processor(image_size)


def _language_model(args: StudyArguments, texts: list[str], loading: dict):
    fields = _config_fields("text_config", args.text_config, "model_type", "vocab_size")
    prompt_words = ["Frontal view:\nLateral view:\nView:\nFindings:\nIndication:\nEarlier report:\nReport:"]
    tokenizer = add_placeholders(train_tokenizer([*texts, *prompt_words * 100], fields.pop("vocab_size")))
    config = _config_of(
        "text_config",
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **fields,
    )
    return tokenizer, AutoModelForCausalLM.from_config(config, **loading)


def _config_fields(name: str, fields: dict, *needed: str) -> dict:
    missing = [key for key in needed if key not in fields]
    if missing:
        raise ValueError(f"{name} needs {' and '.join(missing)}.")
    return dict(fields)


def _config_of(option: str, model_type: str, **fields) -> PreTrainedConfig:
    try:
        return AutoConfig.for_model(model_type, **fields)
    except (StrictDataclassError, TypeError) as error:
        raise ValueError(f"{option}: {error}") from error


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Learns `vocab_size` tokens from `texts`; `<pad>`, `<s>` and `</s>` are 0, 1 and 2."""
    tokenizer = Tokenizer(models.BPE())
    digits_apart = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits_apart, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
