"""
IU X-Ray, the Indiana University Chest X-ray Collection (Demner-Fushman et al., 2016): from Open-i's archives, the
folders that these unpack to, or Kaggle's layout.
"""

import os
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from otdrg_hf.data.errors import (
    DUPLICATE,
    IMAGE_WITHOUT_REPORT,
    NO_IMAGE_NAMED,
    NOT_IN_SPLIT,
    REPORT_MISSING,
    DataError,
    Reject,
    ignore,
)
from otdrg_hf.data.iu_reports import IUReport, iter_iu_reports, study_number
from otdrg_hf.data.r2gen import ANNOTATION_FILE, is_r2gen_folder, read_annotation
from otdrg_hf.data.reports import report_problem
from otdrg_hf.data.schema import Source, frontal_first, make_study, study_id
from otdrg_hf.data.source_files import read_table
from otdrg_hf.images.views import view_of

SOURCE = Source(
    title="IU X-Ray",
    description=(
        "Chest radiographs and reports of the Indiana University Chest X-ray Collection, published by the National "
        "Library of Medicine's Open-i service; de-identified by its publishers."
    ),
    license="cc-by-nc-nd-4.0",
    url="https://openi.nlm.nih.gov/faq#collection",
    citation=(
        "Demner-Fushman et al., Preparing a collection of radiology examinations for distribution and retrieval, "
        "Journal of the American Medical Informatics Association 23(2), 2016."
    ),
)
KAGGLE_REPORTS = "indiana_reports.csv"
KAGGLE_IMAGES = ("images_normalized", "images/images_normalized")
PROJECTIONS_NAME = "indiana_projections.csv"
REPORT_NAMES = ("NLMCXR_reports.tgz", "NLMCXR_reports", "ecgen-radiology", KAGGLE_REPORTS)
IMAGE_NAMES = ("NLMCXR_png.tgz", "NLMCXR_png", *KAGGLE_IMAGES, "images")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
EXTRA_COLUMNS = {"mesh": list}  # of texts, in prepared shards only
SPLIT_SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}

_SUFFIXES = re.compile(r"(\.(png|jpe?g|dcm|dicom))+$", re.IGNORECASE)
_SERIES = re.compile(r"IM-\d+(-[\d-]+)?")


def is_kaggle_folder(folder: str) -> bool:
    """Whether a folder is IU X-Ray in Kaggle's layout; an annotation.json with images/ in it makes it R2Gen's."""
    if not os.path.isfile(os.path.join(folder, KAGGLE_REPORTS)):
        return False
    return not is_r2gen_folder(folder) or any(
        os.path.isdir(os.path.join(folder, *name.split("/"))) for name in KAGGLE_IMAGES
    )


def find_inputs(folder: str, given: dict[str, str]) -> dict[str, str]:
    """
    The paths of a download's reports and images, and of its annotation and projections if it has them, by their role.

    Args:
        folder (`str`): The download.
        given (`dict[str, str]`): Paths of inputs that are elsewhere.

    Raises:
        [`DataError`]: for Kaggle's reports without projections, which alone name their images.
    """
    inputs = dict(given)
    for role, names in (("reports", REPORT_NAMES), ("images", IMAGE_NAMES)):
        paths = [os.path.join(folder, *name.split("/")) for name in names]
        inputs.setdefault(role, next(filter(os.path.exists, paths), paths[0]))
    for role, name in (("annotation", ANNOTATION_FILE), ("projections", PROJECTIONS_NAME)):
        if os.path.isfile(os.path.join(folder, name)):
            inputs.setdefault(role, os.path.join(folder, name))
    if inputs["reports"].lower().endswith(".csv") and "projections" not in inputs:
        raise DataError(
            f"{os.path.basename(inputs['reports'])} needs {PROJECTIONS_NAME}, which says which images a report is "
            "about: put it next to the reports or give it as projections (--projections)"
        )
    return inputs


