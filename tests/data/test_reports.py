"""Empty and non-English reports are told from English ones."""

import pytest

from otdrg_hf.data.iu_reports import iter_iu_reports
from otdrg_hf.data.reports import report_problem


@pytest.mark.parametrize("report", ["", " \n", "XXXX.", "___ . 1.", "XXXX XXXX, ___"])
def test_empty(report):
    assert report_problem(report) == "empty report"


@pytest.mark.parametrize(
    "report",
    [
        "No hay derrame pleural. El corazón es normal.",
        "Silueta cardíaca normal. Sin consolidaciones.",
        "Pas d'épanchement pleural. Le coeur est normal.",
        "Kein Pleuraerguss. Das Herz ist normal gross.",
        "Sem derrame pleural. Coração normal.",
        "Nessun versamento pleurico. Il cuore è nei limiti.",
        "Derrame pleural de novo. Coração de tamanho normal.",
        "Cardiomégalie. Pas de foyer.",
        "Opacité lobe moyen sans épanchement visible.",
        "Cardiomegalia moderada con derrame pleural.",
        "心影正常",
        "Сердце не увеличено.",
    ],
)
def test_not_english(report):
    assert report_problem(report) == "report not in English"


@pytest.mark.parametrize(
    "report",
    [
        "Normal.",
        "Cardiomegaly.",
        "No change.",
        "LA enlargement. Et al XXXX.",
        "Clear.",
        "Right lower lobe opacity, de novo. No effusion.",
        "Pleural plaque en face. Cardiomegaly. No effusion.",
        "Mild cardiomegaly. No pneumothorax. Status post en bloc resection.",
        "Bibasilar atelectasis de novo. No pneumothorax.",
        "Mild edema. DES present. No pneumothorax.",
    ],
)
def test_terse_english(report):
    assert report_problem(report) is None


def test_no_real_report_is_taken_for_another_language(shared_iu):
    problems = [
        report_problem(f"{report.findings} {report.impression}")
        for report in iter_iu_reports(str(shared_iu / "NLMCXR_reports.tgz"))
    ]
    assert (problems.count(None), problems.count("empty report")) == (3927, 28)
