# Copyright 2026 The otdrg-hf authors. Licensed under the Apache License, Version 2.0.
"""Builds a model and its processor from a pretrained vision encoder and a pretrained language model."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import PIL.Image
import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ViTImageProcessorPil,
)
from transformers.quantizers.auto import AutoQuantizationConfig
from transformers.utils import cached_file, logging

from .configuration_otdrg import OTDRGConfig
from .processing_otdrg import OTDRGProcessor
from .prompt_otdrg import FINDING_TOKEN, IMAGE_TOKEN
from .vision_otdrg import encode_images, patch_features, patch_offset, recorded_layers

PROCESSOR_FIELDS = ("label_names",)
ADAPTER_WEIGHTS, MAGNITUDE, PEFT_PREFIX = "adapter_model.safetensors", ".lora_magnitude_vector", "base_model.model."
MOST_LABEL_WORDS = 40  # a study that states more leaves out the last of its doubts
ROW_MULTIPLE = 64
SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
# The parts between the backbones, by their names in `OTDRGModel`: small, trained in full, and never quantised unasked.
PROJECTORS = ("patch_projection", "label_encoder", "alignment", "disease_head", "fusion")

logger = logging.get_logger(__name__)


def square_image_processor(size: int, mean=(0.5,) * 3, std=(0.5,) * 3, resample: int = 2) -> ViTImageProcessorPil:
    """Resizes the whole image to a square, so that nothing at its border is lost and a patch maps back to the image."""
    return ViTImageProcessorPil(
        size={"height": size, "width": size}, image_mean=list(mean), image_std=list(std), resample=resample
    )


def add_placeholders(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Adds `<image>`, `<finding>` and, where there is none, a padding token."""
    placeholders = {"extra_special_tokens": [IMAGE_TOKEN, FINDING_TOKEN]}
    tokenizer.add_special_tokens(placeholders, replace_extra_special_tokens=False)
    if tokenizer.eos_token is None:
        raise ValueError(f"The tokenizer {tokenizer.name_or_path!r} has no end-of-text token.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def model_from_backbones(
    cls,
    vision_id: str,
    text_id: str,
    image_size: int | None = None,
    dtype: torch.dtype | str = "auto",
    attn_implementation: str | None = None,
    label_encoder: str | None = None,
    **config,
):
    """See [`OTDRGForConditionalGeneration.from_backbones`]."""
    loading = {"dtype": dtype, "attn_implementation": attn_implementation}
    vision_tower, image_processor = pretrained_vision(vision_id, image_size, **loading)
    text_model = AutoModelForCausalLM.from_pretrained(text_id, **loading)
    processor = _processor(OTDRGProcessor, image_processor, text_id, config)
    projector_dtype = torch.float32 if dtype == "auto" else text_model.dtype
    return join_backbones(
        cls, vision_tower, text_model, processor, attn_implementation, label_encoder, projector_dtype, **config
    )


def pretrained_vision(
    vision_id: str, image_size: int | None = None, **loading
) -> tuple[PreTrainedModel, ViTImageProcessorPil]:
    """A pretrained vision encoder and what resizes and normalises its images."""
    config = _vision_config(vision_id)
    tower = build_tower(lambda **options: AutoModel.from_pretrained(vision_id, config=config, **{**loading, **options}))
    return tower, _image_processor(vision_id, config, image_size)


