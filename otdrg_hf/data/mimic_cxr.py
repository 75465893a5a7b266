"""Lists and reads the studies of MIMIC-CXR from a PhysioNet tree of JPGs, DICOMs or PNGs, and its reports."""

import os
import zipfile
from typing import Any

from .archives import iter_files
from .errors import DataError
from .mimic_tables import MimicStudy, conflicting_studies, iter_mimic_studies, load_tables
from .rejections import DUPLICATE, REPORT_MISSING, Rejected
from .schema import compose_report, view_of
from .sections import ReportSections, read_sections
from .study_index import StudyIndexWriter

REPORTS_ARCHIVE = "mimic-cxr-reports.zip"
REPORTS_FOLDER = "mimic-cxr-reports"
MAX_REPORT_BYTES = 1 << 20
# In which an image is looked for, the first that is there: JPGs are those of the official tables.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm")
_REPORT_TABLE = "CREATE TABLE reports (name TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID"


def find_reports(folder: str) -> str:
    """Where the reports are: the archive or its folder where one is in `folder`, else the tree itself."""
    for name in (REPORTS_ARCHIVE, REPORTS_FOLDER):
        if os.path.exists(os.path.join(folder, name)):
            return os.path.join(folder, name)
    return folder


def build_index(index: StudyIndexWriter, tables: str, reports: str, use_chexpert: bool) -> None:
    """
    Add every study of the official split to the index, by patient and study number.

    Args:
        tables (`str`):
            The folder of mimic-cxr-2.0.0-split, -metadata and, optionally, -chexpert (.csv.gz or .csv).
        reports (`str`):
            mimic-cxr-reports.zip, or the folder in which files/p10/p10000032/s50414267.txt lies.
        use_chexpert (`bool`):
            Whether labels come from the CheXpert table where it has the study.
    """
    load_tables(index, tables)
    in_archive = os.path.isfile(reports)
    if in_archive:
        _load_reports(index, reports)
    elif not os.path.isdir(reports):
        raise DataError(
            f"There are no reports at {os.path.basename(reports)!r}: give the reports archive or its folder"
        )
    for study in conflicting_studies(index.database):
        index.reject(DUPLICATE, "in two splits or of two patients", id=f"s{study}")
    for study in iter_mimic_studies(index.database):
        content = _content(study, use_chexpert)
        if in_archive:
            content["texts"] = [_archived(index, name) for name in content["reports"]]
        index.add(study.split, f"s{study.study}", content)


def read_study(content: dict[str, Any], reports: str, image_root: str) -> dict[str, Any]:
    """
    The study of an index entry, its report read and split into sections, the report of the study before of the same
    patient as `comparison`, and its images by the names of the files that are there. Raises [`Rejected`] when its
    report is missing.
    """
    texts = content.pop("texts", None)
    names = content.pop("reports")
    if texts is None:
        texts = [_read_report(reports, name) for name in names]
    pairs = zip(texts, names, strict=True)
    current, *earlier = (None if text is None else read_sections(text, _stem(name)) for text, name in pairs)
    if current is None:
        raise Rejected(REPORT_MISSING, names[0])
    comparison = _report_of(earlier[0]) if earlier and earlier[0] else ""
    images = [_image_file(image_root, name) for name in content["images"]]
    return {**content, "images": images, **current._asdict(), "comparison": comparison}


def _image_file(image_root: str, name: str) -> str:
    """The file of an image, named without suffix: a JPG, else a PNG or DICOM, else the JPG that should be there."""
    places = (name + suffix for suffix in IMAGE_SUFFIXES)
    found = (place for place in places if os.path.isfile(os.path.join(image_root, *place.split("/"))))
    return next(found, name + IMAGE_SUFFIXES[0])


def _content(study: MimicStudy, use_chexpert: bool) -> dict[str, Any]:
    folder = _patient_folder(study.patient)
    return {
        "images": [f"files/{folder}/s{study.study}/{dicom}" for dicom, _ in study.images],
        "views": [view_of(position) for _, position in study.images],
        "view_positions": [position for _, position in study.images],
        "patient_id": f"p{study.patient}",
        "study_date": study.date,
        "disease_labels": study.labels if use_chexpert else None,
        "reports": [f"{folder}/s{number}.txt" for number in (study.study, study.earlier) if number is not None],
    }


def _patient_folder(patient: int) -> str:
    return f"p{str(patient)[:2]}/p{patient}"


def _stem(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".txt")


def _report_of(sections: ReportSections) -> str:
    return compose_report(sections.findings, sections.impression)


def _read_report(reports: str, name: str) -> str | None:
    for folder in (os.path.join(reports, "files"), reports):
        path = os.path.join(folder, *name.split("/"))
        if os.path.isfile(path):
            with open(path, encoding="utf-8-sig", errors="replace") as file:
                return file.read(MAX_REPORT_BYTES)
    return None


def _load_reports(index: StudyIndexWriter, archive: str) -> None:
    if not zipfile.is_zipfile(archive):
        raise DataError(f"{os.path.basename(archive)} is no zip archive or is cut short: download it again")
    index.database.execute(_REPORT_TABLE)
    for name, content in iter_files(archive, ".txt", MAX_REPORT_BYTES, index.reject):
        key = "/".join(name.split("/")[-3:])
        text = content.decode("utf-8-sig", errors="replace")
        if not index.database.execute("INSERT OR IGNORE INTO reports VALUES (?, ?)", (key, text)).rowcount:
            index.reject(DUPLICATE, "a second report of this name", member=name)


def _archived(index: StudyIndexWriter, name: str) -> str | None:
    row = index.database.execute("SELECT text FROM reports WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None
