"""
MIMIC-CXR (Johnson et al., 2019), from a PhysioNet tree: the official tables, JPGs, DICOMs or PNGs, and the reports.

The tables are joined in SQLite, so that 377,000 images are sorted on disk and not in memory.
"""

import os
import re
import sqlite3
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from otdrg_hf.data.errors import (
    DUPLICATE,
    MALFORMED_ROW,
    NOT_IN_SPLIT,
    REPORT_MISSING,
    UNKNOWN_SPLIT,
    DataError,
    Reject,
    Rejected,
)
from otdrg_hf.data.mimic_sections import read_sections
from otdrg_hf.data.schema import VIEWS, Source, compose_report, split_name
from otdrg_hf.data.source_files import find_table, iter_files, read_table
from otdrg_hf.images.views import view_of
from otdrg_hf.labeling import LABELS

SOURCE = Source(
    title="MIMIC-CXR",
    description=(
        "Chest radiographs and reports of the Beth Israel Deaconess Medical Center, de-identified and published on "
        "PhysioNet for credentialed users who have signed its data use agreement."
    ),
    license="other",
    license_name="physionet-credentialed-health-data-license-1.5.0",
    license_link="https://physionet.org/content/mimic-cxr/view-license/2.1.0/",
    url="https://physionet.org/content/mimic-cxr/",
    citation=(
        "Johnson et al., MIMIC-CXR, a de-identified publicly available database of chest radiographs with "
        "free-text reports, Scientific Data 6:317, 2019."
    ),
    credentialed=True,
)
# DICOM ids and study folders, by which the data is recognised in whatever form it comes.
IDENTIFIER = re.compile(r"(?<![0-9a-f])[0-9a-f]{8}(-[0-9a-f]{8}){4}(?![0-9a-f])|(?:^|/)s5\d{7}(?:$|[/.])")
SPLIT_TABLE, METADATA_TABLE, CHEXPERT_TABLE = TABLES = (
    "mimic-cxr-2.0.0-split",
    "mimic-cxr-2.0.0-metadata",
    "mimic-cxr-2.0.0-chexpert",
)
REPORTS_ARCHIVE = "mimic-cxr-reports.zip"
REPORTS_FOLDER = "mimic-cxr-reports"
# The first for which there is a file; JPGs are those of the official tables.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm")
EXTRA_COLUMNS = {"patient_id": str, "study_date": str, "view_positions": list}  # in prepared shards only
MAX_REPORT_BYTES = 1 << 20
# CheXpert csv value -> state: blank, positive, negative, uncertain.
CHEXPERT_STATES = {"": 0, "1.0": 1, "1": 1, "0.0": 2, "0": 2, "-1.0": 3, "-1": 3}

_TABLES = """
CREATE TABLE images (dicom TEXT PRIMARY KEY, study INTEGER, patient INTEGER, split TEXT) WITHOUT ROWID;
CREATE TABLE positions (dicom TEXT PRIMARY KEY, study TEXT, position TEXT, moment REAL) WITHOUT ROWID;
CREATE TABLE labels (study INTEGER PRIMARY KEY, states TEXT);
CREATE TABLE reports (name TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID;
"""
_JOIN = """
CREATE TABLE mimic_studies AS
    SELECT images.study, min(patient) AS patient, min(split) AS split, min(moment) AS moment,
        count(DISTINCT split) + count(DISTINCT patient) AS conflicts
    FROM images LEFT JOIN positions USING (dicom) GROUP BY images.study;
CREATE INDEX studies_of_patient ON mimic_studies (patient, moment);
"""
_ID = re.compile(r"\d{1,12}")
_DICOM = re.compile(r"[\w-]+")


class MimicStudy(NamedTuple):
    """A study of the tables: its images as `(dicom id, view position)`, frontal ones first, and the study before."""

    study: int
    patient: int
    split: str
    date: str
    images: list[tuple[str, str]]
    labels: list[int] | None
    earlier: int | None


def find_inputs(folder: str, given: dict[str, str]) -> dict[str, str]:
    """The paths of a download's tables, images and reports by their role; `given` are those that are elsewhere."""
    paths = (os.path.join(folder, name) for name in (REPORTS_ARCHIVE, REPORTS_FOLDER))
    return {"tables": folder, "images": folder, "reports": next(filter(os.path.exists, paths), folder), **given}


