"""Whether predicted reports put a finding on the same side as the reference reports do."""

import re
from collections.abc import Sequence

import numpy as np

from ..labeling import label_reports
from ..labeling.labels import LABELS, POSITIVE
from ..labeling.sections import split_sections, split_sentences
from .bootstrap import Statistics

_LEFT, _RIGHT = 1, 2
_SIDES = re.compile(r"\b(?:(left)|(right)|(bilateral(?:ly)?|both|bibasilar|bibasal|biapical))\b", re.IGNORECASE)


def finding_sides(reports: Sequence[str]) -> np.ndarray:
    """
    The sides on which N reports place each label.

    A sentence that names a side and in which the rule labeler finds a label positive puts the label on that side. No
    Finding has no side.

    Args:
        reports (`Sequence[str]`): N texts.

    Returns:
        `np.ndarray` of shape `[N, 14]`, uint8: 0 no side, 1 left, 2 right, 3 both.
    """
    sides = np.zeros((len(reports), len(LABELS)), dtype=np.uint8)
    found = [
        (row, sentence, side)
        for row, report in enumerate(reports)
        if _SIDES.search(report)
        for sentence in _sentences(report)
        if (side := _side_of(sentence))
    ]
    if not found:
        return sides
    distinct = list(dict.fromkeys(sentence for _, sentence, _ in found))
    positive = dict(zip(distinct, np.asarray(label_reports(distinct)) == POSITIVE, strict=True))
    for row, sentence, side in found:
        sides[row, positive[sentence]] |= side
    sides[:, LABELS.index("No Finding")] = 0
    return sides


def _sentences(report: str) -> list[str]:
    """The sentences of the sections that describe the image."""
    parts = [report[start:end] for _, start, end in split_sections(report)]
    return [part[start:end] for part in parts for start, end in split_sentences(part)]


def _side_of(sentence: str) -> int:
    side = 0
    for left, right, both in _SIDES.findall(sentence):
        side |= (_LEFT if left or both else 0) | (_RIGHT if right or both else 0)
    return side


def laterality_statistics(predicted: np.ndarray, referred: np.ndarray) -> Statistics:
    """
    Statistics of `laterality_agreement`: among the labels that both reports of a pair place on a side, the share
    where the sides are the same. It is NaN where no pair can be compared.

    Args:
        predicted, referred (`np.ndarray` of shape `[N, 14]`): from `finding_sides`.
    """
    comparable = (predicted > 0) & (referred > 0)
    columns = np.stack([(comparable & (predicted == referred)).sum(axis=1), comparable.sum(axis=1)], axis=1)

    def figures(totals: np.ndarray, num_reports: int) -> dict[str, np.ndarray]:
        agreed, compared = totals[..., 0], totals[..., 1]
        share = np.divide(agreed, compared, out=np.full(np.shape(agreed), np.nan), where=compared != 0)
        return {"laterality_agreement": share}

    return Statistics(columns.astype(np.float64), figures)