def build_tower(build: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    """
    The vision encoder that `build()` gives, or `build(attn_implementation=None)` where it does not know the attention
    that is asked for: a convolutional encoder has none, and the language model is still to get it.
    """
    try:
        return build()
    except ValueError:
        tower = build(attn_implementation=None)  # raises again what has another reason
        warn_of_attention(tower)
        return tower


def warn_of_attention(tower: PreTrainedModel):
    """One line for a vision encoder that does not know the attention of the model."""
    logger.warning_once(
        f"{type(tower).__name__} does not know this `attn_implementation`: it keeps "
        f"{tower.config._attn_implementation!r}, and the language model gets what you asked for."
    )


def spare_projectors(quantization_config, prefix: str = ""):
    """
    A copy of a quantisation (of transformers, or a dict of its fields) that leaves the projectors and the head as they
    are, unless it says itself which modules to leave.
    """
    if isinstance(quantization_config, dict):
        quantization_config = AutoQuantizationConfig.from_dict(quantization_config)
    quantization_config = copy.deepcopy(quantization_config)
    for field in ("llm_int8_skip_modules", "modules_to_not_convert"):
        if getattr(quantization_config, field, ()) is None:
            setattr(quantization_config, field, [*(prefix + name for name in PROJECTORS), "lm_head"])
    return quantization_config


def join_backbones(
    cls,
    vision_tower: PreTrainedModel,
    text_model: PreTrainedModel,
    processor: OTDRGProcessor,
    attn_implementation: str | None = None,
    label_encoder: str | None = None,
    projector_dtype: torch.dtype = torch.float32,
    **config,
):
    """A model of two backbones, pretrained or not, with new projectors; its `processor` learns how long prompts are."""
    _add_rows(text_model, len(processor.tokenizer))
    config = _join_configs(vision_tower, text_model, processor, attn_implementation, label_encoder, config)
    model = _assemble(cls, config, vision_tower, text_model, projector_dtype)
    scale_projectors(model)
    fill_label_features(model, label_encoder)
    model.processor = processor
    return model


@torch.no_grad()
def scale_projectors(model: PreTrainedModel):
    """
    Brings the visual and label tokens of a new model to the scale of its LLM's words, which is 0.02 for one from
    scratch and 0.1 to 1 for pretrained ones: tokens that are much larger drown the words around them.
    """
    body, config = model.model, model.config
    embedding = body.get_input_embeddings()
    words = embedding(torch.arange(min(config.text_config.vocab_size, 4096), device=embedding.weight.device))
    rms = words.float().square().mean().sqrt()
    fusion, d = body.fusion, config.alignment_dim
    features = torch.randn(1, 64, d, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    features = features.to(fusion.image_dense.weight)
    hidden = fusion.act(fusion.image_dense(features)), fusion.act(fusion.label_tokens.phrase_dense(features))
    for layer, given in zip((fusion.image_output, fusion.label_tokens.output), hidden, strict=True):
        layer.weight.mul_((rms / layer(given).float().square().mean().sqrt()).to(layer.weight.dtype))


def tokenize_labels(config: OTDRGConfig, processor: OTDRGProcessor, label_words: int | None = None):
    """Fills in what a configuration and its processor hold of the labels by the tokenizer."""
    config.label_phrase_ids = processor.label_phrase_ids(config)
    config.label_word_ids = processor.label_word_ids(config)
    longest = sum(max(map(len, label)) for label in config.label_word_ids)
    config.label_words = min(longest, MOST_LABEL_WORDS) if label_words is None else label_words
    processor.label_names = list(config.label_names)
    processor.num_image_tokens = config.image_seq_length
    processor.num_finding_tokens, processor.context_length = config.finding_seq_length, config.context_length


def _vocabulary_size(num_tokens: int, num_rows: int) -> int:
    """Rows of embeddings for `num_tokens`: those there are, or a multiple of what matrix units take at a time."""
    return num_rows if num_tokens <= num_rows else -(-num_tokens // ROW_MULTIPLE) * ROW_MULTIPLE


@torch.no_grad()
def _add_rows(text_model: PreTrainedModel, num_tokens: int):
    """
    Makes room for the placeholders. New rows are near the mean of the old ones, so that no token is likelier than it
    was, and differ from each other.
    """
    old = text_model.get_input_embeddings().num_embeddings
    size = _vocabulary_size(num_tokens, old)
    if size == old:
        return
    text_model.resize_token_embeddings(num_tokens, pad_to_multiple_of=ROW_MULTIPLE, mean_resizing=False)
    modules = {text_model.get_input_embeddings(), text_model.get_output_embeddings()}
    for weight in {value for module in modules for value in module.parameters()}:
        known = weight[:old].float()
        noise = torch.randn_like(weight[old:].float()) if weight.dim() > 1 else 0
        weight[old:] = (known.mean(0) + 0.1 * known.std(0) * noise).to(weight.dtype)


def fill_label_features(model: PreTrainedModel, label_encoder: str | None):
    """Gives a new model, whose configuration has `label_feature_size`, the features of its label phrases."""
    if label_encoder:
        features = encode_label_phrases(label_encoder, model.config.label_phrases)
        model.model.label_encoder.phrase_features.copy_(features)


def empty_from_backbones(
    cls, vision_id: str, text_id: str, image_size: int | None = None, label_encoder: str | None = None, **config
):
    """
    The model and the processor that `from_backbones` gives, with its weights on the meta device.

    Of either backbone only its configuration, tokenizer and image processor are read: to count an 8 B model needs none
    of its 16 GB.
    """
    vision_config, text_config = _vision_config(vision_id), AutoConfig.from_pretrained(text_id)
    processor = _processor(OTDRGProcessor, _image_processor(vision_id, vision_config, image_size), text_id, config)
    text_config.vocab_size = _vocabulary_size(len(processor.tokenizer), text_config.vocab_size)
    with torch.device("meta"):
        vision_tower = AutoModel.from_config(vision_config)
        text_model = AutoModelForCausalLM.from_config(text_config)
        config = _join_configs(vision_tower, text_model, processor, None, label_encoder, config)
        model = cls(config)
    return model.eval(), processor


def _join_configs(
    vision_tower, text_model, processor: OTDRGProcessor, attn_implementation, label_encoder: str | None, fields: dict
) -> OTDRGConfig:
    known = {field.name for field in dataclasses.fields(OTDRGConfig)}
    if unknown := sorted(fields.keys() - known):
        raise ValueError(f"from_backbones has no argument {unknown[0]!r}, and OTDRGConfig no such field.")
    config = OTDRGConfig(
        vision_config=vision_tower.config,
        text_config=text_model.config,
        **probe_patches(vision_tower, processor.image_processor),
        image_token_id=processor.image_token_id,
        finding_token_id=processor.finding_token_id,
        lm_head_bias=getattr(text_model.get_output_embeddings(), "bias", None) is not None,
        attn_implementation=attn_implementation,
        **{"trained_on_reports": False, **fields, "label_words": 0},
    )
    tokenize_labels(config, processor, fields.get("label_words"))
    config.label_feature_size = label_feature_size(label_encoder)
    return config


def _assemble(
    cls, config: OTDRGConfig, vision_tower: PreTrainedModel, text_model: PreTrainedModel, projector_dtype: torch.dtype
):
    # Built on the meta device first: an LLM's worth of random weights would cost its memory twice.
    with torch.device("meta"):
        model = cls(config)
    body = model.model
    for name, module in list(body.named_children()):
        if name not in ("vision_tower", "language_model"):
            # LabelEncoder and DiseaseHead fill buffers from the config, so they are made again, not emptied.
            module = type(module)(config)
            module.apply(model._init_weights)
            setattr(body, name, module.to(projector_dtype))
    body.vision_tower = vision_tower
    if type(text_model.base_model) is not type(body.language_model):
        raise ValueError(
            f"{type(text_model).__name__} holds a {type(text_model.base_model).__name__} where OTDRG expects a "
            f"{type(body.language_model).__name__}: give a plain decoder-only language model."
        )
    body.language_model = text_model.base_model
    model.lm_head = text_model.get_output_embeddings()
    model.tie_weights()
    _check_same_logits(model, text_model)
    # Its special tokens alone: those of chat models sample and penalise repetitions, which no report asked for.
    special = {name: getattr(text_model.generation_config, name) for name in SPECIAL_TOKENS}
    model.generation_config = GenerationConfig(**special)
    model.suppress_placeholders()
    model.config.dtype = model.dtype
    return model.eval()


@torch.no_grad()
def _check_same_logits(model: PreTrainedModel, text_model: PreTrainedModel):
    """Some language models scale or shift their logits in ways of their own, which must not get lost unnoticed."""
    input_ids = torch.tensor([model.config.label_phrase_ids[0][0]], device=text_model.device)
    expected = text_model.eval()(input_ids=input_ids).logits
    if not torch.allclose(model.eval()(input_ids=input_ids).logits, expected, rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"{type(text_model).__name__} does more than project onto the vocabulary (a scale of its own), "
            "which OTDRG does not carry over: choose another language model."
        )


def _vision_config(vision_id: str):
    config = AutoConfig.from_pretrained(vision_id)
    return getattr(config, "vision_config", config)


def _text_config(text_id: str):
    return AutoConfig.from_pretrained(text_id).get_text_config(decoder=True)


def _image_processor(vision_id: str, vision_config, image_size: int | None) -> ViTImageProcessorPil:
    base = AutoImageProcessor.from_pretrained(vision_id, backend="pil")
    if hasattr(base, "data_config"):  # the interface of timm's preprocessing
        settings = base.data_config
        resample = getattr(PIL.Image.Resampling, settings["interpolation"].upper())
        return square_image_processor(
            image_size or settings["input_size"][-1], settings["mean"], settings["std"], int(resample)
        )
    if image_size is None:
        size = getattr(base, "crop_size", None) or base.size
        image_size = size.get("height") or size.get("shortest_edge") or vision_config.image_size
    return square_image_processor(image_size, base.image_mean, base.image_std, int(base.resample))


def _processor(cls, image_processor, text_id: str, config: dict) -> OTDRGProcessor:
    tokenizer = add_placeholders(AutoTokenizer.from_pretrained(text_id))
    return cls(image_processor, tokenizer, **{key: config[key] for key in PROCESSOR_FIELDS if key in config})


@torch.no_grad()
def probe_patches(vision_tower: PreTrainedModel, image_processor: ViTImageProcessorPil) -> dict[str, Any]:
    """
    `image_grid`, `patch_offset` and `vision_feature_size` of [`OTDRGConfig`], by encoding one black image: of what an
    encoder gives, configurations do not tell.
    """
    size = image_processor.size["height"], image_processor.size["width"]
    pixels = torch.zeros(1, 3, *size, dtype=vision_tower.dtype, device=vision_tower.device)
    with recorded_layers(vision_tower) as layers:
        hidden = encode_images(vision_tower.eval(), pixels)
    feature_size = hidden.shape[1] if hidden.dim() == 4 else hidden.shape[-1]
    grid = list(patch_features(hidden, pixels, vision_tower.config, feature_size).shape[1:3])
    offset = [patch_offset(*each) for each in zip(layers, size, grid, strict=True)]
    return {"image_grid": grid, "patch_offset": offset, "vision_feature_size": feature_size}


@torch.no_grad()
def encode_label_phrases(encoder_id: str, phrases: list[list[str]]) -> torch.Tensor:
    r"""
    Encodes the phrases of `config.label_phrases` for a model with `config.label_feature_size`.

    Encoders that were trained with images (CLIP, SigLIP) give the features that they compare with images; others,
    BERT, T5 or a language model, the mean of the last hidden states of a phrase.

    Args:
        encoder_id (`str`): Folder or Hub id of a text encoder with a tokenizer.
        phrases (`list[list[str]]`): For each label, one phrase for its name and one per state, `[m][1 + states]`.

    Returns:
        `torch.FloatTensor` of shape `[m, 1 + states, h]`.

    Raises:
        ValueError: if `encoder_id` holds no text encoder.
    """
    with _loading(encoder_id):
        tokenizer = AutoTokenizer.from_pretrained(encoder_id)
        encoder = _checked(AutoModel.from_pretrained(encoder_id)).eval()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # As they were trained: the text towers of some read the last position, whatever it holds.
    padding = {"padding": "max_length", "truncation": True} if _compares_images(encoder) else {"padding": True}
    batch = tokenizer([phrase for label in phrases for phrase in label], return_tensors="pt", **padding)
    features = _features(encoder, batch["input_ids"], batch["attention_mask"])  # [m * (1 + states), h]
    return features.float().unflatten(0, (len(phrases), -1))


@torch.no_grad()
def label_feature_size(encoder_id: str | None) -> int | None:
    """The width *h* of what `encode_label_phrases` gives, without reading weights; `None` for none. Raises the same."""
    if encoder_id is None:
        return None
    with _loading(encoder_id), torch.device("meta"):
        encoder = _checked(AutoModel.from_config(AutoConfig.from_pretrained(encoder_id)))
        return _features(encoder, torch.ones(1, 2, dtype=torch.long), None).shape[-1]


def _checked(encoder: PreTrainedModel) -> PreTrainedModel:
    if not _compares_images(encoder) and encoder.main_input_name != "input_ids":
        raise ValueError(f"{type(encoder).__name__} reads {encoder.main_input_name}")
    return encoder


def _compares_images(encoder: PreTrainedModel) -> bool:
    return hasattr(encoder, "get_text_features")


def _features(encoder: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """`[N, T]` -> `[N, h]`."""
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if _compares_images(encoder):
        return encoder.get_text_features(**inputs).pooler_output
    text_encoder = encoder.get_encoder() if encoder.config.is_encoder_decoder else encoder
    hidden = text_encoder(**inputs).last_hidden_state  # [N, T, h]
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    mask = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)


@contextmanager
def _loading(encoder_id: str) -> Iterator[None]:
    """One line that names the encoder, for all that loading it may raise."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{encoder_id!r} cannot be loaded as a text encoder: {reason}") from error


@torch.no_grad()
def load_magnitudes(model: PreTrainedModel, adapter_id: str, adapter_name: str, **download) -> None:
    """
    Reads what peft saved as `NAME.lora_magnitude_vector` into `NAME.lora_magnitude_vector.ADAPTER.weight`.

    Does nothing for adapters without magnitudes (LoRA) or without a safetensors file.
    """
    path = cached_file(adapter_id, ADAPTER_WEIGHTS, _raise_exceptions_for_missing_entries=False, **download)
    if path is None:
        return
    with safe_open(path, framework="pt") as file:
        for key in file.keys():
            if key.endswith(MAGNITUDE):
                name = f"{key.removeprefix(PEFT_PREFIX)}.{adapter_name}.weight"
                model.get_parameter(name).copy_(file.get_tensor(key))
