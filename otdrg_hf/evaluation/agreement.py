"""How far the labeler agrees with gold labels of reports: counts, precision, recall and F1 per label.

Run `python -m otdrg_hf.evaluation.agreement GOLD.csv NLMCXR_reports.tgz` for the table on IU X-Ray.

The gold labels know no "uncertain" and count three things as present that CheXpert's conventions, which are the
labeler's, do not: each of two alternatives ("atelectasis or scarring", "versus"), a borderline heart, and calcified
nodules. The table counts these as the gold does; with `--chexpert` it takes the labeler's positives as they are.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

from otdrg_hf.labeling.labeler import Mention, label_reports
from otdrg_hf.labeling.labels import LABELS, POSITIVE

# Columns of the NIH-style gold labels (NegBio's for the Open-i reports) that say the same as one of our labels.
GOLD_COLUMNS: dict[str, tuple[str, ...]] = {
    "Atelectasis": ("Atelectasis",),
    "Cardiomegaly": ("Cardiomegaly",),
    "Consolidation": ("Consolidation",),
    "Edema": ("Edema",),
    "Pleural Effusion": ("Effusion",),
    "Pneumonia": ("Pneumonia",),
    "Pneumothorax": ("Pneumothorax",),
    "Lung Lesion": ("Mass", "Nodule"),
}

_ALTERNATIVES = ("or", "versus")
_CALCIFIED_NODULE = re.compile(
    r"(?<!non)(?<!non-)calcif\w+[ ,-]+(?:\w+[ ,-]+){0,4}?nodules?\b|\bnodules?[ ,-]+(?:\w+[ ,-]+){0,6}?calcified",
    re.IGNORECASE,
)
_BORDERLINE = re.compile(r"borderline(?:\W+\w+){0,3}\W*$", re.IGNORECASE)


@dataclass
class Agreement:
    """Counts of one label, or of all of them together.

    Attributes:
        label (`str`): the label, or "micro" for the sum.
        true_positive, false_positive, false_negative (`int`): reports, with the state positive against the gold's.
        disputed (`int`): how many of the disagreements are listed as the gold's fault; they count all the same.
    """

    label: str
    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    disputed: int = 0

    @property
    def precision(self) -> float:
        return self.true_positive / max(1, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        return self.true_positive / max(1, self.true_positive + self.false_negative)

    @property
    def f1(self) -> float:
        return 2 * self.true_positive / max(1, 2 * self.true_positive + self.false_positive + self.false_negative)


def read_gold(path: str | os.PathLike) -> dict[str, dict[str, bool]]:
    """Gold labels by report id and label, from a csv with a `filename` column and those of `GOLD_COLUMNS`.

    Raises:
        ValueError: if a column is missing; the message names it.
    """
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        wanted = ["filename", *(column for columns in GOLD_COLUMNS.values() for column in columns)]
        missing = [column for column in wanted if column not in (table.fieldnames or ())]
        if missing:
            raise ValueError(f"{os.path.basename(path)}: column {missing[0]!r} is missing")
        return {
            row["filename"]: {
                label: any(row[column] == "1" for column in columns) for label, columns in GOLD_COLUMNS.items()
            }
            for row in table
        }


def read_disputed(path: str | os.PathLike) -> set[tuple[str, str]]:
    """(report id, label) pairs from a csv with the columns report, label and reason."""
    with open(path, newline="", encoding="utf-8") as file:
        return {(row["report"], row["label"]) for row in csv.DictReader(file)}


def agreement(
    texts: Mapping[str, str],
    gold: Mapping[str, Mapping[str, bool]],
    disputed: Collection[tuple[str, str]] = (),
    as_gold: bool = True,
) -> list[Agreement]:
    """Compare the labeler's positives on `texts` with `gold`, over the reports that both have.

    Args:
        texts (`Mapping[str, str]`): report id to text (findings and impression).
        gold (`Mapping[str, Mapping[str, bool]]`): report id to label to whether it is positive.
        disputed (`Collection[tuple[str, str]]`): (report id, label) pairs that are judged to be the gold's fault.
        as_gold (`bool`): count alternatives, a borderline heart and calcified nodules as the gold does, as present.

    Returns:
        `list[Agreement]`: one per label of `GOLD_COLUMNS`, then their sum as "micro".
    """
    ids = [name for name in gold if name in texts]
    states, evidence = label_reports([texts[name] for name in ids], explain=True)
    rows = [Agreement(label) for label in GOLD_COLUMNS]
    micro = Agreement("micro")
    for name, found, mentions in zip(ids, states, evidence, strict=True):
        for row in rows:
            says, true = bool(found[LABELS.index(row.label)] == POSITIVE), gold[name][row.label]
            if as_gold and not says:
                says = _gold_counts(row.label, mentions, texts[name])
            for total in (row, micro):
                total.true_positive += says and true
                total.false_positive += says and not true
                total.false_negative += true and not says
                total.disputed += says != true and (name, row.label) in disputed
    return [*rows, micro]


def _gold_counts(label: str, mentions: Mapping[str, list[Mention]], text: str) -> bool:
    """Whether the gold's conventions make a label present that is uncertain or blank by CheXpert's."""
    if label == "Lung Lesion":
        return any(
            mention.rule == "other"
            and _CALCIFIED_NODULE.search(text, max(0, mention.span[0] - 60), mention.span[1] + 60)
            for mention in mentions.get("No Finding", ())
        )
    uncertain = [mention for mention in mentions.get(label, ()) if mention.state == "uncertain"]
    if any(mention.trigger in _ALTERNATIVES for mention in uncertain):
        return True
    return label == "Cardiomegaly" and any(
        "borderline" in mention.text.lower() or _BORDERLINE.search(text[: mention.span[0]]) for mention in uncertain
    )


def agreement_table(rows: list[Agreement]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| Label | Gold positives | Precision | Recall | F1 | FP | FN | of these disputed |",
        "|---|" + "--:|" * 7,
    ]
    for row in rows:
        positives = row.true_positive + row.false_negative
        rates = f"{row.precision:.3f} | {row.recall:.3f} | {row.f1:.3f}"
        lines.append(
            f"| {row.label} | {positives} | {rates} | {row.false_positive} | {row.false_negative} | {row.disputed} |"
        )
    return "\n".join(lines)


def iu_texts(reports: str | os.PathLike) -> dict[str, str]:
    """Findings and impression of every report of NLMCXR_reports.tgz (or its folder) that has either."""
    from otdrg_hf.data.iu_reports import iter_iu_reports

    texts = {}
    for report in iter_iu_reports(os.fspath(reports)):
        parts = (("FINDINGS", report.findings), ("IMPRESSION", report.impression))
        text = "\n".join(f"{name}: {part}" for name, part in parts if part)
        if text:
            texts[report.id] = text
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description="Agreement of the labeler with gold labels of IU X-Ray reports.")
    parser.add_argument("gold", help="csv: filename and one 0/1 column per finding")
    parser.add_argument("reports", help="NLMCXR_reports.tgz or the folder that it unpacks to")
    parser.add_argument("--disputed", help="csv: report, label, reason; disagreements judged to be the gold's fault")
    parser.add_argument("--chexpert", action="store_true", help="take the labeler's positives as they are")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    options = parser.parse_args()
    disputed = read_disputed(options.disputed) if options.disputed else ()
    rows = agreement(iu_texts(options.reports), read_gold(options.gold), disputed, as_gold=not options.chexpert)
    if options.json:
        rates = [asdict(row) | {"precision": row.precision, "recall": row.recall, "f1": row.f1} for row in rows]
        print(json.dumps(rates, indent=2))
    else:
        print(agreement_table(rows))


if __name__ == "__main__":
    main()
