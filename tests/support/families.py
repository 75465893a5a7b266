"""Tiny random backbones of every family that `from_backbones` is held to, in folders as the Hub would hold them."""

from pathlib import Path

import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM

from otdrg_hf.modeling.backbones_otdrg import square_image_processor
from tests.support.tiny_models import (
    DECODER,
    IMAGE_SIZE,
    PIXELS,
    TEXT,
    TRANSFORMER,
    VISION,
    make_text_config,
    make_tokenizer,
    make_vision_config,
)

# Beyond what the other tests go through: name: (class of the configuration, its fields, patches at 32 pixels).
VISION_FAMILIES = {
    **{name: VISION[name] for name in ("vit", "dinov2_registers", "clip", "siglip", "swin", "resnet", "convnext")},
    "dinov2": ("Dinov2Config", {**TRANSFORMER, **PIXELS}, (4, 4)),
    "timm": (
        "TimmWrapperConfig",
        {
            "architecture": "vit_tiny_patch16_224",
            "do_pooling": False,
            "model_args": {"img_size": IMAGE_SIZE, "patch_size": 8, "depth": 1, "embed_dim": 16, "num_heads": 2}
            # timm's own way of saying that positions are interpolated at other sizes.
            | {"dynamic_img_size": True},
            "pretrained_cfg": {"input_size": [3, IMAGE_SIZE, IMAGE_SIZE], "mean": [0.5] * 3, "std": [0.5] * 3},
        },
        (4, 4),
    ),
}
TEXT_FAMILIES = {
    **{name: TEXT[name] for name in ("llama", "qwen3", "gemma2", "gpt2")},
    "gemma3": ("Gemma3TextConfig", {**DECODER, "query_pre_attn_scalar": 16, "sliding_window": 64}),
    "mistral": ("MistralConfig", {**DECODER, "sliding_window": 64, "tie_word_embeddings": False}),
    "phi": ("PhiConfig", {key: value for key, value in DECODER.items() if key != "head_dim"}),
    "phi3": ("Phi3Config", {key: value for key, value in DECODER.items() if key != "head_dim"}),
    "opt": ("OPTConfig", {key: DECODER[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
            | {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 512}),
}  # fmt: skip
_CLIP_TEXT = {**TRANSFORMER, "hidden_size": 24, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
_CLIP = {"text_config": _CLIP_TEXT, "vision_config": {**TRANSFORMER, "image_size": 32, "patch_size": 8}}
# Encoders of label phrases: name: (class of the configuration, its fields, width of the features)
TEXT_ENCODERS = {
    "bert": ("BertConfig", {**TRANSFORMER, "max_position_embeddings": 64}, 16),
    "t5": ("T5Config", {"d_model": 20, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}, 20),
    "gpt2": ("GPT2Config", {"n_embd": 12, "n_layer": 1, "n_head": 2, "n_positions": 64}, 12),
    "clip": ("CLIPConfig", {**_CLIP, "projection_dim": 28}, 28),
    "siglip": ("SiglipConfig", {**_CLIP, "text_config": {**_CLIP_TEXT, "projection_size": 24}}, 24),
}
# Chat models bring a template, which the prompt has to go through.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ bos_token }}{{ message['role'] }}: {{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
WITH_TEMPLATE = ("llama", "qwen3", "gemma3", "phi3")


def why_not(vision: str) -> str | None:
    """Why a family cannot be run here, in a line; `None` if it can."""
    if vision != "timm":
        return None
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError) as error:
        return f"timm cannot be imported ({' '.join(str(error).split())[:80]}): it needs the torchvision of this torch"
    return None


def save_vision(name: str, folder: Path) -> str:
    """A folder with a random encoder of the family and its image processor."""
    torch.manual_seed(0)
    class_name, fields, _ = VISION_FAMILIES[name]
    if name in VISION:
        config = make_vision_config(name)
    else:
        config = getattr(transformers, class_name)(**fields)
    AutoModel.from_config(config).save_pretrained(folder)
    if name != "timm":  # whose own configuration says how its images are made
        square_image_processor(IMAGE_SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)).save_pretrained(folder)
    return str(folder)


def save_text(name: str, folder: Path) -> str:
    """A folder with a random language model of the family and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    if name in WITH_TEMPLATE:
        tokenizer.chat_template = CHAT_TEMPLATE
    if name in TEXT:
        config = make_text_config(name, len(tokenizer))
    else:
        class_name, fields = TEXT_FAMILIES[name]
        tokens = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        config = getattr(transformers, class_name)(**fields, **tokens)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_text_encoder(name: str, folder: Path) -> str:
    """A folder with a random text encoder, or a CLIP that has one, and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 64
    class_name, fields, _ = TEXT_ENCODERS[name]
    vocabulary = {"vocab_size": len(tokenizer)}
    if "text_config" in fields:
        vocabulary = {"text_config": {**fields["text_config"], **vocabulary}}
    AutoModel.from_config(getattr(transformers, class_name)(**{**fields, **vocabulary})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
