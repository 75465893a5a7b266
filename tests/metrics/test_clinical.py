"""Clinical efficacy is scikit-learn's for every average and both mappings, with 0/0 as 0."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from otdrg_hf.labeling import LABELS, LABELS_5
from otdrg_hf.metrics.clinical import check_states, clinical_efficacy, clinical_statistics, finding_errors, is_positive
from otdrg_hf.metrics.laterality import finding_sides, laterality_statistics
from otdrg_hf.metrics.report_card import label_table

FINDINGS = [index for index, label in enumerate(LABELS) if label != "No Finding"]
SUBSETS = {"ce14": list(range(14)), "ce13": FINDINGS, "ce5": [LABELS.index(label) for label in LABELS_5]}
STATES = st.integers(1, 9).flatmap(
    lambda num: st.tuples(*[arrays(np.int8, (num, 14), elements=st.integers(0, 3)) for _ in range(2)])
)


def figures(predicted, referred, flag):
    part = clinical_statistics(predicted, referred, flag)
    return part.figures(part.totals(), part.num_reports)


def assert_equal_to_sklearn(predicted, referred):
    metrics = pytest.importorskip("sklearn.metrics")
    for flag, suffix in ((False, ""), (True, "_uncertain_positive")):
        named = figures(predicted, referred, flag)
        positive = (1, 3) if flag else (1,)
        found, true = np.isin(predicted, positive), np.isin(referred, positive)
        for prefix, chosen in SUBSETS.items():
            for average, theirs in (("micro", "micro"), ("macro", "macro"), ("example", "samples")):
                expected = metrics.precision_recall_fscore_support(
                    true[:, chosen], found[:, chosen], average=theirs, zero_division=0
                )
                got = [named[f"{prefix}_{average}_{name}{suffix}"] for name in ("precision", "recall", "f1")]
                np.testing.assert_allclose(got, expected[:3], rtol=0, atol=1e-12)


@pytest.mark.parametrize("share_blank", [0.2, 0.9, 1.0])
def test_equal_to_sklearn_on_random_states(share_blank):
    generator = np.random.default_rng(0)
    weights = [share_blank, *[(1 - share_blank) / 3] * 3]
    for num in (1, 3, 200):
        assert_equal_to_sklearn(*generator.choice(4, size=(2, num, 14), p=weights))


@settings(max_examples=25, deadline=None)
@given(STATES)
def test_equal_to_sklearn_on_any_states(states):
    assert_equal_to_sklearn(*states)


def test_example_based_zero_over_zero_is_zero():
    blank = np.zeros((2, 14), dtype=int)
    one = blank.copy()
    one[0, 1] = 1
    named = figures(one, one, False)
    assert named["ce14_example_f1"] == 0.5  # the report with nothing in it scores 0, although both agree
    assert named["ce14_micro_f1"] == 1.0
    assert named["ce14_macro_f1"] == pytest.approx(1 / 14)
    assert all(value == 0 for value in figures(blank, blank, True).values())


def test_false_and_missed_findings_leave_no_finding_out():
    predicted, referred = np.zeros((2, 14), dtype=int), np.zeros((2, 14), dtype=int)
    predicted[0, [1, 4]], referred[0, [4, 8, 9]] = 1, 1
    predicted[1, LABELS.index("No Finding")] = 1
    predicted[1, 5], referred[1, 5] = 3, 2
    assert [part.tolist() for part in finding_errors(predicted, referred)] == [[1, 0], [2, 0]]
    named = figures(predicted, referred, False)
    assert (named["hallucinations_per_report"], named["omissions_per_report"]) == (0.5, 1.0)
    named = figures(predicted, referred, True)
    assert named["hallucinations_per_report_uncertain_positive"] == 1.0


def test_label_table_counts_add_up():
    generator = np.random.default_rng(1)
    predicted, referred = generator.integers(0, 4, size=(2, 50, 14))
    for flag in (False, True):
        rows = label_table(clinical_statistics(predicted, referred, flag), flag, num_bootstrap=50)
        assert [row["label"] for row in rows] == list(LABELS)
        for index, row in enumerate(rows):
            true = is_positive(referred, flag)[:, index]
            assert row["true_positives"] + row["false_negatives"] == true.sum()
            assert row["true_positives"] + row["false_positives"] == is_positive(predicted, flag)[:, index].sum()
            assert row["f1_low"] <= row["f1"] <= row["f1_high"]


@pytest.mark.parametrize(
    ("states", "words"),
    [(np.zeros((2, 13)), "shape"), (np.zeros((3, 14)), "shape"), (np.full((2, 14), 4), "value other than")],
)
def test_wrong_label_arrays_are_named(states, words):
    with pytest.raises(ValueError, match=words):
        check_states(states, 2, "prediction_labels")


def test_clinical_efficacy_reads_the_reports():
    same = ["There is cardiomegaly. No pleural effusion.", "Left pneumothorax."]
    named = clinical_efficacy(same, same)
    assert named["ce14_micro_f1"] == named["ce14_example_f1"] == 1.0
    missed = clinical_efficacy(["The lungs are clear.", "The lungs are clear."], same)
    assert missed["omissions_per_report"] == 1.0
    with pytest.raises(ValueError, match="unknown labeler"):
        clinical_efficacy(same, same, labeler="nobody")


def test_a_labeler_may_be_a_function():
    named = clinical_efficacy(["x", "y"], ["x", "y"], labeler=lambda reports: np.ones((len(reports), 14)))
    assert named["ce14_macro_f1"] == 1.0


def test_sides_of_findings():
    reports = [
        "Small left pleural effusion. The right lung is clear.",
        "Bilateral pleural effusions.",
        "Right pleural effusion.",
        "Pleural effusion.",
        "No left pleural effusion.",
        "Left effusion. Also a right pleural effusion.",
    ]
    column = finding_sides(reports)[:, LABELS.index("Pleural Effusion")]
    assert column.tolist() == [1, 3, 2, 0, 0, 3]


def test_laterality_agreement_counts_what_both_place():
    sides = finding_sides(["Left effusion.", "Right effusion.", "Effusion.", "Bilateral effusions."])
    references = finding_sides(["Left effusion.", "Left effusion.", "Left effusion.", "Both sides show effusion."])
    part = laterality_statistics(sides, references)
    assert part.figures(part.totals(), 4)["laterality_agreement"] == pytest.approx(2 / 3)
    nothing = laterality_statistics(sides[2:3], references[2:3])
    assert np.isnan(nothing.figures(nothing.totals(), 1)["laterality_agreement"])
