"""DICOM phantoms with a telling header, and an answer about one."""

import io

import numpy as np
import pydicom
import pytest

from otdrg_hf.hospital.structured_report import Algorithm
from tests.support.dicom_files import SECRETS, make_dicom

ALGORITHM = Algorithm("OTDRG tiny", "0 0123")
OUTSIDE = [value for value in SECRETS.values()] + ["Roentgen", "Anna"]


def radiograph(index: int = 0, **elements) -> bytes:
    """The DICOM file of a synthetic image; each index is a study of its own."""
    pixels = np.random.default_rng(index).integers(0, 255, (60, 50), dtype=np.uint8)
    root = f"1.2.826.0.1.3680043.8.498.77.{index}"
    uids = {"StudyInstanceUID": f"{root}.1", "SeriesInstanceUID": f"{root}.2", "SOPInstanceUID": f"{root}.3"}
    content = make_dicom(pixels, **{**uids, "SpecificCharacterSet": "ISO_IR 192", **elements})
    data = pydicom.dcmread(io.BytesIO(content))
    data.file_meta.MediaStorageSOPInstanceUID = data.get("SOPInstanceUID") or "1.2"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def answer():
    """What the pipeline would say of an image of 60 x 50."""
    heat = np.zeros((60, 50), np.float32)
    heat[30:50, 5:20] = 1
    states = {
        "Enlarged Cardiomediastinum": "uncertain",
        "Lung Opacity": "positive",
        "Pleural Effusion": "positive",
        "Pneumothorax": "negative",
        "Fracture": "blank",
    }
    findings = [{"label": label, "state": state, "score": 0.625} for label, state in states.items()]
    evidence = {label: [heat] for label, state in states.items() if state in ("positive", "uncertain")}
    text = "Findings: A left pleural effusion.\nImpression: Effusion."
    return {"generated_text": text, "findings": findings, "evidence": evidence}
