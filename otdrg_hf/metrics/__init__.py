"""Evaluation of radiology reports: NLG and clinical efficacy figures, named exactly and with intervals."""

from .bootstrap import paired_bootstrap
from .clinical import UNCERTAIN_POSITIVE
from .module_path import metric_path
from .protocols import PROTOCOLS
from .report_card import ReportCard, evaluate_reports, make_report_card

__all__ = [
    "PROTOCOLS",
    "UNCERTAIN_POSITIVE",
    "ReportCard",
    "evaluate_reports",
    "metric_path",
    "paired_bootstrap",
    "make_report_card",
]
