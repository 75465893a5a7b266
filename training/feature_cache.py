"""Patch features of a frozen vision encoder on disk: it is run once per film, not once per film and epoch."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Image, List
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from otdrg_hf.modeling.image_loading import load_views
from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration
from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor
from otdrg_hf.modeling.vision_otdrg import encode_images, patch_features


def encoder_checksum(model: OTDRGForConditionalGeneration, processor: OTDRGProcessor) -> str:
    """SHA-256 of all that features depend on beside the films: weights, configuration, preprocessing with its size."""
    tower = model.model.vision_tower
    digest = hashlib.sha256()
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    settings = [tower.config.to_dict(), processor.image_processor.to_dict()]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def undecoded(studies: Dataset) -> Dataset:
    """The studies with their films as bytes or paths."""
    return studies.with_format(None).cast_column("images", List(Image(decode=False)))


class FeatureCache:
    """
    A folder with a file of features per study. Its name says what made them: encoder, preprocessing, study and films,
    so that features of anything else are never found.

    Args:
        folder (`str` or `os.PathLike`): Made if it is not there.
        checksum (`str`): See [`encoder_checksum`].
    """

    def __init__(self, folder: str | os.PathLike, checksum: str):
        self.folder, self.checksum = Path(folder), checksum

    def path(self, study: dict[str, Any]) -> Path:
        """The file of a study, whose films are bytes or paths."""
        digest = hashlib.sha256(f"{self.checksum} {study['id']}".encode())
        for film in study["images"]:
            digest.update(film["bytes"] if film["bytes"] is not None else _stamp(film["path"]))
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def read(self, study: dict[str, Any]) -> torch.Tensor:
        """Features of the views of a study, `[V, rows, columns, c]`."""
        try:
            return load_file(self.path(study))["features"]
        except OSError:
            raise ValueError(
                f"Study {study['id']!r} has no features: its films have changed since they were made."
            ) from None

    @torch.no_grad()
    def fill(self, model, processor, studies: Dataset, dtype: torch.dtype = torch.float16) -> int:
        """Writes what is not there yet, study by study, and gives how many it wrote; a run that was cut off goes on."""
        tower, config, written = model.model.vision_tower.eval(), model.config, 0
        raw = undecoded(studies)
        for index in tqdm(range(len(studies)), desc="Caching features", unit="study"):
            path = self.path(raw[index])
            if path.is_file():
                continue
            films = load_views(studies[index]["images"])  # as the processor does
            pixels = processor.image_processor(films, return_tensors="pt")["pixel_values"]
            pixels = pixels.to(tower.device, tower.dtype)
            maps = patch_features(
                encode_images(tower, pixels), pixels, config.vision_config, config.vision_feature_size
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            save_file({"features": maps.to(dtype).contiguous().cpu()}, unfinished)
            os.replace(unfinished, path)
            written += 1
        return written


def _stamp(path: str) -> bytes:
    state = os.stat(path.split("::")[0])  # of a film in its shard: the shard
    return f"{path} {state.st_size} {state.st_mtime_ns}".encode()
