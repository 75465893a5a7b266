"""OTDRG and transformers' LLaVA of the same backbones (random weights), and studies that give both the same tokens."""

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoConfig

from otdrg_hf import OTDRGConfig, OTDRGForConditionalGeneration, OTDRGProcessor
from otdrg_hf.data.schema import make_study, study_features
from otdrg_hf.modeling.backbones_otdrg import add_placeholders, square_image_processor
from otdrg_hf.training.ablation.llava import as_prompts, llava_like
from otdrg_hf.training.model_setup import train_tokenizer

IMAGE_SIZE, PATCH_SIZE = 224, 16
SENTENCES = (
    "The heart is normal in size and the mediastinum is unremarkable.",
    "There is a small right pleural effusion with adjacent atelectasis.",
    "No pneumothorax is seen.",
    "Patchy opacity at the left lung base may be pneumonia.",
    "The lungs are clear.",
    "Frontal view: Findings: Report:",
)
VIT_SMALL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
VIT_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}


def make_otdrg(
    vision: dict, text: dict, seed: int = 0, pooling: int = 1
) -> tuple[OTDRGForConditionalGeneration, OTDRGProcessor]:
    """
    A ViT of the given size and any language model, whose vocabulary may be larger than the tokenizer's.

    `pooling` x `pooling` patches are one visual token.
    """
    torch.manual_seed(seed)
    processor = OTDRGProcessor(square_image_processor(IMAGE_SIZE), add_placeholders(train_tokenizer(SENTENCES, 400)))
    tokenizer, fields = processor.tokenizer, dict(text)
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    side = IMAGE_SIZE // PATCH_SIZE
    config = OTDRGConfig(
        vision_config=AutoConfig.for_model("vit", **vision, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE),
        text_config=AutoConfig.for_model(fields.pop("model_type"), **fields, **tokens),
        image_grid=[side, side],
        image_token_id=processor.image_token_id,
        finding_token_id=processor.finding_token_id,
        image_token_pooling=pooling,
    )
    config.label_phrase_ids = processor.label_phrase_ids(config)
    processor.num_image_tokens = config.image_seq_length
    return OTDRGForConditionalGeneration._from_config(config), processor


def make_llava(vision: dict, text: dict):
    """The LLaVA of `make_otdrg`, its processor, and the processor that wrote the prompt."""
    otdrg, processor = make_otdrg(vision, text)
    return *llava_like(otdrg, processor), processor


def make_studies(count: int, sentences: int) -> Dataset:
    """Studies of one noise film each, with reports of so many sentences."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        film = Image.fromarray(rng.integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 1), dtype=np.uint8).repeat(3, axis=2))
        report = " ".join(rng.choice(SENTENCES[:5], size=sentences))
        labels = rng.integers(0, 4, 14).tolist()
        rows.append(make_study(id=str(index), images=[film], views=["frontal"], findings=report, disease_labels=labels))
    return Dataset.from_list(rows, features=study_features())


def llava_prompts(studies: Dataset, processor: OTDRGProcessor) -> Dataset:
    """The prompts of OTDRG for LLaVA, to which the places of the labels are tokens like any others."""

    def same_length(row: dict) -> dict:
        return {"prompt": expand_findings(row["prompt"], processor)}

    return as_prompts(studies, processor, "findings").map(same_length)


def expand_findings(prompt: str, processor: OTDRGProcessor) -> str:
    return prompt.replace(processor.finding_token, processor.finding_token * len(processor.label_names))
