"""Evaluation of radiology reports: NLG and clinical efficacy figures, named exactly and with intervals."""

from otdrg_hf.metrics.bootstrap import paired_bootstrap
from otdrg_hf.metrics.clinical import UNCERTAIN_POSITIVE
from otdrg_hf.metrics.modules import metric_path
from otdrg_hf.metrics.protocols import PROTOCOLS
from otdrg_hf.metrics.report_card import ReportCard, evaluate_reports, make_report_card

__all__ = [
    "PROTOCOLS",
    "UNCERTAIN_POSITIVE",
    "ReportCard",
    "evaluate_reports",
    "metric_path",
    "paired_bootstrap",
    "make_report_card",
]
