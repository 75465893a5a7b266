"""Where a report and the label states behind it contradict each other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otdrg_hf import OTDRGConfig
from otdrg_hf.labeling import LABELS, STATES, label_reports
from otdrg_hf.modeling.disease_states_otdrg import resolve_states
from otdrg_hf.reporting import label_overrides
from otdrg_hf.reporting.review import find_disagreements, label_agreement, review_answer, stated_states

TEXT = "The heart is enlarged. No pneumothorax. Possible pneumonia."


def findings(**states):
    given = {name.replace("_", " "): state for name, state in states.items()}
    return [{"label": label, "state": given.get(label, "blank"), "score": 0.5} for label in LABELS]


def test_states_are_read_by_the_labels_of_a_model():
    names = ["Pneumonia", "No Finding", "Scoliosis", "Cardiomegaly", "Pneumothorax", "Edema"]
    assert stated_states([TEXT, "No acute process."], names).tolist() == [
        [3, -100, -100, 1, 2, 0],
        [0, -100, -100, 0, 0, 0],
    ]
    assert stated_states([], names).shape == (0, 6)


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


# What a person changed


@pytest.mark.parametrize(
    "before, after, overrides",
    [
        ("Mild edema.", "Mild edema.", {}),
        ("Mild edema. No pneumothorax.", "There is edema. No evidence of pneumothorax.", {}),
        ("Mild edema. No pneumothorax.", "Mild edema. Small apical pneumothorax.", {"Pneumothorax": "positive"}),
        ("Mild edema. No pneumothorax.", "Possible edema.", {"Edema": "uncertain", "Pneumothorax": "blank"}),
        ("Mild edema.", "The lungs are clear. No edema.", {"Edema": "negative"}),
        ("The lungs are clear.", "Emphysema.", {"No Finding": "blank"}),
        ("Emphysema.", "Emphysema. No edema.", {"Edema": "negative", "No Finding": "blank"}),
        ("Emphysema.", "Emphysema.", {}),
    ],
)
def test_what_was_changed_is_offered_as_overrides(before, after, overrides):
    assert label_overrides(before, after).items() >= overrides.items()
    changed = set(label_overrides(before, after)) - {"Lung Opacity"}
    assert changed == set(overrides)


EDITED = st.lists(
    st.sampled_from(
        [
            "The heart is enlarged.",
            "The heart is normal in size.",
            "No pneumothorax.",
            "Small left pleural effusion.",
            "There may be mild edema or pneumonia.",
            "A pacemaker is in place.",
            "Emphysema.",
            "No acute cardiopulmonary process.",
        ]
    ),
    max_size=5,
).map(" ".join)


@given(EDITED, EDITED)
def test_overrides_lead_from_the_one_report_to_the_other(before, after):
    """As the model resolves them: states of the first text with the overrides are those of the second."""
    states = torch.from_numpy(label_reports([before, after])).long()
    overrides = label_overrides(before, after)
    assert (before == after) <= (overrides == {})
    codes = [[STATES.index(overrides[label]) if label in overrides else -100 for label in LABELS]]
    resolved = resolve_states(torch.tensor(codes), states[:1], OTDRGConfig())
    if overrides:
        assert resolved.tolist() == states[1:].tolist()
    else:
        assert states[0].tolist() == states[1].tolist() or states[0, :-1].tolist() == states[1, :-1].tolist()
