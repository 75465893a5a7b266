"""A JSON Lines file of results, one object per study, that grows by whole lines and that a later run resumes."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

_REMEDY = "choose another file, or remove that line"


class ResultsFile:
    """
    The results of a run over many studies; close it, or use it as a context manager.

    What an interrupted run left of a line is removed, so that the run resumes after the last whole one. A file of
    another origin is left as it is.

    Args:
        path (`str` or `os.PathLike`): Created, or resumed where there is one.
        key (`str`): The field that names a study, and the first one of each line.
        check (`Callable[[dict], None]`, *optional*): Called with each line that is there already; raises `ValueError`
            for one that does not belong to this run.

    Attributes:
        path (`Path`): The file.
        finished (`dict[str, int]`): The studies that it holds, with their line numbers.

    Raises:
        ValueError: for a file that cannot be written, or a line of another origin or run.
    """

    def __init__(self, path: str | os.PathLike, key: str, check: Callable[[dict], None] | None = None):
        self.path, self._key = Path(path), key
        if self.path.exists() and not self.path.is_file():
            raise ValueError(f"{self.path.name} cannot be written (it is not an ordinary file).")
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
            self._file.seek(0)
            content = self._file.read()
        except OSError as error:
            raise ValueError(f"{self.path.name} cannot be written ({error.strerror}).") from None
        try:
            self.finished, whole = _read(self.path.name, content, key, check)
        except ValueError:
            self._file.close()
            raise
        self._file.truncate(whole)

    def append(self, *rows: dict) -> None:
        """Adds a line for each row, or nothing at all; the lines are on the disk when it returns."""
        lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(lines) != len(lines):
                raise OSError(0, "the disk is full")
        except BaseException as error:
            self._file.truncate(end)
            if isinstance(error, OSError):
                raise ValueError(f"{self.path.name} cannot be written ({error.strerror}).") from None
            raise
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file, and removes it if it is empty."""
        if not self._file.closed:
            empty = self._file.seek(0, os.SEEK_END) == 0
            self._file.close()
            if empty:
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> "ResultsFile":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def read_results(path: str | os.PathLike, key: str) -> Iterator[dict]:
    """
    The whole lines of a results file, which is not changed.

    Raises:
        ValueError: for a line of another origin.
    """
    rows: list[dict] = []
    _read(Path(path).name, Path(path).read_bytes(), key, rows.append)
    yield from rows


def _read(name: str, content: bytes, key: str, check: Callable[[dict], None] | None) -> tuple[dict[str, int], int]:
    """The studies of the whole lines, and how many bytes these take."""
    whole = content.rfind(b"\n") + 1
    finished: dict[str, int] = {}
    for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
        try:
            row = _parse(line)
            study = row.get(key)
            if not isinstance(study, str):
                raise ValueError(f"no {key!r}")
            if study in finished:
                raise ValueError(f"{key} {study!r} was given before, in line {finished[study]}")
        except ValueError as error:
            raise ValueError(f"{name} line {number}: {error}; {_REMEDY}") from None
        try:
            if check is not None:
                check(row)
        except ValueError as error:
            raise ValueError(f"{name} line {number}: {error}") from None
        finished[study] = number
    start, torn = b'{"%s": ' % key.encode(), content[whole:]
    if not (torn.startswith(start) or start.startswith(torn)):
        raise ValueError(f"{name} line {len(finished) + 1}: not a result of this command; {_REMEDY}")
    return finished, whole


def _parse(line: bytes) -> dict:
    # Names of files may hold half surrogates, which `files.parse_object` refuses.
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return row
