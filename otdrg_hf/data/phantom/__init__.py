"""Synthetic chest radiographs with known findings, boxes and reports: the offline default, and not patients."""

from .dataset import GENERATOR_VERSION, hard_phantom_dataset, phantom_dataset
from .hard import HARD_SPLITS, HardPhantomStudy, make_hard_phantom
from .study import PhantomStudy, make_phantom

__all__ = [
    "GENERATOR_VERSION",
    "HARD_SPLITS",
    "HardPhantomStudy",
    "PhantomStudy",
    "hard_phantom_dataset",
    "make_hard_phantom",
    "make_phantom",
    "phantom_dataset",
]
