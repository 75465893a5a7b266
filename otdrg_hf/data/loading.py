"""`load_study_dataset`: any source of studies, by name or folder, as one `datasets.Dataset` with one schema."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Union

from otdrg_hf.data import image_folder, iu_xray, prepared, r2gen
from otdrg_hf.data.errors import DataError, Reject, ignore, rejection, require_datasets
from otdrg_hf.data.phantom import PHANTOM_NAMES, hard_phantom_dataset, phantom_dataset
from otdrg_hf.data.reports import fill_labels, labeler_fingerprint
from otdrg_hf.data.schema import SPLITS, STUDY_COLUMNS, TEXT_COLUMNS, require_split, study_features
from otdrg_hf.data.source_files import file_stamp, missing_files, require_inputs
from otdrg_hf.data.sources import DOWNLOADS, SOURCES

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


def load_study_dataset(
    name_or_dir: str | os.PathLike,
    split: str = "train",
    streaming: bool = False,
    *,
    num_studies: int | None = None,
    having: str | None = None,
    data_dir: str | os.PathLike | None = None,
    image_root: str | os.PathLike | None = None,
    annotation: str | os.PathLike | None = None,
    projections: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
    in_place: bool = False,
    **phantom_options: Any,
) -> Union["Dataset", "IterableDataset"]:
    """
    Loads the studies of a split, with exactly the columns of [`~data.schema.study_features`]: id, images, views,
    indication, comparison, findings, impression, report, disease_labels.

    Images may be DICOM. They are lazy: a row that is not read is not decoded (`dataset.select_columns` avoids it for
    rows that are). Studies without labels get the labeler's of their report, or 14 blanks without a report. MIMIC's
    view positions PA and AP read "frontal", LATERAL and LL "lateral" (see [`~images.views.view_of`]); R2Gen folders do
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
        num_studies (`int`, *optional*):
            Only the first so many studies, of those that have the text `having`. Of phantoms, how many are drawn.
        having (`str`, *optional*):
            A column of texts, such as `"report"` or `"findings"`: studies whose text is empty are left out with a
            warning.
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
            Of a prepared folder: read images from its shards whenever a study is read, instead of copying the shards to
            the cache first. Its studies can be shuffled and resumed as any, with no more on disk than their texts.
        phantom_options:
            For phantoms only: what [`~data.phantom.phantom_dataset`] takes, such as `image_size`.

    Returns:
        `datasets.Dataset`, or `datasets.IterableDataset` with `streaming=True`.

    Raises:
        [`DataError`]: for a folder of no known form, an unknown split, files that cannot be read, and a split without a
            study that has the text `having`.
    """
    split = require_split(split, SOURCES[name_or_dir].splits if name_or_dir in SOURCES else SPLITS)
    if num_studies is not None and num_studies < 1:
        raise DataError(f"num_studies is {num_studies}: ask for at least one study")
    if having is not None and having not in TEXT_COLUMNS:
        raise DataError(f"having is {having!r}: give a column of texts, one of {', '.join(TEXT_COLUMNS)}")
    if name_or_dir in PHANTOM_NAMES:
        if num_studies is not None:
            phantom_options["num_studies"] = num_studies
        studies = _phantoms(name_or_dir, split, cache_dir, phantom_options)
    elif phantom_options:
        raise TypeError(f"load_study_dataset got options that only phantoms take: {', '.join(phantom_options)}")
    else:
        tables = {"annotation": annotation, "projections": projections}
        tables = {role: os.path.abspath(os.fspath(path)) for role, path in tables.items() if path}
        reader, arguments = _reader_of(_folder_of(name_or_dir, data_dir), split, image_root, tables)
        if in_place and (reader is not _read_prepared or streaming):
            raise DataError("in_place is for the shards of a prepared folder, and without streaming")
        if streaming:
            return _stream(reader, arguments, split, num_studies, having)
        studies = _read_all(reader, arguments, split, cache_dir, in_place)
    if having is not None or num_studies is not None:
        name = os.path.basename(os.fspath(name_or_dir))
        studies = _first_studies(studies, num_studies, having, f"{split} study of {name}")
    return studies.to_iterable_dataset() if streaming else studies


def _stream(reader: Callable, arguments: dict[str, Any], split: str, num_studies: int | None, having: str | None):
    datasets = require_datasets()
    if having is not None:
        reader = partial(_having_text, reader, having)  # a filter of the stream would decode images
    studies = datasets.IterableDataset.from_generator(
        reader, features=study_features(), gen_kwargs=arguments, split=datasets.NamedSplit(split)
    )
    return studies if num_studies is None else studies.take(num_studies)


def _having_text(reader: Callable, column: str, **arguments: Any) -> Iterator[dict[str, Any]]:
    yield from (study for study in reader(**arguments) if study[column].strip())


def _read_all(reader: Callable, arguments: dict[str, Any], split: str, cache_dir: Any, in_place: bool):
    """All studies of a split from the cache, where they are written first; `in_place` keeps images out of it."""
    if in_place:
        reader, arguments = prepared.rows_without_images, {**arguments, "columns": STUDY_COLUMNS}
    datasets = require_datasets()
    with _plain_errors():
        studies = datasets.Dataset.from_generator(
            reader,
            features=study_features(decode=not in_place),
            gen_kwargs=arguments,
            split=datasets.NamedSplit(split),
            cache_dir=os.fspath(cache_dir) if cache_dir else None,
        )
    return studies.with_transform(prepared.ImageReader(arguments["image_root"])) if in_place else studies


def _first_studies(studies: "Dataset", num_studies: int | None, having: str | None, described: str) -> "Dataset":
    """The first `num_studies` studies, all for `None`, of those whose text in the column `having` is not empty."""
    if having is None:
        return studies.select(range(min(num_studies, len(studies))))
    with_text = (index for index, text in enumerate(studies[having]) if text.strip())
    kept = list(islice(with_text, num_studies))
    if not kept:
        raise DataError(f"No {described} has a text in its column {having}")
    searched = kept[-1] + 1 if len(kept) == num_studies else len(studies)
    if searched > len(kept):
        _warn(f"left out: {searched - len(kept):,} of {searched:,} studies have no {having}")
        return studies.select(kept)
    return studies.select(range(searched)) if searched < len(studies) else studies


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raises the error of a reader itself, which `datasets` hides behind one of its own."""
    generation_error = require_datasets().exceptions.DatasetGenerationError
    try:
        yield
    except generation_error as error:
        raise (error.__cause__ or error) from None


