"""Does the report follow the labels that it is given, and does the rest of it stay the same?"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import numpy as np

from otdrg_hf.data.schema import INPUT_COLUMNS
from otdrg_hf.labeling import LABELS, STATES, label_reports, named_states
from otdrg_hf.labeling.sections import split_sections, split_sentences
from otdrg_hf.reporting.loop import report_studies

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Pipeline

BATCH = 32
FINDINGS = [label for label in LABELS if label != "No Finding"]


@dataclass(frozen=True)
class Steered:
    """
    A report before and after a label was set.

    Attributes:
        label (`str`), state (`str`): What was set, `"positive"` or `"negative"`.
        before (`str`), after (`str`): The reports.
    """

    label: str
    state: str
    before: str
    after: str

    def obeyed(self) -> bool:
        """Present: stated as positive. Absent: denied, or not stated."""
        [codes] = label_reports([self.after])
        written = named_states(codes)[self.label]
        return written == "positive" if self.state == "positive" else written in ("negative", "blank")

    def words_changed(self) -> int:
        """Words that differ outside the sentences about the label in either report."""
        before, after = (_words_of_the_rest(text, self.label) for text in (self.before, self.after))
        blocks = SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
        same = sum(block.size for block in blocks)
        return max(len(before), len(after)) - same


def _words_of_the_rest(text: str, label: str) -> list[str]:
    sentences = [
        text[first + start : first + end]
        for _, first, last in split_sections(text)
        for start, end in split_sentences(text[first:last])
    ]
    _, mentions = label_reports(sentences, explain=True)
    # A normal study is reported as one until a label is set, and the other way round.
    spoken = {label, "No Finding"}
    return [
        word
        for sentence, found in zip(sentences, mentions, strict=True)
        if not spoken & found.keys()
        for word in sentence.lower().split()
    ]


def steer(report: "Pipeline", studies: "Dataset", candidates: int = 1) -> dict[str, float]:
    """
    One label of each study, in turn, is overridden by what it was not predicted to be: present where it is not, and,
    every other time, absent where something is.

    Args:
        report ([`Pipeline`]): As of [`~reporting.loading.load_reporter`].
        studies (`Dataset`): As of `load_study_dataset`.
        candidates (`int`): As of [`~reporting.loop.report_studies`].

    Returns:
        `dict[str, float]`: `present` and `absent`, the shares of these reports that obey; `words`, the mean number of
        words that change in the rest of the report; `count`.
    """
    plain = _write(report, studies, [{}] * len(studies), candidates, "Reporting")
    wishes = []
    for index, answer in enumerate(plain):
        present = [
            each["label"] for each in answer["findings"] if each["state"] == "positive" and each["label"] in FINDINGS
        ]
        absent = [label for label in FINDINGS if label not in present]
        pool, state = (present, "negative") if present and (index % 2 or not absent) else (absent, "positive")
        wishes.append((pool[index // 2 % len(pool)], state))
    again = _write(report, studies, [{label: state} for label, state in wishes], candidates, "Steering")
    steered = [
        Steered(label, state, before["generated_text"], after["generated_text"])
        for (label, state), before, after in zip(wishes, plain, again, strict=True)
    ]
    shares = {
        name: float(np.mean([each.obeyed() for each in steered if each.state == state] or [np.nan]))
        for name, state in (("present", "positive"), ("absent", "negative"))
    }
    return {**shares, "words": float(np.mean([each.words_changed() for each in steered])), "count": len(steered)}


def state_true_labels(report: "Pipeline", studies: "Dataset", section: str, candidates: int = 1) -> dict[str, float]:
    """
    Given the labels of their reference, as the rules read them, how many of their positive findings do reports state?

    Args:
        report, studies, candidates: As of [`steer`].
        section (`str`): The column that is the reference.

    Returns:
        `dict[str, float]`: The share that is `stated`, and the `count` of findings.
    """
    states = label_reports(list(studies[section]))  # [N, 14]
    truth = states[:, [LABELS.index(label) for label in FINDINGS]] == STATES.index("positive")  # [N, 13]
    rows = np.flatnonzero(truth.any(axis=1))
    if not len(rows):
        return {"stated": float("nan"), "count": 0}
    given = [named_states(states[row]) for row in rows]
    answers = _write(report, studies.select(rows), given, candidates, "True labels")
    written = label_reports([answer["generated_text"] for answer in answers])
    written = written[:, [LABELS.index(label) for label in FINDINGS]] == STATES.index("positive")
    return {"stated": float(written[truth[rows]].mean()), "count": int(truth.sum())}


def _write(report, studies: "Dataset", labels: Sequence[dict], candidates: int, description: str) -> list[dict]:
    """What the pipeline answers of each study, whose labels are overridden."""
    inputs = (
        {name: study[name] for name in INPUT_COLUMNS} | {"disease_labels": given}
        for study, given in zip(studies, labels, strict=True)
    )
    options = {"batch_size": BATCH, "candidates": candidates, "description": description, "total": len(studies)}
    return list(report_studies(report, inputs, **options))
