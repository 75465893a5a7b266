"""Loads any source of studies, by name or folder, as one `datasets.Dataset` with one schema."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Union

from . import image_folder, iu_xray, prepared, study_folder
from .dicom import register_dicom
from .errors import DataError, require_datasets
from .films_in_place import FilmReader, rows_without_films
from .label_filling import fill_labels, labeler_fingerprint
from .paths import file_stamp, missing_files, require_inputs
from .rejections import rejection
from .schema import HARD_PHANTOM, PHANTOM_NAMES, STUDY_COLUMNS, require_split_of, study_features

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

PREPARED_NAMES = ("iu_xray", "mimic_cxr")


def load_study_dataset(
    name_or_dir: str | os.PathLike,
    split: str = "train",
    streaming: bool = False,
    *,
    data_dir: str | os.PathLike | None = None,
    image_root: str | os.PathLike | None = None,
    annotation: str | os.PathLike | None = None,
    projections: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
    in_place: bool = False,
    **phantom_options: Any,
) -> Union["Dataset", "IterableDataset"]:
    """
    Load the studies of a split, with exactly the columns of [`~data.schema.study_features`]: id, images, views,
    indication, comparison, findings, impression, report, disease_labels.

    Images may be DICOM. They are lazy: a row that is not read is not decoded (`dataset.select_columns` avoids it for
    rows that are). Studies without labels get the labeler's of their report, or 14 blanks without a report. MIMIC's
    view positions PA and AP read "frontal", LATERAL and LL "lateral" (see [`~data.schema.view_of`]); R2Gen folders do
    not name views. Studies that name no image are left out with a warning.

    Args:
        name_or_dir (`str` or `os.PathLike`):
            `"phantom"` or `"phantom_hard"` (synthetic), `"iu_xray"` or `"mimic_cxr"` with the folder that
            `otdrg prepare` wrote as `data_dir`, or a folder itself: a prepared one, an R2Gen-format one (images/ and
            annotation.json), an image folder with metadata.jsonl, or IU X-Ray in Kaggle's layout
            (images_normalized/, indiana_reports.csv, indiana_projections.csv), as it is.
        split (`str`, *optional*, defaults to `"train"`):
            `"train"`, `"validation"` (or `"val"`) or `"test"`; of `"phantom_hard"` also `"test_broken"`.
        streaming (`bool`, *optional*, defaults to `False`):
            Give a `datasets.IterableDataset`, which reads the studies as they are asked for and caches nothing.
        data_dir (`str` or `os.PathLike`, *optional*):
            The folder of a named dataset.
        image_root (`str` or `os.PathLike`, *optional*):
            Where a prepared folder's image paths start, if the images have moved since.
        annotation (`str` or `os.PathLike`, *optional*):
            Of Kaggle's layout: an R2Gen annotation.json whose split is taken instead of 70/10/20 by study.
        projections (`str` or `os.PathLike`, *optional*):
            Of Kaggle's layout and of R2Gen's folder of IU X-Ray: a csv with the columns uid, filename and projection,
            which gives the views and puts frontal images first in their study.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where `datasets` keeps its Arrow files instead of its own cache. It holds the reports' text.
        in_place (`bool`, *optional*, defaults to `False`):
            Of a prepared folder: read films from its shards whenever a study is read, instead of copying the shards to
            the cache first. Its studies can be shuffled and resumed as any, with no more on disk than their texts.
        phantom_options:
            For phantoms only: what [`~data.phantom.phantom_dataset`] takes, such as `num_studies` and `image_size`.

    Returns:
        `datasets.Dataset`, or `datasets.IterableDataset` with `streaming=True`.

    Raises:
        [`DataError`]: for a folder of no known form, an unknown split, or files that cannot be read.
    """
    split = require_split_of(name_or_dir, split)
    if name_or_dir in PHANTOM_NAMES:
        with _plain_errors():
            return _phantoms(name_or_dir, split, streaming, cache_dir, phantom_options)
    if phantom_options:
        raise TypeError(f"load_study_dataset got options that only phantoms take: {', '.join(phantom_options)}")
    register_dicom()
    folder = _folder_of(name_or_dir, data_dir)
    tables = {"annotation": annotation, "projections": projections}
    tables = {role: os.path.abspath(os.fspath(path)) for role, path in tables.items() if path}
    reader, arguments = _reader_of(folder, split, image_root, tables)

    datasets = require_datasets()
    if in_place:
        return _in_place(folder, split, reader, arguments, cache_dir, streaming)
    if streaming:
        return datasets.IterableDataset.from_generator(
            reader, features=study_features(), gen_kwargs=arguments, split=datasets.NamedSplit(split)
        )
    with _plain_errors():
        return datasets.Dataset.from_generator(
            reader,
            features=study_features(),
            gen_kwargs=arguments,
            split=datasets.NamedSplit(split),
            cache_dir=os.fspath(cache_dir) if cache_dir else None,
        )


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Let what a reader says through, which `datasets` hides behind an error of its own."""
    generation_error = require_datasets().exceptions.DatasetGenerationError
    try:
        yield
    except generation_error as error:
        raise (error.__cause__ or error) from None


