"""Phantoms as a datasets.Dataset: drawn once in parallel, then read from the library's own cache."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from otdrg_hf.data.errors import require_datasets
from otdrg_hf.data.phantom.hard import HARD_SPLITS, make_hard_phantom
from otdrg_hf.data.phantom.study import PhantomStudy, make_phantom
from otdrg_hf.data.schema import study_features

if TYPE_CHECKING:
    import datasets

GENERATOR_VERSION = 2  # raise it whenever the drawing or the grammar changes: caches of older images are left alone
HARD_VERSION = 1  # the same for what only hard phantoms have


def phantom_rows(seeds: list[int], split: str, image_size: int, version: int) -> Iterator[dict]:
    """Rows of the study schema for these seeds; `version` is only there to be part of the cache's key."""
    for seed in seeds:
        yield study_row(make_phantom(seed, split, image_size))


def hard_phantom_rows(seeds: list[int], split: str, image_size: int, version: tuple[int, int]) -> Iterator[dict]:
    """Like [`phantom_rows`] for hard phantoms, which have two more columns."""
    for seed in seeds:
        study = make_hard_phantom(seed, split, image_size)
        yield study_row(study) | {"severities": json.dumps(study.severities), "look_alikes": study.look_alikes}


def study_row(study: PhantomStudy) -> dict:
    return {
        "id": study.id,
        "images": [{"bytes": png_bytes(image), "path": None} for image in study.images],
        "views": study.views,
        "indication": study.indication,
        "comparison": "",
        "findings": study.findings,
        "impression": study.impression,
        "report": study.report,
        "disease_labels": study.disease_labels,
        "boxes": json.dumps(study.boxes),
        "sides": json.dumps(study.sides),
    }


def png_bytes(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def phantom_dataset(
    split: str = "train",
    num_studies: int = 1000,
    image_size: int = 224,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> datasets.Dataset:
    """Synthetic studies as a dataset with the columns of [`otdrg_hf.data.load_study_dataset`].

    Columns: id, images, views, indication, comparison (empty), findings, impression, report, disease_labels (int8
    [14], the states that the report states) and, of phantoms only, boxes and sides (JSON strings).
    The images are drawn once per (split, num_studies, image_size) and read from the cache afterwards; a run that is
    killed leaves nothing that a later one takes for complete.

    Args:
        split (`str`): name of the split; studies of different splits never coincide.
        num_studies (`int`): studies with the seeds 0 .. num_studies - 1.
        image_size (`int`): side of the images in pixels.
        num_proc (`int`, *optional*): processes to draw with; all give the same dataset.
        cache_dir (`str`, *optional*): where to keep it; the datasets library's cache by default.

    Raises:
        ImportError: if the datasets library is missing.
        ValueError: if `num_studies` is not positive.
    """
    require_datasets()
    return draw_dataset(
        phantom_rows, phantom_features(), split, num_studies, image_size, GENERATOR_VERSION, num_proc, cache_dir
    )


def hard_phantom_dataset(
    split: str = "train",
    num_studies: int = 1000,
    image_size: int = 224,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> datasets.Dataset:
    """Hard synthetic studies ([`make_hard_phantom`]) as a dataset: faint signs, look-alikes, rare labels.

    Columns: those of [`phantom_dataset`], severities (a JSON string) and look_alikes (a list of names). Drawn once and
    cached like it.

    Args:
        split (`str`): "train", "validation", "test" or "test_broken".
        num_studies (`int`): studies with the seeds 0 .. num_studies - 1.
        image_size (`int`): side of the images in pixels.
        num_proc (`int`, *optional*): processes to draw with; all give the same dataset.
        cache_dir (`str`, *optional*): where to keep it; the datasets library's cache by default.

    Raises:
        ImportError: if the datasets library is missing.
        ValueError: if `num_studies` is not positive or the split unknown.
    """
    datasets = require_datasets()
    if split not in HARD_SPLITS:
        raise ValueError(f"split {split!r} is unknown: hard phantoms have {', '.join(HARD_SPLITS)}.")
    features = phantom_features()
    features["severities"] = datasets.Value("string")
    features["look_alikes"] = datasets.List(datasets.Value("string"))
    version = (GENERATOR_VERSION, HARD_VERSION)
    return draw_dataset(hard_phantom_rows, features, split, num_studies, image_size, version, num_proc, cache_dir)


def phantom_features():
    """The schema of a study, and the boxes and sides of signs as JSON."""
    from datasets import Features, Value

    return Features({**study_features(), "boxes": Value("string"), "sides": Value("string")})


def draw_dataset(rows, features, split, num_studies, image_size, version, num_proc, cache_dir) -> datasets.Dataset:
    """The rows of seeds 0 .. num_studies - 1, from the cache if they were drawn before."""
    import datasets

    if num_studies < 1:
        raise ValueError(f"num_studies is {num_studies}: ask for at least one phantom.")
    arguments = {"seeds": list(range(num_studies)), "split": split, "image_size": image_size, "version": version}
    workers = min(num_proc, num_studies) if num_proc else None
    return datasets.Dataset.from_generator(
        rows,
        features=features,
        gen_kwargs=arguments,
        num_proc=workers if workers and workers > 1 else None,
        cache_dir=None if cache_dir is None else os.fspath(cache_dir),
        split=datasets.NamedSplit(split),
    )
