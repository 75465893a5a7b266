"""Tiny backbones, tokenizers, models and images that the tests make themselves; nothing is downloaded."""

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from otdrg_hf import OTDRGConfig, OTDRGForConditionalGeneration, OTDRGProcessor
from otdrg_hf.modeling.backbones_otdrg import add_placeholders, square_image_processor

IMAGE_SIZE = 32
CORPUS = [
    "View: Frontal view: Lateral view: Findings: Indication: Cough. Earlier report: Report:",
    "The heart is normal in size.",
    "No pleural effusion or pneumothorax. The lungs are clear. Possible pneumonia. Cardiomegaly is not mentioned.",
]
TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
PIXELS = {"image_size": IMAGE_SIZE, "patch_size": 8}
CONV_STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}

# name: (class of the configuration, its fields, rows and columns of patches at 32 pixels)
VISION = {
    "vit": ("ViTConfig", {**TRANSFORMER, **PIXELS}, (4, 4)),
    "deit": ("DeiTConfig", {**TRANSFORMER, **PIXELS}, (4, 4)),
    "dinov2_registers": ("Dinov2WithRegistersConfig", {**TRANSFORMER, **PIXELS, "num_register_tokens": 4}, (4, 4)),
    "clip": ("CLIPVisionConfig", {**TRANSFORMER, **PIXELS}, (4, 4)),
    "siglip": ("SiglipVisionConfig", {**TRANSFORMER, **PIXELS}, (4, 4)),
    "swin": (
        "SwinConfig",
        {"image_size": IMAGE_SIZE, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
        | {"window_size": 2},
        (4, 4),
    ),
    "resnet": ("ResNetConfig", {**CONV_STAGES, "embedding_size": 8, "layer_type": "basic"}, (4, 4)),
    "convnext": ("ConvNextConfig", {**CONV_STAGES, "num_stages": 2, "image_size": IMAGE_SIZE}, (4, 4)),
}

DECODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
TEXT = {
    "llama": ("LlamaConfig", {**DECODER, "tie_word_embeddings": True}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512}),
    "qwen2": ("Qwen2Config", {**DECODER, "tie_word_embeddings": False}),
    "qwen3": ("Qwen3Config", {**DECODER, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2Config", {**DECODER, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 16}),
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of some 300 tokens, without the placeholders."""
    model = Tokenizer(tokenizer_models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def make_vision_config(name: str, **fields):
    class_name, defaults, _ = VISION[name]
    return getattr(transformers, class_name)(**{**defaults, **fields})


def make_text_config(name: str, vocab_size: int, **fields):
    class_name, defaults = TEXT[name]
    tokens = {"vocab_size": vocab_size, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return getattr(transformers, class_name)(**{**defaults, **tokens, **fields})


def make_processor(**fields) -> OTDRGProcessor:
    return OTDRGProcessor(square_image_processor(IMAGE_SIZE), add_placeholders(make_tokenizer()), **fields)


def make_config(vision: str = "vit", text: str = "llama", **fields) -> OTDRGConfig:
    processor = make_processor()
    backbones = {
        "vision_config": make_vision_config(vision),
        "text_config": make_text_config(text, len(processor.tokenizer)),
    }
    config = OTDRGConfig(
        image_token_id=processor.image_token_id,
        finding_token_id=processor.finding_token_id,
        **{**backbones, "alignment_dim": 16, "image_grid": VISION[vision][2], "image_token_pooling": 2, **fields},
    )
    config.label_phrase_ids = processor.label_phrase_ids(config)
    return config


def make_model(vision: str = "vit", text: str = "llama", seed: int = 0, **fields) -> OTDRGForConditionalGeneration:
    """A model in which every part speaks up: random weights of unit scale where training would start from zero."""
    torch.manual_seed(seed)
    model = OTDRGForConditionalGeneration(make_config(vision, text, **fields)).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.model.disease_head.classifier_weight)
        # Backbones start with deviations of 0.02, at which all inputs look alike and a tied head repeats its input.
        for backbone, gain in ((model.model.vision_tower, 1.0), (model.model.language_model, 2.0)):
            for module in backbone.modules():
                if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, transformers.pytorch_utils.Conv1D)):
                    torch.nn.init.orthogonal_(module.weight, gain)
    return model


def make_films(count: int, size: tuple[int, int] = (40, 36), seed: int = 0) -> list[np.ndarray]:
    """Blurred noise, 8 bits, full range; each differs from the others."""
    generator = torch.Generator().manual_seed(seed)
    films = torch.nn.functional.interpolate(torch.rand(count, 1, 5, 4, generator=generator), size, mode="bilinear")
    return [np.round(255 * film[0].cpu().numpy()).astype(np.uint8) for film in films]
