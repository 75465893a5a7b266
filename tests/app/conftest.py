"""The pipelines behind the page: of a tiny model, and of the bundled one with all that it can say of its answers."""

import json
import shutil

import pytest
from transformers import pipeline

from otdrg_hf import DEMO_CHECKPOINT
from otdrg_hf.training.calibrate import run_calibrate


@pytest.fixture(scope="session")
def report(model, processor):
    return pipeline("radiology-report", model=model, processor=processor)


@pytest.fixture(scope="session")
def calibrated_folder(tmp_path_factory):
    """The bundled model, calibrated as `otdrg calibrate` does where it is not yet."""
    folder = tmp_path_factory.mktemp("calibrated") / "model"
    shutil.copytree(DEMO_CHECKPOINT, folder)
    fields = ("operating_curves", "input_statistics", "sentence_calibration")
    config = json.loads((folder / "config.json").read_text())
    if any(config.get(field) is None for field in fields):
        run_calibrate(folder, "phantom", num_studies=100)
    return folder


@pytest.fixture(scope="session")
def calibrated(calibrated_folder):
    return pipeline("radiology-report", model=str(calibrated_folder))
