"""Features of a frozen vision encoder, or of frozen blocks, on disk: it is run once per image, not in every epoch."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from accelerate import PartialState
from datasets import Dataset, Image, List
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from otdrg_hf.data.schema import INPUT_COLUMNS
from otdrg_hf.files import atomic_path
from otdrg_hf.modeling.image_loading import load_views
from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration
from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor
from otdrg_hf.modeling.vision_otdrg import encode_images, patch_features
from otdrg_hf.training.frozen_blocks import FrozenBlocks

BATCH = 8  # studies
DTYPE = torch.float16
PROVENANCE = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version")


def encoder_checksum(
    model: OTDRGForConditionalGeneration, processor: OTDRGProcessor, blocks: FrozenBlocks | None = None
) -> str:
    """SHA-256 of what features depend on, except images: weights, configuration, preprocessing with its size."""
    tower = model.model.vision_tower
    digest = hashlib.sha256()
    trained = set() if blocks is None else blocks.trained_names
    for name, tensor in sorted(tower.state_dict().items()):
        if name in trained:
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    if blocks is not None:
        digest.update(f"after block {len(blocks.frozen)}".encode())
    # Where the encoder was read from, and by which release, changes from stage to stage, and its features do not.
    settings = [
        {key: value for key, value in part.to_dict().items() if key not in PROVENANCE}
        for part in (tower.config, processor.image_processor)
    ]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def undecoded(studies: Dataset) -> Dataset:
    """The studies with their images as bytes or paths."""
    return studies.with_format(None).cast_column("images", List(Image(decode=False)))


class FeatureCache:
    """
    A folder with a file of features per study. Its name says what made them: encoder, preprocessing, study and images,
    so that features of anything else are never found.

    Args:
        folder (`str` or `os.PathLike`): Made if it is not there.
        checksum (`str`): See [`encoder_checksum`].
        blocks ([`FrozenBlocks`], *optional*): Keep what these give, instead of the whole encoder.
        start ([`FeatureCache`], *optional*): Of frozen blocks: with what it holds, the whole encoder starts from there.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        checksum: str,
        blocks: FrozenBlocks | None = None,
        start: "FeatureCache | None" = None,
    ):
        self.folder, self.checksum, self.blocks, self.start = Path(folder), checksum, blocks, start

    def path(self, study: dict[str, Any]) -> Path:
        """The file of a study, whose images are bytes or paths."""
        digest = hashlib.sha256(f"{self.checksum} {study['id']}".encode())
        for image in study["images"]:
            digest.update(image["bytes"] if image["bytes"] is not None else _stamp(image["path"]))
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def read(self, study: dict[str, Any]) -> torch.Tensor:
        """Features of the views of a study, `[V, rows, columns, c]`; of frozen blocks mostly `[V, tokens, c]`."""
        try:
            return load_file(self.path(study))["features"]
        except OSError:
            raise ValueError(
                f"Study {study['id']!r} has no features: its images have changed since they were made."
            ) from None

    def read_batch(self, studies: Sequence[dict[str, Any]]) -> torch.Tensor:
        """Features of B studies, `[B, V, ...]`, 0 where one has fewer views than another."""
        return pad_sequence([self.read(study) for study in studies], batch_first=True)

    def missing(self, studies: Dataset) -> list[int]:
        """Indices of the studies without features."""
        return [index for index, study in enumerate(undecoded(studies)) if not self.path(study).is_file()]

    def fill(
        self, model, processor, studies: Dataset, indices: list[int] | None = None, dtype: torch.dtype = DTYPE
    ) -> int:
        """
        Writes what is missing, in batches; an interrupted run is resumed.

        Args:
            indices (`list[int]`, *optional*): What `missing` gave, where it has been asked.

        Returns:
            `int`: How many studies were missing.
        """
        indices, raw = self.missing(studies) if indices is None else indices, undecoded(studies)
        for start in tqdm(range(0, len(indices), BATCH), desc="Caching features", unit="batch"):
            batch = indices[start : start + BATCH]
            if self.start is None:
                views = [load_views(studies[index]["images"]) for index in batch]  # as the processor does
                encoded = self._encode(model, processor, [view for study in views for view in study])
                counts = [len(study) for study in views]
            else:
                hidden = [self.start.read(raw[index]) for index in batch]
                counts = [len(study) for study in hidden]
                with self.start.blocks.skipped(torch.cat(hidden)):
                    encoded = self._encode(model, processor, [blank_image(processor)] * sum(counts))
            for index, features in zip(batch, encoded.split(counts), strict=True):
                self._write(self.path(raw[index]), features.to(dtype))
        return len(indices)

    @torch.no_grad()
    def _encode(self, model, processor, views: list[PIL.Image.Image]) -> torch.Tensor:
        """`[views, rows, columns, c]`, or what the frozen blocks give."""
        tower, config = model.model.vision_tower.eval(), model.config
        pixels = processor.image_processor(views, return_tensors="pt")["pixel_values"]
        pixels = pixels.to(tower.device, tower.dtype)
        if self.blocks is not None:
            return self.blocks.run(pixels)
        return patch_features(encode_images(tower, pixels), pixels, config.vision_config, config.vision_feature_size)

    def bytes_per_image(self, model, processor) -> int:
        """Bytes that the features of an image take."""
        if self.blocks is not None:
            return self._encode(model, processor, [blank_image(processor)]).numel() * DTYPE.itemsize
        rows, columns = model.config.image_grid
        return rows * columns * model.config.vision_feature_size * DTYPE.itemsize

    def _write(self, path: Path, features: torch.Tensor) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_file({"features": features.contiguous().cpu()}, temporary)


