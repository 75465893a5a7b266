"""Reads the rows of a file of reports, whatever its format: JSON Lines, JSON or CSV."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otdrg_hf.data.r2gen import annotation_splits
from otdrg_hf.data.schema import split_name
from otdrg_hf.files import HALF_SURROGATE, csv_rows, half_surrogate, numbered_lines, parse_object, read_text

SHOWN_PROBLEMS = 5
_ID_FIELDS = ("id", "study_id", "uid")


class ReportFileError(ValueError):
    """A file of reports cannot be used; the message has one line for each problem, with file and line number."""


@dataclass(frozen=True)
class Row:
    """
    A report in a file.

    Attributes:
        where (`str`): `"line 3"`, or `"entry 3"` of a JSON file; counted from 1.
        value (`dict`): The object there.
    """

    where: str
    value: dict


def read_rows(path: Path, split: str = "test") -> dict[str, Row]:
    """
    The rows of a file by id, in order.

    A file is JSON Lines (blank lines are skipped), CSV with a header, or JSON: a list of objects, an object from ids to
    texts or to objects (ReXrank's format), or an R2Gen annotation, of which one split is read. Ids are in `id`,
    `study_id` or `uid`. NaN and null become `None`.

    Args:
        path (`Path`): Its ending, .csv or .json, gives the format; any other is JSON Lines.
        split (`str`): Of an R2Gen annotation.

    Raises:
        ReportFileError: for lines that are not JSON or not UTF-8, have no id or one that was there before, by number;
            also for a file without any.
        FileNotFoundError: for a file that does not exist.
    """
    rows: dict[str, Row] = {}
    problems: list[str] = []
    repeated: list[str] = []
    for where, row in _entries(path, split):
        try:
            if isinstance(row, ValueError):
                raise row
            key = _study_id(row)
            if key in rows:
                repeated.append(f"{path.name} {where}: id {key!r} was given before, in {rows[key].where}")
            else:
                rows[key] = Row(where, {name: None if _is_nan(value) else value for name, value in row.items()})
        except ValueError as error:
            problems.append(f"{path.name} {where}: {error}")
    if repeated:
        more = f" ({len(repeated)} lines in all repeat an id)" if len(repeated) > 1 else ""
        problems.append(repeated[0] + more)
    raise_if_any(problems)
    if not rows:
        raise ReportFileError(f"{path.name}: the file holds no reports")
    return rows


def raise_if_any(problems: list[str]) -> None:
    """Raises `ReportFileError` with the first problems and the number of the others, if there are any."""
    if problems:
        more = [f"and {len(problems) - SHOWN_PROBLEMS} more problems"] if len(problems) > SHOWN_PROBLEMS else []
        raise ReportFileError("\n".join(problems[:SHOWN_PROBLEMS] + more))


def _entries(path: Path, split: str) -> Iterator[tuple[str, dict | ValueError]]:
    """Where each report is and the object there, or what is wrong with it."""
    kind = path.suffix.lower()
    if kind == ".csv":
        yield from _csv_entries(path)
    elif kind == ".json" and (content := _whole_json(path)) is not None:
        for number, row in enumerate(_json_entries(path, content, split), start=1):
            yield f"entry {number}", row
    else:
        yield from _json_lines(path)


def _json_lines(path: Path) -> Iterator[tuple[str, dict | ValueError]]:
    try:
        for number, line in numbered_lines(path):
            if line.strip():
                try:
                    row: dict | ValueError = parse_object(line)
                except ValueError as error:
                    row = error
                yield f"line {number}", row
    except ValueError as error:
        raise ReportFileError(str(error)) from None


def _csv_entries(path: Path) -> Iterator[tuple[str, dict | ValueError]]:
    try:
        for number, row in csv_rows(path):
            wrong = None in row or None in row.values()
            # What pandas writes for a missing value.
            cells = {name: None if value in ("", "NaN", "nan") else value for name, value in row.items()}
            yield f"line {number}", ValueError("not as many cells as the header") if wrong else cells
    except ValueError as error:
        raise ReportFileError(str(error)) from None


def _whole_json(path: Path) -> Any:
    """The content of a JSON file; `None` where it is JSON Lines by another name."""
    try:
        text = read_text(path)
    except ValueError as error:
        raise ReportFileError(str(error)) from None
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        if text.count("\n") and text.lstrip().startswith("{") and "Extra data" in str(error):
            return None
        raise ReportFileError(f"{path.name}: not JSON ({' '.join(str(error).split())})") from None
    if (position := half_surrogate(text)) is not None:
        raise ReportFileError(f"{path.name} line {text[:position].count(chr(10)) + 1}: {HALF_SURROGATE}")
    return content


def _json_entries(path: Path, content: Any, split: str) -> list[dict]:
    if _is_annotation(content):
        splits = annotation_splits(content, path.name)
        if split_name(split) not in splits:
            raise ReportFileError(f"{path.name} has no split {split!r}; it has {', '.join(splits)}")
        return splits[split_name(split)]
    if isinstance(content, dict):
        content = [_named(key, value) for key, value in content.items()]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ReportFileError(f"{path.name}: neither a list of objects with an id, nor an object from ids to reports")
    return content


def _named(key: str, value: Any) -> Any:
    if isinstance(value, str):
        return {"generated_text": value, "reference": value, "id": key}
    return {**value, "id": key} if isinstance(value, dict) else value


def read_splits(path: Path) -> dict[str, list[dict]] | None:
    """The studies of an R2Gen annotation by split; `None` for any other file."""
    content = _whole_json(path) if path.suffix.lower() == ".json" else None
    return annotation_splits(content, path.name) if _is_annotation(content) else None


def _is_annotation(content: Any) -> bool:
    return isinstance(content, dict) and "train" in content and all(isinstance(rows, list) for rows in content.values())


def _study_id(row: dict) -> str:
    key = next((row[name] for name in _ID_FIELDS if name in row), None)
    if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
        raise ValueError("no 'id' (a string or a whole number)")
    return str(key)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
