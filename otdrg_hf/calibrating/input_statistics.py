"""Statistics of a model's training images in its checkpoint, by which it knows an image that is unlike them."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from otdrg_hf.files import write_json
from otdrg_hf.modeling.familiarity_otdrg import InputStatistics, ViewStatistics, average_cells, describe_cells
from otdrg_hf.modeling.image_loading import load_views
from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration
from otdrg_hf.modeling.processing_otdrg import OTDRGProcessor

CHANNELS, RANK = 16, 32
FAMILIAR_SHARE = 0.99  # of images that the statistics were not fitted on
FOLDS = 5
MIN_IMAGES = 30  # of a view
MAX_STUDIES = 2000  # more change little, and take time
BATCH = 8  # studies


def add_input_statistics(
    folder: str | os.PathLike,
    studies: Any,
    model: OTDRGForConditionalGeneration,
    processor: OTDRGProcessor,
    read_features: Callable[[Mapping], torch.Tensor] | None = None,
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
            Gives what the vision encoder gave of a study's images before, `[V, rows, columns, c]`; it is not run then.
        write (`bool`, *optional*, defaults to `True`): Write `config.json`; one of several processes does.
        description (`str`, *optional*): Of a progress bar; there is none without.

    Returns:
        `dict[str, int]`: How many images of each view the statistics are of; empty if there are none.
    """
    count = min(len(studies), MAX_STUDIES)
    indices = np.linspace(0, len(studies) - 1, count).round().astype(int).tolist()
    cells, views = read_cells(studies, indices, model, processor, read_features, description)
    statistics = fit_input_statistics(cells, views)
    model.config.input_statistics = None if statistics is None else statistics.pack()
    if write:
        path = Path(folder, "config.json")
        write_json(path, {**json.loads(path.read_text()), "input_statistics": model.config.input_statistics})
    known = () if statistics is None else statistics.views
    return {view: len(views) if view == "unknown" else views.count(view) for view in known}


@torch.no_grad()
def read_cells(
    studies: Any,
    indices: Sequence[int],
    model: OTDRGForConditionalGeneration,
    processor: OTDRGProcessor,
    read_features: Callable[[Mapping], torch.Tensor] | None = None,
    description: str | None = None,
) -> tuple[torch.Tensor, list[str]]:
    """Features of the images of some studies in cells, `[N, cells, c]`, and their views."""
    model.model.vision_tower.eval()
    cells, views = [], []
    starts = range(0, len(indices), BATCH)
    for start in tqdm(starts, desc=description, unit="batch", disable=description is None):
        batch = [studies[index] for index in indices[start : start + BATCH]]
        views += [view for study in batch for view in study["views"]]
        if read_features is not None:
            features = torch.cat([read_features(study) for study in batch])  # [N, rows, columns, c]
        else:
            features = encode(model, processor, [image for study in batch for image in load_views(study["images"])])
        cells.append(average_cells(features).cpu())
    return torch.cat(cells), views


def encode(model: OTDRGForConditionalGeneration, processor: OTDRGProcessor, images: Iterable) -> torch.Tensor:
    """What the vision encoder of a model gives of loaded images, `[N, rows, columns, c]`."""
    pixels = processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
    tower = model.model.vision_tower
    return model.model.get_vision_features(pixels.to(tower.device, tower.dtype))[:, 0]


def fit_input_statistics(cells: torch.Tensor, views: Sequence[str]) -> InputStatistics | None:
    """
    The statistics of images by view; of all images as one view, `"unknown"`, where no view is known of enough of them.

    Args:
        cells (`torch.Tensor` of shape `[N, cells, c]`): Features of the images.
        views (`Sequence[str]`): `"frontal"`, `"lateral"` or `"unknown"` for each.

    Returns:
        [`InputStatistics`], or `None` of fewer than `MIN_IMAGES` images of a view.
    """
    names = np.array(views)
    of_views = {view: np.flatnonzero(names == view) for view in ("frontal", "lateral")}
    of_views = {view: rows for view, rows in of_views.items() if len(rows) >= MIN_IMAGES}
    if not of_views and len(names) >= MIN_IMAGES:
        of_views = {"unknown": np.arange(len(names))}
    if not of_views:
        return None
    channel_mean, channel_basis = channel_components(cells)
    descriptors = describe_cells(cells, channel_mean, channel_basis)
    fitted = {view: fit_view(descriptors[rows]) for view, rows in of_views.items()}
    return InputStatistics(channel_mean, channel_basis, fitted)


def channel_components(cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean `[c]` and principal components `[c, k]` of the features of cells, as they are once packed."""
    rows = cells.flatten(0, 1).double()  # [N * cells, c]
    mean = rows.mean(0)
    covariance = (rows - mean).T @ (rows - mean)
    basis = torch.linalg.eigh(covariance).eigenvectors.flip(-1)[:, :CHANNELS]
    return mean.float(), basis.half().float()


def fit_view(descriptors: torch.Tensor) -> ViewStatistics:
    """The statistics of the descriptors of a view `[N, D]`, with a limit that holds for other images of the kind."""
    folds = torch.arange(len(descriptors)) % FOLDS
    held_out = torch.cat([_fit(descriptors[folds != k]).distance(descriptors[folds == k]) for k in range(FOLDS)])
    return _fit(descriptors)._replace(limit=held_out.quantile(FAMILIAR_SHARE))


def _fit(descriptors: torch.Tensor) -> ViewStatistics:
    mean, scale = descriptors.mean(0), descriptors.std(0) + 1e-6
    scaled = ((descriptors - mean) / scale).double()
    values, vectors = torch.linalg.eigh(scaled.T @ scaled / (len(scaled) - 1))
    values, vectors = values.flip(0).float(), vectors.flip(-1)
    rank = min(RANK, len(descriptors) // 3, len(mean) - 1)
    basis = vectors[:, :rank].half().float()
    one = torch.ones(())
    return ViewStatistics(mean, scale, basis, values[:rank].clamp(min=1e-6), values[rank:].mean().clamp(min=1e-6), one)
