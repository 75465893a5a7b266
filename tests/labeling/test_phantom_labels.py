"""The labeler reads from phantom reports the labels that they were written for."""

import numpy as np

from otdrg_hf.data.phantom.study import plan_study
from otdrg_hf.labeling import LABELS, label_reports

STUDIES = 2000


def test_generating_labels_are_recovered():
    written = [plan_study(seed, "labeler", None).text for seed in range(STUDIES)]
    reports = [f"FINDINGS: {text.findings}\nIMPRESSION: {text.impression}" for text in written]
    expected = np.array([[text.states[label] for label in LABELS] for text in written], dtype=np.int8)
    equal = label_reports(reports) == expected
    worst = {label: round(float(share), 4) for label, share in zip(LABELS, equal.mean(axis=0), strict=True)}
    assert equal.shape == (STUDIES, 14)
    assert equal.mean() >= 0.995, worst
