"""Reports of a split by a LLaVA baseline, in the file that `otdrg evaluate` reads."""

from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import AutoProcessor, LlavaForConditionalGeneration

from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor
from otdrg_hf.reporting.predictions import open_predictions
from otdrg_hf.training.ablation import patch_encoder  # noqa: F401  (registers the encoder that the checkpoint names)


def generate_llava_predictions(
    model_dir: Path, studies, output_dir: Path, section: str = "report", batch_size: int = 32, max_new_tokens: int = 256
) -> Path:
    """As `otdrg_hf.reporting.split.generate_predictions`, for a model of `training.ablation.llava`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = LlavaForConditionalGeneration.from_pretrained(model_dir).to(device).eval()
    processor = AutoProcessor.from_pretrained(model_dir)
    build_prompt = OTDRGProcessor.from_pretrained(model_dir / "prompt").build_prompt
    file = open_predictions(
        output_dir, {"model": "LLaVA baseline", "section": section, "max_new_tokens": max_new_tokens}
    )
    missing = [index for index, key in enumerate(studies["id"]) if key not in file.finished]
    for start in tqdm(range(0, len(missing), batch_size), desc="Reporting", unit="batch"):
        batch = [studies[index] for index in missing[start : start + batch_size]]
        prompts = [
            build_prompt(len(study["images"]), study["views"], study["indication"], study["comparison"])
            for study in batch
        ]
        inputs = processor(
            text=prompts,
            images=[[image.convert("RGB") for image in study["images"]] for study in batch],
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
        ).to(device)
        inputs.pop("token_type_ids", None)
        ids = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        texts = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        file.append(
            *(
                {"id": study["id"], "generated_text": text.strip(), "reference": study[section], "section": section}
                for study, text in zip(batch, texts, strict=True)
            )
        )
    file.close()
    return file.path
