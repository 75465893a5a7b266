"""Labels of a file of reports, as `otdrg label` prints them."""

import json
from collections.abc import Iterator
from pathlib import Path

from otdrg_hf.labeling import LABELS, STATES, label_reports


def label_file(
    path: Path, labeler: str = "rules", weights: Path | None = None, explain: bool = False
) -> Iterator[dict]:
    """
    Labels each report of a file.

    Args:
        path (`Path`): JSONL with a `report` (and, optionally, an `id`) a line; any other file is a report a line.
        labeler (`str`, *optional*, defaults to `"rules"`): `"rules"` or `"chexbert"`.
        weights (`Path`, *optional*): The checkpoint of CheXbert.
        explain (`bool`, *optional*, defaults to `False`): Add the mentions behind each label.

    Yields:
        `dict` with `id` and `labels` (label to state; blank ones left out) and, to explain, `evidence`.

    Raises:
        ValueError: for a line that cannot be read, naming its number, and for an option that does not fit.
    """
    ids, reports = _read(path)
    evidence = None
    if labeler == "chexbert":
        if weights is None or explain:
            raise ValueError("--labeler chexbert needs --weights PATH, and does not --explain.")
        from otdrg_hf.labeling.chexbert import CheXbertLabeler

        states = CheXbertLabeler(weights)(reports)
    elif labeler != "rules":
        raise ValueError(f"--labeler is rules or chexbert, not {labeler!r}.")
    elif explain:
        states, evidence = label_reports(reports, explain=True)
    else:
        states = label_reports(reports)
    for index, (study, row) in enumerate(zip(ids, states, strict=True)):
        answer = {"id": study, "labels": {name: STATES[code] for name, code in zip(LABELS, row, strict=True) if code}}
        if evidence is not None:
            mentions = evidence[index].values()
            answer["evidence"] = [
                {"label": m.label, "state": m.state, "span": list(m.span), "text": m.text}
                for of_label in mentions
                for m in of_label
            ]
        yield answer


def _read(path: Path) -> tuple[list[str], list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix != ".jsonl":
        return [str(number) for number in range(1, len(lines) + 1)], lines
    ids, reports = [], []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            reports.append(str(row["report"]))
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f"{path.name}, line {number}: not a JSON object with a 'report'.") from None
        ids.append(str(row.get("id", number)))
    return ids, reports
