"""Protocols prepare texts as published, and say what they did."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otdrg_hf.metrics.protocols import PROTOCOLS, apply_protocol, build_vocabulary, clean_r2gen


@pytest.mark.parametrize("dataset", ["iu", "mimic"])
@pytest.mark.parametrize(
    ("report", "cleaned"),
    [
        ("The heart is normal. No effusion.", "the heart is normal . no effusion ."),
        ("X-ray: 5.5 cm (left)!", "x-ray 55 cm left ."),
        ('It\'s "clear"/normal... Yes', "its clearnormal . yes ."),
        ("1. Normal heart. 2. No effusion. 3. Clear.", "normal heart . no effusion . clear ."),
        ("a <= b = [c] {d} @ e", "a b c d e ."),
        ("no effusion", "no effusion ."),
        ("", "."),
    ],
)
def test_cleaning(report, cleaned, dataset):
    assert clean_r2gen(report, dataset) == cleaned


def test_cleaning_of_mimic_takes_line_breaks_and_underlines():
    assert clean_r2gen("Findings:\n Seen by ____ .\n\nClear.", "mimic") == "findings seen by . clear ."


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="aB1. ,-_()\n<>:;'\"/", max_size=60), st.sampled_from(["iu", "mimic"]))
def test_cleaned_text_has_no_marks_and_ends_in_a_stop(report, dataset):
    words = clean_r2gen(report, dataset).split(" ")
    assert words[-1] == "."
    assert all(word == "." or not set(word) & set(".,()<>:;'\"/ABC\n") for word in words)


def test_raw_changes_nothing():
    predictions, references, record = apply_protocol("raw", ["A  b. "], [["C.\n", ""]])
    assert (predictions, references) == (["A  b. "], [["C.\n", ""]])
    assert record["name"] == "raw" and record["cleaning"] is None


@pytest.mark.parametrize(("name", "limit", "threshold"), [("r2gen-iu", 60, 3), ("r2gen-mimic", 100, 10)])
def test_truncation_and_vocabulary(name, limit, threshold):
    long = " ".join(f"word{index}" for index in range(150))
    training = ["clear lungs."] * threshold + ["rare word."] * (threshold - 1)
    predictions, references, record = apply_protocol(
        name, [long, "Rare lungs."], [[long], ["Rare clear lungs."]], vocabulary_reports=training
    )
    assert len(predictions[0].split()) == limit
    assert len(references[0][0].split()) == limit - 1  # R2Gen counts its start mark
    assert set(references[0][0].split()) == {"<unk>"}
    assert references[1] == ["<unk> clear lungs ."]
    assert predictions[1] == "rare lungs ."  # only references are mapped
    assert record["references_at_the_limit"] == 1
    assert record["unknown_words_in_references"] == limit
    assert record["vocabulary"] == f"3 words of {len(training)} training reports"
    assert build_vocabulary(training, PROTOCOLS[name]) == {"clear", "lungs", "."}


def test_without_training_reports_the_record_says_so():
    _, references, record = apply_protocol("r2gen-iu", ["a"], [["Strange words."]])
    assert references == [["strange words ."]]
    assert record["vocabulary"].startswith("not given")


def test_predictions_keep_unknown_marks_and_stay_empty():
    predictions, _, _ = apply_protocol("r2gen-iu", ["the <unk> is clear .", " "], [["a"], ["b"]])
    assert predictions == ["the <unk> is clear .", ""]


def test_unknown_protocol():
    with pytest.raises(ValueError, match="give one of raw, r2gen-iu, r2gen-mimic"):
        apply_protocol("r2gen", ["a"], [["a"]])
