"""R2Gen-format folders: images/ and an annotation.json with the keys train, val and test (Chen et al., 2020)."""

import codecs
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from otdrg_hf.data.errors import NO_IMAGE_NAMED, DataError, Reject, ignore
from otdrg_hf.data.schema import SPLITS, frontal_first, make_study, split_name, study_id
from otdrg_hf.data.source_files import join_inside
from otdrg_hf.files import HALF_SURROGATE, half_surrogate

ViewOf = Callable[[str, str], str]
ANNOTATION_FILE = "annotation.json"
IMAGE_FOLDER = "images"


def is_r2gen_folder(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, ANNOTATION_FILE))


def read_annotation(path: str) -> dict[str, list[dict[str, Any]]]:
    """
    Reads an R2Gen annotation file into its splits, as of [`annotation_splits`].

    Raises:
        [`DataError`]: for JSON that does not parse, and as of [`annotation_splits`].
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
    if (position := half_surrogate(text)) is not None:
        before = text[:position].split("\n")
        where = f"{name} line {len(before)} column {len(before[-1]) + 1}"
        raise DataError(f"{where}: {HALF_SURROGATE}: correct or remove it")
    return annotation_splits(content, name)


def annotation_splits(content: Any, name: str) -> dict[str, list[dict[str, Any]]]:
    """
    The content of an R2Gen annotation as `{"train": [...], "validation": [...], "test": [...]}` (the splits it has).

    Spaces around keys are ignored. A key of spaces alone, which an annotation.json of IU X-Ray in circulation has,
    stands for the split that its entries name, or else for the only one of the three that is missing.

    Args:
        content: The JSON value.
        name (`str`): Of the file, for messages.

    Raises:
        [`DataError`]: for another value, unknown keys (named) and keys that mean the same split.
    """
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
    folder: str, split: str, view_of: ViewOf | None = None, reject: Reject = ignore
) -> Iterator[dict[str, Any]]:
    """
    Yields the studies of a split, unlabeled; the report is taken for the findings, as R2Gen's are.

    Args:
        folder (`str`): The folder.
        split (`str`): `"train"`, `"validation"` or `"test"`.
        view_of (`Callable`, *optional*): The view of an image by the id of its study and its path; frontal images come
            first then. Without it views are unknown and the order stays.
        reject (`Callable`): Called for studies that name no image.
    """
    splits = read_annotation(os.path.join(folder, ANNOTATION_FILE))
    if split not in splits:
        raise DataError(f"{ANNOTATION_FILE} has no split {split!r}, only {', '.join(splits) or 'none'}")
    for position, entry in enumerate(splits[split]):
        study = _study(entry, position, split, os.path.join(folder, IMAGE_FOLDER), view_of)
        if study["images"]:
            yield frontal_first(study)
        else:
            reject(NO_IMAGE_NAMED, id=study["id"], split=split)


def _study(entry: Any, position: int, split: str, image_folder: str, view_of: ViewOf | None) -> dict[str, Any]:
    where = f"{ANNOTATION_FILE}, {split} entry {position}"
    if not isinstance(entry, dict) or not {"id", "report", "image_path"} <= entry.keys():
        raise DataError(f"{where}: it must be an object with the keys id, report and image_path")
    paths = entry["image_path"] if isinstance(entry["image_path"], list) else [entry["image_path"] or ""]
    if not isinstance(entry["report"], str) or not all(isinstance(path, str) for path in paths):
        raise DataError(f"{where}: report must be a string and image_path a list of strings")
    paths = [path for path in paths if path.strip()]
    name, report = study_id(entry["id"], where), " ".join(entry["report"].split())
    images = [join_inside(image_folder, path) for path in paths]
    views = [view_of(name, path) for path in paths] if view_of else None
    return make_study(id=name, images=images, views=views, findings=report, report=report)
