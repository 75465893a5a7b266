"""Joins predictions and references of studies by id, and names whatever is wrong or left out."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from otdrg_hf.data.mimic_sections import PROVISIONAL_WORDS, normalize_section_name
from otdrg_hf.data.schema import SPLITS, split_name
from otdrg_hf.evaluation.baselines import TrainingReports
from otdrg_hf.evaluation.row_files import ReportFileError, Row, raise_if_any, read_rows, read_splits
from otdrg_hf.labeling import LABELS, STATES
from otdrg_hf.labeling.sections import split_sections
from otdrg_hf.reporting.predictions import check_section

_PREDICTION_FIELDS = ("generated_text", "prediction", "model_prediction")
_REFERENCE_FIELDS = ("reference", "references", "report")
_PUBLISHED_FIELDS = (*_PREDICTION_FIELDS, "generated_report")
# Headers beside those that MIMIC-CXR's sections know.
_HEADERS = {"findings": ("observation",), "impression": ("opinion", "summary")}


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
        left_out (`dict[str, list[str]]`): ids that are not scored, by the reason.
    """

    ids: list[str]
    references: list[list[str]]
    predictions: dict[str, list[str]]
    warnings: list[str]
    predicted_labels: dict[str, np.ndarray] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)


def read_studies(
    prediction_files: Sequence[str | os.PathLike],
    reference_file: str | os.PathLike | None = None,
    section: str | None = None,
    published: Sequence[str | os.PathLike] = (),
    split: str = "test",
) -> Studies:
    """
    Reads predictions, each file one system, and the references that belong to them by id.

    A line is `{"id": ..., "generated_text" or "prediction": str, "reference": str or list of str}`. References may
    be in their own file, as `reference`, `references` or `report`, or as `findings` and `impression`. A line may say
    which `section` its reference is, and hold `predicted_labels`, `{label: state}` without the blank ones.

    Studies whose reference is null or NaN, or has not the section, are left out of every system, and so are those
    that a published file lacks; `warnings` says how many and `left_out` which.

    Args:
        prediction_files (`Sequence[str | os.PathLike]`): Files as of [`~evaluation.row_files.read_rows`].
        reference_file (`str` or `os.PathLike`, *optional*): File with the references, or an R2Gen annotation; without
            it each prediction file holds the references, which must be the same in all.
        section (`str`, *optional*): `"findings"`, `"impression"` or `"report"`, which is both; `None` takes texts
            whole. References give the section from a field of that name or from a header in the text. A prediction
            without headers is taken whole.
        published (`Sequence[str | os.PathLike]`): Files of other systems' reports, which may be of more or fewer
            studies.
        split (`str`): Of an R2Gen annotation.

    Raises:
        ReportFileError: for lines that are not JSON or not UTF-8, missing fields, duplicate ids, ids without a
            partner, or references that differ between files.
        ValueError: for an unknown section or no file.
        FileNotFoundError: for a file that does not exist.
    """
    if section is not None:
        check_section(section)
    if not prediction_files and reference_file is None:
        raise ValueError("no file of predictions; give at least one")
    rows = {str(path): read_rows(Path(path), split) for path in prediction_files}
    if reference_file is None:
        sources = {path: (Path(path).name, known) for path, known in rows.items()}
    else:
        own = (Path(reference_file).name, read_rows(Path(reference_file), split))
        sources = dict.fromkeys(rows or [str(reference_file)], own)
    names = _system_names([*rows, *map(str, published)])
    ids = list(next(iter((rows or {"": own[1]}).values())))
    warnings: list[str] = []
    left_out: dict[str, list[str]] = {}
    predictions, references, labels = {}, {}, {}
    for path, (reference_name, reference_rows) in sources.items():
        if path in rows:
            file, known = Path(path).name, rows[path]
            _check_same_ids(file, known, reference_name, reference_rows)
            _check_same_ids(file, known, Path(next(iter(rows))).name, rows[next(iter(rows))])
            predictions[names[path]] = _collect(file, known, lambda row: _prediction(row, section), warnings)
            if any("predicted_labels" in row.value for row in known.values()):
                labels[names[path]] = _collect(file, known, _predicted_labels, warnings)
        references[path] = _collect_references(reference_name, reference_rows, section, warnings, left_out)
    first, *others = references.items()
    for path, texts in others:
        _check_same_references(Path(first[0]).name, first[1], Path(path).name, texts, rows[path])
    ids = [key for key in ids if key in first[1]]
    for path in map(str, published):
        found = _join(Path(path).name, ids, read_rows(Path(path), split), warnings, left_out)
        predictions[names[path]] = _collect(Path(path).name, found, lambda row: _published(row, section), warnings)
        ids = list(found)
    return Studies(
        ids,
        [first[1][key] for key in ids],
        {name: [texts[key] for key in ids] for name, texts in predictions.items()},
        list(dict.fromkeys(warnings)),
        {name: np.array([states[key] for key in ids], dtype=np.int8) for name, states in labels.items()},
        {names[path]: Path(path) for path in (*rows, *map(str, published))},
        left_out,
    )


