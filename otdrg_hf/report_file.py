"""A JSONL file of reports that grows by whole lines, and that a later run goes on with."""

import json
import os
from collections import Counter
from pathlib import Path

from otdrg_hf.images.finding import FoundImage as Film

_START = b'{"image": '


class ReportFile:
    """
    The output of `otdrg report`, one JSON object a line and film.

    Args:
        path (`str` or `os.PathLike`): Made, or gone on with if an earlier run was cut off.
        model (`str`): The name of the model; a file holds the reports of one.

    Raises:
        ValueError: for a file that cannot be written, holds anything else, or reports of another model.
    """

    def __init__(self, path: str | os.PathLike, model: str):
        self.path, self.model = Path(path), model
        self.finished: set[str] = set()
        if self.path.exists() and not self.path.is_file():
            raise ValueError(f"{self.path.name} cannot be written (it is no ordinary file).")
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
            self._file.seek(0)
            content = self._file.read()
        except OSError as error:
            raise ValueError(f"{self.path.name} cannot be written ({error.strerror}).") from None
        whole = content.rfind(b"\n") + 1
        torn = content[whole:]
        if not (torn.startswith(_START) or _START.startswith(torn)):
            raise self._foreign(content.count(b"\n") + 1)
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            self.finished.add(self._name_in(line, number))
        self._file.truncate(whole)

    def remaining(self, films: list[Film]) -> list[Film]:
        """The films that have no line yet; raises `ValueError` where two have the same name."""
        name, count = Counter(film.name for film in films).most_common(1)[0] if films else ("", 1)
        if count > 1:
            raise ValueError(
                f"{count} films are called {name!r}: give the folder that holds them all, which names them by their "
                "path inside it."
            )
        return [film for film in films if film.name not in self.finished]

    def write(self, answer: dict) -> None:
        """Adds a line, or nothing at all."""
        line = json.dumps(answer).encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) != len(line):
                raise OSError(0, "the disk is full")
        except BaseException as error:
            self._file.truncate(end)
            if isinstance(error, OSError):
                raise ValueError(f"{self.path.name} cannot be written ({error.strerror}).") from None
            raise

    def close(self) -> None:
        """Leaves no empty file behind."""
        empty = self._file.seek(0, os.SEEK_END) == 0
        self._file.close()
        if empty:
            self.path.unlink(missing_ok=True)

    def _name_in(self, line: bytes, number: int) -> str:
        try:
            row = json.loads(line)
            name, model = row["image"], row["model"]
        except (ValueError, KeyError, TypeError):
            raise self._foreign(number) from None
        if model != self.model:
            raise ValueError(f"{self.path.name} holds reports by the model {model!r}; choose another file.")
        return name

    def _foreign(self, number: int) -> ValueError:
        return ValueError(
            f"{self.path.name}, line {number}, is not of `otdrg report`; choose another file, or remove that line."
        )
