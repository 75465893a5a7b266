"""Folders of DICOM files: one that new images come into, and one that reports are written to."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from otdrg_hf.files import atomic_path, remove_unfinished
from otdrg_hf.hospital.source import read_content, read_source
from otdrg_hf.modeling.image_loading import is_dicom

if TYPE_CHECKING:
    from pydicom import Dataset

_SETTLED_SECONDS = 2.0  # a file that was changed since may still be being copied


class FolderInbox:
    """
    The DICOM files of a folder, at any depth, each given once and again when it changes.

    Args:
        folder (`Path`): The folder; nothing in it is changed.
        wait (`bool`): Leave files that were changed in the last seconds to the next round.
    """

    def __init__(self, folder: Path, wait: bool = True):
        if not folder.is_dir():
            raise ValueError(f"There is no folder {folder.name!r} to watch.")
        self._folder, self._wait = folder, wait
        self._seen: dict[str, tuple[int, int]] = {}

    def images(self) -> Iterator["FileImage"]:
        """Those that are new since the last round."""
        for parent, folders, files in os.walk(self._folder):
            folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
            for name in sorted(files):
                path = os.path.join(parent, name)
                version = None if name.startswith(".") else self._version(path)
                if version is not None and self._seen.get(path) != version:
                    if _starts_as_dicom(path):
                        yield FileImage(path)
                    self._seen[path] = version

    def _version(self, path: str) -> tuple[int, int] | None:
        """What changes with the content of a file; `None` for one that is not there, or not complete yet."""
        try:
            status = os.stat(path)
        except OSError:
            return None
        copying = self._wait and 0 <= time.time() - status.st_mtime < _SETTLED_SECONDS
        return None if copying or os.path.basename(path).upper() == "DICOMDIR" else (status.st_size, status.st_mtime_ns)


class FileImage:
    """A DICOM file that may be a radiograph."""

    def __init__(self, path: str):
        self._path = path

    def read(self) -> tuple["Dataset", bytes]:
        """Its header as of [`read_source`], and its content."""
        try:
            content = read_content(self._path)
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror}).") from None
        return read_source(content), content


class FolderOutbox:
    """A folder with a file for each report, named by its UID, which nobody else may be writing to."""

    def __init__(self, folder: Path):
        self._folder = folder
        remove_unfinished(folder)

    def has(self, report: str, source: "Dataset") -> bool:
        """Whether a report is there."""
        return self._path(report).exists()

    def store(self, document: "Dataset") -> None:
        """Writes a report, whole or not at all; it is on the disk when this returns."""
        path = self._path(document.SOPInstanceUID)
        with atomic_path(path) as temporary:
            document.save_as(temporary, enforce_file_format=True)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name of the file as well
        finally:
            os.close(folder)

    def _path(self, report: str) -> Path:
        return self._folder / f"{report}.dcm"


def _starts_as_dicom(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return is_dicom(file.read(132))
    except OSError:
        return False
