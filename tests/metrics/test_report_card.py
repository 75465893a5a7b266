"""evaluate_reports names every figure, bounds them, and the report card records where they come from."""

import doctest
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from otdrg_hf.labeling import LABELS
from otdrg_hf.metrics import evaluate_reports, make_report_card
from otdrg_hf.metrics.bleu import corpus_bleu
from otdrg_hf.metrics.diversity import sentences_of
from otdrg_hf.metrics.protocols import clean_r2gen

PREDICTIONS = ["There is cardiomegaly. Small left pleural effusion.", "The lungs are clear.", ""]
REFERENCES = ["The heart is enlarged. Small left pleural effusion.", "Right pneumothorax.", "No effusion."]
CE = [
    f"{prefix}_{average}_{measure}"
    for prefix in ("ce14", "ce13", "ce5")
    for average in ("micro", "macro", "example")
    for measure in ("precision", "recall", "f1")
] + ["hallucinations_per_report", "omissions_per_report"]
MIN10 = [f"{prefix}_macro_min10_{measure}" for prefix in ("ce14", "ce13") for measure in ("precision", "recall", "f1")]
NAMES = [
    *("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "meteor"),
    *CE,
    *(f"{name}_uncertain_positive" for name in CE),
    *MIN10,
    *(f"{name}_uncertain_positive" for name in MIN10),
    "laterality_agreement",
]


def test_names_are_exactly_these():
    figures = evaluate_reports(PREDICTIONS, REFERENCES, meteor=False)
    assert list(figures) == NAMES
    assert figures["meteor"] is None
    undefined = {"meteor", *(name for name in NAMES if "_macro_min10_" in name)}  # of three reports
    assert {name for name, value in figures.items() if value is None} == undefined
    assert all(
        isinstance(figures[name], float) and math.isfinite(figures[name]) for name in NAMES if name not in undefined
    )
    assert figures["laterality_agreement"] == 1.0
    assert figures["bleu_1"] == pytest.approx(corpus_bleu(PREDICTIONS, REFERENCES)[0])


def test_bootstrap_adds_bounds_and_changes_no_figure():
    plain = evaluate_reports(PREDICTIONS, REFERENCES, meteor=False)
    bounded = evaluate_reports(PREDICTIONS, REFERENCES, meteor=False, num_bootstrap=200)
    assert set(bounded) == {*NAMES, *(f"{name}_{side}" for name in NAMES for side in ("low", "high"))}
    for name in NAMES:
        assert bounded[name] == plain[name]
        low, high = bounded[f"{name}_low"], bounded[f"{name}_high"]
        assert (low, high) == (None, None) if plain[name] is None else 0 <= low <= high
    assert bounded == evaluate_reports(PREDICTIONS, REFERENCES, meteor=False, num_bootstrap=200)
    assert bounded != evaluate_reports(PREDICTIONS, REFERENCES, meteor=False, num_bootstrap=200, seed=1)


def test_identical_reports_score_full_marks():
    figures = evaluate_reports(REFERENCES, REFERENCES, meteor=False)
    assert figures["bleu_1"] == pytest.approx(1)
    assert figures["rouge_l"] == figures["ce14_micro_f1"] == 1
    assert figures["hallucinations_per_report"] == figures["omissions_per_report"] == 0


def test_given_labels_are_used_instead_of_the_labeler():
    def never(reports):
        raise AssertionError("the labeler was asked")

    states = np.zeros((3, 14), dtype=int)
    states[:, 4] = 1
    card = make_report_card(
        PREDICTIONS, REFERENCES, labeler=never, prediction_labels=states, reference_labels=states, meteor=False
    )
    assert card.figures["ce14_micro_f1"] == 1 and card.figures["ce5_macro_f1"] == pytest.approx(0.2)
    assert card.record["clinical"]["prediction_labels"] == "given"
    with pytest.raises(ValueError, match=r"prediction_labels has shape \(2, 14\)"):
        make_report_card(PREDICTIONS, REFERENCES, prediction_labels=states[:2], meteor=False)


def test_protocol_prepares_nlg_texts_and_leaves_labels_alone():
    raw = evaluate_reports(PREDICTIONS, REFERENCES, meteor=False)
    card = make_report_card(PREDICTIONS, REFERENCES, protocol="r2gen-iu", meteor=False)
    cleaned = [[clean_r2gen(text, "iu") if text else "" for text in texts] for texts in (PREDICTIONS, REFERENCES)]
    assert card.figures["bleu_4"] == pytest.approx(corpus_bleu(*cleaned)[3], abs=1e-12)
    assert card.figures["bleu_1"] != raw["bleu_1"]
    assert {name: card.figures[name] for name in CE} == {name: raw[name] for name in CE}
    assert card.record["protocol"]["name"] == "r2gen-iu"


def test_truncation_hides_no_finding():
    long = "The osseous structures are unremarkable. " * 20 + "There is a right pneumothorax."
    figures = evaluate_reports(["There is a right pneumothorax."], [long], protocol="r2gen-iu", meteor=False)
    assert figures["ce14_micro_recall"] == 1.0 and figures["laterality_agreement"] == 1.0


def test_record_traces_a_figure():
    references = [[text, ""] for text in REFERENCES]
    record = make_report_card(PREDICTIONS, references, meteor=False, num_bootstrap=10, confidence=0.9).record
    assert record["counts"] == {"reports": 3, "references": 6, "empty_predictions": 1, "empty_references": 3}
    assert record["bootstrap"] == {"samples": 10, "seed": 0, "confidence": 0.9}
    assert record["not_computed"] == {"meteor": "not computed: not asked for"}
    assert set(record["versions"]) == {"otdrg_hf", "python", "numpy", "labeler"}
    assert record["versions"]["labeler"].startswith("rules.yaml sha256 ") and record["clinical"]["labeler"] == "rules"
    other = make_report_card(PREDICTIONS, REFERENCES, meteor=False).record
    assert other["references_sha256"] != record["references_sha256"] and other["bootstrap"] is None
    json.dumps(record)


def test_without_java_meteor_is_none_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    card = make_report_card(PREDICTIONS, REFERENCES)
    assert card.figures["meteor"] is None
    assert card.record["not_computed"]["meteor"] == "not computed: needs Java"


def test_masks_are_kept_or_removed_from_both_and_the_record_says_so():
    predictions, references = (
        ["XXXX lungs are clear. Heart XXXX is normal XXXX."],
        ["The lungs are clear. Stable XXXX."],
    )
    kept, removed = (
        make_report_card(predictions, references, masks=policy, meteor=False) for policy in ("keep", "remove")
    )
    assert kept.figures == evaluate_reports(predictions, references, meteor=False)
    without = evaluate_reports(["lungs are clear. Heart is normal."], ["The lungs are clear. Stable."], meteor=False)
    assert removed.figures == without != kept.figures
    assert removed.record["masks"] == {"policy": "remove", "predictions_with_masks": 1, "references_with_masks": 1}
    assert kept.record["masks"]["policy"] == "keep"
    assert kept.record["references_sha256"] == removed.record["references_sha256"]


def test_macro_averages_of_frequent_labels_leave_rare_ones_out():
    states = np.zeros((40, 14), dtype=int)
    states[:12, LABELS.index("Edema")] = states[:9, LABELS.index("Fracture")] = 1
    states[20:, LABELS.index("No Finding")] = 1
    predicted = states.copy()
    predicted[:6, LABELS.index("Edema")] = 0  # half are found: recall 1/2, F1 2/3
    card = make_report_card(
        ["a"] * 40, ["b"] * 40, prediction_labels=predicted, reference_labels=states, meteor=False, num_bootstrap=20
    )
    assert card.figures["ce13_macro_min10_recall"] == pytest.approx(1 / 2)
    assert card.figures["ce13_macro_min10_f1"] == pytest.approx(2 / 3)
    assert card.figures["ce14_macro_min10_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert card.figures["ce13_macro_f1"] == pytest.approx((1 + 2 / 3) / 13)
    assert card.figures["ce13_macro_min10_f1_low"] <= 2 / 3 <= card.figures["ce13_macro_min10_f1_high"]
    assert card.record["clinical"]["macro_min10_labels"] == ["Edema", "No Finding"]
    support = {row["label"]: row["support"] for row in card.labels if not row["uncertain_positive"]}
    assert (support["Edema"], support["Fracture"], support["Pneumonia"]) == (12, 9, 0)


def test_one_text_for_most_studies_is_a_collapse():
    references = [f"The lungs are clear. Study {number}." for number in range(12)]
    same = make_report_card([" The  lungs are clear."] * 7 + references[:5], references, meteor=False).diversity
    assert same["collapsed"] and same["distinct_reports"] == 6 and same["commonest_share"] == 7 / 12
    assert same["reference_distinct_reports"] == 12 and same["reference_mean_words"] == 6
    assert same["mean_words"] == pytest.approx((7 * 4 + 5 * 6) / 12) and same["training_sentence_share"] is None
    half = make_report_card(["Clear."] * 6 + references[:6], references, meteor=False).diversity
    assert not half["collapsed"]
    assert not make_report_card(["Clear."] * 9, ["x"] * 9, meteor=False).diversity["collapsed"]  # too few to tell
    seen = sentences_of(["The lungs are CLEAR. Nothing else."])
    shares = [
        make_report_card([text], ["x"], training_sentences=seen, meteor=False).diversity["training_sentence_share"]
        for text in ("the lungs are clear. The heart is big.", "Nothing, else", "")
    ]
    assert shares == [0.5, 1.0, 0.0]


def test_no_side_to_compare_is_none():
    card = make_report_card(["Clear."], ["Clear."], meteor=False, num_bootstrap=5)
    assert card.figures["laterality_agreement"] is card.figures["laterality_agreement_low"] is None
    assert "laterality_agreement" in card.record["not_computed"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "coco"}, "unknown protocol 'coco'"),
        ({"masks": "mask"}, "unknown policy of masks 'mask'; give one of keep, remove"),
        ({"labeler": "nobody"}, "unknown labeler 'nobody'"),
        ({"num_bootstrap": -1}, "num_bootstrap is -1"),
        ({"confidence": 95}, "confidence is 95"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        evaluate_reports(PREDICTIONS, REFERENCES, meteor=False, **options)


def test_import_is_light():
    heavy = ["evaluate", "datasets", "sklearn", "matplotlib", "pandas", "scipy", "pycocoevalcap"]
    code = (
        "import sys, otdrg_hf; before = set(sys.modules); import otdrg_hf.metrics, otdrg_hf.evaluation.compare;"
        f"print([name for name in {heavy} if name in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_example_in_the_docstring_is_true():
    text = evaluate_reports.__doc__.replace("```", "")
    test = doctest.DocTestParser().get_doctest(text, {}, "evaluate_reports", None, None)
    outcome = doctest.DocTestRunner().run(test)
    assert (outcome.attempted, outcome.failed) == (3, 0)
