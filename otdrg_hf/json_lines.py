"""Reads text files line by line, as text or a JSON object each; errors are words to put behind the line's number."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# A pair of escapes, or one half of it alone; an even number of backslashes before them escapes nothing.
_SURROGATES = re.compile(
    r"(?<!\\)(?:\\\\)*(?:(\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2})|\\u[dD][89a-fA-F][\da-fA-F]{2})"
)
HALF_SURROGATE = "the text holds half of a surrogate pair, which is no character"


def numbered_lines(path: str | os.PathLike) -> Iterator[tuple[int, bytes]]:
    """
    Yields number, from 1, and content of each line, without the line break and a mark at the start of the file.

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


def half_surrogate(text: str) -> int | None:
    """Where a JSON text spells half of a surrogate pair, which no file or terminal can be given; `None` for nowhere."""
    if "\\ud" not in text and "\\uD" not in text:
        return None
    return next((match.start() for match in _SURROGATES.finditer(text) if not match[1]), None)


def parse_object(line: bytes) -> dict[str, Any]:
    """The JSON object of a line; `ValueError` says why it is none."""
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
