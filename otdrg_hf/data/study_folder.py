"""Reads the studies of an R2Gen-format or image folder, for loading and for preparation."""

import os
from collections.abc import Iterator
from typing import Any

from . import image_folder, r2gen
from .errors import DataError
from .rejections import UNKNOWN_COLUMN, Reject, ignore
from .schema import SPLITS, STUDY_COLUMNS
from .study_index import StudyIndexWriter


def is_study_folder(folder: str) -> bool:
    return r2gen.is_r2gen_folder(folder) or image_folder.is_image_folder(folder)


def list_files(folder: str) -> list[str]:
    """The files that say which studies the folder has."""
    if r2gen.is_r2gen_folder(folder):
        return [os.path.join(folder, r2gen.ANNOTATION_FILE)]
    return image_folder.image_folder_files(folder)


def folder_studies(
    folder: str, split: str, projections: str | None = None, reject: Reject = ignore
) -> Iterator[dict[str, Any]]:
    """
    Yield the studies of a split, unlabeled where the folder has no labels. `projections` is for R2Gen's folder. What is
    left out is passed to `reject(reason, detail, id=..., ...)`.
    """
    if r2gen.is_r2gen_folder(folder):
        yield from r2gen.r2gen_studies(folder, split, projections, reject)
        return
    if projections:
        raise DataError("projections are for R2Gen's folder of IU X-Ray: metadata.jsonl has views of its own")
    yield from image_folder.image_folder_studies(folder, split, reject)


def build_index(index: StudyIndexWriter, folder: str, projections: str | None) -> None:
    """Add every study of every split that the folder has, in their order."""
    if r2gen.is_r2gen_folder(folder):
        splits = set(r2gen.read_annotation(os.path.join(folder, r2gen.ANNOTATION_FILE)))
    elif image_folder.is_image_folder(folder):
        for key in image_folder.ignored_keys(folder):
            index.reject(UNKNOWN_COLUMN, column=key)
        splits = image_folder.image_folder_splits(folder)
    else:
        raise DataError("The folder to prepare has neither annotation.json (R2Gen) nor metadata.jsonl (image folder)")
    for split in SPLITS:
        for study in folder_studies(folder, split, projections, index.reject) if split in splits else ():
            study["images"] = [os.path.relpath(path, folder).replace(os.sep, "/") for path in study["images"]]
            index.add(split, study["id"], {name: study[name] for name in STUDY_COLUMNS if name != "id"})
