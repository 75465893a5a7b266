"""Finds the films that files, folders, patterns and addresses stand for, each with a name that tells no local path."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from otdrg_hf.modeling.image_loading import file_name, is_url

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".jp2", ".dcm", ".dicom"}


class Film(NamedTuple):
    """A film to report: what it is called in answers, and its path or URL."""

    name: str
    location: str


def find_films(locations: Iterable[str | os.PathLike]) -> list[Film]:
    """
    Lists films in a stable order.

    Args:
        locations (`Iterable[str]`): Each a file, a URL, a folder or a pattern such as `"films/**/*.dcm"`. Of a folder
            come, from all depths, the files with the suffix of an image and every DICOM file, whatever its name.

    Returns:
        `list[Film]`: Films are named by file name, those of folders and patterns by their path inside it. A path at
        which there is nothing is listed as well: reading it tells what is wrong.

    Raises:
        ValueError: for a folder without films or that cannot be read, and for a pattern that nothing matches.
    """
    films = []
    for location in map(str, locations):
        if is_url(location):
            films.append(Film(file_name(location) or "image", location))
        elif os.path.isdir(location):
            films += _in_folder(location)
        elif not os.path.exists(location) and glob.has_magic(location):
            films += _matching(location)
        else:
            films.append(Film(file_name(location), location))
    return films


def _in_folder(folder: str) -> list[Film]:
    name = Path(folder).resolve().name

    def unreadable(error: OSError):
        raise ValueError(f"The folder {name!r} or one inside it cannot be read ({error.strerror}).")

    films = []
    for place, inside, files in os.walk(folder, onerror=unreadable):
        inside[:] = sorted(entry for entry in inside if not entry.startswith("."))
        paths = [os.path.join(place, file) for file in sorted(files) if not file.startswith(".")]
        films += [Film(_relative(path, folder), path) for path in paths if _is_film(path)]
    if not films:
        raise ValueError(f"There is no film in the folder {name!r}.")
    return films


def _matching(pattern: str) -> list[Film]:
    root = pattern
    while glob.has_magic(root):
        root = os.path.dirname(root)
    paths = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not paths:
        raise ValueError(f"No file matches {Path(pattern).name!r}.")
    return [Film(_relative(path, root or "."), path) for path in paths]


def _relative(path: str, folder: str) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _is_film(path: str) -> bool:
    if os.path.basename(path).upper() == "DICOMDIR":
        return False
    if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES:
        return True
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
