"""Reads the files of a folder, tar or zip archive one by one, refusing members that would land outside a folder."""

import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath

from .errors import DataError
from .rejections import UNSAFE_MEMBER, Reject

Suffix = str | tuple[str, ...]

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError, RuntimeError, NotImplementedError)


def iter_files(source: str, suffix: Suffix, max_bytes: int, reject: Reject) -> Iterator[tuple[str, bytes]]:
    """
    Yield `(name, content)` of every file in a folder or archive whose name ends in `suffix`, or one of them, folders in
    sorted order, archives in their own. Links, devices, absolute names, names with `..` and files over `max_bytes` are
    passed to `reject(reason, detail, member=name)`.

    Raises:
        [`DataError`]: for an archive that is damaged or cut short, with how many files could be read.
    """
    if os.path.isdir(source):
        yield from _folder_files(source, suffix, max_bytes, reject)
        return
    if not os.path.isfile(source):
        raise DataError(f"There is no folder or archive {os.path.basename(source)!r} at the path given")
    count = 0
    members = _zip_files if zipfile.is_zipfile(source) else _tar_files
    try:
        for item in members(source, suffix, max_bytes, reject):
            yield item
            count += 1
    except GeneratorExit:
        raise
    except _DAMAGE as error:
        raise DataError(
            f"The archive {os.path.basename(source)} is damaged or cut short ({error or type(error).__name__}) "
            f"after {count:,} files: download it again"
        ) from error


def is_safe_member(name: str) -> bool:
    """Whether an archive member's name stays inside the folder it is unpacked in, on any system."""
    name = name.replace("\\", "/")
    return not (name.startswith("/") or ".." in PurePosixPath(name).parts or ":" in name or "\0" in name)


def _folder_files(folder: str, suffix: Suffix, max_bytes: int, reject: Reject) -> Iterator[tuple[str, bytes]]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(place, name)
            if not name.lower().endswith(suffix):
                continue
            if os.path.getsize(path) > max_bytes:
                reject(UNSAFE_MEMBER, f"larger than {max_bytes:,} bytes", member=name)
                continue
            with open(path, "rb") as file:
                yield os.path.relpath(path, folder), file.read()


def _tar_files(archive: str, suffix: Suffix, max_bytes: int, reject: Reject) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            if problem := _problem(member.name, member.size, max_bytes, member.isreg() or member.isdir()):
                reject(UNSAFE_MEMBER, problem, member=member.name)
            elif member.isreg() and member.name.lower().endswith(suffix):
                yield member.name, tar.extractfile(member).read()
        _check_tar_end(tar)


def _check_tar_end(tar: tarfile.TarFile) -> None:
    """tarfile takes a header that it cannot read for the end; the true end is zeros, which this makes sure of."""
    tar.fileobj.seek(tar.offset)
    length = 0
    while block := tar.fileobj.read(1 << 16):
        length += len(block)
        if block.strip(b"\0"):
            raise tarfile.ReadError("unreadable header")
    if not length:
        raise tarfile.ReadError("no end of archive")


def _zip_files(archive: str, suffix: Suffix, max_bytes: int, reject: Reject) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            is_link = (member.external_attr >> 28) == 0xA
            if problem := _problem(member.filename, member.file_size, max_bytes, not is_link):
                reject(UNSAFE_MEMBER, problem, member=member.filename)
            elif not member.is_dir() and member.filename.lower().endswith(suffix):
                yield member.filename, zipped.read(member)


def _problem(name: str, size: int, max_bytes: int, is_plain: bool) -> str:
    if not is_safe_member(name):
        return "its name leaves the folder"
    if not is_plain:
        return "a link or device"
    return f"larger than {max_bytes:,} bytes" if size > max_bytes else ""
