"""Prepared folders: Parquet shards, with a summary.json if `otdrg prepare` wrote them, read whole or in place."""

import json
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from otdrg_hf.data.errors import DataError
from otdrg_hf.data.schema import SPLITS, STUDY_COLUMNS, split_name

# An embedded image is called SHARD::ROW::NUMBER::NAME until it is read in place.
SEPARATOR = "::"
OPEN_FILES = 64
SUMMARY_FILE = "summary.json"
STATE_FOLDER = ".prepare"
SHARD_FOLDER = "data"


def is_prepared_folder(folder: str) -> bool:
    """Whether a folder has Parquet shards, or a preparation that is not finished."""
    return os.path.isdir(os.path.join(folder, STATE_FOLDER)) or bool(_parquet_files(folder))


def _parquet_files(folder: str) -> list[str]:
    for parent in (os.path.join(folder, SHARD_FOLDER), folder):
        names = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
        if files := [os.path.join(parent, name) for name in names if name.endswith(".parquet")]:
            return files
    return []


def shard_files(folder: str, split: str) -> list[str]:
    """
    The Parquet shards of a split, in order.

    Raises:
        [`DataError`]: for a preparation that was not finished, for missing shards and for a split that the folder does
            not have.
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
    """Yields the rows of the shards, image paths joined to `image_root`; a few rows are in memory at a time."""
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


def rows_without_images(
    files: list[str], image_root: str, columns: Sequence[str], stamps: tuple
) -> Iterator[dict[str, Any]]:
    """The rows of the shards with the positions of their images instead of the images, none of which is read."""
    import pyarrow.parquet as pq

    texts = [name for name in columns if name != "images"]
    for path in files:
        position = 0
        for batch in pq.ParquetFile(path).iter_batches(256, columns=[*texts, "images.list.element.path"]):
            for row in batch.to_pylist():
                row["images"] = [
                    {
                        "bytes": None,
                        "path": SEPARATOR.join((path, str(position), str(number), image["path"] or "image")),
                    }
                    for number, image in enumerate(row["images"])
                ]
                position += 1
                yield row


class ImageReader:
    """
    A transform of `datasets` that replaces the positions of images by the images, decoded.

    A row group of a shard is read for each study, in the process that asks for it: a worker of the data loader, not the
    process that trains. Nothing is kept but open files.
    """

    def __init__(self, image_root: str):
        self.image_root = image_root

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        if "images" not in rows:
            return rows
        return {**rows, "images": [self._images(images) for images in rows["images"]]}

    def _images(self, images: list[dict[str, Any]]) -> list:
        if not images:
            return []
        from datasets import Image

        path, row = images[0]["path"].split(SEPARATOR)[:2]
        stored = _read_row(path, int(row))
        read = []
        for image in images:
            content = stored[int(image["path"].split(SEPARATOR)[2])]
            if content["bytes"] is None:
                content = {"bytes": None, "path": os.path.join(self.image_root, content["path"])}
            read.append(Image().decode_example(content))
        return read


@lru_cache(maxsize=OPEN_FILES)
def _open(path: str, process: int):
    """A shard and the first row of each of its row groups; one for each process, since a fork shares the offset."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, memory_map=False)
    starts, start = [], 0
    for group in range(file.num_row_groups):
        starts.append(start)
        start += file.metadata.row_group(group).num_rows
    return file, starts


def _read_row(path: str, row: int) -> list[dict[str, Any]]:
    try:
        file, starts = _open(path, os.getpid())
        group = max(index for index, start in enumerate(starts) if start <= row)
        table = file.read_row_group(group, columns=["images"])
    except (OSError, ValueError) as error:
        raise DataError(f"{os.path.basename(path)} cannot be read ({error}): prepare or copy it again") from None
    return table.column("images")[row - starts[group]].as_py()
