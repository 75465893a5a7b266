"""Synthetic chest radiographs with known findings, boxes and reports: the offline default, and not patients."""

from .dataset import GENERATOR_VERSION, phantom_dataset
from .study import PhantomStudy, make_phantom

__all__ = ["GENERATOR_VERSION", "PhantomStudy", "make_phantom", "phantom_dataset"]
