"""Runs a model over many studies: loading it, the loop, results that a later run resumes, and their review."""

from otdrg_hf.reporting.candidates import rank_candidates
from otdrg_hf.reporting.loading import load_reporter, model_name
from otdrg_hf.reporting.loop import report_image_files, report_images, report_studies
from otdrg_hf.reporting.review import label_overrides, review_answer
from otdrg_hf.reporting.schema import REPORT_SCHEMA
from otdrg_hf.reporting.sentences import read_sentences

__all__ = [
    "REPORT_SCHEMA",
    "label_overrides",
    "load_reporter",
    "model_name",
    "rank_candidates",
    "read_sentences",
    "report_image_files",
    "report_images",
    "report_studies",
    "review_answer",
]
