"""Figures of the labels that a model predicts from the films, apart from those of the reports that it writes."""

from dataclasses import dataclass

import numpy as np

from .bootstrap import Statistics, join_statistics
from .clinical import check_states, clinical_statistics
from .report_card import label_table, with_intervals


@dataclass(frozen=True)
class DiseaseHeadCard:
    """
    What `disease_head_card` gives for N studies.

    Attributes:
        figures (`dict[str, float | None]`): `ce14_micro_f1` and so on under both mappings of uncertain, as of reports,
            with `NAME_low` and `NAME_high` after a bootstrap.
        labels (`list[dict]`): a row for each label and mapping, as in a `ReportCard`.
        statistics (`Statistics`): as `paired_bootstrap` takes them.
    """

    figures: dict[str, float | None]
    labels: list[dict]
    statistics: Statistics


def disease_head_card(
    predicted: np.ndarray,
    referred: np.ndarray,
    *,
    num_bootstrap: int = 0,
    seed: int = 0,
    confidence: float = 0.95,
) -> DiseaseHeadCard:
    """
    Scores predicted label states against those of the references.

    Args:
        predicted, referred (`np.ndarray` of shape `[N, 14]`, int): 0 blank, 1 positive, 2 negative, 3 uncertain.
        num_bootstrap (`int`): number of bootstrap samples, 0 for no intervals.
        seed (`int`): of the bootstrap.
        confidence (`float`): coverage of the intervals.

    Raises:
        ValueError: for arrays of a wrong shape or with unknown states.
    """
    predicted = check_states(predicted, len(referred), "the predicted labels")
    clinical = {flag: clinical_statistics(predicted, referred, uncertain_positive=flag) for flag in (False, True)}
    statistics = join_statistics(list(clinical.values()))
    figures = with_intervals(statistics, num_bootstrap, seed, confidence)
    labels = [
        row for flag, part in clinical.items() for row in label_table(part, flag, num_bootstrap, seed, confidence)
    ]
    return DiseaseHeadCard(figures, labels, statistics)
