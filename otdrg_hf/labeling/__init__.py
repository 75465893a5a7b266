"""Radiology report text to disease labels: 14 labels in four states, with the evidence behind each."""

from .labeler import Mention, label_reports
from .labels import LABELS, LABELS_5, STATES, named_states

__all__ = ["LABELS", "LABELS_5", "STATES", "Mention", "label_reports", "named_states"]
