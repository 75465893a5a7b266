"""Finds the images that files, folders, patterns and URLs stand for, each with a name that contains no local path."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from otdrg_hf.modeling.image_loading import file_name, is_data_url, is_url

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".jp2", ".dcm", ".dicom"}


class FoundImage(NamedTuple):
    """An image to report: its name in answers, and its path or URL."""

    name: str
    location: str


def find_images(locations: Iterable[str | os.PathLike]) -> list[FoundImage]:
    """
    Lists images in a stable order.

    Args:
        locations (`Iterable[str]`): Each a file, a URL, a folder or a pattern such as `"images/**/*.dcm"`. A folder
            gives, from all depths, the files with the suffix of an image and every DICOM file, whatever its name.

    Returns:
        `list[FoundImage]`: Named by file name, or by the path inside the folder or pattern. A path at which there is
        nothing is listed as well: loading it says what is wrong.

    Raises:
        ValueError: for a folder without images or that cannot be read, and for a pattern that nothing matches.
    """
    found = []
    for location in map(str, locations):
        if is_url(location) or is_data_url(location):
            found.append(FoundImage(file_name(location) or "image", location))
        elif os.path.isdir(location):
            found += _in_folder(location)
        elif not os.path.exists(location) and glob.has_magic(location):
            found += _matching(location)
        else:
            found.append(FoundImage(file_name(location), location))
    return found


def _in_folder(folder: str) -> list[FoundImage]:
    name = Path(folder).resolve().name

    def unreadable(error: OSError):
        raise ValueError(f"The folder {name!r} or one inside it cannot be read ({error.strerror}).")

    found = []
    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        paths = [os.path.join(parent, file) for file in sorted(files) if not file.startswith(".")]
        found += [FoundImage(_relative(path, folder), path) for path in paths if _is_image(path)]
    if not found:
        raise ValueError(f"There is no image in the folder {name!r}.")
    return found


def _matching(pattern: str) -> list[FoundImage]:
    root = pattern
    while glob.has_magic(root):
        root = os.path.dirname(root)
    paths = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not paths:
        raise ValueError(f"No file matches {Path(pattern).name!r}.")
    return [FoundImage(_relative(path, root or "."), path) for path in paths]


def _relative(path: str, folder: str) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _is_image(path: str) -> bool:
    if os.path.basename(path).upper() == "DICOMDIR":
        return False
    if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES:
        return True
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