def has_training_reports(path: str | os.PathLike) -> bool:
    """Whether a file is an R2Gen annotation with reports of other splits than the test split."""
    splits = read_splits(Path(path)) or {}
    return bool(splits.get("train") or splits.get("validation"))


def read_training_reports(path: str | os.PathLike, section: str | None = None) -> TrainingReports:
    """
    Training and validation reports, which constants are chosen from and on.

    Args:
        path (`str` or `os.PathLike`): An R2Gen annotation, whose train and val splits are read, or a file as of
            [`~evaluation.row_files.read_rows`] with `report` or `reference`; in it, `split` says of which split a
            report is ("train" without it), and those of "test" are left out.
        section (`str`, *optional*): As of [`read_studies`].

    Raises:
        ReportFileError: if the file is neither, or names a split that is none of the three.
    """
    of_split = _reports_by_split(Path(path), section)
    return TrainingReports(of_split["train"], of_split["validation"])


def read_vocabulary_reports(path: str | os.PathLike) -> list[str]:
    """
    The training reports behind a protocol's vocabulary, of a file as of [`read_training_reports`].

    Raises:
        ReportFileError: as of [`read_training_reports`], and if no report is of the train split.
    """
    path = Path(path)
    reports = _reports_by_split(path, None)["train"]
    if not reports:
        raise ReportFileError(f"{path.name}: none of its reports is of the split 'train', which gives the vocabulary")
    return reports


def _reports_by_split(path: Path, section: str | None) -> dict[str, list[str]]:
    """Reference texts by split, those of an annotation whole."""
    of_split: dict[str, list[str]] = {name: [] for name in SPLITS}
    splits = read_splits(path)
    if splits is not None:
        for name, studies in splits.items():
            for number, study in enumerate(studies, start=1):
                if not isinstance(study, dict) or not isinstance(study.get("report"), str):
                    raise ReportFileError(f"{path.name} {name} entry {number}: no 'report' that is text")
                of_split[name].append(study["report"])
        return of_split
    rows = read_rows(path)
    for key, texts in _collect_references(path.name, rows, section, [], {}).items():
        given = rows[key].value.get("split")
        name = "train" if given in (None, "") else split_name(given)
        if name is None:
            known = ", ".join(SPLITS)
            raise ReportFileError(f"{path.name} {rows[key].where}: unknown split {given!r}; it is one of {known}")
        of_split[name].extend(texts)
    return of_split


class _NoSection(ValueError):
    """A reference neither has the field of a section nor a header of it."""


