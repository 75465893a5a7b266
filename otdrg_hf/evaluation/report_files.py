"""Reads predictions and references from JSON Lines files and names whatever is wrong in them by line."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from otdrg_hf.files import numbered_lines, parse_object
from otdrg_hf.labeling import LABELS, STATES
from otdrg_hf.labeling.sections import split_sections
from otdrg_hf.reporting.predictions import check_section

_PREDICTION_FIELDS = ("generated_text", "prediction")
_REFERENCE_FIELDS = ("reference", "references", "report")
_SHOWN = 5
_HEADERS = {"findings": ("finding", "observation"), "impression": ("impression", "conclusion", "opinion", "summary")}


class ReportFileError(ValueError):
    """A file of reports cannot be used; the message has one line for each problem, with file and line number."""


@dataclass(frozen=True)
class Studies:
    """
    Studies with predictions of one or more systems.

    Attributes:
        ids (`list[str]`): N ids, in the order of the first file.
        references (`list[list[str]]`): reference texts of each study.
        predictions (`dict[str, list[str]]`): N texts for each system, by its name.
        warnings (`list[str]`): what was accepted but deserves a look, such as empty texts.
        predicted_labels (`dict[str, np.ndarray]`): states `[N, 14]` that a model predicted from the images, for each
            system whose file has them.
        files (`dict[str, Path]`): where the predictions of each system come from.
    """

    ids: list[str]
    references: list[list[str]]
    predictions: dict[str, list[str]]
    warnings: list[str]
    predicted_labels: dict[str, np.ndarray] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A line of a file of reports: its number, from 1, and the object in it."""

    line: int
    value: dict


def read_studies(
    prediction_files: Sequence[str | os.PathLike],
    reference_file: str | os.PathLike | None = None,
    section: str | None = None,
) -> Studies:
    """
    Reads predictions, each file one system, and the references that belong to them by id.

    A line is `{"id": ..., "generated_text" or "prediction": str, "reference": str or list of str}`. References may
    be in their own file, as `reference`, `references` or `report`, or as `findings` and `impression`. A line may say
    which `section` its reference is, and hold `predicted_labels`, `{label: state}` without the blank ones.

    Args:
        prediction_files (`Sequence[str | os.PathLike]`): JSON Lines files in UTF-8.
        reference_file (`str` or `os.PathLike`, *optional*): JSON Lines file; without it each prediction file holds the
            references, which must be the same in all.
        section (`str`, *optional*): `"findings"`, `"impression"` or `"report"`, which is both; `None` takes texts
            whole. References give the section from a field of that name or from a header in the text. A prediction
            without headers is taken whole.

    Raises:
        ReportFileError: for lines that are not JSON or not UTF-8, missing fields, duplicate ids, ids without a
            partner, or references that differ between files.
        ValueError: for an unknown section or no file.
        FileNotFoundError: for a file that does not exist.
    """
    if section is not None:
        check_section(section)
    if not prediction_files:
        raise ValueError("no file of predictions; give at least one")
    rows = {str(path): read_rows(Path(path)) for path in prediction_files}
    if reference_file is None:
        sources = {path: (Path(path).name, known) for path, known in rows.items()}
    else:
        sources = dict.fromkeys(rows, (Path(reference_file).name, read_rows(Path(reference_file))))
    names = _system_names(list(rows))
    ids = list(next(iter(rows.values())))
    warnings: list[str] = []
    predictions, references, labels = {}, {}, {}
    for path, known in rows.items():
        file, (reference_name, reference_rows) = Path(path).name, sources[path]
        _check_same_ids(file, known, reference_name, reference_rows)
        _check_same_ids(file, known, Path(next(iter(rows))).name, rows[next(iter(rows))])
        texts = _collect(file, known, lambda row: _prediction(row, section), "prediction", warnings)
        predictions[names[path]] = [texts[key] for key in ids]
        if any("predicted_labels" in row.value for row in known.values()):
            states = _collect(file, known, _predicted_labels, "predicted labels", warnings)
            labels[names[path]] = np.array([states[key] for key in ids], dtype=np.int8)
        references[path] = _collect(
            reference_name, reference_rows, lambda row: _references(row, section), "reference", warnings
        )
    first, *others = references.items()
    for path, texts in others:
        _check_same_references(Path(first[0]).name, first[1], Path(path).name, texts, rows[path])
    files = {names[path]: Path(path) for path in rows}
    return Studies(ids, [first[1][key] for key in ids], predictions, list(dict.fromkeys(warnings)), labels, files)


