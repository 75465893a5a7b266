"""Atomic writes, and text files read line by line with errors that name the line."""

import csv
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNFINISHED_SUFFIX = ".tmp"

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# A pair of escapes, or one half of it alone; an even number of backslashes before them escapes nothing.
_SURROGATES = re.compile(
    r"(?<!\\)(?:\\\\)*(?:(\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2})|\\u[dD][89a-fA-F][\da-fA-F]{2})"
)
HALF_SURROGATE = "the text holds half of a surrogate pair, which is not a character"


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """
    A temporary sibling of `path` to write to, which becomes `path` when the block ends without an error.

    Nothing is there yet under the temporary name, so the block may make a file or a folder; a folder can only replace
    an empty one. The name ends in `.tmp`: a writer that takes the format from the ending needs to be given it. After an
    error the sibling is removed; what a killed process left is up to [`remove_unfinished`].

    Args:
        path (`str` or `os.PathLike`): The file or folder to write.

    Raises:
        FileNotFoundError: if the folder of `path` does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder for {path.name} does not exist; make it first")
    # Several processes may write the same file at once, each under its own name.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED_SUFFIX}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file as UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike, content: Any, indent: int | None = 1) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def update_json(path: str | os.PathLike, fields: dict[str, Any]) -> None:
    """Puts fields into an object in a JSON file, and leaves the others as they are; whole or not at all."""
    write_json(path, {**json.loads(Path(path).read_text(encoding="utf-8")), **fields})


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Removes what killed processes left of atomic writes to a folder, which nobody may be writing to."""
    for leftover in Path(folder).glob(f".*{UNFINISHED_SUFFIX}"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def numbered_lines(path: str | os.PathLike) -> Iterator[tuple[int, bytes]]:
    """
    Yields the number, from 1, and the content of each line, without its line break and a byte order mark.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for UTF-16.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.name or path} is a folder, not a file" if path.is_dir() else f"no file {path.name}"
        )
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.startswith(_UTF16_MARKS):
                raise ValueError(f"{path.name}: the file is UTF-16; save it as UTF-8")
            yield number, (line.removeprefix(_UTF8_MARK) if number == 1 else line).rstrip(b"\r\n")


def decode_line(line: bytes) -> str:
    """The text of a line; `ValueError` names the first byte that is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = line[error.start]
        raise ValueError(f"not UTF-8 (byte 0x{bad:02x} at column {error.start + 1}); save the file as UTF-8") from None


def read_text(path: str | os.PathLike) -> str:
    """The text of a whole file in UTF-8; `ValueError` names the line that is not. Raises as [`numbered_lines`]."""
    lines = []
    for number, line in numbered_lines(path):
        try:
            lines.append(decode_line(line))
        except ValueError as error:
            raise ValueError(f"{Path(path).name} line {number}: {error}") from None
    return "\n".join(lines)


def csv_rows(path: str | os.PathLike) -> Iterator[tuple[int, dict]]:
    """
    Yields the number of its last line and the cells of each row of a CSV file, by its header.

    Raises:
        ValueError: naming the line, for text that is not CSV. Raises as [`read_text`] as well.
    """
    table = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for row in table:
            yield table.line_num, row
    except csv.Error as error:
        raise ValueError(f"{Path(path).name} line {table.line_num}: not CSV ({error})") from None


def half_surrogate(text: str) -> int | None:
    """Where a JSON text spells half of a surrogate pair, which UTF-8 cannot encode; `None` for nowhere."""
    if "\\ud" not in text and "\\uD" not in text:
        return None
    return next((match.start() for match in _SURROGATES.finditer(text) if not match[1]), None)


def parse_object(line: bytes) -> dict[str, Any]:
    """The JSON object of a line; `ValueError` says why it is not one."""
    text = decode_line(line)
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("not JSON that can be read (nested too deep)") from None
    if half_surrogate(text) is not None:
        raise ValueError(HALF_SURROGATE)
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__} where an object is needed")
    return row