def _collect(file: str, rows: dict[str, Row], read: Callable[[dict], str | list], warnings: list[str]) -> dict:
    """What `read` gives for each row; problems are raised together, empty texts become one warning."""
    values, problems = {}, []
    for key, row in rows.items():
        try:
            values[key] = read(row.value)
        except ValueError as error:
            problems.append(f"{file} {row.where}: {error}")
    raise_if_any(problems)
    empty = [key for key, text in values.items() if isinstance(text, str) and not text.strip()]
    _warn_of_empty(file, "prediction", empty, rows, warnings)
    return values


def _collect_references(
    file: str, rows: dict[str, Row], section: str | None, warnings: list[str], left_out: dict[str, list[str]]
) -> dict[str, list[str]]:
    """The references of each row that has any; the others are left out, unless that is all of them."""
    values: dict[str, list[str]] = {}
    problems, without, no_header = [], [], []
    for key, row in rows.items():
        try:
            texts = _references(row.value, section)
        except _NoSection as error:
            no_header.append(f"{file} {row.where}: {error}")
            texts = None
        except ValueError as error:
            problems.append(f"{file} {row.where}: {error}")
            continue
        if texts is None:
            without.append(key)
        else:
            values[key] = texts
    what = section or "reference"
    if not values and not problems:
        problems = no_header or [f"{file}: none of its {len(rows)} studies has a {what}"]
    raise_if_any(problems)
    if without:
        number = "1 study has" if len(without) == 1 else f"{len(without)} studies have"
        warnings.append(f"{file}: {number} no {what}, left out of every system; the first is id {without[0]!r}")
        left_out[f"{file}: no {what}"] = without
    empty = [key for key, texts in values.items() if any(not text.strip() for text in texts)]
    _warn_of_empty(file, "reference", empty, rows, warnings)
    return values


def _warn_of_empty(file: str, kind: str, empty: list[str], rows: dict[str, Row], warnings: list[str]) -> None:
    if len(empty) == 1:
        warnings.append(f"{file}: empty {kind} in {rows[empty[0]].where}; scored as empty text")
    elif empty:
        first = f"the first is id {empty[0]!r} in {rows[empty[0]].where}"
        warnings.append(f"{file}: {len(empty)} empty {kind}s, {first}; scored as empty texts")


def _join(
    file: str, ids: list[str], rows: dict[str, Row], warnings: list[str], left_out: dict[str, list[str]]
) -> dict[str, Row]:
    """The rows of a published file by our ids, of the studies that it has."""
    spelled = {_plain_id(key): key for key in rows}
    theirs = {key: key if key in rows else spelled.get(_plain_id(key)) for key in ids}
    found = {key: rows[other] for key, other in theirs.items() if other is not None}
    if not found:
        raise ReportFileError(
            f"{file}: none of its {len(rows)} ids is among the {len(ids)} studies; its first is {next(iter(rows))!r}, "
            f"that of the studies {ids[0]!r}"
        )
    missing = [key for key in ids if key not in found]
    others = sorted(rows.keys() - set(theirs.values()), key=list(rows).index) if len(rows) > len(found) else []
    if missing:
        text = f"{file}: lacks {len(missing)} of {len(ids)} studies, which are left out of every system"
        warnings.append(f"{text}; the first is id {missing[0]!r}")
        left_out[f"{file}: not in it"] = missing
    if others:
        warnings.append(f"{file}: {len(others)} of its reports are of other studies; the first is id {others[0]!r}")
        left_out[f"{file}: of other studies"] = others
    return found


def _plain_id(key: str) -> str:
    """MIMIC-CXR's study s50414267 is 50414267 in some tables and 50414267.0 in others."""
    match = re.fullmatch(r"[sS]?(\d+)(?:\.0)?", key.strip())
    return match[1] if match else key.strip()


def _prediction(row: dict, section: str | None) -> str:
    field = next((name for name in _PREDICTION_FIELDS if name in row), None)
    if field is None:
        raise ValueError(f"no {' or '.join(map(repr, _PREDICTION_FIELDS))}")
    return _section_or_whole(row, field, section)


