"""Baselines in every evaluation: constant, shuffled and nearest-neighbour reports."""

import numpy as np
import pytest

from otdrg_hf.evaluation.baselines import best_constant, nearest, shuffled
from otdrg_hf.metrics import evaluate_reports

REFERENCES = [
    "The heart is enlarged. The lungs are clear.",
    "The heart is enlarged. No pneumothorax.",
    "There is a small right pleural effusion. No pneumothorax.",
    "The lungs are clear. No pneumothorax. The the the lungs.",
]
CANDIDATES = [
    *REFERENCES,
    "The heart is enlarged. There is a small right pleural effusion.",
    "Clear.",
    "the the the the",
]


@pytest.mark.parametrize("by", ["bleu_4", "bleu_1", "ce13_micro_f1", "ce14_micro_f1"])
@pytest.mark.parametrize("protocol", ["raw", "r2gen-iu"])
def test_the_constant_is_the_best_of_the_candidates(by, protocol):
    def score(text: str) -> float:
        return evaluate_reports([text] * len(REFERENCES), REFERENCES, meteor=False, protocol=protocol)[by]

    chosen = best_constant(CANDIDATES, REFERENCES, by, protocol)
    assert score(chosen) == pytest.approx(max(map(score, CANDIDATES)))


def test_shuffled_reports_are_those_of_others_each_once():
    reports = [f"report {index}" for index in range(50)]
    one, same, other = (shuffled(reports, seed) for seed in (0, 0, 1))
    assert sorted(one) == sorted(reports) and not any(a == b for a, b in zip(one, reports, strict=True))
    assert one == same != other


def test_the_nearest_neighbour_is_the_study_itself_where_it_is_there():
    features = np.random.default_rng(0).normal(size=(20, 8)) + 100
    reports = [str(index) for index in range(20)]
    assert nearest(features[[3, 7]] + 1e-4, features, reports) == ["3", "7"]
