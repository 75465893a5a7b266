"""Where a report and the label states behind it contradict each other."""

from otdrg_hf.labeling import LABELS
from otdrg_hf.reporting.review import find_disagreements, label_agreement, review_answer

TEXT = "The heart is enlarged. No pneumothorax. Possible pneumonia."


def findings(**states):
    given = {name.replace("_", " "): state for name, state in states.items()}
    return [{"label": label, "state": given.get(label, "blank"), "score": 0.5} for label in LABELS]


def test_presence_is_what_counts():
    agreeing = findings(Cardiomegaly="positive", Pneumonia="positive", Pneumothorax="blank", Edema="negative")
    agreeing_labels = {row["label"] for row in find_disagreements(TEXT, agreeing)}
    assert not agreeing_labels & {"Cardiomegaly", "Pneumonia", "Pneumothorax", "Edema"}
    rows = find_disagreements(TEXT, findings(Pneumonia="negative", Pneumothorax="uncertain", Edema="positive"))
    states = {row["label"]: (row["predicted"], row["written"]) for row in rows}
    assert states["Cardiomegaly"] == ("blank", "positive")
    assert states["Pneumonia"] == ("negative", "uncertain")
    assert states["Pneumothorax"] == ("uncertain", "negative")
    assert states["Edema"] == ("positive", "blank")


def test_no_finding_and_unknown_labels_are_left_out():
    rows = find_disagreements("Normal chest.", findings(No_Finding="blank"))
    assert "No Finding" not in {row["label"] for row in rows}
    assert find_disagreements("Normal chest.", [{"label": "Nodule", "state": "positive", "score": 1.0}]) == []
    assert label_agreement("Normal chest.", [{"label": "Nodule", "state": "positive", "score": 1.0}]) == 1.0


def test_agreement_of_candidates():
    states = findings(Pneumothorax="positive")
    texts = ["There is a pneumothorax.", "The lungs are clear. No pneumothorax. No pleural effusion."]
    answer = {"generated_text": texts[0], "findings": states, "candidates": texts}
    reviewed = review_answer(answer)
    assert reviewed["disagreements"] == []
    assert reviewed["candidate_agreement"] == [1.0, round(12 / 13, 4)]
    assert "candidate_agreement" not in review_answer({"generated_text": texts[0], "findings": states})
    assert "disagreements" not in answer
