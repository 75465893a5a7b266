"""Prepared shards without a copy: texts in a small table, films read from the Parquet files when a study is."""

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from .dicom import register_dicom
from .errors import DataError

# A film that is embedded is called SHARD::ROW::NUMBER::NAME until it is read.
SEPARATOR = "::"
OPEN_FILES = 64


def rows_without_films(
    files: list[str], image_root: str, columns: Sequence[str], stamps: tuple
) -> Iterator[dict[str, Any]]:
    """The rows of the shards with the places of their films instead of them; no film is read."""
    import pyarrow.parquet as pq

    texts = [name for name in columns if name != "images"]
    for path in files:
        place = 0
        for batch in pq.ParquetFile(path).iter_batches(256, columns=[*texts, "images.list.element.path"]):
            for row in batch.to_pylist():
                row["images"] = [
                    {"bytes": None, "path": SEPARATOR.join((path, str(place), str(number), film["path"] or "film"))}
                    for number, film in enumerate(row["images"])
                ]
                place += 1
                yield row


class FilmReader:
    """
    A transform of `datasets` that puts the films, decoded, in the place of where they are.

    A row group of a shard is read for each study, in whatever process asks for it: a worker of the data loader, not the
    process that trains. Nothing is kept but open files.
    """

    def __init__(self, image_root: str):
        self.image_root = image_root

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        if "images" not in rows:
            return rows
        return {**rows, "images": [self._films(films) for films in rows["images"]]}

    def _films(self, films: list[dict[str, Any]]) -> list:
        if not films:
            return []
        from datasets import Image

        register_dicom()
        path, row = films[0]["path"].split(SEPARATOR)[:2]
        stored = _read_row(path, int(row))
        read = []
        for film in films:
            content = stored[int(film["path"].split(SEPARATOR)[2])]
            if content["bytes"] is None:
                content = {"bytes": None, "path": os.path.join(self.image_root, content["path"])}
            read.append(Image().decode_example(content))
        return read


@lru_cache(maxsize=OPEN_FILES)
def _open(path: str, process: int):
    """The file and the first row of each of its row groups; of each process its own, since a fork shares the offset."""
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