def _phantoms(name: str, split: str, streaming: bool, cache_dir: Any, options: dict[str, Any]):
    from .phantom import hard_phantom_dataset, phantom_dataset

    if cache_dir:
        options["cache_dir"] = os.fspath(cache_dir)
    draw = hard_phantom_dataset if name == HARD_PHANTOM else phantom_dataset
    studies = draw(split, **options).select_columns(list(STUDY_COLUMNS))
    return studies.to_iterable_dataset() if streaming else studies


def _folder_of(name_or_dir: Any, data_dir: Any) -> str:
    if name_or_dir in PREPARED_NAMES:
        if data_dir is None:
            raise DataError(
                f"{name_or_dir} needs data_dir, the folder written by `otdrg prepare {name_or_dir}` from your download"
            )
        source = prepared.read_summary(os.fspath(data_dir)).get("source", name_or_dir)
        if source != name_or_dir:
            raise DataError(f"data_dir was prepared from {source}, not from {name_or_dir}")
        name_or_dir = data_dir
    folder = os.path.abspath(os.fspath(name_or_dir))
    if not os.path.isdir(folder):
        raise DataError(
            f"{os.fspath(name_or_dir)!r} is neither phantom, {', '.join(PREPARED_NAMES)} nor a folder, "
            f"nor {HARD_PHANTOM}"
        )
    return folder


def _reader_of(folder: str, split: str, image_root: Any, tables: dict[str, str]) -> tuple[Any, dict[str, Any]]:
    """The generator function for a folder of this form, and its arguments, which change when its files do."""
    if prepared.is_prepared_folder(folder):
        _refuse(tables, ("annotation", "projections"), "a prepared folder, which has its splits and views")
        return _read_prepared, _prepared_arguments(folder, split, image_root)
    if iu_xray.is_kaggle_folder(folder):
        inputs = iu_xray.find_inputs(folder, tables)
        list_studies, read, arguments = iu_xray.kaggle_studies, _read_kaggle, {"inputs": inputs}
    elif study_folder.is_study_folder(folder):
        _refuse(tables, ("annotation",), "a folder of studies, whose own files name the splits")
        _warn_of_ignored_keys(folder)
        inputs = dict(enumerate(study_folder.list_files(folder))) | tables
        list_studies, read = study_folder.folder_studies, _read_folder
        arguments = {"folder": folder, "projections": tables.get("projections")}
    else:
        raise DataError(
            f"Nothing to read in {os.path.basename(folder)!r}: a folder of studies has Parquet shards, "
            "annotation.json with images/ (R2Gen), metadata.jsonl (image folder) or indiana_reports.csv (IU X-Ray)"
        )
    require_inputs(inputs)
    arguments["split"] = split
    _warn_of_what_is_missing(list_studies, arguments, folder)
    return read, {**arguments, "stamps": (*map(file_stamp, inputs.values()), labeler_fingerprint())}


