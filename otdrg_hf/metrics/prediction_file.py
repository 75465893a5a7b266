"""The file that predictions are appended to: what a kill leaves of a line is cut off, and a resume goes on after it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from .atomic import write_atomically
from .report_files import Row, read_rows

PREDICTIONS_FILE, SETTINGS_FILE = "predictions.jsonl", "generation.json"


class PredictionFile:
    """
    `predictions.jsonl` in a folder, and beside it `generation.json`, which says how its lines were made.

    Args:
        folder (`str` or `os.PathLike`): Made if it is not there.
        settings (`dict`): All that the text of a prediction depends on, as JSON values.

    Attributes:
        path (`Path`): The file.
        rows (`dict[str, Row]`): What it holds already, by id.

    Raises:
        ValueError: if the folder holds predictions made with other settings, or with settings that are not known.
        ReportFileError: for lines, other than a torn last one, that cannot be read.
    """

    def __init__(self, folder: str | os.PathLike, settings: dict):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / PREDICTIONS_FILE
        settings_file = folder / SETTINGS_FILE
        if self.path.is_file() and self.path.stat().st_size:
            _check_settings(folder, generation_settings(self.path), settings)
            self._cut_torn_line()
        else:
            with write_atomically(settings_file) as temporary:
                temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        holds_lines = self.path.is_file() and self.path.stat().st_size
        self.rows: dict[str, Row] = read_rows(self.path) if holds_lines else {}

    def _cut_torn_line(self):
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self.path, whole)

    def append(self, rows: Sequence[dict]) -> None:
        """Adds lines and does not return before they are on the disk."""
        with self.path.open("ab") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())


def generation_settings(predictions: str | os.PathLike) -> dict | None:
    """How the lines of a `predictions.jsonl` were made; `None` where no `generation.json` beside it says so."""
    path = Path(predictions)
    if path.name != PREDICTIONS_FILE:
        return None
    try:
        settings = json.loads(path.with_name(SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return settings if isinstance(settings, dict) else None


def _check_settings(folder: Path, known: dict | None, settings: dict):
    way_out = "give another --output_dir, or delete this one to start anew"
    if known is None:
        raise ValueError(f"{folder.name} has {PREDICTIONS_FILE} without a readable {SETTINGS_FILE}; {way_out}")
    different = [
        f"{name} {known.get(name)!r}, not {settings.get(name)!r}"
        for name in {**known, **settings}
        if known.get(name) != settings.get(name)
    ]
    if different:
        raise ValueError(f"{folder.name} holds predictions made with {'; '.join(different)}; {way_out}")
