"""The model and processor of a run: a checkpoint, pretrained backbones to join, or a small model from scratch."""

from collections.abc import Iterable

import torch
from transformers import AutoConfig, AutoModel
from trl import ModelConfig

from otdrg_hf.modeling.backbones_otdrg import add_placeholders, probe_patches, square_image_processor
from otdrg_hf.modeling.configuration_otdrg import OTDRGConfig
from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration
from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor

from .arguments import StudyArguments
from .tokenizer import train_tokenizer


def load_model_and_processor(
    args: StudyArguments, model_args: ModelConfig, reports: Iterable[str]
) -> tuple[OTDRGForConditionalGeneration, OTDRGProcessor]:
    """
    Loads or builds what a run trains, in fp32 unless `--dtype` says otherwise.

    Args:
        reports (`Iterable[str]`): Training reports; a tokenizer is learned from them if the LLM is from scratch.

    Raises:
        ValueError: if none or several of checkpoint, backbones and configurations are given.
    """
    dtype = getattr(torch, model_args.dtype or "float32")
    attention = {"attn_implementation": model_args.attn_implementation} if model_args.attn_implementation else {}
    pretrained, scratch = (args.vision_model, args.text_model), (args.vision_config, args.text_config)
    given = [model_args.model_name_or_path is not None, any(pretrained), any(scratch)]
    if sum(given) != 1 or (any(pretrained) and not all(pretrained)) or (any(scratch) and not all(scratch)):
        raise ValueError(
            "Give one of: model_name_or_path (an OTDRG checkpoint), vision_model and text_model (pretrained), "
            "vision_config and text_config (from scratch)."
        )
    if model_args.model_name_or_path:
        path = model_args.model_name_or_path
        model = OTDRGForConditionalGeneration.from_pretrained(path, dtype=dtype, **attention)
        for key, value in args.otdrg_config.items():
            setattr(model.config, key, value)
        return model, OTDRGProcessor.from_pretrained(path)
    if args.vision_model:
        fields = {"image_size": args.image_size, **args.otdrg_config}
        model = OTDRGForConditionalGeneration.from_backbones(
            args.vision_model, args.text_model, dtype=dtype, **attention, **fields
        )
        return model, OTDRGProcessor.from_backbones(args.vision_model, args.text_model, **fields)
    return _from_scratch(args, reports, dtype)


def _from_scratch(args: StudyArguments, reports: Iterable[str], dtype: torch.dtype):
    vision_config, text_config = dict(args.vision_config), dict(args.text_config)
    vision_config = AutoConfig.for_model(vision_config.pop("model_type"), **vision_config)
    defaults = OTDRGConfig(vision_config=vision_config, **args.otdrg_config)
    phrases = [phrase for label in defaults.label_phrases for phrase in label]
    prompt_words = ["Frontal view:\nLateral view:\nView:\nFindings:\nIndication:\nEarlier report:\nReport:"]
    tokenizer = train_tokenizer([*reports, *phrases, *prompt_words * 100], text_config.pop("vocab_size"))
    processor = OTDRGProcessor(square_image_processor(args.image_size), add_placeholders(tokenizer))
    text_config = AutoConfig.for_model(
        text_config.pop("model_type"),
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **text_config,
    )
    grid, feature_size = probe_patches(AutoModel.from_config(vision_config), processor.image_processor)
    config = OTDRGConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_grid=grid,
        vision_feature_size=feature_size,
        image_token_id=processor.image_token_id,
        finding_token_id=processor.finding_token_id,
        **args.otdrg_config,
    )
    config.label_phrase_ids = processor.label_phrase_ids(config)
    processor.num_image_tokens = config.image_seq_length
    return OTDRGForConditionalGeneration(config).to(dtype), processor
