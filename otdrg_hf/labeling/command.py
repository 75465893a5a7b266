"""`otdrg label`: the labels of each report of a file."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from otdrg_hf.files import csv_rows, decode_line, numbered_lines, parse_object
from otdrg_hf.labeling.labeler import Mention, label_reports
from otdrg_hf.labeling.labels import named_states

LABELERS = ("rules", "chexbert")
_CHUNK = 2**20


def run_label(path: str | os.PathLike, labeler: str = "rules", **options) -> None:
    """Prints the labels of each report of a file as a JSON line; the arguments are those of [`label_file`]."""
    for row in label_file(path, labeler, **options):
        print(json.dumps(row))


def label_file(
    path: str | os.PathLike,
    labeler: str = "rules",
    weights: str | os.PathLike | None = None,
    explain: bool = False,
    num_proc: int = 1,
    **options,
) -> Iterator[dict]:
    """
    Labels each report of a file.

    Args:
        path (`str` or `os.PathLike`): JSONL with a `report` (and, optionally, an `id`) a line, or CSV with such
            columns; any other file is a report a line, but for JSON. An empty report is blank throughout.
        labeler (`str`, *optional*, defaults to `"rules"`): `"rules"` or `"chexbert"`.
        weights (`str` or `os.PathLike`, *optional*): The checkpoint of CheXbert.
        explain (`bool`, *optional*, defaults to `False`): Add the mentions behind each label; only for the rules.
        num_proc (`int`, *optional*, defaults to 1): Processes that the rules run in.
        options: Of [`CheXbertLabeler`], such as `device`.

    Yields:
        `dict` with `id` and `labels` (label to state; blank ones left out) and, to explain, `evidence`.

    Raises:
        ValueError: for a line that cannot be read, naming its number, and for an option that does not fit.
        FileNotFoundError: if there is no such file, or none of the weights.
    """
    if labeler != "rules" and explain:
        raise ValueError("--explain shows the words that the rules found; the labeler chexbert has none")
    if labeler == "rules" and options.get("device") is not None:
        raise ValueError("--device is for the labeler chexbert; leave it out for rules")
    if num_proc > 1 and (explain or labeler != "rules"):
        raise ValueError("--num_proc is for the rules without --explain; leave it out")
    ids, reports = _read(Path(path))
    label = load_labeler(labeler, weights, **options)
    evidence = None
    if callable(label):
        states = label(reports)
    elif explain:
        states, evidence = label_reports(reports, explain=True)
    else:
        states = label_reports(reports, num_proc=num_proc)
    for index, (study, row) in enumerate(zip(ids, states, strict=True)):
        stated = {label: state for label, state in named_states(row).items() if state != "blank"}
        answer = {"id": study, "labels": stated}
        if evidence is not None:
            answer["evidence"] = [_shown(m) for of_label in evidence[index].values() for m in of_label]
        yield answer


def load_labeler(
    name: str, weights: str | os.PathLike | None = None, **options
) -> str | Callable[[Sequence[str]], np.ndarray]:
    """
    The labeler of a command line: the rules by their name, or CheXbert from its weights with a name and version for
    the record; `evaluate_files` takes either.

    Args:
        name (`str`): `"rules"` or `"chexbert"`.
        weights (`str` or `os.PathLike`, *optional*): chexbert.pth or its safetensors, for `"chexbert"` alone.
        options: Of [`CheXbertLabeler`]: `tokenizer`, `device` and `batch_size`.

    Raises:
        ValueError: for another name, or weights that are missing, not readable or not asked for.
        FileNotFoundError: if there is no such file.
    """
    if name not in LABELERS:
        raise ValueError(f"unknown labeler {name!r}; give one of {', '.join(LABELERS)}")
    if name == "rules":
        if weights is not None:
            raise ValueError("weights are for the labeler chexbert; leave them out for rules")
        return name
    if weights is None:
        raise ValueError("the labeler chexbert needs its weights: --weights PATH of chexbert.pth or its safetensors")
    if not Path(weights).is_file():  # said before the tokenizer is looked for on the Hub
        raise FileNotFoundError(f"no CheXbert weights at {Path(weights).name}: give the path of chexbert.pth")
    from otdrg_hf.labeling.chexbert import CheXbertLabeler

    label = CheXbertLabeler(weights, **options)
    label.__name__ = name
    digest = hashlib.sha256()
    with Path(weights).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    label.version = f"chexbert weights sha256 {digest.hexdigest()[:16]}"
    return label


def _shown(mention: Mention) -> dict:
    return {"label": mention.label, "state": mention.state, "span": list(mention.span), "text": mention.text}


def _read(path: Path) -> tuple[list[str], list[str]]:
    kind = path.suffix.lower()
    if kind == ".csv":
        return _read_csv(path)
    if kind == ".json":
        raise ValueError(f"{path.name}: give JSON Lines (.jsonl), CSV, or text with a report a line, not JSON")
    ids, reports = [], []
    is_jsonl = kind == ".jsonl"
    for number, line in numbered_lines(path):
        if is_jsonl and not line.strip():
            continue
        try:
            row = parse_object(line) if is_jsonl else {"report": decode_line(line)}
            if not isinstance(row.get("report"), str):
                raise ValueError("no 'report' that is text")
        except ValueError as error:
            raise ValueError(f"{path.name} line {number}: {error}") from None
        ids.append(str(row.get("id", number)))
        reports.append(row["report"])
    return ids, reports


def _read_csv(path: Path) -> tuple[list[str], list[str]]:
    ids, reports = [], []
    for number, row in csv_rows(path):
        if not isinstance(row.get("report"), str):
            raise ValueError(f"{path.name} line {number}: no 'report' that is text")
        ids.append(row.get("id") or str(number))
        reports.append(row["report"])
    return ids, reports
