"""Platt scaling against scikit-learn, its composition, and the calibration error of known scores."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from otdrg_hf.training.calibration import (
    best_thresholds,
    compose,
    expected_calibration_error,
    platt_scaling,
    steady_thresholds,
)


def drawn(slope: float, intercept: float, size: int = 4000, seed: int = 0):
    """Log-odds `[N, 1]`, and truths that come true as often as `slope * log_odds + intercept` says."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(0, 3, (size, 1))
    return log_odds, rng.random((size, 1)) < 1 / (1 + np.exp(-(slope * log_odds + intercept)))


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.3, -1.0), (2.5, 4.0)])
def test_it_finds_what_scikit_learn_finds(slope, intercept):
    log_odds, actual = drawn(slope, intercept)
    [[found_slope, found_intercept]] = platt_scaling(log_odds, actual)
    # Platt's soft targets as each study twice, weighted.
    truth = actual[:, 0]
    targets = np.where(truth, (truth.sum() + 1) / (truth.sum() + 2), 1 / ((~truth).sum() + 2))
    twice, weights = np.repeat([1, 0], len(truth)), np.concatenate([targets, 1 - targets])
    expected = LogisticRegression(C=1e9, tol=1e-9, max_iter=1000).fit(np.tile(log_odds, (2, 1)), twice, weights)
    assert found_slope == pytest.approx(expected.coef_[0, 0], rel=1e-4)
    assert found_intercept == pytest.approx(expected.intercept_[0], abs=1e-4)


def test_scaling_mends_scores_that_are_too_sure():
    log_odds, actual = drawn(0.25, -0.5)
    before = expected_calibration_error(1 / (1 + np.exp(-log_odds)), actual)
    [[slope, intercept]] = platt_scaling(log_odds, actual)
    fresh, truth = drawn(0.25, -0.5, seed=1)
    after = expected_calibration_error(1 / (1 + np.exp(-(slope * fresh + intercept))), truth)
    assert before > 0.15 and after < 0.03


@pytest.mark.parametrize("far", [1.0, 50.0, 1e4])
def test_classes_that_scores_part_give_a_finite_slope(far):
    [[slope, intercept]] = platt_scaling(np.array([[-far], [-far], [far], [far]]), np.array([[0], [0], [1], [1]], bool))
    assert np.isfinite([slope, intercept]).all() and slope > 0


def test_a_score_that_misleads_keeps_its_order_and_the_base_rate():
    log_odds, actual = drawn(-1.0, -2.0)
    [[slope, intercept]] = platt_scaling(log_odds, actual)
    mean = (1 / (1 + np.exp(-(slope * log_odds + intercept)))).mean()
    assert 0 < slope < 0.1
    assert mean == pytest.approx(actual.mean(), abs=0.02)


def test_a_label_without_both_classes_stays_as_it_is():
    log_odds = np.array([[0.5, -1.0], [2.0, 3.0]])
    assert platt_scaling(log_odds, np.array([[True, False], [True, False]])) == [[1.0, 0.0], [1.0, 0.0]]


def test_two_calibrations_in_a_row_are_one():
    log_odds = torch.tensor([[0.5, -1.0]])
    first, then = [[2.0, 1.0], [0.5, 0.0]], [[0.5, -1.0], [3.0, 2.0]]
    (s1, i1), (s2, i2), (s, i) = (torch.tensor(each).T for each in (first, then, compose(first, then)))
    torch.testing.assert_close(s2 * (s1 * log_odds + i1) + i2, s * log_odds + i)
    assert compose(None, then) == then


def test_the_error_of_known_scores():
    scores, actual = np.full((10, 1), 0.8), np.array([[True]] * 5 + [[False]] * 5)
    assert expected_calibration_error(scores, actual) == pytest.approx(0.3)
    assert expected_calibration_error(np.array([[1.0], [0.0]]), np.array([[True], [False]])) == 0


def test_steady_thresholds_err_less_on_few_studies():
    """Of calibrated scores the best threshold is known: few studies find it more nearly with their help."""
    rng = np.random.default_rng(0)

    def draw(count):
        probabilities = rng.beta(0.3, 2.0, (count, 3))
        return probabilities, rng.random((count, 3)) < probabilities

    def f1(called, actual):
        return 2 * (called & actual).sum() / (called.sum() + actual.sum())

    unseen, truth = draw(20_000)
    scores = {best_thresholds: [], steady_thresholds: []}
    for _ in range(30):
        few, actual = draw(80)
        scores[best_thresholds].append(f1(unseen >= np.array(best_thresholds(few, actual)), truth))
        scores[steady_thresholds].append(f1(unseen >= np.array(steady_thresholds(few, actual, [0, 1, 2])), truth))
    assert np.mean(scores[steady_thresholds]) > np.mean(scores[best_thresholds])
    assert np.std(scores[steady_thresholds]) < np.std(scores[best_thresholds])


def test_a_label_that_was_never_positive_keeps_its_threshold():
    probabilities = np.linspace(0.05, 0.95, 10)[:, None].repeat(2, axis=1)
    actual = np.stack([probabilities[:, 0] > 0.5, np.zeros(10, dtype=bool)], axis=1)
    first, never = steady_thresholds(probabilities, actual, [0, 1])
    assert 0.3 < first < 0.6 and never == 0.5
