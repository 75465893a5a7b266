"""Lists the studies of IU X-Ray from NLMCXR_reports.tgz and NLMCXR_png.tgz, or the folders that these unpack to."""

import csv
import os
import random
import re
from collections.abc import Iterator
from typing import Any

from .archives import iter_files
from .errors import DataError
from .iu_reports import IUReport, parse_iu_report
from .r2gen import read_annotation
from .rejections import (
    DUPLICATE,
    IMAGE_WITHOUT_REPORT,
    NO_IMAGE_NAMED,
    NOT_IN_SPLIT,
    REPORT_MISSING,
    Rejected,
)
from .schema import view_of
from .study_index import StudyIndexWriter

REPORT_NAMES = ("NLMCXR_reports.tgz", "NLMCXR_reports", "ecgen-radiology")
IMAGE_NAMES = ("NLMCXR_png.tgz", "NLMCXR_png", "images")
MAX_REPORT_BYTES = 4 << 20
SPLIT_SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


def iter_iu_reports(reports: str, reject=None) -> Iterator[IUReport]:
    """
    Yield the reports of NLMCXR_reports.tgz or its folder. What cannot be read is passed to
    `reject(reason, detail, member=name)`; without `reject` it raises [`DataError`].
    """

    def refuse(reason: str, detail: str, member: str) -> None:
        if reject is None:
            raise DataError(f"{os.path.basename(reports)}, {member}: {reason} ({detail})")
        reject(reason, detail, member=member)

    for member, content in iter_files(reports, ".xml", MAX_REPORT_BYTES, refuse):
        try:
            yield parse_iu_report(content)
        except Rejected as error:
            refuse(error.reason, error.detail, member)


def build_index(
    index: StudyIndexWriter, reports: str, image_root: str, annotation: str | None, projections: str | None, seed: int
) -> None:
    """
    Add every study of the collection to the index, in the order of its number; a study of it is one patient.

    Splits are those of the R2Gen `annotation` file, whose ids start with the studies' (CXR2384_IM-0942), or else
    70/10/20 of the studies, shuffled under `seed`. Views are those of the `projections` csv where it names the image.
    """
    found: dict[str, IUReport] = {}
    for report in iter_iu_reports(reports, index.reject):
        if report.id in found:
            index.reject(DUPLICATE, "a second report of this study", id=report.id)
        else:
            found[report.id] = report
    ids = sorted(found, key=lambda name: int(name[3:]))
    split_of = _annotated_splits(annotation) if annotation else seeded_splits(ids, seed)
    views = _read_projections(projections) if projections else {}
    for name in ids:
        report = found[name]
        if name not in split_of:
            index.reject(NOT_IN_SPLIT, "not in the annotation file", id=name)
        elif not report.images:
            index.reject(NO_IMAGE_NAMED, id=name, split=split_of[name])
        else:
            index.add(split_of[name], name, _content(report, views))
    for name in split_of:
        if name not in found:
            index.reject(REPORT_MISSING, "in the annotation file only", id=name, split=split_of[name])
    _reject_unnamed_images(index, image_root, {stem for report in found.values() for stem in report.images})


def seeded_splits(ids: list[str], seed: int) -> dict[str, str]:
    """Split names for ids: 70/10/20, rounded, of their order under a shuffle with this seed."""
    shuffled = sorted(ids)
    random.Random(seed).shuffle(shuffled)
    train = round(len(ids) * SPLIT_SHARES["train"])
    validation = train + round(len(ids) * SPLIT_SHARES["validation"])
    names = ["train"] * train + ["validation"] * (validation - train) + ["test"] * (len(ids) - validation)
    return dict(zip(shuffled, names, strict=True))


def read_study(content: dict[str, Any]) -> dict[str, Any]:
    """The study of an index entry; all of it is in the entry."""
    return content


def _content(report: IUReport, views: dict[tuple[str, str], str]) -> dict[str, Any]:
    keys = [_image_key(report.id, stem) for stem in report.images]
    return {
        "images": [f"{stem}.png" for stem in report.images],
        "views": [views.get(key, view) for key, view in zip(keys, report.views, strict=True)],
        "indication": report.indication,
        "findings": report.findings,
        "impression": report.impression,
        "mesh": list(report.mesh),
    }


def _annotated_splits(annotation: str) -> dict[str, str]:
    splits = {}
    for split, entries in read_annotation(annotation).items():
        for entry in entries:
            if not isinstance(entry, dict) or "id" not in entry:
                raise DataError(f"{os.path.basename(annotation)}: an entry of {split} has no id")
            splits[str(entry["id"]).split("_")[0]] = split
    return splits


def _image_key(study: str, stem: str) -> tuple[str, str]:
    """Study number and series part of an image name, which the collection's and derived file names share."""
    series = re.search(r"IM-\d+(-[\d-]+)?", stem)
    return study.removeprefix("CXR"), series[0] if series else stem


def _read_projections(path: str) -> dict[tuple[str, str], str]:
    """Views by image from a csv with the columns uid, filename and projection (Frontal or Lateral)."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        missing = {"uid", "filename", "projection"} - set(rows.fieldnames or ())
        if missing:
            raise DataError(f"{os.path.basename(path)} lacks the columns {', '.join(sorted(missing))}")
        return {_image_key(row["uid"], row["filename"] or ""): view_of(row["projection"]) for row in rows}


def _reject_unnamed_images(index: StudyIndexWriter, image_root: str, named: set[str]) -> None:
    for name in sorted(os.listdir(image_root)) if os.path.isdir(image_root) else ():
        stem, extension = os.path.splitext(name)
        if extension.lower() == ".png" and stem not in named:
            index.reject(IMAGE_WITHOUT_REPORT, image=name)
