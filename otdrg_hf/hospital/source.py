"""What a document copies of its source image's header: who the patient is and which study, cleaned; nothing else."""

import datetime
import io
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from otdrg_hf.extras import require
from otdrg_hf.images.dicom import NO_QUOTES, inflated
from otdrg_hf.images.dicom_decoding import DicomFault
from otdrg_hf.modeling.image_loading import MAX_BYTES, is_dicom

if TYPE_CHECKING:
    from pydicom import Dataset

_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_TEXTS = {"PatientID": 64, "IssuerOfPatientID": 64, "StudyID": 16, "AccessionNumber": 16, "StudyDescription": 64}
_TEXTS |= {"Manufacturer": 64}  # only to know documents of our own
_NAMES = ("PatientName", "ReferringPhysicianName")
_DATES, _TIMES = ("PatientBirthDate", "StudyDate"), ("StudyTime",)
_SIZES = ("Rows", "Columns")
_READ = [*_UIDS, *_TEXTS, *_NAMES, *_DATES, *_TIMES, *_SIZES, "PatientSex", "Modality", "PixelData"]
_TALKATIVE = ("highdicom", "dicomweb_client", "urllib3")  # pydicom is silenced by NO_QUOTES
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+", re.ASCII)
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", re.ASCII)
NOT_DICOM = "not a DICOM file, and a DICOM document needs a DICOM source"


def read_source(file: str | os.PathLike | bytes) -> "Dataset":
    """
    The identity of a DICOM image: its UIDs, its size, and what a document of the same patient and study repeats.

    Every value is rebuilt: names and texts keep their printable characters only, without backslashes, at the length
    that DICOM allows; a date, time or sex that is not one is empty. What the documents hold is thus well-formed,
    whatever the header holds.

    Args:
        file (`str`, `os.PathLike` or `bytes`): A path, or the content of a file.

    Raises:
        ValueError: with one line that quotes nothing of the header, for what is not DICOM, or lacks a UID or size.
    """
    require("pydicom", extra="hospital")
    import pydicom

    content = file if isinstance(file, bytes) else read_content(file)
    if not is_dicom(content[:132]):
        raise ValueError(f"{NOT_DICOM}.")
    with header_kept("the DICOM header is damaged"):
        raw = pydicom.dcmread(io.BytesIO(inflated(content)), force=True, specific_tags=_READ, stop_before_pixels=True)
        return _cleaned(raw)


@contextmanager
def header_kept(otherwise: str) -> Iterator[None]:
    """Keeps the header that a block handles out of warnings, logs and errors, which become the line `otherwise`."""
    try:
        with silenced():
            yield
    except DicomFault as fault:
        raise ValueError(f"{fault}.") from None
    except Exception:  # pydicom and highdicom raise almost anything, and quote what they read
        raise ValueError(f"{otherwise}.") from None


@contextmanager
def silenced() -> Iterator[None]:
    """Keeps warnings and logs of the libraries that handle headers, which quote them, to itself."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with NO_QUOTES:
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def read_content(path: str | os.PathLike) -> bytes:
    """The content of a file, which is not larger than a radiograph can be."""
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES // 10**6} MB, too large for a radiograph.")
    return content


def _cleaned(raw: "Dataset") -> "Dataset":
    from pydicom import Dataset

    data = Dataset()
    for keyword in _UIDS:
        uid = _first(raw, keyword, alone=True).strip(" \0")
        if not _UID.fullmatch(uid) or len(uid) > 64:
            raise DicomFault(f"the DICOM element {keyword} is missing or is not a UID")
        setattr(data, keyword, uid)
    for keyword in _SIZES:
        size = _first(raw, keyword)
        if not (size.isascii() and size.isdecimal()) or not 0 < int(size) < 2**16:
            raise DicomFault(f"the DICOM element {keyword} is missing or unusable")
        setattr(data, keyword, int(size))
    for keyword, limit in _TEXTS.items():
        setattr(data, keyword, _text(_first(raw, keyword))[:limit].strip())
    for keyword in _NAMES:
        setattr(data, keyword, _name(_first(raw, keyword)))
    for keyword in _DATES:
        setattr(data, keyword, _date(_first(raw, keyword)))
    for keyword in _TIMES:
        time = _first(raw, keyword).strip(" \0")
        setattr(data, keyword, time if _TIME.fullmatch(time) else "")
    sex = _first(raw, "PatientSex").strip(" \0").upper()
    data.PatientSex = sex if sex in ("M", "F", "O") else ""
    data.Modality = _text(_first(raw, "Modality"))[:16].strip().upper()
    return data


def _first(raw: "Dataset", keyword: str, alone: bool = False) -> str:
    """The first value of an element as text, or the only one; empty where there is none, or none that can be read."""
    try:
        value = raw.get(keyword)
        if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
            value = "" if alone or not value else value[0]
        return "" if value is None else str(value)
    except Exception:  # pydicom raises almost anything
        return ""


def _text(value: str) -> str:
    """Printable characters: no line breaks, escapes or direction marks, and no backslash, which separates values."""
    spaced = " ".join(value.split())
    return "".join(character for character in spaced if character.isprintable() and character != "\\").strip()


def _name(value: str) -> str:
    """A person's name: up to three component groups of up to five components and 64 characters."""
    groups = [_text(group) for group in value.split("=")[:3]]
    return "=".join("^".join(group.split("^")[:5])[:64].strip() for group in groups).rstrip("=")


def _date(value: str) -> str:
    text = value.strip(" \0")
    try:
        datetime.datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return ""
    return text if len(text) == 8 and text.isascii() else ""
