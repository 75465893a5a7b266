"""Compares a written report with the label states that it was written from."""

from collections.abc import Sequence

import numpy as np

from otdrg_hf.labeling import LABELS, label_reports, named_states

PRESENT = ("positive", "uncertain")
UNREAD = -100


def stated_states(texts: Sequence[str], label_names: Sequence[str]) -> np.ndarray:
    """
    The states that reports state, `[N, m]` int64, of the labels of a model; -100 of those that cannot be read off a
    report: No Finding, which follows from the others, and labels that the labeler does not know.
    """
    written = label_reports(list(texts))  # [N, 14]
    states = np.full((len(texts), len(label_names)), UNREAD, dtype=np.int64)
    for column, label in enumerate(label_names):
        if label in LABELS and label != "No Finding":
            states[:, column] = written[:, LABELS.index(label)]
    return states


def find_disagreements(text: str, findings: list[dict]) -> list[dict]:
    """
    The labels on which a report and the states behind it contradict each other.

    Args:
        text (`str`): The report.
        findings (`list[dict]`): As the pipeline gives them, `label` and `state` of each label.

    Returns:
        `list[dict]`: `label`, `predicted` (the state in `findings`) and `written` (the state that
        [`~labeling.label_reports`] reads in the text) where one is present (positive or uncertain) and the other is
        absent (negative or blank). No Finding, which follows from the others, and labels that the labeler does not
        know are left out.
    """
    [written] = label_reports([text])
    states = named_states(written)
    return [
        {"label": finding["label"], "predicted": finding["state"], "written": states[finding["label"]]}
        for finding in comparable_findings(findings)
        if (finding["state"] in PRESENT) != (states[finding["label"]] in PRESENT)
    ]


def label_agreement(text: str, findings: list[dict]) -> float:
    """The share of labels, from 0 to 1, on which the report and `findings` do not contradict each other."""
    compared = len(comparable_findings(findings))
    return 1.0 if compared == 0 else round(1 - len(find_disagreements(text, findings)) / compared, 4)


def review_answer(answer: dict) -> dict:
    """
    What the pipeline answered, with `disagreements` of its report (see [`find_disagreements`]) and, where it has
    `candidates`, their `candidate_agreement` (see [`label_agreement`]), one number each.
    """
    reviewed = {**answer, "disagreements": find_disagreements(answer["generated_text"], answer["findings"])}
    if "candidates" in answer:
        reviewed["candidate_agreement"] = [label_agreement(text, answer["findings"]) for text in answer["candidates"]]
    return reviewed


def label_overrides(before: str, after: str) -> dict[str, str]:
    """
    What a person changed in a report, as labels to override.

    Args:
        before (`str`): The report, as the model wrote it.
        after (`str`): The report, as the person left it.

    Returns:
        `dict[str, str]`: The labels whose state, by the rules of [`~labeling.label_reports`], is another one than
        before, with what it is now, for a study's `disease_labels`; `"blank"` for one that is not mentioned any more.
        No Finding, which follows from the others, is left out unless it does not, as where the only abnormality is none
        of the labels ("emphysema").
    """
    written, now = (named_states(states) for states in label_reports([before, after]))
    overrides = {label: state for label, state in now.items() if state != written[label]}
    normal = not any(state in PRESENT for label, state in now.items() if label not in ("No Finding", "Support Devices"))
    if now["No Finding"] == ("positive" if normal else "blank"):
        overrides.pop("No Finding", None)
    elif overrides:
        overrides["No Finding"] = now["No Finding"]
    return overrides


def comparable_findings(findings: list[dict]) -> list[dict]:
    """Those of labels that a report can state: the labeler's without No Finding, which follows from the others."""
    return [finding for finding in findings if finding["label"] in LABELS and finding["label"] != "No Finding"]
