"""Joins the tables of MIMIC-CXR-JPG in SQLite, so that 377,000 images are sorted on disk and not in memory."""

import os
import re
import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from ..labeling import LABELS
from .csv_tables import find_table, read_table
from .errors import DataError
from .rejections import DUPLICATE, MALFORMED_ROW, NOT_IN_SPLIT, UNKNOWN_SPLIT
from .schema import split_name, view_of
from .study_index import StudyIndexWriter

SPLIT_TABLE, METADATA_TABLE, CHEXPERT_TABLE = TABLES = (
    "mimic-cxr-2.0.0-split",
    "mimic-cxr-2.0.0-metadata",
    "mimic-cxr-2.0.0-chexpert",
)
# CheXpert csv value -> state: blank, positive, negative, uncertain.
CHEXPERT_STATES = {"": 0, "1.0": 1, "1": 1, "0.0": 2, "0": 2, "-1.0": 3, "-1": 3}

_TABLES = """
CREATE TABLE images (dicom TEXT PRIMARY KEY, study INTEGER, patient INTEGER, split TEXT) WITHOUT ROWID;
CREATE TABLE positions (dicom TEXT PRIMARY KEY, study TEXT, position TEXT, moment REAL) WITHOUT ROWID;
CREATE TABLE labels (study INTEGER PRIMARY KEY, states TEXT);
"""
_JOIN = """
CREATE INDEX images_of_study ON images (study);
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


def load_tables(index: StudyIndexWriter, folder: str) -> None:
    """
    Read the split, metadata and, where present, CheXpert tables of `folder` into the index's database. Rows that are
    malformed, repeated or in no split are rejected there; missing tables and columns raise [`DataError`].
    """
    index.database.executescript(_TABLES)
    _load_split(index, _required(folder, SPLIT_TABLE))
    _load_metadata(index, _required(folder, METADATA_TABLE))
    if chexpert := find_table(folder, CHEXPERT_TABLE):
        _load_chexpert(index, chexpert)
    index.database.executescript(_JOIN)


def iter_mimic_studies(database: sqlite3.Connection) -> Iterator[MimicStudy]:
    """Yield the studies by patient and study number; those in two splits or of two patients are left out of it."""
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


def conflicting_studies(database: sqlite3.Connection) -> Iterator[int]:
    """Yield the studies that the split table puts in two splits or gives two patients."""
    for (study,) in database.execute("SELECT study FROM mimic_studies WHERE conflicts > 2 ORDER BY study"):
        yield study


def _images(database: sqlite3.Connection, study: int) -> list[tuple[str, str]]:
    query = (
        "SELECT dicom, coalesce(position, '') FROM images LEFT JOIN positions USING (dicom) "
        "WHERE images.study = ? ORDER BY dicom"
    )
    images = database.execute(query, (study,)).fetchall()
    return sorted(images, key=lambda image: ("frontal", "lateral", "unknown").index(view_of(image[1])))


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


def _load_split(index: StudyIndexWriter, path: str) -> None:
    for row in read_table(path, ("dicom_id", "study_id", "subject_id", "split")):
        dicom, study, patient, split = (row[name] for name in ("dicom_id", "study_id", "subject_id", "split"))
        if not (_DICOM.fullmatch(dicom) and _ID.fullmatch(study) and _ID.fullmatch(patient)):
            index.reject(MALFORMED_ROW, f"ids {dicom!r}, {study!r}, {patient!r}", table=os.path.basename(path))
        elif split_name(split) is None:
            index.reject(UNKNOWN_SPLIT, repr(split), id=f"s{study}", image=dicom)
        else:
            values = (dicom, int(study), int(patient), split_name(split))
            _insert(index, "images", values, path, id=f"s{study}", image=dicom)


def _load_metadata(index: StudyIndexWriter, path: str) -> None:
    for row in read_table(path, ("dicom_id", "study_id", "ViewPosition", "StudyDate", "StudyTime")):
        known = index.database.execute("SELECT 1 FROM images WHERE dicom = ?", (row["dicom_id"],)).fetchone()
        if not known:
            index.reject(NOT_IN_SPLIT, "in the metadata only", id=f"s{row['study_id']}", image=row["dicom_id"])
            continue
        moment = _moment(row["StudyDate"], row["StudyTime"])
        values = (row["dicom_id"], row["study_id"], row["ViewPosition"], moment)
        _insert(index, "positions", values, path, id=f"s{row['study_id']}", image=row["dicom_id"])


def _load_chexpert(index: StudyIndexWriter, path: str) -> None:
    for row in read_table(path, ("study_id", *LABELS)):
        study, table = row["study_id"], os.path.basename(path)
        query = "SELECT 1 FROM images WHERE study = ? LIMIT 1"
        known = _ID.fullmatch(study) and index.database.execute(query, (int(study),)).fetchone()
        unknown = [f"{label} {row[label]!r}" for label in LABELS if row[label] not in CHEXPERT_STATES]
        if unknown:
            index.reject(MALFORMED_ROW, f"{', '.join(unknown)}; labeled from the report", table=table, id=f"s{study}")
        elif not known:
            index.reject(NOT_IN_SPLIT, "in the CheXpert table only", table=table, id=f"s{study}")
        else:
            states = "".join(str(CHEXPERT_STATES[row[label]]) for label in LABELS)
            _insert(index, "labels", (int(study), states), path, id=f"s{study}")


def _insert(index: StudyIndexWriter, table: str, values: tuple, path: str, **what: str) -> None:
    places = ", ".join("?" * len(values))
    added = index.database.execute(f"INSERT OR IGNORE INTO {table} VALUES ({places})", values).rowcount
    if not added:
        index.reject(DUPLICATE, "the first row counts", table=os.path.basename(path), **what)


def _moment(date: str, time: str) -> float | None:
    """
    Date and time as one number that sorts, YYYYMMDDhhmmss.ffffff; `None` without a date. The times are numbers that
    have lost their leading zeros (90556.875 is 09:05:56).
    """
    try:
        return float(int(date)) * 1e6 + (float(time) if time else 0.0)
    except ValueError:
        return None
