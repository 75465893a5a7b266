"""F1 as scikit-learn's, thresholds that no other threshold beats, and priors that are distributions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from otdrg_hf.training.calibration import best_thresholds
from otdrg_hf.training.disease_metrics import f1_scores, state_priors


@st.composite
def scored_labels(draw):
    """Probabilities `[N, m]`, fp32 as they come from the model and with many ties, and truths."""
    size, labels = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    ties = st.sampled_from([0.0, 0.25, 0.25 + 2**-24, 0.5, 0.75, 1.0])
    score = st.one_of(ties, st.floats(0, 1, width=32))
    scores = draw(st.lists(score, min_size=size * labels, max_size=size * labels))
    truths = draw(st.lists(st.booleans(), min_size=size * labels, max_size=size * labels))
    return np.array(scores, np.float32).reshape(size, labels), np.array(truths).reshape(size, labels)


def f1_at(threshold: float, scores: np.ndarray, truth: np.ndarray) -> float:
    # The model compares in fp32.
    return f1_score(truth, scores >= np.float32(threshold), zero_division=0)


@settings(max_examples=200, deadline=None)
@given(scored_labels())
def test_no_threshold_that_calls_twice_as_many_or_fewer_beats_the_chosen_one(case):
    scores, truths = case
    thresholds = best_thresholds(scores, truths)
    assert len(thresholds) == scores.shape[1]
    for threshold, column, truth in zip(thresholds, scores.T, truths.T, strict=True):
        assert 0 <= threshold <= 1
        if truth.any():
            allowed = [c for c in column if (column >= c).sum() <= 2 * truth.sum()]
            best = max((f1_at(candidate, column, truth) for candidate in allowed), default=0)
            if best > 0:
                assert f1_at(threshold, column, truth) == pytest.approx(best, abs=1e-12)
            else:
                assert threshold == pytest.approx((1 + column.max()) / 2)
        else:
            assert threshold == 0.5


def test_a_label_that_the_scores_say_nothing_of_is_not_called_everywhere():
    scores = np.full((50, 2), 0.02, np.float32)
    scores[:, 1] = np.linspace(0, 1, 50)  # the lowest of which are the positives
    actual = np.zeros((50, 2), bool)
    actual[:3] = True
    called = scores >= np.array(best_thresholds(scores, actual))
    assert called.sum(0).max() <= 6


def test_threshold_lies_between_two_studies():
    scores = np.array([[0.9], [0.6], [0.2], [0.1]], np.float32)
    assert best_thresholds(scores, np.array([[1], [1], [0], [0]], bool)) == [pytest.approx(0.4)]


@settings(max_examples=100, deadline=None)
@given(scored_labels())
def test_f1_equals_scikit_learn(case):
    scores, actual = case
    predicted = scores >= 0.5
    figures = f1_scores(predicted, actual)
    for average in ("micro", "macro"):
        if actual.shape[1] == 1:
            continue  # scikit-learn takes a single column for a binary problem.
        expected = f1_score(actual, predicted, average=average, zero_division=0)
        assert figures[f"disease_{average}_f1"] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from([-100, 0, 1, 2, 3]), min_size=3, max_size=3), max_size=20))
def test_priors_are_distributions_without_zeros(rows):
    priors = np.array(state_priors(np.array(rows, dtype=np.int64).reshape(-1, 3), num_states=4))
    assert priors.shape == (3, 4)
    assert (priors > 0).all()
    np.testing.assert_allclose(priors.sum(1), 1)


def test_priors_follow_the_counts():
    labels = np.array([[1, -100]] * 7 + [[0, 3]])
    assert state_priors(labels, num_states=4) == [pytest.approx([2 / 12, 8 / 12, 1 / 12, 1 / 12])] + [
        pytest.approx([1 / 5, 1 / 5, 1 / 5, 2 / 5])
    ]