def _refuse(tables: dict[str, str], names: tuple[str, ...], place: str) -> None:
    if given := [name for name in names if name in tables]:
        raise DataError(f"{' and '.join(given)} cannot be given for {place}")


def _prepared_arguments(folder: str, split: str, image_root: Any) -> dict[str, Any]:
    files = prepared.shard_files(folder, split)
    prepared.shard_columns(files)
    root = os.path.abspath(os.fspath(image_root)) if image_root else prepared.image_root_of(folder)
    first = next(prepared.prepared_studies(files, root, ["images"]), {"images": []})
    paths = [image["path"] for image in first["images"] if image["bytes"] is None]
    if missing_files(paths):
        raise DataError("The images of this prepared folder are not where they were: pass their folder as image_root")
    return {"files": files, "image_root": root, "stamps": tuple(map(file_stamp, files))}


def _in_place(folder: str, split: str, reader: Any, arguments: dict[str, Any], cache_dir: Any, streaming: bool):
    if reader is not _read_prepared or streaming:
        raise DataError("in_place is for the shards of a prepared folder, and without streaming")
    datasets = require_datasets()
    with _plain_errors():
        rows = datasets.Dataset.from_generator(
            rows_without_films,
            features=study_features(decode=False),
            gen_kwargs={**arguments, "columns": STUDY_COLUMNS},
            split=datasets.NamedSplit(split),
            cache_dir=os.fspath(cache_dir) if cache_dir else None,
        )
    return rows.with_transform(FilmReader(arguments["image_root"]))


def _warn_of_what_is_missing(list_studies: Callable[..., Iterator], arguments: dict[str, Any], folder: str) -> None:
    """Say what the studies of a split leave out, and how many of their images are not there."""
    left_out: list[dict[str, Any]] = []

    def reject(reason: str, detail: str = "", **what: Any) -> None:
        left_out.append(rejection(reason, detail, **what))

    studies = list(list_studies(**arguments, reject=reject))
    counts = Counter(entry["reason"] for entry in left_out).most_common()
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts)
    if not studies:
        raise DataError(f"The split {arguments['split']!r} has no study to load ({reasons or 'it is empty'})")
    if left_out:
        first = left_out[0].get("id") or left_out[0].get("image") or left_out[0].get("detail")
        _warn(f"left out: {reasons}, the first {first}; `otdrg prepare` lists them in rejected.jsonl")
    missing = missing_files(path for study in studies for path in study["images"])
    if missing:
        total = sum(len(study["images"]) for study in studies)
        _warn(
            f"{len(missing):,} of {total:,} images are missing on disk, the first "
            f"{os.path.relpath(missing[0], folder)}: reading their studies will fail; "
            "`otdrg prepare` leaves them out and lists them in rejected.jsonl"
        )


def _warn_of_ignored_keys(folder: str) -> None:
    if image_folder.is_image_folder(folder) and (ignored := image_folder.ignored_keys(folder)):
        _warn(f"{image_folder.METADATA_FILE} has keys outside the schema, which are left out: {', '.join(ignored)}")


def _warn(message: str) -> None:
    from transformers.utils import logging

    logging.get_logger(__name__).warning(message)


def _read_folder(folder: str, split: str, projections: str | None, stamps: tuple) -> Iterator[dict[str, Any]]:
    yield from fill_labels(study_folder.folder_studies(folder, split, projections))


def _read_kaggle(inputs: dict[str, str], split: str, stamps: tuple) -> Iterator[dict[str, Any]]:
    yield from fill_labels(iu_xray.kaggle_studies(inputs, split))


def _read_prepared(files: list[str], image_root: str, stamps: tuple) -> Iterator[dict[str, Any]]:
    yield from prepared.prepared_studies(files, image_root, list(STUDY_COLUMNS))