def _phantoms(name: str, split: str, cache_dir: Any, options: dict[str, Any]) -> "Dataset":
    if cache_dir:
        options["cache_dir"] = os.fspath(cache_dir)
    draw = phantom_dataset if name == "phantom" else hard_phantom_dataset
    with _plain_errors():
        return draw(split, **options).select_columns(list(STUDY_COLUMNS))


def _folder_of(name_or_dir: Any, data_dir: Any) -> str:
    if name_or_dir in DOWNLOADS:
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
        raise DataError(f"{os.fspath(name_or_dir)!r} is neither {', '.join((*PHANTOM_NAMES, *DOWNLOADS))} nor a folder")
    return folder


def _reader_of(folder: str, split: str, image_root: Any, tables: dict[str, str]) -> tuple[Any, dict[str, Any]]:
    """The generator function for a folder of this form, and its arguments, which change when its files change."""
    if prepared.is_prepared_folder(folder):
        _refuse(tables, ("annotation", "projections"), "a prepared folder, which has its splits and views")
        return _read_prepared, _prepared_arguments(folder, split, image_root)
    if iu_xray.is_kaggle_folder(folder):
        inputs = iu_xray.find_inputs(folder, tables)
        list_studies, read, arguments = iu_xray.kaggle_studies, _read_kaggle, {"inputs": inputs}
    elif is_study_folder(folder):
        _refuse(tables, ("annotation",), "a folder of studies, whose own files name the splits")
        _warn_of_ignored_keys(folder)
        inputs = dict(enumerate(study_files(folder))) | tables
        list_studies, read = folder_studies, _read_folder
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


