"""Image folders with a metadata.jsonl, one line per study, after the imagefolder convention of `datasets`."""

import os
from collections.abc import Iterator
from typing import Any

from otdrg_hf.data.errors import NO_IMAGE_NAMED, DataError, Reject, ignore
from otdrg_hf.data.schema import (
    NUM_LABELS,
    STUDY_COLUMNS,
    TEXT_COLUMNS,
    Source,
    make_study,
    split_name,
    study_id,
)
from otdrg_hf.data.source_files import join_inside
from otdrg_hf.files import numbered_lines, parse_object
from otdrg_hf.images.views import view_of

SOURCE = Source(
    title="a collection of the publisher's own",
    description="Studies from a folder of the publisher's own; the package does not know where they come from.",
    known=False,
)
METADATA_FILE = "metadata.jsonl"
_FILE_KEYS = ("file_name", "file_names")


def is_image_folder(folder: str) -> bool:
    """Whether a folder, or the folder of one of its splits, has a metadata.jsonl."""
    return bool(_metadata_files(folder))


def _metadata_files(folder: str) -> dict[str | None, str]:
    """The metadata files by split: one in each split's sub-folder, or a single one, under the key None."""
    whole = os.path.join(folder, METADATA_FILE)
    if os.path.isfile(whole):
        return {None: whole}
    found = {}
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name, METADATA_FILE)
        if split_name(name) and os.path.isfile(path):
            found[split_name(name)] = path
    return found


def image_folder_files(folder: str) -> list[str]:
    """The metadata files that the studies of the folder come from."""
    return list(_metadata_files(folder).values())


def image_folder_splits(folder: str) -> set[str]:
    """The splits that the folder has studies of."""
    files = _metadata_files(folder)
    if None not in files:
        return set(files)
    return {_split_of(line, where) for where, line in _lines(files[None])}


def image_folder_studies(folder: str, split: str, reject: Reject = ignore) -> Iterator[dict[str, Any]]:
    """
    Yields the studies of a split. A line has `file_name` or `file_names`, relative to its metadata.jsonl, and any
    columns of the schema; `disease_labels` is 14 states in the CheXbert order or an object `{label: state name}`.
    Images may be DICOM; a line without `views` has those that its DICOM files name.

    A folder with one metadata.jsonl at its top is split by a `split` key of its lines, else by their first folder
    (`train/...`); lines that say neither are train. Studies that name no image (`file_names` is empty) are passed to
    `reject`.

    Raises:
        [`DataError`]: for a line that does not fit, naming file and line.
    """
    files = _metadata_files(folder)
    path = files.get(split, files.get(None))
    if path is None:
        raise DataError(f"The folder has no split {split!r}, only {', '.join(sorted(filter(None, files)))}")
    seen: set[str] = set()
    for where, line in _lines(path):
        line_split = split if None not in files else _split_of(line, where)
        seen.add(line_split)
        if line_split != split:
            continue
        study = _study(line, where, os.path.dirname(path))
        if study["images"]:
            yield study
        else:
            reject(NO_IMAGE_NAMED, where, id=study["id"], split=split)
    if split not in seen:
        raise DataError(
            f"{METADATA_FILE} has no study of the split {split!r}, only of {', '.join(sorted(seen)) or 'none'}"
        )


def ignored_keys(folder: str) -> list[str]:
    """The keys of the folder's metadata that are not in the schema and are left out."""
    known = {*STUDY_COLUMNS, *_FILE_KEYS, "split"}
    return sorted({key for path in image_folder_files(folder) for _, line in _lines(path) for key in line} - known)


def _lines(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        for number, raw in numbered_lines(path):
            where = f"{METADATA_FILE} line {number}"
            if not raw.strip():
                continue
            try:
                line = parse_object(raw)
            except ValueError as error:
                raise DataError(f"{where}: {error}: correct or remove it") from None
            yield where, line
    except ValueError as error:
        raise DataError(str(error)) from None


def _file_names(line: dict[str, Any], where: str) -> list[str]:
    """The images that a line names; none where it says so (`[]`, null)."""
    given = [line[key] for key in _FILE_KEYS if line.get(key)]
    if not given and any(key in line for key in _FILE_KEYS):
        return []
    names = given[0] if len(given) == 1 else None
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where} needs file_name (a string) or file_names (a list of strings)")
    return [name for name in names if name.strip()]


def _split_of(line: dict[str, Any], where: str) -> str:
    if line.get("split") is None:
        names = _file_names(line, where)
        first = names[0].strip().replace("\\", "/").removeprefix("./").split("/")[0] if names else ""
        return split_name(first) or "train"
    split = split_name(line["split"])
    if split is None:
        raise DataError(f"{where} has the unknown split {line['split']!r}: use train, validation or test")
    return split


def _study(line: dict[str, Any], where: str, folder: str) -> dict[str, Any]:
    names = _file_names(line, where)
    texts = {name: line.get(name) for name in TEXT_COLUMNS}
    named = os.path.splitext(names[0])[0] if names else where
    texts["id"] = named if texts["id"] is None else study_id(texts["id"], where)
    wrong = [name for name, text in texts.items() if not isinstance(text, (str, type(None)))]
    if wrong:
        raise DataError(f"{where}: {', '.join(wrong)} must be text")
    texts = {name: None if text is None else " ".join(text.split()) for name, text in texts.items()}
    images = [join_inside(folder, name) for name in names]
    return make_study(**texts, images=images, views=_views(line, where, images), disease_labels=_labels(line, where))


def _views(line: dict[str, Any], where: str, images: list[str]) -> list[str]:
    if not line.get("views"):
        from otdrg_hf.images.dicom import view_in_file  # imports torch

        return [view_in_file(path) for path in images]
    views = line["views"]
    known = isinstance(views, list) and all(isinstance(view, str | None) for view in views)
    if not known or len(views) != len(images):
        raise DataError(f"{where}: views must be a list with one view for each of its {len(images)} images")
    return [view_of(view) for view in views]


def _labels(line: dict[str, Any], where: str) -> list[int] | None:
    labels = line.get("disease_labels")
    if labels is None:
        return None
    if isinstance(labels, dict):
        from otdrg_hf.labeling import LABELS, STATES

        if set(labels) <= set(LABELS) and all(state in STATES for state in labels.values()):
            return [STATES.index(labels.get(name, "blank")) for name in LABELS]
    elif isinstance(labels, list) and len(labels) == NUM_LABELS and all(state in (0, 1, 2, 3) for state in labels):
        return [int(state) for state in labels]
    raise DataError(
        f"{where}: disease_labels must be {NUM_LABELS} states of 0 blank, 1 positive, 2 negative, 3 uncertain "
        "in the CheXbert order, or an object of label names and state names"
    )
