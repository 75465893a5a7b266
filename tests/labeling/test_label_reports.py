"""What label_reports takes, gives and refuses, and how it reads the parts of a report."""

import numpy as np
import pytest

from otdrg_hf.labeling import LABELS, LABELS_5, STATES, Mention, label_reports, labeler

REPORT = """FINAL REPORT
INDICATION: ___-year-old with pneumonia, evaluate for effusion.
COMPARISON: Chest radiograph with pneumothorax.
FINDINGS: Small left pleural effusion. The heart is enlarged.
IMPRESSION:
1. Left pleural effusion.
2. No pneumothorax."""


def named(array):
    return {label: STATES[code] for label, code in zip(LABELS, array, strict=True) if code}


def test_names_and_codes():
    assert len(LABELS) == len(set(LABELS)) == 14
    assert STATES == ("blank", "positive", "negative", "uncertain")
    assert set(LABELS_5) < set(LABELS) and len(LABELS_5) == 5


def test_shape_and_dtype():
    assert label_reports(["No effusion.", ""]).shape == (2, 14)
    assert label_reports([]).shape == (0, 14)
    assert label_reports(["Edema."]).dtype == label_reports([]).dtype == np.int8


def test_only_what_describes_the_image_counts():
    expected = {"Pleural Effusion": "positive", "Cardiomegaly": "positive", "Pneumothorax": "negative"}
    assert named(label_reports([REPORT])[0]) == expected


def test_evidence_has_the_impression_first():
    _, (evidence,) = label_reports([REPORT], explain=True)
    first, second = evidence["Pleural Effusion"]
    assert first.span[0] > REPORT.index("IMPRESSION") > second.span[0]
    (absent,) = evidence["Pneumothorax"]
    assert (absent.text, absent.state, absent.trigger) == ("pneumothorax", "negative", "negation")
    assert isinstance(first, Mention) and first.rule == "positive"


def test_order_of_sections_does_not_matter():
    first = "IMPRESSION: No edema.\nFINDINGS: Mild edema. Small effusion."
    second = "FINDINGS: Mild edema. Small effusion.\nIMPRESSION: No edema."
    assert named(label_reports([first])[0]) == named(label_reports([second])[0])


def test_precedence_is_positive_uncertain_negative():
    column = LABELS.index("Edema")
    sentences = {"positive": "Edema.", "uncertain": "Possible edema.", "negative": "No edema."}
    for better, worse in (("positive", "uncertain"), ("positive", "negative"), ("uncertain", "negative")):
        for text in (f"{sentences[better]} {sentences[worse]}", f"{sentences[worse]} {sentences[better]}"):
            assert STATES[label_reports([text])[0, column]] == better


@pytest.mark.parametrize(
    "report", ["", "   \n", "XXXX XXXX.", "12345", "Der Herzschatten ist normal groß.", "El corazón es normal."]
)
def test_reports_that_say_nothing_in_english_are_blank(report):
    assert not label_reports([report]).any()


def test_devices_alone_are_no_finding():
    expected = {"Support Devices": "positive", "No Finding": "positive"}
    assert named(label_reports(["Right PICC in place."])[0]) == expected


@pytest.mark.parametrize(
    "report, state",
    [
        ("Emphysema. Lungs clear.", "blank"),
        ("Possible hiatal hernia. Lungs clear.", "blank"),
        ("No emphysema or hernia. Lungs clear.", "positive"),
        ("Small pericardial effusion. No pneumothorax.", "blank"),
        ("Sternal wires. Surgical clips. Lungs clear.", "positive"),
        ("History of COPD. Lungs clear.", "positive"),
    ],
)
def test_abnormalities_outside_the_labels_leave_no_finding_blank(report, state):
    assert STATES[label_reports([report])[0, LABELS.index("No Finding")]] == state


def test_evidence_names_what_speaks_against_no_finding():
    _, (evidence,) = label_reports(["No acute process. Large hiatal hernia, no emphysema."], explain=True)
    said = {mention.text: (mention.state, mention.rule) for mention in evidence["No Finding"]}
    assert said == {"No acute process": ("positive", "positive"), "hernia": ("negative", "other")}
    assert set(evidence) == {"No Finding"}


def test_what_takes_up_a_finding_is_evidence_at_its_own_place():
    report = "No pneumothorax on the left, tiny one on the right."
    _, (evidence,) = label_reports([report], explain=True)
    denied, stated = evidence["Pneumothorax"]
    assert (denied.state, stated.state, stated.text) == ("negative", "positive", "one on the right")
    assert report[slice(*stated.span)] == stated.text


@pytest.mark.parametrize("num_proc", [None, 1, 2])
def test_chunks_and_processes_keep_the_order(monkeypatch, num_proc):
    monkeypatch.setattr(labeler, "_CHUNK", 7)
    reports = [REPORT, ""] + [f"Nodule of {k} mm. {'No' if k % 3 else 'Small'} effusion." for k in range(40)]
    expected = np.concatenate([label_reports([report]) for report in reports])
    assert (label_reports(reports, num_proc=num_proc) == expected).all()
    assert len(np.unique(expected, axis=0)) > 3


def test_a_sentence_without_end_is_labelled_in_pieces():
    text = "no effusion or edema and possible pneumonia, " * 2000
    array, (evidence,) = label_reports([text + "small nodule"], explain=True)
    assert array[0, LABELS.index("Lung Lesion")] == 1
    assert all(text[slice(*m.span)] == m.text for m in evidence["Edema"])


@pytest.mark.parametrize("bad, message", [("No effusion.", "wrap the one report"), ([None], "report 0 is NoneType")])
def test_input_that_is_no_list_of_text_is_named(bad, message):
    with pytest.raises(TypeError, match=message):
        label_reports(bad)
