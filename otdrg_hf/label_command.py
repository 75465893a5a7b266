"""Labels of a file of reports, as `otdrg label` prints them."""

import os
from collections.abc import Iterator
from pathlib import Path

from otdrg_hf.files import decode_line, numbered_lines, parse_object

from .labeling import LABELS, STATES, Mention, label_reports


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
        path (`str` or `os.PathLike`): JSONL with a `report` (and, optionally, an `id`) a line; any other file is a
            report a line. An empty report is blank throughout.
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
    from .metrics.labelers import load_labeler

    if labeler != "rules" and explain:
        raise ValueError("--explain shows the words that the rules found; the labeler chexbert has none")
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
        answer = {"id": study, "labels": {name: STATES[code] for name, code in zip(LABELS, row, strict=True) if code}}
        if evidence is not None:
            answer["evidence"] = [_shown(m) for of_label in evidence[index].values() for m in of_label]
        yield answer


def _shown(mention: Mention) -> dict:
    return {"label": mention.label, "state": mention.state, "span": list(mention.span), "text": mention.text}


def _read(path: Path) -> tuple[list[str], list[str]]:
    ids, reports = [], []
    is_jsonl = path.suffix == ".jsonl"
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
