"""Operating curves against scikit-learn, and the promise of conformal thresholds on fresh studies."""

import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score

from otdrg_hf.modeling.configuration_otdrg import NUM_STATES, OTDRGConfig
from otdrg_hf.training.calibration import fit_decisions, rescale
from otdrg_hf.training.decisions import conformal_thresholds, operating_curves, set_coverage

LABELS = ["Edema", "Fracture", "No Finding"]


@pytest.fixture(scope="module")
def config():
    return OTDRGConfig(label_names=LABELS, device_labels=[])


def drawn(size: int, seed: int = 0):
    """Logits `[N, 3, states]` that are right about the odds of each state, and states `[N, 3]` drawn by them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (size, len(LABELS), NUM_STATES))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    states = (rng.random((size, len(LABELS), 1)) > probabilities.cumsum(-1)).sum(-1)
    return logits, probabilities, states.clip(max=NUM_STATES - 1)


def test_a_curve_says_what_its_thresholds_reach(config):
    _, probabilities, states = drawn(2000)
    positive, actual = probabilities[..., 1], states == 1
    curves = operating_curves(positive, actual, config)
    assert set(curves) == {"Edema", "Fracture"}
    for index, label in enumerate(curves):
        rows = curves[label]
        assert 20 <= len(rows) <= 40
        thresholds, precisions, recalls = zip(*rows, strict=True)
        assert list(thresholds) == sorted(thresholds, reverse=True) and list(recalls) == sorted(recalls)
        assert recalls[-1] == 1.0 and recalls[0] <= 0.06
        assert np.diff(recalls).max() < 0.06 and np.diff([r for r in recalls if r >= 0.8]).max() < 0.015
        for threshold, precision, recall in rows:
            called = positive[:, index] >= threshold
            assert precision == pytest.approx(precision_score(actual[:, index], called), abs=1e-4)
            assert recall == pytest.approx(recall_score(actual[:, index], called), abs=1e-4)


def test_a_label_without_a_positive_has_no_curve_and_one_with_a_single_positive_has_a_row(config):
    scores = np.array([[0.2, 0.9, 0.5], [0.6, 0.1, 0.5], [0.4, 0.3, 0.5]])
    actual = np.array([[False, True, False], [False, False, False], [False, False, False]])
    assert operating_curves(scores, actual, config) == {"Edema": [], "Fracture": [[0.6, 1.0, 1.0]]}


def test_equal_scores_are_on_one_side_of_a_threshold(config):
    scores = np.full((10, 3), 0.3, dtype=np.float32)
    actual = np.arange(10)[:, None] < np.array([[4, 4, 4]])
    [[threshold, precision, recall]] = operating_curves(scores, actual, config)["Edema"]
    assert threshold <= 0.3 and (precision, recall) == (0.4, 1.0)


@pytest.mark.parametrize("error_rate", [0.05, 0.1, 0.3])
def test_plausible_states_hold_the_true_one_as_often_as_promised(config, error_rate):
    _, probabilities, states = drawn(4000)
    thresholds = conformal_thresholds(probabilities, states, config, error_rate)
    _, fresh, truth = drawn(20000, seed=1)
    for index, label in enumerate(LABELS):
        positive, other = thresholds[label]
        included = fresh[:, index] >= np.where(np.arange(NUM_STATES) == 1, positive, other)
        covered = np.take_along_axis(included, truth[:, index, None], 1)[:, 0]
        for group in (truth[:, index] == 1, truth[:, index] != 1):
            assert covered[group].mean() == pytest.approx(1 - error_rate, abs=0.03)


def test_coverage_counts_true_states_sizes_and_empty_sets():
    fields = {"conformal_thresholds": {"Edema": [0.5, 0.3], "No Finding": [0.0, 0.0]}, "conformal_error_rate": 0.1}
    config = OTDRGConfig(label_names=["Edema", "No Finding"], device_labels=[], **fields)
    of_edema = np.log([[0.1, 0.6, 0.2, 0.1], [0.4, 0.35, 0.2, 0.05], [0.25, 0.25, 0.25, 0.25], [0.4, 0.1, 0.1, 0.4]])
    logits = np.stack([of_edema, np.zeros((4, 4))], axis=1)
    found = set_coverage(logits, np.array([[1, 0], [1, 0], [0, 0], [3, -100]]), config)
    assert found["Edema"] == {"positives": 2, "coverage": 0.5, "positive_coverage": 0.5, "size": 1.0, "empty": 0.25}
    everything = {"positives": 0, "coverage": 1.0, "positive_coverage": None, "size": 4.0, "empty": 0.0}
    assert found["No Finding"] == everything
    assert found["all"]["coverage"] == pytest.approx(5 / 7) and found["all"]["size"] == 2.5


def test_too_few_studies_promise_nothing(config):
    _, probabilities, states = drawn(40)
    states[:, 0] = 0
    states[:5, 0] = 1
    positive, other = conformal_thresholds(probabilities, states, config, 0.1)["Edema"]
    assert positive == 0 and other > 0


def test_unknown_states_are_not_counted(config):
    _, probabilities, states = drawn(500)
    known = conformal_thresholds(probabilities[:300], states[:300], config)
    states[300:] = -100
    assert conformal_thresholds(probabilities, states, config) == known


@pytest.mark.parametrize("error_rate", [0, 1, -0.1, 1.5, float("nan")])
def test_an_error_rate_at_or_beyond_the_ends_is_refused(config, error_rate):
    _, probabilities, states = drawn(10)
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal_thresholds(probabilities, states, config, error_rate)


def test_what_is_fitted_is_a_configuration_and_keeps_scores_that_are_there(config):
    logits, _, states = drawn(500)
    fields, (before, after) = fit_decisions(logits, states, config)
    assert before == pytest.approx(after, abs=0.02)
    fitted = OTDRGConfig(label_names=LABELS, device_labels=[], **fields)
    again, _ = fit_decisions(logits, states, fitted, error_rate=0.2)
    assert {"score_calibration", "positive_thresholds"}.isdisjoint(again) and again["conformal_error_rate"] == 0.2
    anew, _ = fit_decisions(logits, states, fitted, refit_scores=True)
    assert {"score_calibration", "positive_thresholds"} <= set(anew)


def test_rescaled_probabilities_sum_to_one_and_others_keep_their_proportions():
    import torch

    log_probs = torch.randn(5, 2, NUM_STATES, dtype=torch.float64).log_softmax(-1)
    scaled = rescale(log_probs, [[0.5, 1.0], [2.0, -1.0]])
    torch.testing.assert_close(scaled.exp().sum(-1), torch.ones(5, 2, dtype=torch.float64))
    torch.testing.assert_close(scaled[..., 0] - scaled[..., 2], log_probs[..., 0] - log_probs[..., 2])
    torch.testing.assert_close(rescale(log_probs, [[1.0, 0.0]] * 2), log_probs)
