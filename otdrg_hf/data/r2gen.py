"""Reads R2Gen-format folders: images/ and an annotation.json with the keys train, val and test."""

import codecs
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otdrg_hf.files import HALF_SURROGATE, half_surrogate

from .errors import DataError
from .paths import join_inside
from .projections import R2GenViews, frontal_first
from .rejections import NO_IMAGE_NAMED, Reject, ignore
from .schema import SPLITS, make_study, split_name, study_id

ANNOTATION_FILE = "annotation.json"
IMAGE_FOLDER = "images"


def is_r2gen_folder(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, ANNOTATION_FILE))


def read_annotation(path: str) -> dict[str, list[dict[str, Any]]]:
    """
    Read an R2Gen annotation file into `{"train": [...], "validation": [...], "test": [...]}` (the splits it has).

    Stray spaces in keys are forgiven. A key of blanks alone, as in an annotation.json of IU X-Ray found in the wild,
    stands for the split that its entries name, or else for the only one of the three that is missing.

    Raises:
        [`DataError`]: for JSON that does not parse, unknown keys (named) and keys that mean the same split.
    """
    name = os.path.basename(path)
    try:
        text = Path(path).read_bytes()
        text = text.decode("utf-16" if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
        content = json.loads(text)
    except FileNotFoundError:
        raise DataError(f"There is no annotation file {name} at the path given") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{name} is not valid JSON ({error}): get it again from its source") from None
    if (place := half_surrogate(text)) is not None:
        before = text[:place].split("\n")
        where = f"{name} line {len(before)} column {len(before[-1]) + 1}"
        raise DataError(f"{where}: {HALF_SURROGATE}: correct or remove it")
    if not isinstance(content, dict) or not all(isinstance(entries, list) for entries in content.values()):
        raise DataError(f"{name} is not an R2Gen annotation: it must map train, val and test to lists of studies")

    unknown = [key for key in content if key.strip() and split_name(key) is None]
    if unknown:
        raise DataError(f"{name} has unknown keys {unknown}: rename them to train, val or test, or remove them")
    splits: dict[str, list[dict[str, Any]]] = {}
    for key in sorted(content, key=lambda key: not key.strip()):
        split = split_name(key) or _split_of_blank_key(content[key], splits, name)
        if split in splits:
            raise DataError(f"{name} has two keys for the split {split!r}: merge or rename them")
        splits[split] = content[key]
    return splits


def _split_of_blank_key(entries: list, splits: dict[str, list], name: str) -> str:
    named = {split_name(entry.get("split", "")) for entry in entries if isinstance(entry, dict)}
    missing = [split for split in SPLITS if split not in splits]
    if len(named) == 1 and named != {None}:
        return named.pop()
    if len(missing) == 1:
        return missing[0]
    raise DataError(f"{name} has a blank key that could be any of {missing}: rename it to train, val or test")


def r2gen_studies(
    folder: str, split: str, projections: str | None = None, reject: Reject = ignore
) -> Iterator[dict[str, Any]]:
    """
    Yield the studies of a split, unlabeled; the report is taken for the findings, as R2Gen's are. Views come from the
    csv of `projections` (see [`R2GenViews`]), and put frontal images first; without it they are unknown and the order
    stays. Studies that name no image are passed to `reject`.
    """
    splits = read_annotation(os.path.join(folder, ANNOTATION_FILE))
    if split not in splits:
        raise DataError(f"{ANNOTATION_FILE} has no split {split!r}, only {', '.join(splits) or 'none'}")
    views = R2GenViews(projections) if projections else None
    for position, entry in enumerate(splits[split]):
        study = _study(entry, position, split, os.path.join(folder, IMAGE_FOLDER), views)
        if study["images"]:
            yield frontal_first(study)
        else:
            reject(NO_IMAGE_NAMED, id=study["id"], split=split)


def _study(entry: Any, position: int, split: str, image_folder: str, views: R2GenViews | None) -> dict[str, Any]:
    where = f"{ANNOTATION_FILE}, {split} entry {position}"
    if not isinstance(entry, dict) or not {"id", "report", "image_path"} <= entry.keys():
        raise DataError(f"{where}: it must be an object with the keys id, report and image_path")
    paths = entry["image_path"] if isinstance(entry["image_path"], list) else [entry["image_path"] or ""]
    if not isinstance(entry["report"], str) or not all(isinstance(path, str) for path in paths):
        raise DataError(f"{where}: report must be a string and image_path a list of strings")
    paths = [path for path in paths if path.strip()]
    name, report = study_id(entry["id"], where), " ".join(entry["report"].split())
    images = [join_inside(image_folder, path) for path in paths]
    known = [views.view(name, path) for path in paths] if views else None
    return make_study(id=name, images=images, views=known, findings=report, report=report)
