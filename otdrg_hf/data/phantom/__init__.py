"""Synthetic chest radiographs with known findings, boxes and reports: the offline default, and not patients."""

from otdrg_hf.data.phantom.dataset import GENERATOR_VERSION, hard_phantom_dataset, phantom_dataset
from otdrg_hf.data.phantom.hard import HARD_SPLITS, HardPhantomStudy, make_hard_phantom
from otdrg_hf.data.phantom.study import PhantomStudy, make_phantom
from otdrg_hf.data.schema import Source

PHANTOM_NAMES = ("phantom", "phantom_hard")
SOURCE = Source(
    title="synthetic chest phantoms",
    description=(
        "Synthetic: chest radiographs drawn by a program from numbered seeds, with reports put together by a "
        "grammar. They show no patient and were read by no radiologist."
    ),
    license="apache-2.0",
    synthetic=True,
)
HARD_SOURCE = Source(
    title="hard synthetic chest phantoms",
    description=(
        "Synthetic, as the plain phantoms are, with faint signs, shapes that look like signs, and rare labels. "
        "They show no patient and were read by no radiologist."
    ),
    license="apache-2.0",
    synthetic=True,
    splits=HARD_SPLITS,
)

__all__ = [
    "GENERATOR_VERSION",
    "HARD_SOURCE",
    "HARD_SPLITS",
    "PHANTOM_NAMES",
    "SOURCE",
    "HardPhantomStudy",
    "PhantomStudy",
    "hard_phantom_dataset",
    "make_hard_phantom",
    "make_phantom",
    "phantom_dataset",
]
