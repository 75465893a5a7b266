"""Scores files of reports: systems compared on the same studies, tables, plots and a page of the worst cases."""

from otdrg_hf.evaluation.compare import Evaluation, evaluate_files

__all__ = ["Evaluation", "evaluate_files"]