def read_vocabulary_reports(path: str | os.PathLike) -> list[str]:
    """
    Training reports for a protocol's vocabulary, from JSON Lines with `report` or `reference`, or from an R2Gen
    annotation file, whose `train` split is read.

    Raises:
        ReportFileError: if the file is neither.
    """
    path = Path(path)
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_bytes().decode("utf-8-sig"))
            return [example["report"] for example in content["train"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ReportFileError(
                f"{path.name}: not an R2Gen annotation file (no readable 'train' list with 'report' texts)"
            ) from error
    texts = _collect(path.name, read_rows(path), lambda row: _references(row, None), "reference", [])
    return [text for group in texts.values() for text in group]


def read_rows(path: Path) -> dict[str, Row]:
    """
    The rows of a JSON Lines file by id, in order; blank lines are skipped.

    Raises:
        ReportFileError: for lines that are not JSON or not UTF-8, have no id or one that was there before, by number;
            also for a file without any.
    """
    rows: dict[str, Row] = {}
    problems = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = parse_object(line)
            key = _study_id(row)
            if key in rows:
                raise ValueError(f"id {key!r} was given before, in line {rows[key].line}")
            rows[key] = Row(number, row)
        except ValueError as error:
            problems.append(f"{path.name} line {number}: {error}")
    _raise_if_any(problems)
    if not rows:
        raise ReportFileError(f"{path.name}: the file holds no reports")
    return rows


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        yield from numbered_lines(path)
    except ValueError as error:
        raise ReportFileError(str(error)) from None


def _study_id(row: dict) -> str:
    key = row.get("id")
    if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
        raise ValueError("no 'id' (a string or a whole number)")
    return str(key)


def _collect(
    file: str, rows: dict[str, Row], read: Callable[[dict], str | list], kind: str, warnings: list[str]
) -> dict:
    """What `read` gives for each row; problems are raised together, empty texts become one warning."""
    values, problems, empty = {}, [], []
    for key, row in rows.items():
        try:
            values[key] = read(row.value)
        except ValueError as error:
            problems.append(f"{file} line {row.line}: {error}")
            continue
        texts = [values[key]] if isinstance(values[key], str) else values[key]
        if any(isinstance(text, str) and not text.strip() for text in texts):
            empty.append(row.line)
    _raise_if_any(problems)
    if empty:
        lines = ", ".join(map(str, empty[:_SHOWN])) + (f" and {len(empty) - _SHOWN} more" if empty[_SHOWN:] else "")
        warnings.append(f"{file}: empty {kind} in line {lines}; scored as empty text")
    return values


def _prediction(row: dict, section: str | None) -> str:
    field = next((name for name in _PREDICTION_FIELDS if name in row), None)
    if field is None:
        raise ValueError(f"no {' or '.join(map(repr, _PREDICTION_FIELDS))}")
    if not isinstance(row[field], str):
        raise ValueError(f"{field!r} is not a string")
    taken = _section_of_text(row[field], section) if section else None
    return row[field] if taken is None else taken


def _references(row: dict, section: str | None) -> list[str]:
    if section and all(isinstance(row.get(name), str) for name in _wanted(section)):
        return [" ".join(filter(None, (row[name].strip() for name in _wanted(section))))]
    field = next((name for name in _REFERENCE_FIELDS if name in row), None)
    if field is None:
        fields = _wanted(section) if section else _REFERENCE_FIELDS
        raise ValueError(f"no {(' and ' if section else ' or ').join(map(repr, fields))}")
    texts = [row[field]] if isinstance(row[field], str) else row[field]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{field!r} is neither a string nor a list of strings")
    if section and row.get("section") != section:
        texts = [_section_of_text(text, section) for text in texts]
        if None in texts:
            raise ValueError(f"no field or header for {section!r}; give it, or score whole texts without a section")
    return texts


def _predicted_labels(row: dict) -> list[int]:
    given = row.get("predicted_labels")
    if not isinstance(given, dict):
        raise ValueError("no 'predicted_labels' ({label: state}), which other lines have")
    for label, state in given.items():
        if label not in LABELS or state not in STATES:
            raise ValueError(f"'predicted_labels' has {label!r}: {state!r}; states are {', '.join(STATES)}")
    return [STATES.index(given.get(label, STATES[0])) for label in LABELS]


def _wanted(section: str) -> tuple[str, ...]:
    return ("findings", "impression") if section == "report" else (section,)


def _section_of_text(text: str, section: str) -> str | None:
    """The text under the headers of a section, findings first; `None` where there are none."""
    parts = split_sections(text)
    taken = [
        text[start:end].strip()
        for wanted in _wanted(section)
        for header, start, end in parts
        if header.startswith(_HEADERS[wanted])
    ]
    return " ".join(taken) if taken else None


def _check_same_ids(file: str, rows: dict[str, Row], other_file: str, others: dict[str, Row]) -> None:
    problems = [
        f"{file} line {row.line}: id {key!r} is not in {other_file}" for key, row in rows.items() if key not in others
    ]
    problems += [
        f"{other_file} line {row.line}: id {key!r} is not in {file}" for key, row in others.items() if key not in rows
    ]
    _raise_if_any(problems)


def _check_same_references(
    file: str, texts: dict[str, list[str]], other_file: str, others: dict[str, list[str]], rows: dict[str, Row]
) -> None:
    _raise_if_any(
        [
            f"{other_file} line {rows[key].line}: the reference of id {key!r} differs from the one in {file}"
            for key in others
            if others[key] != texts[key]
        ]
    )


def _raise_if_any(problems: list[str]) -> None:
    if problems:
        more = [f"and {len(problems) - _SHOWN} more problems"] if len(problems) > _SHOWN else []
        raise ReportFileError("\n".join(problems[:_SHOWN] + more))


def _system_names(paths: list[str]) -> dict[str, str]:
    """A name for each file: its stem, with its folder where stems repeat, with a number where those repeat, too."""
    stems = [Path(path).stem for path in paths]
    folders = [f"{Path(path).absolute().parent.name}/{stem}" for path, stem in zip(paths, stems, strict=True)]
    names = [folder if stems.count(stem) > 1 else stem for folder, stem in zip(folders, stems, strict=True)]
    return {
        path: name if names.count(name) == 1 else f"{name} ({names[: position + 1].count(name)})"
        for position, (path, name) in enumerate(zip(paths, names, strict=True))
    }
