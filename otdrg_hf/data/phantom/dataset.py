"""Phantoms as a datasets.Dataset: drawn once in parallel, then read from the library's own cache."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from otdrg_hf.labeling.labels import LABELS

from .study import make_phantom

if TYPE_CHECKING:
    import datasets

GENERATOR_VERSION = 2  # raise it whenever the drawing or the grammar changes: caches of older films are left alone


def phantom_rows(seeds: list[int], split: str, image_size: int, version: int) -> Iterator[dict]:
    """Rows of the study schema for these seeds; `version` is only there to be part of the cache's key."""
    for seed in seeds:
        study = make_phantom(seed, split, image_size)
        yield {
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
    The films are drawn once per (split, num_studies, image_size) and read from the cache afterwards; a run that is
    killed leaves nothing that a later one takes for complete.

    Args:
        split (`str`): name of the split; studies of different splits never coincide.
        num_studies (`int`): studies with the seeds 0 .. num_studies - 1.
        image_size (`int`): side of the films in pixels.
        num_proc (`int`, *optional*): processes to draw with; all give the same dataset.
        cache_dir (`str`, *optional*): where to keep it; the datasets library's cache by default.

    Raises:
        ImportError: if the datasets library is missing.
        ValueError: if `num_studies` is not positive.
    """
    try:
        import datasets
    except ImportError:
        raise ImportError("phantom_dataset needs the datasets library: pip install 'otdrg-hf[train]'") from None
    if num_studies < 1:
        raise ValueError(f"num_studies is {num_studies}: ask for at least one phantom.")
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
            "views": datasets.List(datasets.Value("string")),
            "indication": datasets.Value("string"),
            "comparison": datasets.Value("string"),
            "findings": datasets.Value("string"),
            "impression": datasets.Value("string"),
            "report": datasets.Value("string"),
            "disease_labels": datasets.List(datasets.Value("int8"), length=len(LABELS)),
            "boxes": datasets.Value("string"),
            "sides": datasets.Value("string"),
        }
    )
    arguments = {
        "seeds": list(range(num_studies)),
        "split": split,
        "image_size": image_size,
        "version": GENERATOR_VERSION,
    }
    workers = min(num_proc, num_studies) if num_proc else None
    return datasets.Dataset.from_generator(
        phantom_rows,
        features=features,
        gen_kwargs=arguments,
        num_proc=workers if workers and workers > 1 else None,
        cache_dir=None if cache_dir is None else os.fspath(cache_dir),
        split=datasets.NamedSplit(split),
    )
