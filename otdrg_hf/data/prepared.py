"""Reads prepared folders: Parquet shards, with a summary.json where `otdrg prepare` wrote them."""

import json
import os
from collections.abc import Iterator
from typing import Any

from .errors import DataError
from .schema import SPLITS, STUDY_COLUMNS, split_name

SUMMARY_FILE = "summary.json"
STATE_FOLDER = ".prepare"
SHARD_FOLDER = "data"


def is_prepared_folder(folder: str) -> bool:
    return os.path.isdir(os.path.join(folder, STATE_FOLDER)) or bool(_parquet_files(folder))


def _parquet_files(folder: str) -> list[str]:
    for place in (os.path.join(folder, SHARD_FOLDER), folder):
        names = sorted(os.listdir(place)) if os.path.isdir(place) else []
        if files := [os.path.join(place, name) for name in names if name.endswith(".parquet")]:
            return files
    return []


def shard_files(folder: str, split: str) -> list[str]:
    """
    The Parquet shards of a split, in order. Raises [`DataError`] for a preparation that was not finished, for shards
    that are missing and for a split that the folder has not.
    """
    if os.path.isdir(os.path.join(folder, STATE_FOLDER)):
        raise DataError("This folder's preparation was not finished: run the same `otdrg prepare` command again")
    by_split: dict[str, list[str]] = {}
    for path in _parquet_files(folder):
        stem = os.path.basename(path).removesuffix(".parquet")
        by_split.setdefault(split_name(stem.split("-")[0]) or "train", []).append(path)
    if split not in by_split:
        raise DataError(f"The prepared folder has no split {split!r}, only {', '.join(sorted(by_split))}")
    files = by_split[split]
    total = os.path.basename(files[0]).removesuffix(".parquet").rpartition("-of-")[2]
    if total.isdigit() and int(total) != len(files):
        raise DataError(f"{len(files)} of {int(total)} Parquet shards of {split!r} are there: prepare or copy it again")
    return files


def read_summary(folder: str) -> dict[str, Any]:
    """The summary.json of a prepared folder; empty for a Parquet folder that something else wrote."""
    path = os.path.join(folder, SUMMARY_FILE)
    if not os.path.isfile(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def image_root_of(folder: str) -> str:
    """The folder that image paths in a prepared folder start from."""
    return os.path.normpath(os.path.join(folder, read_summary(folder).get("image_root") or "."))


def splits_of(folder: str) -> list[str]:
    """The splits that a prepared folder has shards of."""
    stems = {os.path.basename(path).split("-")[0].removesuffix(".parquet") for path in _parquet_files(folder)}
    return [split for split in SPLITS if split in {split_name(stem) or "train" for stem in stems}]


def shard_columns(files: list[str]) -> list[str]:
    """The columns that the shards have in common; raises [`DataError`] when one of the schema's is missing."""
    import pyarrow.parquet as pq

    try:
        columns = pq.read_schema(files[0]).names
    except (OSError, ValueError) as error:
        raise DataError(f"{os.path.basename(files[0])} is not a readable Parquet file ({error})") from None
    missing = [name for name in STUDY_COLUMNS if name not in columns]
    if missing:
        raise DataError(f"{os.path.basename(files[0])} lacks the columns {', '.join(missing)}")
    return columns


def prepared_studies(files: list[str], image_root: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the shards, image paths joined to `image_root`; a few rows are in memory at a time."""
    import pyarrow.parquet as pq

    for path in files:
        try:
            for batch in pq.ParquetFile(path).iter_batches(batch_size=32, columns=columns):
                for row in batch.to_pylist():
                    row["images"] = [_located(image, image_root) for image in row["images"]]
                    yield row
        except (OSError, ValueError) as error:
            raise DataError(f"{os.path.basename(path)} is damaged ({error}): prepare or copy it again") from None


def _located(image: dict[str, Any], image_root: str) -> dict[str, Any]:
    if image["bytes"] is not None or not image["path"]:
        return image
    return {"bytes": None, "path": os.path.join(image_root, image["path"])}
