"""Tiny models, studies and trainers for the tests of training, all made up from a seed."""

import json
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import set_seed
from trl import ModelConfig, SFTConfig

from otdrg_hf.data.schema import study_features
from otdrg_hf.modeling import losses_otdrg
from otdrg_hf.training.adapters import adapter_config
from otdrg_hf.training.arguments import StudyArguments
from otdrg_hf.training.collator import OtherStates, StudyCollator
from otdrg_hf.training.disease_metrics import disease_metrics
from otdrg_hf.training.model_setup import load_model_and_processor
from otdrg_hf.training.stages import apply_stage
from otdrg_hf.training.trainer import OTDRGTrainer

SENTENCES = (
    "The heart is normal in size.",
    "There is a small right pleural effusion.",
    "No pneumothorax.",
    "Possible left basilar pneumonia.",
    "The lungs are clear.",
)
# A ViT has a pooler, which nothing depends on; a ResNet has batch-norm statistics, which move without a gradient.
VIT = {
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 16,
}
RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 32],
    "depths": [1, 1],
    "layer_type": "basic",
    "downsample_in_first_stage": False,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
# So close to the plan that it is the same in any batch.
OTDRG = {"alignment_dim": 32, "image_token_pooling": 2, "max_iterations": 200, "tolerance": 1e-6}


def tiny_rows(count: int) -> list[dict]:
    """Studies of one or two 64-pixel noise films, with reports of different lengths."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        views = ["frontal", "lateral"][: 1 + index % 2]
        findings = " ".join(rng.choice(SENTENCES, size=1 + index % 3, replace=False))
        rows.append(
            {
                "id": f"study-{index}",
                "images": [Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)) for _ in views],
                "views": views,
                "indication": "Cough." if index % 2 else "",
                "comparison": "",
                "findings": findings,
                "impression": "",
                "report": findings,
                "disease_labels": rng.integers(0, 4, 14).tolist(),
            }
        )
    return rows


def write_study_folder(folder: Path, **counts: int) -> Path:
    """An image folder with a number of studies per split, of which every third training study has an impression."""
    for split, count in counts.items():
        (folder / split).mkdir()
        lines = []
        for index, row in enumerate(tiny_rows(count)):
            row["impression"] = "The lungs are clear." if split == "train" and index % 3 == 0 else ""
            names = [f"{index}-{view}.png" for view in range(len(row["images"]))]
            for name, image in zip(names, row["images"], strict=True):
                image.save(folder / split / name)
            lines.append({**row, "images": None, "file_names": names})
        lines = [{key: value for key, value in line.items() if value is not None} for line in lines]
        (folder / split / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def tiny_studies(count: int) -> Dataset:
    return Dataset.from_list(tiny_rows(count), features=study_features())


def tiny_model(vision: dict = VIT, seed: int = 0, text: dict = LLAMA, **otdrg_config):
    """A model and its processor, built as training builds one from scratch."""
    set_seed(seed)
    args = StudyArguments(vision_config=vision, text_config=text, otdrg_config=OTDRG | otdrg_config, image_size=64)
    return load_model_and_processor(args, ModelConfig(), SENTENCES)


def speak_up(model):
    """Gives the LLM weights of unit scale: by those that training starts from, it writes one text for all studies."""
    torch.manual_seed(0)
    for module in model.model.language_model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.orthogonal_(module.weight, 2.0)
    return model


@contextmanager
def small_chunks(wanted: bool = True):
    """The LM loss in chunks of two tokens, which so small a vocabulary would not need; checks that it is."""
    if not wanted:
        yield
        return
    loss = losses_otdrg._ChunkedCrossEntropy
    chunks = patch.object(losses_otdrg, "CHUNK_LOGITS", 2 * LLAMA["vocab_size"])
    with chunks, patch.object(loss, "apply", side_effect=loss.apply) as apply:
        yield
    assert apply.called


def tiny_trainer(
    output_dir,
    train,
    validation=None,
    stage="joint",
    lora=False,
    built=None,
    report_metrics=None,
    shown=None,
    learning_rates=None,
    **options,
) -> OTDRGTrainer:
    """A trainer of 4 steps of 2 studies, unless `options` of SFTConfig say otherwise."""
    model, processor = built or tiny_model()
    frozen = apply_stage(model, stage)
    peft_config = adapter_config(model, ModelConfig(use_peft=lora, lora_r=4, lora_dropout=0.0), stage)
    defaults = {
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "max_length": None,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
    others = OtherStates(np.array(train["disease_labels"]))
    return OTDRGTrainer(
        model=model,
        args=SFTConfig(output_dir=str(output_dir), **defaults | options),
        data_collator=StudyCollator(processor, others=others),
        train_collator=None if shown is None else StudyCollator(processor, others=others, shown=shown),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=processor,
        compute_metrics=disease_metrics(model.config),
        peft_config=peft_config,
        stage=stage,
        frozen_modules=frozen,
        report_metrics=report_metrics,
        learning_rates=learning_rates,
    )
