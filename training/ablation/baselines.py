"""Baselines of an ablation: image features for the nearest neighbour, and the files that hold their reports."""

from collections.abc import Sequence
from pathlib import Path

import torch

from otdrg_hf import OTDRGForConditionalGeneration, OTDRGProcessor
from otdrg_hf.reporting.predictions import open_predictions
from otdrg_hf.training.feature_cache import FeatureCache, encoder_checksum, undecoded


class EncoderFeatures:
    """
    Mean patch features of studies by the vision encoder of a model.

    Args:
        model_dir (`Path`): The model.
        cache (`Path`): Folder of a [`FeatureCache`], of the runs that trained the model or another.
        dtype (`str`, *optional*): That the encoder was frozen in, `frozen_dtype`.
    """

    def __init__(self, model_dir: Path, cache: Path, dtype: str | None = None):
        self.model = OTDRGForConditionalGeneration.from_pretrained(model_dir, dtype="float32")
        self.processor = OTDRGProcessor.from_pretrained(model_dir)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        if dtype is not None:
            self.model.model.vision_tower.to(getattr(torch, dtype))
        self.cache = FeatureCache(cache, encoder_checksum(self.model, self.processor))

    def __call__(self, studies) -> torch.Tensor:
        """`[N, c]`, fp32."""
        self.cache.fill(self.model, self.processor, studies)
        return torch.stack([self.cache.read(study).float().mean((0, 1, 2)) for study in undecoded(studies)])


def write_baseline(folder: Path, name: str, studies, section: str, reports: Sequence[str]) -> Path:
    """Writes the reports of studies, in their order, to the file that `otdrg evaluate` reads."""
    file = open_predictions(folder, {"model": f"{name} baseline", "section": section})
    rows = zip(studies["id"], reports, studies[section], strict=True)
    file.append(
        *(
            {"id": key, "generated_text": report, "reference": reference, "section": section}
            for key, report, reference in rows
            if key not in file.finished
        )
    )
    file.close()
    return file.path
