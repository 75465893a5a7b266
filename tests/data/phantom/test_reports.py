"""The words of phantoms: what the labels, sides and severities say is what the report says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from otdrg_hf.data.phantom.sampling import DISEASES
from otdrg_hf.data.phantom.study import plan_study
from otdrg_hf.labeling.labels import BLANK, LABELS, NEGATIVE, POSITIVE, UNCERTAIN

WORD = {
    "Enlarged Cardiomediastinum": "mediast", "Cardiomegaly": "heart|card", "Lung Opacity": "opacity",
    "Lung Lesion": "nodule|mass", "Edema": "edema", "Consolidation": "consolidation", "Pneumonia": "pneumonia",
    "Atelectasis": "atelectasis", "Pneumothorax": "pneumothorax", "Pleural Effusion": "effusion",
    "Pleural Other": "pleural thickening|plaque", "Fracture": "fracture",
    "Support Devices": "tube|catheter|port|pacemaker|wires",
}  # fmt: skip


@pytest.fixture(scope="module")
def plans():
    return [plan_study(seed, "reports") for seed in range(1500)]


def sentences(plan) -> list[str]:
    text = plan.text.findings + " " + plan.text.impression
    return [sentence.lower() for sentence in text.replace("1. ", "").split(". ")]


def test_findings_are_stated_with_their_side_and_certainty(plans):
    for plan in plans:
        for finding in plan.findings:
            state = plan.text.states[finding.label]
            assert state == (UNCERTAIN if finding.uncertain else POSITIVE)
            about = [s for s in sentences(plan) if any(word in s for word in WORD[finding.label].split("|"))]
            assert about, (plan.seed, finding)
            if finding.side in ("left", "right") and finding.label != "Support Devices":
                other = "right" if finding.side == "left" else "left"
                assert any(finding.side in s for s in about), (plan.seed, finding)
                if not any(f.side in (other, "bilateral") for f in plan.findings if f is not finding):
                    assert not any(other in s for s in about), (plan.seed, finding)
            if finding.uncertain:
                hedges = ("possible", "cannot be excluded", "may ", "borderline")
                assert any(hedge in s for s in about for hedge in hedges)


def test_labels_without_a_finding_are_denied_or_not_mentioned(plans):
    for plan in plans:
        drawn = {finding.label for finding in plan.findings}
        for label in DISEASES:
            if label not in drawn:
                assert plan.text.states[label] in (BLANK, NEGATIVE)
        for label in ("Lung Opacity", "Atelectasis", "Pneumonia", "Support Devices", "Pleural Other", "Lung Lesion"):
            if plan.text.states[label] == BLANK:
                said = " ".join(sentences(plan)).replace("chest wall", "")
                assert not any(word in said for word in WORD[label].split("|") if word != "port"), (plan.seed, label)


def test_no_finding_means_nothing_but_devices(plans):
    for plan in plans:
        diseased = any(plan.text.states[label] in (POSITIVE, UNCERTAIN) for label in DISEASES)
        assert plan.text.states["No Finding"] == (BLANK if diseased else POSITIVE)


def test_every_label_occurs_alone_and_often_enough(plans):
    alone, present = Counter(), Counter()
    for plan in plans:
        labels = {finding.label for finding in plan.findings}
        present.update(labels if labels - {"Support Devices"} else labels | {"No Finding"})
        if len(labels) == 1:
            alone.update(labels)
    assert set(alone) == set(LABELS) - {"No Finding"}
    for label in LABELS:
        assert 0.07 < present[label] / len(plans) < 0.32, (label, present[label])


def test_reports_vary_and_have_a_report_s_length(plans):
    words = np.array([len(plan.text.findings.split()) for plan in plans])
    impression = np.array([len(plan.text.impression.split()) for plan in plans])
    assert 20 <= words.min() and words.max() <= 110 and 34 <= np.median(words) <= 60
    assert 2 <= impression.min() and impression.max() <= 40
    assert len({plan.text.findings for plan in plans}) > 0.9 * len(plans)
    for plan in plans:
        for text in (plan.text.findings, plan.text.impression):
            assert "{" not in text and "  " not in text and text.endswith(".")


def test_hedging_goes_with_what_is_barely_visible(plans):
    hedged = [f.severity for plan in plans for f in plan.findings if f.uncertain]
    plain = [f.severity for plan in plans for f in plan.findings if not f.uncertain]
    assert max(hedged) <= 0.25
    assert np.mean(np.array(plain) < 0.25) < 0.05


def test_the_labeler_reads_the_generating_labels(plans):
    label_reports = pytest.importorskip("otdrg_hf.labeling").label_reports
    reports = [plan.text.findings + " " + plan.text.impression for plan in plans]
    drawn = np.array([[plan.text.states[label] for label in LABELS] for plan in plans])
    np.testing.assert_array_equal(np.asarray(label_reports(reports)), drawn)