def list_studies(
    inputs: dict[str, str], database: sqlite3.Connection, reject: Reject, use_chexpert: bool
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """
    Yields `(split, id, content)` of every study of the official split, by patient and study number.

    Args:
        inputs (`dict[str, str]`): The folder of the tables mimic-cxr-2.0.0-split, -metadata and, optionally, -chexpert
            (.csv.gz or .csv), and the reports: mimic-cxr-reports.zip, or the folder in which
            files/p10/p10000032/s50414267.txt lies.
        database (`sqlite3.Connection`): Where the tables are joined.
        reject (`Callable`): Called as `reject(reason, detail, id=..., ...)` for what is left out.
        use_chexpert (`bool`): Whether labels come from the CheXpert table for the studies in it.
    """
    reports = inputs["reports"]
    load_tables(database, inputs["tables"], reject)
    in_archive = os.path.isfile(reports)
    if in_archive:
        _load_reports(database, reports, reject)
    elif not os.path.isdir(reports):
        raise DataError(
            f"There are no reports at {os.path.basename(reports)!r}: give the reports archive or its folder"
        )
    for (study,) in database.execute("SELECT study FROM mimic_studies WHERE conflicts > 2 ORDER BY study"):
        reject(DUPLICATE, "in two splits or of two patients", id=f"s{study}")
    for study in iter_mimic_studies(database):
        content = _content(study, use_chexpert)
        if in_archive:
            content["texts"] = [_archived(database, name) for name in content["reports"]]
        yield study.split, f"s{study.study}", content


def read_study(content: dict[str, Any], reports: str, image_root: str) -> dict[str, Any]:
    """
    The columns of a study, from its content as [`list_studies`] gives it: its report read and split into sections, the
    report of the patient's study before as `comparison`, and its images by the names of their files.

    Raises:
        [`Rejected`]: if its report is missing.
    """
    texts = content.pop("texts", None)
    names = content.pop("reports")
    if texts is None:
        texts = [_read_report(reports, name) for name in names]
    pairs = zip(texts, names, strict=True)
    current, *earlier = (None if text is None else read_sections(text, _stem(name)) for text, name in pairs)
    if current is None:
        raise Rejected(REPORT_MISSING, names[0])
    comparison = compose_report(earlier[0].findings, earlier[0].impression) if earlier and earlier[0] else ""
    images = [_image_file(image_root, name) for name in content["images"]]
    return {**content, "images": images, **current._asdict(), "comparison": comparison}


def _image_file(image_root: str, name: str) -> str:
    """The file of an image, named without suffix: a JPG, else a PNG or DICOM, else the JPG that is missing."""
    files = (name + suffix for suffix in IMAGE_SUFFIXES)
    found = (file for file in files if os.path.isfile(os.path.join(image_root, *file.split("/"))))
    return next(found, name + IMAGE_SUFFIXES[0])


def _content(study: MimicStudy, use_chexpert: bool) -> dict[str, Any]:
    folder = f"p{str(study.patient)[:2]}/p{study.patient}"
    return {
        "images": [f"files/{folder}/s{study.study}/{dicom}" for dicom, _ in study.images],
        "views": [view_of(position) for _, position in study.images],
        "view_positions": [position for _, position in study.images],
        "patient_id": f"p{study.patient}",
        "study_date": study.date,
        "disease_labels": study.labels if use_chexpert else None,
        "reports": [f"{folder}/s{number}.txt" for number in (study.study, study.earlier) if number is not None],
    }


def _stem(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".txt")


def _read_report(reports: str, name: str) -> str | None:
    for folder in (os.path.join(reports, "files"), reports):
        path = os.path.join(folder, *name.split("/"))
        if os.path.isfile(path):
            with open(path, encoding="utf-8-sig", errors="replace") as file:
                return file.read(MAX_REPORT_BYTES)
    return None


def _load_reports(database: sqlite3.Connection, archive: str, reject: Reject) -> None:
    if not zipfile.is_zipfile(archive):
        raise DataError(f"{os.path.basename(archive)} is not a zip archive or is cut short: download it again")
    for name, content in iter_files(archive, ".txt", MAX_REPORT_BYTES, reject):
        key = "/".join(name.split("/")[-3:])
        text = content.decode("utf-8-sig", errors="replace")
        if not database.execute("INSERT OR IGNORE INTO reports VALUES (?, ?)", (key, text)).rowcount:
            reject(DUPLICATE, "a second report of this name", member=name)


def _archived(database: sqlite3.Connection, name: str) -> str | None:
    row = database.execute("SELECT text FROM reports WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None


def load_tables(database: sqlite3.Connection, folder: str, reject: Reject) -> None:
    """
    Reads the split, metadata and, if it is there, CheXpert tables of `folder` into the database. Rows that are
    malformed, repeated or in no split are passed to `reject`; missing tables and columns raise [`DataError`].
    """
    database.executescript(f"{_TABLES} BEGIN;")
    _load_split(database, _required(folder, SPLIT_TABLE), reject)
    database.execute("CREATE INDEX images_of_study ON images (study)")
    _load_metadata(database, _required(folder, METADATA_TABLE), reject)
    if chexpert := find_table(folder, CHEXPERT_TABLE):
        _load_chexpert(database, chexpert, reject)
    database.executescript(f"{_JOIN} BEGIN;")  # a script ends the transaction before it


def iter_mimic_studies(database: sqlite3.Connection) -> Iterator[MimicStudy]:
    """Yields the studies by patient and study number, without those in two splits or of two patients."""
    query = "SELECT study, patient, split, moment FROM mimic_studies WHERE conflicts = 2 ORDER BY patient, study"
    for study, patient, split, moment in database.execute(query):
        states = database.execute("SELECT states FROM labels WHERE study = ?", (study,)).fetchone()
        yield MimicStudy(
            study=study,
            patient=patient,
            split=split,
            date="" if moment is None else f"{int(moment // 1e6):08d}",
            images=_images(database, study),
            labels=[int(state) for state in states[0]] if states else None,
            earlier=_earlier(database, patient, moment),
        )


def _images(database: sqlite3.Connection, study: int) -> list[tuple[str, str]]:
    query = (
        "SELECT dicom, coalesce(position, '') FROM images LEFT JOIN positions USING (dicom) "
        "WHERE images.study = ? ORDER BY dicom"
    )
    images = database.execute(query, (study,)).fetchall()
    return sorted(images, key=lambda image: VIEWS.index(view_of(image[1])))


def _earlier(database: sqlite3.Connection, patient: int, moment: float | None) -> int | None:
    if moment is None:
        return None
    query = (
        "SELECT study FROM mimic_studies WHERE patient = ? AND moment < ? AND conflicts = 2 "
        "ORDER BY moment DESC, study DESC LIMIT 1"
    )
    row = database.execute(query, (patient, moment)).fetchone()
    return row[0] if row else None


def _required(folder: str, name: str) -> str:
    path = find_table(folder, name)
    if path is None:
        raise DataError(f"{name}.csv.gz is not in the MIMIC-CXR folder: it comes with MIMIC-CXR-JPG on PhysioNet")
    return path


def _load_split(database: sqlite3.Connection, path: str, reject: Reject) -> None:
    for row in read_table(path, ("dicom_id", "study_id", "subject_id", "split")):
        dicom, study, patient, split = (row[name] for name in ("dicom_id", "study_id", "subject_id", "split"))
        if not (_DICOM.fullmatch(dicom) and _ID.fullmatch(study) and _ID.fullmatch(patient)):
            reject(MALFORMED_ROW, f"ids {dicom!r}, {study!r}, {patient!r}", table=os.path.basename(path))
        elif split_name(split) is None:
            reject(UNKNOWN_SPLIT, repr(split), id=f"s{study}", image=dicom)
        else:
            values = (dicom, int(study), int(patient), split_name(split))
            _insert(database, "images", values, path, reject, id=f"s{study}", image=dicom)


def _load_metadata(database: sqlite3.Connection, path: str, reject: Reject) -> None:
    for row in read_table(path, ("dicom_id", "study_id", "ViewPosition", "StudyDate", "StudyTime")):
        known = database.execute("SELECT 1 FROM images WHERE dicom = ?", (row["dicom_id"],)).fetchone()
        if not known:
            reject(NOT_IN_SPLIT, "in the metadata only", id=f"s{row['study_id']}", image=row["dicom_id"])
            continue
        moment = _moment(row["StudyDate"], row["StudyTime"])
        values = (row["dicom_id"], row["study_id"], row["ViewPosition"], moment)
        _insert(database, "positions", values, path, reject, id=f"s{row['study_id']}", image=row["dicom_id"])


def _load_chexpert(database: sqlite3.Connection, path: str, reject: Reject) -> None:
    for row in read_table(path, ("study_id", *LABELS)):
        study, table = row["study_id"], os.path.basename(path)
        query = "SELECT 1 FROM images WHERE study = ? LIMIT 1"
        known = _ID.fullmatch(study) and database.execute(query, (int(study),)).fetchone()
        unknown = [f"{label} {row[label]!r}" for label in LABELS if row[label] not in CHEXPERT_STATES]
        if unknown:
            reject(MALFORMED_ROW, f"{', '.join(unknown)}; labeled from the report", table=table, id=f"s{study}")
        elif not known:
            reject(NOT_IN_SPLIT, "in the CheXpert table only", table=table, id=f"s{study}")
        else:
            states = "".join(str(CHEXPERT_STATES[row[label]]) for label in LABELS)
            _insert(database, "labels", (int(study), states), path, reject, id=f"s{study}")


def _insert(database: sqlite3.Connection, table: str, values: tuple, path: str, reject: Reject, **what: str) -> None:
    marks = ", ".join("?" * len(values))
    added = database.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", values).rowcount
    if not added:
        reject(DUPLICATE, "the first row counts", table=os.path.basename(path), **what)


def _moment(date: str, time: str) -> float | None:
    """
    Date and time as one number that sorts, YYYYMMDDhhmmss.ffffff; `None` without a date. The times are numbers that
    have lost their leading zeros (90556.875 is 09:05:56).
    """
    try:
        return float(int(date)) * 1e6 + (float(time) if time else 0.0)
    except ValueError:
        return None