def list_studies(
    inputs: dict[str, str], image_root: str, reject: Reject, seed: int = 0
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """
    Yields `(split, id, content)` of every study of the collection, in the order of its number; each study is one
    patient.

    Args:
        inputs (`dict[str, str]`): What [`find_inputs`] found. The splits are those of the R2Gen annotation, whose ids
            start with the studies' (CXR2384_IM-0942), or else 70/10/20 of the studies, shuffled. Views are those of the
            projections where they name the image, and put the frontal images first; Kaggle's reports have the images
            that the projections name.
        image_root (`str`): The folder of the images.
        reject (`Callable`): Called as `reject(reason, detail, id=..., ...)` for what is left out.
        seed (`int`): Of the shuffled split.
    """
    found: dict[str, IUReport] = {}
    for report in iter_iu_reports(inputs["reports"], reject):
        if report.id in found:
            reject(DUPLICATE, "a second report of this study", id=report.id)
        else:
            found[report.id] = report
    ids = sorted(found, key=lambda name: int(name[3:]))
    split_of = _annotated_splits(inputs["annotation"]) if "annotation" in inputs else seeded_splits(ids, seed)
    images = StudyImages(image_root, read_projections(inputs["projections"]) if "projections" in inputs else [])
    for name in ids:
        content = _content(found[name], images)
        if name not in split_of:
            reject(NOT_IN_SPLIT, "not in the annotation file", id=name)
        elif not content["images"]:
            reject(NO_IMAGE_NAMED, id=name, split=split_of[name])
        else:
            yield split_of[name], name, content
    for name in split_of:
        if name not in found:
            reject(REPORT_MISSING, "in the annotation file only", id=name, split=split_of[name])
    for name in images.unnamed():
        reject(IMAGE_WITHOUT_REPORT, image=name)


def kaggle_studies(inputs: dict[str, str], split: str, reject: Reject = ignore) -> Iterator[dict[str, Any]]:
    """
    Yields the studies of a split straight from Kaggle's layout, unlabeled, without those whose report is empty or not
    English, which preparation leaves out as well.
    """
    if os.path.isfile(inputs["images"]):
        raise DataError(
            f"{os.path.basename(inputs['images'])} is an archive: unpack it, or run `otdrg prepare iu_xray`"
        )
    for study_split, name, content in list_studies(inputs, inputs["images"], reject):
        if study_split != split:
            continue
        del content["mesh"]
        study = make_study(id=name, **content)
        if problem := report_problem(study["report"]):
            reject(problem, id=name, split=split)
        else:
            yield {**study, "images": [os.path.join(inputs["images"], image) for image in study["images"]]}


def seeded_splits(ids: list[str], seed: int) -> dict[str, str]:
    """The split of each id: 70/10/20, rounded, of the ids as shuffled with this seed."""
    shuffled = sorted(ids)
    random.Random(seed).shuffle(shuffled)
    train = round(len(ids) * SPLIT_SHARES["train"])
    validation = train + round(len(ids) * SPLIT_SHARES["validation"])
    names = ["train"] * train + ["validation"] * (validation - train) + ["test"] * (len(ids) - validation)
    return dict(zip(shuffled, names, strict=True))


def _content(report: IUReport, images: "StudyImages") -> dict[str, Any]:
    names, views = images.of(report)
    content = {
        "images": names,
        "views": views,
        "indication": report.indication,
        "findings": report.findings,
        "impression": report.impression,
        "mesh": list(report.mesh),
    }
    return frontal_first(content)


def _annotated_splits(annotation: str) -> dict[str, str]:
    splits = {}
    for split, entries in read_annotation(annotation).items():
        for entry in entries:
            if not isinstance(entry, dict) or "id" not in entry:
                raise DataError(f"{os.path.basename(annotation)}: an entry of {split} has no id")
            splits[study_id(entry["id"], f"{os.path.basename(annotation)}, {split}").split("_")[0]] = split
    return splits


class Projection(NamedTuple):
    """A row: an image of the study with the number `uid`, and the view that it shows."""

    uid: str
    filename: str
    view: str


def read_projections(path: str) -> list[Projection]:
    """The rows of `indiana_projections.csv`, or of a table with the same columns; raises [`DataError`]."""
    rows = read_table(path, ("uid", "filename", "projection"))
    return [Projection(study_number(row["uid"]), row["filename"], view_of(row["projection"])) for row in rows]


def image_key(uid: str, name: str) -> tuple[str, str]:
    """Study number and series part of an image name, which the collection's and derived file names share."""
    stem = _SUFFIXES.sub("", os.path.basename(name))
    series = _SERIES.search(stem)
    return study_number(uid), series[0] if series else stem


class StudyImages:
    """The images of the studies by the files that exist, whatever they were converted to or renamed by."""

    def __init__(self, image_root: str, projections: list[Projection]):
        self._views: dict[tuple[str, str], str] = {}
        self._projected: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
        for row in projections:
            key = image_key(row.uid, row.filename)
            self._views.setdefault(key, row.view)
            self._projected[row.uid].setdefault(key, row.filename)
        files = sorted(os.listdir(image_root)) if os.path.isdir(image_root) else []
        self._files = [name for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
        self._by_name = set(self._files)
        self._by_key = {image_key(name.split("_")[0], name): name for name in self._files}
        self._used: set[str] = set()

    def of(self, report: IUReport) -> tuple[list[str], list[str]]:
        """File names and views of a study's images, which the report names or else the projections do."""
        if report.images:
            keys = [image_key(report.id, stem) for stem in report.images]
            names, captioned = [f"{stem}.png" for stem in report.images], report.views
        else:
            projected = self._projected.get(study_number(report.id), {})
            keys, names, captioned = list(projected), list(projected.values()), ["unknown"] * len(projected)
        names = [self._file(key, name) for key, name in zip(keys, names, strict=True)]
        self._used.update(names)
        return names, [self._views.get(key, view) for key, view in zip(keys, captioned, strict=True)]

    def _file(self, key: tuple[str, str], name: str) -> str:
        name = os.path.basename(name.replace("\\", "/"))
        return name if name in self._by_name else self._by_key.get(key, name)

    def unnamed(self) -> list[str]:
        """The files that no report names."""
        return [name for name in self._files if name not in self._used]


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