def _published(row: dict, section: str | None) -> str:
    """The text of another system, under any of the names that published files have for it."""
    parts = _wanted(section or "report")
    field = next((name for name in _PUBLISHED_FIELDS if name in row), None)
    if field is None and all(name in row for name in parts):
        return " ".join(filter(None, (_section_or_whole(row, name, None).strip() for name in parts)))
    others = ("report", "text", *parts)
    field = field or next((name for name in others if name in row), None)
    if field is None:
        raise ValueError(f"no {' or '.join(map(repr, (*_PUBLISHED_FIELDS, *others)))}")
    return _section_or_whole(row, field, section)


def _section_or_whole(row: dict, field: str, section: str | None) -> str:
    text = "" if row[field] is None else row[field]
    if not isinstance(text, str):
        raise ValueError(f"{field!r} is not a string")
    taken = _section_of_text(text, section) if section else None
    return text if taken is None else taken


def _references(row: dict, section: str | None) -> list[str] | None:
    """`None` where the reference is null or NaN, or the section of it is empty."""
    if section:
        parts = [row.get(name, row.get(f"section_{name}", 0)) for name in _wanted(section)]
        if all(part is None or isinstance(part, str) for part in parts):
            text = " ".join(filter(None, (part.strip() for part in parts if part)))
            return [text] if text else None
    field = next((name for name in _REFERENCE_FIELDS if name in row), None)
    if field is None:
        fields = _wanted(section) if section else _REFERENCE_FIELDS
        raise ValueError(f"no {(' and ' if section else ' or ').join(map(repr, fields))}")
    if row[field] is None:
        return None
    texts = [row[field]] if isinstance(row[field], str) else row[field]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{field!r} is neither a string nor a list of strings")
    if not section or row.get("section") == section:
        return texts
    taken = [text for text in (_section_of_text(text, section) for text in texts) if text is not None]
    if len(taken) < len(texts):
        raise _NoSection(f"no field or header for {section!r}; give it, or score whole texts without a section")
    return taken if any(text.strip() for text in taken) else None


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
        if _section_of_header(header) == wanted
    ]
    return " ".join(taken) if taken else None


def _section_of_header(header: str) -> str | None:
    """ "findings" or "impression" as [`otdrg prepare`] has it, so that "findings and impression" is an impression."""
    header = " ".join(word for word in header.split() if word not in PROVISIONAL_WORDS)
    name = normalize_section_name(header)
    if name in _HEADERS:
        return name
    return next((section for section, names in _HEADERS.items() if header.startswith(names)), None)


def _check_same_ids(file: str, rows: dict[str, Row], other_file: str, others: dict[str, Row]) -> None:
    problems = []
    for name, here, other_name, there in ((file, rows, other_file, others), (other_file, others, file, rows)):
        missing = [key for key in here if key not in there]
        if missing:
            more = f" ({len(missing)} of its {len(here)} ids are not)" if len(missing) > 1 else ""
            problems.append(f"{name} {here[missing[0]].where}: id {missing[0]!r} is not in {other_name}{more}")
    raise_if_any(problems)


def _check_same_references(
    file: str, texts: dict[str, list[str]], other_file: str, others: dict[str, list[str]], rows: dict[str, Row]
) -> None:
    raise_if_any(
        [
            f"{other_file} {rows[key].where}: the reference of id {key!r} differs from the one in {file}"
            for key in rows
            if others.get(key) != texts.get(key)
        ]
    )


def _system_names(paths: list[str]) -> dict[str, str]:
    """A name for each file: its stem, with its folder where stems repeat, with a number where those repeat, too."""
    stems = [Path(path).stem for path in paths]
    folders = [f"{Path(path).absolute().parent.name}/{stem}" for path, stem in zip(paths, stems, strict=True)]
    names = [folder if stems.count(stem) > 1 else stem for folder, stem in zip(folders, stems, strict=True)]
    return {
        path: name if names.count(name) == 1 else f"{name} ({names[: position + 1].count(name)})"
        for position, (path, name) in enumerate(zip(paths, names, strict=True))
    }
