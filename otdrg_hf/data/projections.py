"""Reads which image of IU X-Ray shows which view, from a csv with the columns uid, filename and projection."""

import os
import re
from collections import defaultdict
from typing import Any, NamedTuple

from .csv_tables import read_table
from .schema import view_of

_SUFFIXES = re.compile(r"(\.(png|jpe?g|dcm|dicom))+$", re.IGNORECASE)
_SERIES = re.compile(r"IM-\d+(-[\d-]+)?")


class Projection(NamedTuple):
    """A row: an image of the study with the number `uid`, and the view that it shows."""

    uid: str
    filename: str
    view: str


def read_projections(path: str) -> list[Projection]:
    """The rows of `indiana_projections.csv`, or of a table with the same columns; raises [`DataError`]."""
    rows = read_table(path, ("uid", "filename", "projection"))
    return [Projection(study_number(row["uid"]), row["filename"], view_of(row["projection"])) for row in rows]


def study_number(uid: str) -> str:
    """The number of a study: "12" for "12", "CXR12" and "12.0", which pandas makes of a column with gaps."""
    return re.sub(r"\.0$", "", uid.strip().removeprefix("CXR"))


def image_key(uid: str, name: str) -> tuple[str, str]:
    """Study number and series part of an image name, which the collection's and derived file names share."""
    stem = _SUFFIXES.sub("", os.path.basename(name))
    series = _SERIES.search(stem)
    return study_number(uid), series[0] if series else stem


def frontal_first(study: dict[str, Any]) -> dict[str, Any]:
    """The study with its frontal images, and their views, in front; otherwise their order stays."""
    order = sorted(range(len(study["images"])), key=lambda position: study["views"][position] != "frontal")
    return {**study, **{name: [study[name][position] for position in order] for name in ("images", "views")}}


class R2GenViews:
    """
    The views of images in R2Gen's copy of IU X-Ray, where `CXR12_IM-0034/1.png` is the second image of study 12 that
    starts with IM-0034.

    Args:
        path (`str`):
            A csv of projections. Its `filename` may also be the image's path in the R2Gen folder.
    """

    def __init__(self, path: str):
        self._by_name: dict[str, str] = {}
        self._by_study: dict[str, list[Projection]] = defaultdict(list)
        for row in sorted(read_projections(path), key=lambda row: row.filename):
            self._by_name[row.filename] = row.view
            self._by_study[row.uid].append(row)

    def view(self, study_id: str, image: str) -> str:
        """The view of an image by its path in the R2Gen folder, or "unknown"."""
        image = image.replace("\\", "/")
        if image in self._by_name:
            return self._by_name[image]
        number = _SUFFIXES.sub("", image.rpartition("/")[2])
        series = _SERIES.search(study_id)
        if not number.isdigit() or not series:
            return "unknown"
        rows = self._by_study.get(study_number(study_id.split("_")[0]), [])
        views = [row.view for row in rows if f"{image_key(row.uid, row.filename)[1]}-".startswith(f"{series[0]}-")]
        return views[int(number)] if int(number) < len(views) else "unknown"
