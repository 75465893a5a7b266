"""Paths that data files name: joined to their folder without ever leaving it, and looked up on disk."""

import os
from collections.abc import Iterable

from .errors import DataError


def join_inside(folder: str, name: str) -> str:
    """The path of `name` in `folder`; raises [`DataError`] when it is absolute or climbs out of the folder."""
    name = str(name).strip().replace("\\", "/")
    parts = name.split("/")
    if not name or name.startswith("/") or ":" in parts[0] or ".." in parts:
        raise DataError(f"Image path {name!r} leaves its dataset folder: image paths must be relative to it")
    return os.path.join(folder, *parts)


def missing_files(paths: Iterable[str]) -> list[str]:
    """Those of the paths at which there is no file, in their order."""
    return [path for path in paths if not os.path.isfile(path)]


def file_stamp(path: str) -> tuple[str, int, int]:
    """Name, size and modification time of a file: what a cache may tell its versions apart by."""
    stat = os.stat(path)
    return os.path.basename(path), stat.st_size, stat.st_mtime_ns


def require_inputs(inputs: dict[str, str], source: str = "the dataset") -> None:
    """Raises [`DataError`] for the first of the inputs, by role, at whose path there is neither file nor folder."""
    for role, path in inputs.items():
        if not os.path.exists(path):
            raise DataError(
                f"The {role} of {source} are not at {os.path.basename(path)!r}: give their place as {role} (--{role})"
            )
