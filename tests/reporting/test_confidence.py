"""Calibration of the confidence in sentences, and what shows it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otdrg_hf import OTDRGConfig
from otdrg_hf.data.phantom import make_hard_phantom, make_phantom
from otdrg_hf.labeling import LABELS
from otdrg_hf.reporting import load_reporter, read_sentences
from otdrg_hf.reporting.confidence import (
    JudgedSentences,
    fit_sentence_calibration,
    judge_sentences,
    plot_sentence_reliability,
    report_and_judge,
    sentence_reliability,
)
from otdrg_hf.reporting.sentences import confidence_of


def answer(text: str, **options) -> dict:
    findings = [{"label": label, "state": "blank", "score": 0.2} for label in LABELS]
    tokens = [(at, -0.1) for at in range(1, len(text) + 1)]
    return {"findings": findings, "sentences": read_sentences(text, findings, tokens=tokens, **options)}


def drawn(count: int, seed: int = 0) -> JudgedSentences:
    """Sentences whose chance of being right is known: of two kinds of labels, one of which is often wrong."""
    rng = np.random.default_rng(seed)
    features, right = [], []
    for _ in range(count):
        score, rare = rng.normal(1, 2), rng.random() < 0.3
        log_odds = 0.5 * score + 1 - 2.5 * rare
        features.append({"intercept": 1.0, "weakest_label": score, f"present: {'Fracture' if rare else 'Edema'}": 1.0})
        right.append(rng.random() < 1 / (1 + math.exp(-log_odds)))
    return JudgedSentences(features, np.full(count, np.nan), np.array(right))


@pytest.mark.parametrize(
    "text, reference, right",
    [
        ("Mild edema.", "There is edema.", [True]),
        ("Mild edema.", "Possible edema.", [True]),
        ("Mild edema.", "The lungs are clear.", [False]),
        ("No pneumothorax or pleural effusion.", "Small left pleural effusion.", [False]),
        ("No pneumothorax.", "The heart is enlarged.", [True]),
        ("Mild edema. The trachea is midline. No pneumothorax.", "Pneumothorax. Edema.", [True, False]),
        ("No acute cardiopulmonary process.", "The lungs are clear.", [True]),
        ("No acute cardiopulmonary process.", "Severe edema.", [False]),
    ],
)
def test_a_sentence_is_right_if_its_labels_are(text, reference, right):
    judged = judge_sentences([answer(text)], [reference])
    assert judged.is_right.tolist() == right and len(judged.features) == len(right)
    assert np.isnan(judged.confidence).all()


def test_a_given_label_is_not_judged():
    judged = judge_sentences([answer("Mild edema. No pneumothorax.", overridden=["Edema"])], ["Clear lungs."])
    assert judged.is_right.tolist() == [True]


def test_a_study_that_cannot_be_read_is_one_line():
    with pytest.raises(ValueError, match="image 'a.png': empty"):
        judge_sentences([{"error": "image 'a.png': empty"}], ["Clear lungs."])


def test_fitted_confidence_is_the_share_that_is_right():
    weights = fit_sentence_calibration(drawn(4000))
    unseen = drawn(4000, seed=1)
    confidence = np.array([confidence_of(claim, weights) for claim in unseen.features])
    reliability = sentence_reliability(confidence, unseen.is_right)
    assert reliability["expected_calibration_error"] < 0.03
    assert reliability["times_as_many"] > 2
    assert weights["present: Fracture"] < 0 < weights["weakest_label"]
    assert weights == fit_sentence_calibration(drawn(4000))
    assert OTDRGConfig(sentence_calibration=weights).sentence_calibration == weights


def test_where_everything_is_right_it_is_finite():
    judged = drawn(200)._replace(is_right=np.ones(200, dtype=bool))
    weights = fit_sentence_calibration(judged)
    assert all(map(math.isfinite, weights.values()))
    assert min(confidence_of(claim, weights) for claim in judged.features) > 0.9


def test_too_few_sentences_to_calibrate_with():
    with pytest.raises(ValueError, match="12 sentences state a label: 100 are the fewest"):
        fit_sentence_calibration(drawn(12))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=200))
def test_reliability_of_any_sentences(rows):
    confidence, right = (np.array(column) for column in zip(*rows, strict=True))
    found = sentence_reliability(confidence, right)
    assert 0 <= found["expected_calibration_error"] <= 1 and found["sentences"] == len(rows)
    assert sum(each["sentences"] for each in found["bins"]) == len(rows)
    assert sum(each["sentences"] * each["right"] for each in found["bins"]) == pytest.approx(right.sum())
    assert found["times_as_many"] is None or 0 <= found["times_as_many"] <= len(rows)


def test_reliability_by_hand():
    found = sentence_reliability(np.array([0.1] * 2 + [0.95] * 18), np.array([False] * 2 + [True] * 18))
    assert found["wrong"] == pytest.approx(0.1) and found["wrong_least_confident"] == 1
    assert found["times_as_many"] == pytest.approx(10)
    assert found["expected_calibration_error"] == pytest.approx((2 * 0.1 + 18 * 0.05) / 20)
    with pytest.raises(ValueError, match="nothing to measure"):
        sentence_reliability(np.array([]), np.array([], dtype=bool))


def test_reliability_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    found = sentence_reliability(np.array([0.1, 0.9, 0.8]), np.array([False, True, True]))
    plot_sentence_reliability({"phantoms": found, "hard phantoms": found}, tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").stat().st_size > 5000


@pytest.mark.parametrize("wrong", [["a"], {"intercept": "high"}, {"intercept": float("nan")}, 3])
def test_a_calibration_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="`sentence_calibration` must map names to numbers"):
        OTDRGConfig(sentence_calibration=wrong)


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_phantom, make_hard_phantom], ids=["phantom", "phantom_hard"])
def test_the_demo_model_knows_its_shaky_sentences(make):
    """What docs/trust.md measures on 1,000 studies, on 300; of hard phantoms, which it is not calibrated on, fitted."""
    report = load_reporter()
    if make is make_hard_phantom:
        report.model.config.sentence_calibration = fit_sentence_calibration(judged(report, make, "validation"))
    shaky = judged(report, make, "test")
    reliability = sentence_reliability(shaky.confidence, shaky.is_right)
    assert reliability["sentences"] > 1500
    assert reliability["expected_calibration_error"] <= 0.05
    assert reliability["times_as_many"] >= 3


def judged(report, make, split: str) -> JudgedSentences:
    """Of the reports of 300 phantoms."""
    phantoms = [make(seed, split, 128) for seed in range(300)]
    studies = [{"images": phantom.images, "views": phantom.views} for phantom in phantoms]
    return report_and_judge(report, studies, [phantom.report for phantom in phantoms], batch_size=32)
