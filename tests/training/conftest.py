"""Puts tiny_training.py, which the worker of the two-process test shares, in reach of the tests."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
# TRL reports trainers to the Hub, except where this is set.
os.environ["CI"] = "true"


@pytest.fixture(scope="session")
def studies():
    from tiny_training import tiny_studies

    return tiny_studies(8)
