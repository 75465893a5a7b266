"""What baselines take from the training split of a dataset: its reports, and the nearest neighbour of each study."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from otdrg_hf.data.errors import DataError
from otdrg_hf.data.phantom import PHANTOM_NAMES
from otdrg_hf.evaluation.baselines import TrainingReports, nearest
from otdrg_hf.reporting.split import phantom_size

if TYPE_CHECKING:
    from transformers import Pipeline

MAX_REPORTS = 20_000
MAX_NEIGHBOURS = 1000
_PHANTOMS = 100  # of a split; they are drawn for this
_BATCH = 8


def dataset_training_reports(
    dataset: str | os.PathLike, section: str, data_dir: str | os.PathLike | None = None
) -> TrainingReports | None:
    """
    The training and validation reports of a dataset, at most 20,000 of either; `None` if it has neither split.

    Args:
        dataset, data_dir: As `load_study_dataset` takes them. Of phantoms 100 are drawn.
        section (`str`): The column of the texts.
    """
    splits = (
        _studies(dataset, split, section, data_dir, MAX_REPORTS, image_size=64) for split in ("train", "validation")
    )
    train, validation = (
        [] if studies is None else [study[section] for study in studies.select_columns([section])] for studies in splits
    )
    return TrainingReports(train, validation) if train or validation else None


def nearest_reports(
    reporter: "Pipeline",
    dataset: str | os.PathLike,
    split: str,
    section: str,
    data_dir: str | os.PathLike | None = None,
    num_studies: int | None = None,
    num_neighbours: int = MAX_NEIGHBOURS,
) -> dict[str, str] | None:
    """
    To each study the report of the training study whose images are most similar to the model's vision encoder: the
    mean of the patch features over patches and views, less its mean over the training studies, by cosine.

    Args:
        reporter (`Pipeline`): Of [`~reporting.loading.load_reporter`].
        dataset, split, section, data_dir, num_studies: As of [`~reporting.split.generate_predictions`].
        num_neighbours (`int`): How many training studies are searched, the first ones.

    Returns:
        `dict[str, str]`, *optional*: By id; `None` if the dataset has no training split.
    """
    size = phantom_size(reporter)
    train = _studies(dataset, "train", section, data_dir, num_neighbours, image_size=size)
    if train is None:
        return None
    studies = _studies(dataset, split, section, data_dir, num_studies, image_size=size)
    reports, others, ids, features = [], [], [], []
    for study, feature in _features(reporter, train, "Encoding training studies"):
        reports.append(study[section])
        others.append(feature)
    for study, feature in _features(reporter, studies, f"Encoding {split} studies"):
        ids.append(study["id"])
        features.append(feature)
    return dict(zip(ids, nearest(np.stack(features), np.stack(others), reports), strict=True))


def _studies(dataset, split: str, section: str, data_dir, limit: int | None, image_size: int):
    """A stream of the studies of a split with a text; `None` if there is no such split."""
    from otdrg_hf.data import load_study_dataset

    options = {} if data_dir is None else {"data_dir": data_dir}
    if dataset in PHANTOM_NAMES:
        options |= {"image_size": image_size}
        limit = min(limit or _PHANTOMS, _PHANTOMS) if split in ("train", "validation") else limit
    else:
        options["streaming"] = True
    try:
        studies = load_study_dataset(dataset, split=split, having=section, num_studies=limit, **options)
        if not isinstance(next(iter(studies.select_columns([section])), None), dict):
            return None
    except DataError:
        return None
    return studies


def _features(reporter: "Pipeline", studies, description: str) -> Iterator[tuple[dict, np.ndarray]]:
    """Each study and its features `[c]`."""
    import torch
    from tqdm.auto import tqdm

    from otdrg_hf.modeling.image_loading import load_views
    from otdrg_hf.modeling.vision_otdrg import encode_images, patch_features

    model, processor = reporter.model, reporter.processor
    tower, config = model.model.vision_tower, model.config
    batch: list[dict] = []

    @torch.no_grad()
    def encode() -> Iterator[tuple[dict, np.ndarray]]:
        views = [load_views(study["images"]) for study in batch]
        flat = [view for study in views for view in study]
        pixels = processor.image_processor(flat, return_tensors="pt")["pixel_values"].to(tower.device, tower.dtype)
        maps = patch_features(encode_images(tower, pixels), pixels, config.vision_config, config.vision_feature_size)
        for study, part in zip(batch, maps.split([len(study) for study in views]), strict=True):
            yield study, part.float().mean((0, 1, 2)).cpu().numpy()  # of [views, rows, columns, c]

    for study in tqdm(studies, desc=description, unit="study"):
        batch.append(study)
        if len(batch) == _BATCH:
            yield from encode()
            batch = []
    if batch:
        yield from encode()