def _refuse(tables: dict[str, str], names: tuple[str, ...], form: str) -> None:
    if given := [name for name in names if name in tables]:
        raise DataError(f"{' and '.join(given)} cannot be given for {form}")


def _prepared_arguments(folder: str, split: str, image_root: Any) -> dict[str, Any]:
    files = prepared.shard_files(folder, split)
    prepared.shard_columns(files)
    root = os.path.abspath(os.fspath(image_root)) if image_root else prepared.image_root_of(folder)
    first = next(prepared.prepared_studies(files, root, ["images"]), {"images": []})
    paths = [image["path"] for image in first["images"] if image["bytes"] is None]
    if missing_files(paths):
        raise DataError("The images of this prepared folder are not where they were: pass their folder as image_root")
    return {"files": files, "image_root": root, "stamps": tuple(map(file_stamp, files))}


def _warn_of_what_is_missing(list_studies: Callable[..., Iterator], arguments: dict[str, Any], folder: str) -> None:
    """Warns of studies of a split that are left out, and of images that are missing."""
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
    if ignored := ignored_keys(folder):
        _warn(f"{image_folder.METADATA_FILE} has keys outside the schema, which are left out: {', '.join(ignored)}")


def _warn(message: str) -> None:
    from transformers.utils import logging

    logging.get_logger(__name__).warning(message)


def is_study_folder(folder: str) -> bool:
    """Whether a folder is an R2Gen-format or image folder."""
    return r2gen.is_r2gen_folder(folder) or image_folder.is_image_folder(folder)


def study_files(folder: str) -> list[str]:
    """The files that say which studies an R2Gen-format or image folder has."""
    if r2gen.is_r2gen_folder(folder):
        return [os.path.join(folder, r2gen.ANNOTATION_FILE)]
    return image_folder.image_folder_files(folder)


def folder_splits(folder: str) -> set[str]:
    """The splits that an R2Gen-format or image folder has studies of."""
    if r2gen.is_r2gen_folder(folder):
        return set(r2gen.read_annotation(os.path.join(folder, r2gen.ANNOTATION_FILE)))
    return image_folder.image_folder_splits(folder)


def ignored_keys(folder: str) -> list[str]:
    """The keys of an image folder's metadata that are not in the schema; of an R2Gen-format folder none is reported."""
    return [] if r2gen.is_r2gen_folder(folder) else image_folder.ignored_keys(folder)


def folder_studies(
    folder: str, split: str, projections: str | None = None, reject: Reject = ignore
) -> Iterator[dict[str, Any]]:
    """
    Yields the studies of a split of an R2Gen-format or image folder, unlabeled where the folder has no labels.
    `projections` is for the R2Gen folder of IU X-Ray. What is left out is passed to `reject`.
    """
    if r2gen.is_r2gen_folder(folder):
        view_of = iu_xray.R2GenViews(projections).view if projections else None
        yield from r2gen.r2gen_studies(folder, split, view_of, reject)
    elif projections:
        raise DataError("projections are for R2Gen's folder of IU X-Ray: metadata.jsonl has views of its own")
    else:
        yield from image_folder.image_folder_studies(folder, split, reject)


def _read_folder(folder: str, split: str, projections: str | None, stamps: tuple) -> Iterator[dict[str, Any]]:
    yield from fill_labels(folder_studies(folder, split, projections))


def _read_kaggle(inputs: dict[str, str], split: str, stamps: tuple) -> Iterator[dict[str, Any]]:
    yield from fill_labels(iu_xray.kaggle_studies(inputs, split))


def _read_prepared(files: list[str], image_root: str, stamps: tuple) -> Iterator[dict[str, Any]]:
    yield from prepared.prepared_studies(files, image_root, list(STUDY_COLUMNS))
