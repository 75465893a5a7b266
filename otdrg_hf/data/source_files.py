"""Files of a source: archives and tables, of which damage is named, and paths that never leave their folder."""

import csv
import gzip
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from otdrg_hf.data.errors import UNSAFE_MEMBER, DataError, Reject

Suffix = str | tuple[str, ...]

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError, RuntimeError, NotImplementedError)


def iter_files(source: str, suffix: Suffix, max_bytes: int, reject: Reject) -> Iterator[tuple[str, bytes]]:
    """
    Yields `(name, content)` of every file in a folder or archive.

    Args:
        source (`str`): A folder, read in sorted order, or a tar or zip archive, read in its own order.
        suffix (`str` or `tuple[str, ...]`): The endings of the names to read, in lower case.
        max_bytes (`int`): Larger files, links, devices, absolute names and names with `..` are not read.
        reject (`Callable`): Called as `reject(reason, detail, member=name)` for each of those.

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
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
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
    """Checks that an archive ends in zeros: tarfile takes a header that it cannot read for the end."""
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


def find_table(folder: str, name: str) -> str | None:
    """The path of `name`.csv.gz or `name`.csv in a folder, or `None`."""
    paths = [os.path.join(folder, name + extension) for extension in (".csv.gz", ".csv")]
    return next((path for path in paths if os.path.isfile(path)), None)


def read_table(path: str, columns: tuple[str, ...], optional: tuple[str, ...] = ()) -> Iterator[dict[str, str]]:
    """
    Yields the rows of a csv or csv.gz table as `{column: text}`, only the columns asked for; one of `optional` that the
    table does not have is empty.

    Raises:
        [`DataError`]: for missing columns (named), rows of another length, and files that are damaged or not csv (with
            the line).
    """
    name = os.path.basename(path)
    opened = gzip.open if path.endswith(".gz") else open
    line = 1
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            missing = [column for column in columns if column not in header]
            if missing:
                raise DataError(f"{name} lacks the columns {', '.join(missing)}: is it the official file?")
            absent = {column: "" for column in optional if column not in header}
            positions = [(column, header.index(column)) for column in (*columns, *optional) if column in header]
            for line, row in enumerate(rows, 2):
                if row and len(row) != len(header):
                    raise DataError(f"{name} line {line} has {len(row)} fields instead of {len(header)}: get it again")
                if row:
                    yield absent | {column: row[position].strip() for column, position in positions}
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name} is damaged or cut short after line {line} ({error}): download it again") from error


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
    """Name, size and modification time of a file, by which a cache tells its versions apart."""
    stat = os.stat(path)
    return os.path.basename(path), stat.st_size, stat.st_mtime_ns


def require_inputs(inputs: dict[str, str], source: str = "the dataset") -> None:
    """Raises [`DataError`] for the first of the inputs, by role, whose path does not exist."""
    for role, path in inputs.items():
        if not os.path.exists(path):
            raise DataError(
                f"The {role} of {source} are not at {os.path.basename(path)!r}: give their path as {role} (--{role})"
            )
