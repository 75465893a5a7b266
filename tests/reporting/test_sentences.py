"""What each sentence of a report states, and what speaks for it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otdrg_hf.labeling import LABELS, STATES, label_reports
from otdrg_hf.reporting import read_sentences
from otdrg_hf.reporting.sentences import claim_features, claims_of, confidence_of, sentence_spans

TEXT = (
    "The heart is enlarged. No pneumothorax or pleural effusion. Degenerative changes of the spine. Possible pneumonia."
)
SENTENCES = st.sampled_from(
    [
        "The heart is enlarged.",
        "No pneumothorax.",
        "Small left pleural effusion.",
        "There may be mild edema or pneumonia.",
        "A pacemaker is in place.",
        "Degenerative changes of the spine.",
        "No acute cardiopulmonary process.",
        "The lungs are hyperinflated!",
        "Findings:",
        "Pneumothorax:",
        "Edema - mild",
        "IMPRESSION:",
        "1.",
        "Comparison: None.",
        "\n",
    ]
)
REPORTS = st.lists(SENTENCES, max_size=8).map(" ".join) | st.text(max_size=60)


def findings(score=0.2, **states):
    given_states = {name.replace("_", " "): state for name, state in states.items()}
    return [{"label": label, "state": given_states.get(label, "blank"), "score": score} for label in LABELS]


def tokens_of(text: str, probability: float = 0.5):
    """A token for each word."""
    ends = [at for at in range(1, len(text) + 1) if at == len(text) or text[at].isspace()]
    return [(end, math.log(probability)) for end in ends]


def test_each_sentence_with_its_labels():
    rows = read_sentences(TEXT, findings(Cardiomegaly="positive", Pneumothorax="positive"))
    assert [row["text"] for row in rows] == [sentence + "." for sentence in TEXT.rstrip(".").split(". ")]
    states = [{label["label"]: label["state"] for label in row["labels"]} for row in rows]
    absent = {"Pneumothorax": "negative", "Pleural Effusion": "negative"}
    assert states[:2] == [{"Cardiomegaly": "positive"}, absent] and states[3] == {"Pneumonia": "uncertain"}
    agrees = {label["label"]: label["agrees"] for row in (rows[0], rows[1], rows[3]) for label in row["labels"]}
    assert agrees == {"Cardiomegaly": True, "Pneumothorax": False, "Pleural Effusion": True, "Pneumonia": False}
    for row in rows:
        for label in row["labels"]:
            assert TEXT[slice(*label["span"])] in row["text"] and label["score"] == 0.2 and not label["given"]
            assert "has_evidence" not in label


def test_a_sentence_about_none_of_the_labels_says_so():
    text = "The trachea is midline."
    for calibration in (None, {"intercept": 1.0}):
        [row] = read_sentences(text, findings(), tokens=tokens_of(text), calibration=calibration)
        assert row["labels"] == [] and row["confidence"] is None and row["likelihood"] == 0.5


def test_sections():
    text = "PA view. FINDINGS: The heart is normal. No effusion.\nIMPRESSION:\n1. Edema.\n2. Pneumonia.\n"
    rows = read_sentences(text + "Recommendation: CT.", findings())
    assert [(row["text"], row["section"]) for row in rows] == [
        ("PA view.", None),
        ("The heart is normal.", "findings"),
        ("No effusion.", "findings"),
        ("Edema.", "impression"),
        ("Pneumonia.", "impression"),
        ("Recommendation: CT.", None),
    ]


@given(REPORTS)
def test_sentences_are_parts_of_the_text_and_state_what_the_report_states(text):
    rows = read_sentences(text, findings(), tokens=tokens_of(text, 0.25), calibration={"intercept": 2.0})
    ends = [0]
    for row in rows:
        start, end = row["span"]
        assert ends[-1] <= start < end <= len(text) and text[start:end] == row["text"]
        assert row["text"] == row["text"].strip()
        ends.append(end)
        for label in row["labels"]:
            assert start <= label["span"][0] < label["span"][1] <= end
        has_claim = bool(row["labels"]) and row["likelihood"] is not None
        assert (row["confidence"] is not None) == has_claim
    [states] = label_reports([text])
    stated = {label["label"] for row in rows for label in row["labels"]} - {"No Finding"}
    in_report = {label for label, state in zip(LABELS, states, strict=True) if state and label != "No Finding"}
    assert stated == in_report
    for label in in_report:  # the strongest statement of a sentence is that of the report
        of_label = {row["state"] for sentence in rows for row in sentence["labels"] if row["label"] == label}
        assert STATES[states[LABELS.index(label)]] in of_label


@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4))
def test_likelihood_is_that_of_its_own_tokens(probabilities):
    text = "Mild edema. No pneumothorax."
    tokens = [(end, math.log(p)) for end, p in zip((4, 11, 14, 28), probabilities, strict=True)]
    first, second = read_sentences(text, findings(), tokens=[*tokens, (28, -50.0)])  # an end-of-text token has no text
    for row, (one, other) in ((first, probabilities[:2]), (second, probabilities[2:])):
        assert row["likelihood"] == pytest.approx(math.sqrt(one * other), abs=1e-4)
        assert row["least_likelihood"] == pytest.approx(min(one, other), abs=1e-4)


def test_what_a_person_said_is_not_a_claim_of_the_model():
    text = "Mild edema. No pneumothorax. The heart is enlarged."
    options = {"tokens": tokens_of(text)[2:], "calibration": {"intercept": 3.0}}
    rows = read_sentences(text, findings(), draft_length=11, overridden=["Pneumothorax"], **options)
    assert [row["labels"][0]["given"] for row in rows] == [True, True, False]
    assert [row["confidence"] is None for row in rows] == [True, True, False]
    assert rows[0]["likelihood"] is None and rows[1]["likelihood"] == 0.5


def test_a_sentence_that_the_draft_only_begins_is_a_claim():
    text = "The heart is enlarged."
    options = {"tokens": [(21, -0.5), (22, -0.1)], "calibration": {"intercept": 3.0}}
    [row] = read_sentences(text, findings(), draft_length=len("The heart is"), **options)
    assert not row["labels"][0]["given"] and row["confidence"] is not None


def test_a_label_that_the_model_does_not_know():
    nodule = [{"label": "Nodule", "state": "positive", "score": 0.5}]
    [row] = read_sentences("Mild edema.", nodule, tokens=[(11, -0.1)])
    assert row["labels"][0]["score"] is None and row["labels"][0]["agrees"] is None
    assert claim_features(row, nodule) is None and claims_of(row) == []


def test_a_sentence_refers_to_the_maps_of_its_labels():
    rows = read_sentences("Mild edema. No pneumothorax.", findings(), evidence={"Edema": []})
    assert [row["labels"][0]["has_evidence"] for row in rows] == [True, False]


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(["Mild edema.", "No edema.", "Possible edema."]))
def test_confidence_follows_what_speaks_for_a_sentence(low, high, text):
    low, high = sorted((low, high))
    calibration = {"intercept": 0.3, "weakest_label": 0.8, "all_labels": 0.2, "of_a_later_version": 5.0}
    first, second = (
        read_sentences(text, findings(score), tokens=[(len(text), -0.1)], calibration=calibration)[0]["confidence"]
        for score in (low, high)
    )
    assert 0 <= first <= 1 and (second <= first if text.startswith("No ") else first <= second)


def test_confidence_does_not_overflow():
    assert confidence_of({"intercept": 1.0}, {"intercept": 1e6}) == 1.0
    assert confidence_of({"intercept": 1.0}, {"intercept": -1e6}) == pytest.approx(0.0)


@pytest.mark.parametrize("text", ["Pneumothorax:", "Findings: Effusion:", "1.", "", "Findings:", "IMPRESSION:\n1."])
def test_what_looks_like_a_header(text):
    rows = read_sentences(text, findings())
    assert [row["text"] for row in rows] == [words for words in ("Pneumothorax:", "Effusion:") if words in text]
    assert all(row["labels"] for row in rows)


@given(REPORTS)
def test_spans_of_sentences_are_in_order(text):
    spans = sentence_spans(text)
    assert spans == sorted(spans, key=lambda span: span[0])
