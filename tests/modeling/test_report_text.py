"""Findings and impression of a report that was written with both."""

import pytest

from otdrg_hf.modeling.report_text_otdrg import report_sections


@pytest.mark.parametrize(
    "report",
    [
        "Findings: Clear lungs. Impression: Normal.",
        "FINDINGS: Clear lungs.\nIMPRESSION: Normal.",
        " findings : Clear lungs. impression: Normal. ",
        "Finding: Clear lungs. Impressions: Normal.",
    ],
)
def test_both_sections(report):
    assert report_sections(report) == {"findings": "Clear lungs.", "impression": "Normal."}


@pytest.mark.parametrize(
    "report",
    [
        "",
        "Clear lungs.",
        "Findings: Clear lungs.",
        "Impression: Normal. Findings: Clear lungs.",
        "Findings: Impression: Normal.",
        "Findings: Clear lungs. Impression:",
        "PA view. Findings: Clear lungs. Impression: Normal.",
        "Findings: A. Impression: B. Impression: C.",
        "The findings are clear. My impression is that nothing is wrong.",
    ],
)
def test_anything_else_has_none(report):
    assert report_sections(report) is None