def fill_cache(
    folder: str | os.PathLike,
    model: OTDRGForConditionalGeneration,
    processor: OTDRGProcessor,
    datasets: Iterable[Dataset],
    blocks: FrozenBlocks | None = None,
    start: FeatureCache | None = None,
) -> FeatureCache:
    """
    A cache with the features of all studies. Of those that are missing each process encodes its share, after their size
    is printed. `blocks` and `start` are those of [`FeatureCache`].
    """
    cache = FeatureCache(folder, encoder_checksum(model, processor, blocks), blocks, start)
    state = PartialState()
    for studies in datasets:
        indices = cache.missing(studies)
        state.wait_for_everyone()  # until all have seen the same missing
        num_views = sum(len(views) for views in undecoded(studies).select(indices)["views"])
        if indices:
            size = num_views * cache.bytes_per_image(model, processor)
            state.print(f"Features of {num_views} images: {size / 1e9:.2f} GB in {cache.folder}.")
        cache.fill(model, processor, studies, indices[state.process_index :: state.num_processes])
    state.wait_for_everyone()
    return cache


def generation_inputs(
    processor: OTDRGProcessor, studies: Sequence[dict[str, Any]], features: FeatureCache | None
) -> dict[str, torch.Tensor]:
    """What a model writes the reports of studies from: prompts, and their images or, with a cache, their features."""
    context = {name: [study[name] for study in studies] for name in INPUT_COLUMNS}
    if features is None:
        return dict(processor(**context))
    blank = blank_image(processor)
    inputs = dict(processor(**{**context, "images": [[blank] * len(study["images"]) for study in studies]}))
    del inputs["pixel_values"]
    return {**inputs, "vision_features": features.read_batch(studies)}


def blank_image(processor: OTDRGProcessor) -> PIL.Image.Image:
    """Stands for an image whose pixels are not used: of the final size, so that nothing is resized."""
    size = processor.image_processor.size
    return PIL.Image.new("RGB", (size["width"], size["height"]))


def _stamp(path: str) -> bytes:
    state = os.stat(path.split("::")[0])  # of an image in its shard: the shard
    return f"{path} {state.st_size} {state.st_mtime_ns}".encode()
