"""Lists the studies of IU X-Ray from Open-i's archives, the folders that these unpack to, or Kaggle's layout."""

import os
import random
from collections.abc import Iterator
from typing import Any

from .errors import DataError
from .iu_images import StudyImages
from .iu_reports import IUReport, iter_iu_reports
from .language import report_problem
from .projections import frontal_first, read_projections
from .r2gen import ANNOTATION_FILE, is_r2gen_folder, read_annotation
from .rejections import DUPLICATE, IMAGE_WITHOUT_REPORT, NO_IMAGE_NAMED, NOT_IN_SPLIT, REPORT_MISSING, Reject, ignore
from .schema import make_study, study_id
from .study_index import StudyIndexWriter

REPORT_NAMES = ("NLMCXR_reports.tgz", "NLMCXR_reports", "ecgen-radiology", "indiana_reports.csv")
IMAGE_NAMES = ("NLMCXR_png.tgz", "NLMCXR_png", "images_normalized", "images/images_normalized", "images")
PROJECTIONS_NAME = "indiana_projections.csv"
KAGGLE_REPORTS = "indiana_reports.csv"
KAGGLE_IMAGES = ("images_normalized", "images/images_normalized")
PROJECTIONS_NAME = "indiana_projections.csv"
REPORT_NAMES = ("NLMCXR_reports.tgz", "NLMCXR_reports", "ecgen-radiology", KAGGLE_REPORTS)
IMAGE_NAMES = ("NLMCXR_png.tgz", "NLMCXR_png", *KAGGLE_IMAGES, "images")
SPLIT_SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


def is_kaggle_folder(folder: str) -> bool:
    """Whether a folder is IU X-Ray in Kaggle's layout; an annotation.json with images/ in it makes it R2Gen's."""
    if not os.path.isfile(os.path.join(folder, KAGGLE_REPORTS)):
        return False
    return not is_r2gen_folder(folder) or any(
        os.path.isdir(os.path.join(folder, *name.split("/"))) for name in KAGGLE_IMAGES
    )


def find_inputs(folder: str, given: dict[str, str]) -> dict[str, str]:
    """
    The reports, images and, where they are, annotation and projections of a download by their role; `given` are those
    elsewhere. Raises [`DataError`] for Kaggle's reports without projections, which alone name their images.
    """
    inputs = dict(given)
    for role, names in (("reports", REPORT_NAMES), ("images", IMAGE_NAMES)):
        places = [os.path.join(folder, *name.split("/")) for name in names]
        inputs.setdefault(role, next((place for place in places if os.path.exists(place)), places[0]))
    for role, name in (("annotation", ANNOTATION_FILE), ("projections", PROJECTIONS_NAME)):
        if os.path.isfile(os.path.join(folder, name)):
            inputs.setdefault(role, os.path.join(folder, name))
    if inputs["reports"].lower().endswith(".csv") and "projections" not in inputs:
        raise DataError(
            f"{os.path.basename(inputs['reports'])} needs {PROJECTIONS_NAME}, which says which images a report is "
            "about: put it beside the reports or give it as projections (--projections)"
        )
    return inputs


def build_index(index: StudyIndexWriter, inputs: dict[str, str], image_root: str, seed: int) -> None:
    """Add every study of the collection to the index (see [`list_studies`])."""
    for split, name, content in list_studies(inputs, image_root, index.reject, seed):
        index.add(split, name, content)


def list_studies(
    inputs: dict[str, str], image_root: str, reject: Reject, seed: int = 0
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """
    Yield `(split, id, content)` of every study of the collection, in the order of its number; a study of it is one
    patient. What is left out is passed to `reject(reason, detail, id=..., ...)`.

    Splits are those of the R2Gen `annotation`, whose ids start with the studies' (CXR2384_IM-0942), or else 70/10/20
    of the studies, shuffled under `seed`. Views are those of the `projections` where they name the image, and put the
    frontal images first; Kaggle's reports have the images that the projections name.
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
    Yield the studies of a split straight from Kaggle's layout, unlabeled, as preparation has them: without those whose
    report is empty or not English.
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
    """Split names for ids: 70/10/20, rounded, of their order under a shuffle with this seed."""
    shuffled = sorted(ids)
    random.Random(seed).shuffle(shuffled)
    train = round(len(ids) * SPLIT_SHARES["train"])
    validation = train + round(len(ids) * SPLIT_SHARES["validation"])
    names = ["train"] * train + ["validation"] * (validation - train) + ["test"] * (len(ids) - validation)
    return dict(zip(shuffled, names, strict=True))


def _content(report: IUReport, images: StudyImages) -> dict[str, Any]:
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
