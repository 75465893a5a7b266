"""The heat maps of a report as a DICOM Secondary Capture: the image, then the image under the map of each label."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from otdrg_hf.extras import require
from otdrg_hf.hospital import MANUFACTURER, RESEARCH_USE
from otdrg_hf.hospital.source import header_kept
from otdrg_hf.hospital.structured_report import Algorithm, printable
from otdrg_hf.images.overlay import save_overlay

if TYPE_CHECKING:
    from highdicom.sc import SCImage
    from pydicom import Dataset

SERIES_NUMBER = 9902


def secondary_capture(answer: dict, image: Image.Image, source: "Dataset", algorithm: Algorithm) -> "SCImage":
    """
    A picture of the evidence in the study of its source, with the notice on use burned in.

    Args:
        answer (`dict`): What the pipeline answered with `evidence=True`.
        image (`PIL.Image.Image`): The image that it is about.
        source (`Dataset`): Its header, as of [`read_source`].
        algorithm ([`Algorithm`]): What wrote the answer.
    """
    require("highdicom", extra="hospital")
    from highdicom.sc import SCImage
    from pydicom.uid import generate_uid

    pixels = _picture(answer, image)
    with header_kept("a secondary capture cannot be made of this DICOM image"):
        capture = SCImage(
            pixel_array=pixels,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            study_instance_uid=source.StudyInstanceUID,
            series_instance_uid=generate_uid(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            patient_id=source.PatientID,
            patient_name=source.PatientName,
            patient_birth_date=source.PatientBirthDate or None,
            patient_sex=source.PatientSex or None,
            accession_number=source.AccessionNumber,
            study_id=source.StudyID,
            study_date=source.StudyDate or None,
            study_time=source.StudyTime or None,
            referring_physician_name=source.ReferringPhysicianName,
            patient_orientation=("L", "F"),
            series_description=RESEARCH_USE[:64],
            manufacturer_model_name=printable(algorithm.name)[:64],
            software_versions=printable(algorithm.version)[:64],
        )
        capture.PatientOrientation = ""  # several pictures in one have none, which highdicom does not know
        capture.IssuerOfPatientID = source.IssuerOfPatientID
        capture.SpecificCharacterSet = "ISO_IR 192"
        capture.ImageType = ["DERIVED", "SECONDARY"]
        capture.BurnedInAnnotation = "YES"
        capture.ImageComments = capture.DerivationDescription = RESEARCH_USE
        capture.SourceImageSequence = [_reference(source)]
        return capture


def _picture(answer: dict, image: Image.Image) -> np.ndarray:
    """RGB `[H, W, 3]`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "evidence.png"
        save_overlay(path, [image], answer, note=RESEARCH_USE)
        return np.asarray(Image.open(path).convert("RGB"))


def _reference(source: "Dataset") -> "Dataset":
    from pydicom import Dataset

    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return reference
