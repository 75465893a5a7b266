"""Reports that are changed with their labels: findings put in and taken out, by sentences of other reports."""

import numpy as np
import pytest

from otdrg_hf.labeling import LABELS, label_reports
from otdrg_hf.training.changed_reports import ChangedReports, sentences

REPORTS = [
    "The heart is enlarged. The lungs are clear. No pneumothorax.",
    "The heart is normal in size. There is a small right pleural effusion. No pneumothorax.",
    "The heart is normal in size. The lungs are clear. No pleural effusion.",
    "Patchy atelectasis at the left base. The heart is normal in size. No pleural effusion.",
]
NORMAL = REPORTS[2]
EFFUSION, OPACITY = LABELS.index("Pleural Effusion"), LABELS.index("Lung Opacity")


def labels(report: str) -> np.ndarray:
    return np.asarray(label_reports([report]))[0]


@pytest.fixture(scope="module")
def changed() -> ChangedReports:
    return ChangedReports(REPORTS)


def many(changed: ChangedReports, report: str, count: int = 200) -> list[str]:
    return [changed.change(report, np.random.default_rng(seed)) for seed in range(count)]


def test_a_changed_report_is_made_of_sentences_of_the_reports(changed):
    known = {sentence for report in REPORTS for sentence in sentences(report)}
    texts = [text for report in REPORTS for text in many(changed, report, 50)]
    assert all(set(sentences(text)) <= known for text in texts)
    assert len(set(texts)) > 10


def test_findings_are_put_into_a_normal_report(changed):
    states = np.asarray(label_reports(many(changed, NORMAL)))
    found = (states[:, :13] == 1).any(1)
    # A second change may take out again what the first put in.
    assert found.mean() > 0.7
    # Each label that any report states, not the commonest alone.
    stated = (np.asarray(label_reports(REPORTS))[:, :13] == 1).any(0)
    assert ((states[:, :13] == 1).any(0) == stated).all() and stated.sum() >= 3


def test_what_denies_a_finding_makes_room_for_it(changed):
    for text in many(changed, NORMAL):
        if "effusion." in text and "small right" in text:
            assert "No pleural effusion" not in text
        if "atelectasis" in text:
            assert "The lungs are clear" not in text


def test_findings_are_taken_out_and_mostly_denied(changed):
    texts = many(changed, REPORTS[1])
    states = np.asarray(label_reports(texts))[:, EFFUSION]
    gone = states != 1
    assert 0.2 < gone.mean() < 0.7
    assert 0.5 < (states[gone] == 2).mean() < 0.9


def test_the_same_draw_makes_the_same_report(changed):
    assert many(changed, NORMAL, 20) == many(ChangedReports(REPORTS), NORMAL, 20)
    assert len(set(many(changed, NORMAL, 20))) > 3


def test_reports_that_state_nothing_are_left_alone():
    normal = ChangedReports(["The heart is normal in size. No pneumothorax."])
    assert labels(normal.change("No pneumothorax.", np.random.default_rng(0)))[OPACITY] == 0
    assert normal.change("", np.random.default_rng(0)) == ""
