"""Statistics of a model's training images in its checkpoint, by which it knows an image that is unlike them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from otdrg_hf.files import update_json
from otdrg_hf.modeling.familiarity_otdrg import (
    InputStatistics,
    Normal,
    ViewStatistics,
    describe_content,
    describe_layout,
    describe_sharpness,
)
from otdrg_hf.modeling.image_loading import load_views
from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration
from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor

CHANNELS = 32  # principal components of the features, or half of their width where that is less
FAMILIAR_SHARE = 0.99  # of images that the statistics were not fitted on
FOLDS = 5
MIN_IMAGES = 30  # of a view
MAX_STUDIES = 2000  # more change little, and take time
SAMPLED_STUDIES = 200  # for the principal components
BATCH = 8  # studies


def add_input_statistics(
    folder: str | os.PathLike,
    studies: Any,
    model: OTDRGForConditionalGeneration,
    processor: OTDRGProcessor,
    read_features: Callable[[int], torch.Tensor] | None = None,
    write: bool = True,
    description: str | None = None,
) -> dict[str, int]:
    """
    Fits the statistics of training images and writes them into the configuration of a checkpoint, and of the model.

    A checkpoint with too few images of any view to learn from is left without, also of what it had: that was of another
    encoder.

    Args:
        folder (`str` or `os.PathLike`): Where the `config.json` of the checkpoint is.
        studies (`Dataset`): Training studies, of which up to `MAX_STUDIES` are read: `images` and `views`.
        model ([`OTDRGForConditionalGeneration`]): The model of the checkpoint; its vision encoder is run.
        processor ([`OTDRGProcessor`]): Prepares the images.
        read_features (`Callable`, *optional*):
            Gives what the vision encoder gave of the images of the study of this index before,
            `[V, rows, columns, c]`; it is not run then.
        write (`bool`, *optional*, defaults to `True`): Write `config.json`; one of several processes does.
        description (`str`, *optional*): Of a progress bar; there is none without.

    Returns:
        `dict[str, int]`: How many images of each view the statistics are of; empty if there are none.
    """
    indices = np.linspace(0, len(studies) - 1, min(len(studies), MAX_STUDIES)).round().astype(int).tolist()
    described = describe_studies(studies, indices, model, processor, read_features, description)
    statistics = fit_input_statistics(described)
    model.config.input_statistics = None if statistics is None else statistics.pack()
    if write:
        update_json(Path(folder, "config.json"), {"input_statistics": model.config.input_statistics})
    return {} if statistics is None else {view: len(rows) for view, rows in rows_of_views(described.views).items()}


class Described(NamedTuple):
    """
    Descriptors of images.

    Attributes:
        channel_mean (`torch.Tensor` of shape `[c]`), channel_basis (`torch.Tensor` of shape `[c, k]`):
            Principal components of the features of patches.
        parts (`tuple[torch.Tensor, ...]`): Content, layout and sharpness, `[N, D]` each.
        views (`list[str]`): `"frontal"`, `"lateral"` or `"unknown"` for each image.
    """

    channel_mean: torch.Tensor
    channel_basis: torch.Tensor
    parts: tuple[torch.Tensor, ...]
    views: list[str]


@torch.no_grad()
def describe_studies(
    studies: Any,
    indices: Sequence[int],
    model: OTDRGForConditionalGeneration,
    processor: OTDRGProcessor,
    read_features: Callable[[int], torch.Tensor] | None = None,
    description: str | None = None,
) -> Described:
    """Descriptors of the images of some studies; the principal components are those of a few of them."""
    was_training = model.training
    model.eval()
    encoded = _Encoder(studies, model, processor, read_features)
    sample = indices[:: -(-len(indices) // SAMPLED_STUDIES)]
    mean, basis = channel_components(torch.cat([encoded(batch)[0].flatten(0, 2) for batch in _batches(sample)]))
    parts, views = [], []
    for batch in tqdm(_batches(indices), desc=description, unit="batch", disable=description is None):
        features, pixels, of_batch = encoded(batch)
        parts.append((describe_content(features, mean, basis), describe_layout(pixels), describe_sharpness(pixels)))
        views += of_batch
    model.train(was_training)
    return Described(mean, basis, tuple(torch.cat(part) for part in zip(*parts, strict=True)), views)


def _batches(indices: Sequence[int]) -> list[Sequence[int]]:
    return [indices[start : start + BATCH] for start in range(0, len(indices), BATCH)]


class _Encoder(NamedTuple):
    """Features `[N, rows, columns, c]`, pixels `[N, 3, H, W]` from 0 to 1 and views of the images of studies, fp32."""

    studies: Any
    model: OTDRGForConditionalGeneration
    processor: OTDRGProcessor
    read_features: Callable[[int], torch.Tensor] | None

    def __call__(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        batch = [self.studies[index] for index in indices]
        images = [image for study in batch for image in load_views(study["images"])]
        values = self.processor.image_processor(images, return_tensors="pt")["pixel_values"]
        if self.read_features is not None:
            features = torch.cat([self.read_features(index) for index in indices])
        else:
            tower = self.model.model.vision_tower
            features = self.model.model.get_vision_features(values.to(tower.device, tower.dtype))[:, 0]
        views = [view for study in batch for view in study["views"]]
        return features.float().cpu(), self.processor.plain_pixels(values), views


def rows_of_views(views: Sequence[str]) -> dict[str, np.ndarray]:
    """Images of each view that has `MIN_IMAGES`; where none has, of all as `"unknown"`, if these are as many."""
    names = np.array(views)
    rows = {view: np.flatnonzero(names == view) for view in ("frontal", "lateral")}
    rows = {view: each for view, each in rows.items() if len(each) >= MIN_IMAGES}
    return rows or ({"unknown": np.arange(len(names))} if len(names) >= MIN_IMAGES else {})


def fit_input_statistics(described: Described) -> InputStatistics | None:
    """
    The statistics of images by view.

    Returns:
        [`InputStatistics`], or `None` of fewer than `MIN_IMAGES` images of a view.
    """
    rows = rows_of_views(described.views)
    fitted = {view: fit_view([part[each] for part in described.parts]) for view, each in rows.items()}
    return InputStatistics(described.channel_mean, described.channel_basis, fitted) if rows else None


def fit_view(parts: Sequence[torch.Tensor]) -> ViewStatistics:
    """The statistics of a view from its descriptors `[N, D]`, with a limit that holds for other images of the kind."""
    normals, shares = [], []
    for descriptors in parts:
        distances = _held_out_distances(descriptors)  # [N]
        typical = distances.quantile(FAMILIAR_SHARE)
        normals.append(fit_normal(descriptors)._replace(typical=typical))
        shares.append(distances / typical)
    totals = torch.stack(shares).square().mean(0).sqrt()
    return ViewStatistics(*normals, totals.quantile(FAMILIAR_SHARE))


def _held_out_distances(descriptors: torch.Tensor) -> torch.Tensor:
    """The distance of each image of a view to the others, of which a fifth is left out along with it."""
    folds = torch.arange(len(descriptors)) % FOLDS
    distances = torch.empty(len(descriptors))
    for fold in range(FOLDS):
        distances[folds == fold] = fit_normal(descriptors[folds != fold]).distance(descriptors[folds == fold])
    return distances


def fit_normal(descriptors: torch.Tensor) -> Normal:
    """Mean and shrunk covariance of descriptors `[N, D]`."""
    mean, deviation = descriptors.mean(0), descriptors.std(0)
    # An entry that hardly varies says nothing, and would rule if it were scaled up.
    scale = deviation.clamp(min=max(float(deviation.mean()) * 0.01, 1e-6))
    values, vectors = torch.linalg.eigh(shrunk_covariance(((descriptors - mean) / scale).double()))
    whitening = (vectors / values.clamp(min=1e-4).sqrt()).half().float()  # as it is once packed
    return Normal(mean, scale, whitening, torch.ones(()))


def shrunk_covariance(centred: torch.Tensor) -> torch.Tensor:
    """Covariance `[D, D]` of centred rows `[N, D]`, shrunk to an even one (Ledoit & Wolf, 2004)."""
    count, size = centred.shape
    covariance = centred.T @ centred / count
    even = torch.eye(size, dtype=centred.dtype) * covariance.trace() / size
    spread = (covariance - even).square().sum()
    error = (centred.square().sum(1).square().mean() - covariance.square().sum()) / count
    share = (error / spread).clamp(0, 1) if spread > 0 else 1.0
    return (1 - share) * covariance + share * even


def channel_components(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean `[c]` and principal components `[c, k]` of features `[N, c]`, as they are once packed."""
    rows = features.double()
    mean = rows.mean(0)
    covariance = (rows - mean).T @ (rows - mean)
    count = min(CHANNELS, features.shape[1] // 2)
    basis = torch.linalg.eigh(covariance).eigenvectors.flip(-1)[:, :count]
    return mean.float(), basis.half().float()
