"""`otdrg prepare`: a download of IU X-Ray or MIMIC-CXR, or a folder of studies, as Parquet shards in the one schema."""

import errno
import json
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from tqdm.auto import tqdm

from otdrg_hf.data import iu_xray, loading, mimic_cxr
from otdrg_hf.data.errors import UNKNOWN_COLUMN, DataError, Reject, require_datasets
from otdrg_hf.data.preparing.folder import PreparationFolder
from otdrg_hf.data.preparing.images import unpack_images
from otdrg_hf.data.preparing.shards import Shard, read_record, write_shard
from otdrg_hf.data.preparing.study_index import StudyIndexWriter, write_index
from otdrg_hf.data.preparing.summary import plot_label_prevalence, summary_text
from otdrg_hf.data.schema import SPLITS, STUDY_COLUMNS
from otdrg_hf.data.source_files import find_table, require_inputs

# The inputs that may be given for each source, apart from its folder.
GIVEN_INPUTS = {
    "iu_xray": {"reports", "images", "annotation", "projections"},
    "mimic_cxr": {"reports", "images"},
    "folder": {"projections"},
}


def run(source: str, output_dir: str | os.PathLike, data_dir: str | os.PathLike, as_json: bool, **options: Any) -> None:
    """Prepares a dataset and prints its summary, as tables or JSON; `options` are those of [`prepare_dataset`]."""
    summary = prepare_dataset(source, output_dir, data_dir, **options)
    print(json.dumps(summary, indent=2) if as_json else summary_text(summary))


def prepare_dataset(
    source: str,
    output_dir: str | os.PathLike,
    data_dir: str | os.PathLike,
    *,
    reports: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    annotation: str | os.PathLike | None = None,
    projections: str | os.PathLike | None = None,
    image_size: int | None = None,
    labels: str = "auto",
    num_proc: int = 1,
    shard_size: int = 1000,
    seed: int = 0,
    plot: bool = False,
) -> dict[str, Any]:
    """
    Writes `data/{train,validation,test}-*.parquet`, `rejected.jsonl` and `summary.json` to `output_dir`, for
    [`load_study_dataset`] to load. When it is killed or runs out of disk, the finished shards are kept; the same call
    resumes, and ends in the same bytes. The memory it needs does not grow with the dataset.

    Every study, image and archive member that is left out has a line in `rejected.jsonl` with the reason.

    Args:
        source (`str`):
            `"iu_xray"`, `"mimic_cxr"`, or `"folder"` for an R2Gen-format or metadata.jsonl folder.
        output_dir (`str` or `os.PathLike`):
            The folder to write to; created if need be. It must not lie under version control: it holds reports.
        data_dir (`str` or `os.PathLike`):
            The download. For IU X-Ray the folder of NLMCXR_reports.tgz and NLMCXR_png.tgz (or of what they unpack to),
            or Kaggle's of indiana_reports.csv, indiana_projections.csv and images_normalized/ (PNG or JPEG); for
            MIMIC-CXR that of the mimic-cxr-2.0.0-*.csv.gz tables and files/.
        reports (`str` or `os.PathLike`, *optional*):
            The reports, if not in `data_dir`: IU's archive, folder or indiana_reports.csv; MIMIC's
            mimic-cxr-reports.zip or the folder with files/p10/....
        images (`str` or `os.PathLike`, *optional*):
            The images, if not in `data_dir`: IU's archive or folder; MIMIC's folder with files/p10/....
        annotation (`str` or `os.PathLike`, *optional*):
            IU X-Ray only: an R2Gen annotation.json whose split is taken, if it is not in `data_dir`. Without it,
            studies (each one patient) are split 70/10/20 under `seed`.
        projections (`str` or `os.PathLike`, *optional*):
            IU X-Ray, also in R2Gen's folder: a csv with the columns uid, filename and projection (Frontal or Lateral),
            which puts frontal images first in their study; of IU X-Ray, indiana_projections.csv in `data_dir` by
            default. Neither Open-i's reports nor R2Gen's annotation names the views.
        image_size (`int`, *optional*):
            Embed the images, with the grey values that [`load_radiograph`] gives, as 8-bit grayscale JPEGs whose
            shorter side has this many pixels. Without it they stay in their folder and are named by path (those of an
            archive are unpacked to `output_dir`/images).
        labels (`str`, *optional*, defaults to `"auto"`):
            `"auto"` takes MIMIC's CheXpert table for the studies in it, else the labeler; `"labeler"` always the
            labeler.
        num_proc (`int`, *optional*, defaults to 1):
            Processes to work with. They are spawned: a script needs its `if __name__ == "__main__":`.
        shard_size (`int`, *optional*, defaults to 1000):
            Studies per shard, before those that are left out.
        seed (`int`, *optional*, defaults to 0):
            Of the 70/10/20 split.
        plot (`bool`, *optional*, defaults to `False`):
            Also draw `label_prevalence.png` (needs matplotlib).

    Returns:
        `dict`: the summary, as in summary.json: `studies`, `images`, `views`, `sections`, `labels` (counts by state
        and prevalence), the same by `splits`, and counts of `rejected` by reason.

    Raises:
        [`DataError`]: for input that cannot be used as it is, a full disk, or an output folder of another preparation.
    """
    require_datasets()
    _check_arguments(source, image_size, labels, num_proc, shard_size)
    inputs = _locate(source, data_dir, reports, images, annotation, projections)
    options = {
        "source": source,
        "image_size": image_size,
        "labels": labels,
        "shard_size": shard_size,
        "seed": seed,
        "inputs": _sizes(inputs | _tables(source, inputs)),
    }
    folder = PreparationFolder(os.path.abspath(os.fspath(output_dir)), options)
    try:
        summary = folder.open() or _prepare(folder, inputs, num_proc)
        if plot:
            plot_label_prevalence(summary, os.path.join(folder.path, "label_prevalence.png"))
        return summary
    except (OSError, sqlite3.OperationalError, DataError) as error:
        if _is_full_disk(error):
            raise DataError(
                "The disk of the output folder is full: make room and run the same command again; what is finished is "
                "kept"
            ) from error
        raise
    except BrokenProcessPool as error:
        raise DataError(
            "A worker process died, most often because memory ran out: run the same command again, with fewer "
            "processes; what is finished is kept"
        ) from error


def _prepare(folder: PreparationFolder, inputs: dict[str, str], num_proc: int) -> dict[str, Any]:
    options = folder.options
    image_root = inputs["images"]
    if os.path.isfile(image_root):
        image_root = os.path.join(folder.path if options["image_size"] is None else folder.state, "images")
        unpack_images(inputs["images"], iu_xray.IMAGE_SUFFIXES, image_root, folder.unpacked)
    if not os.path.exists(folder.index):
        with write_index(folder.index) as index:
            for split, name, content in _list_studies(index, options, inputs, image_root):
                index.add(split, name, content)
    shards = folder.shards(
        options["shard_size"],
        source=options["source"],
        image_root=image_root,
        image_size=options["image_size"],
        reports=inputs.get("reports"),
    )
    _write_shards(shards, num_proc)
    by_path = options["image_size"] is None
    return folder.finish(shards, _relative(image_root, folder.path) if by_path else None)


def _list_studies(
    index: StudyIndexWriter, options: dict[str, Any], inputs: dict[str, str], image_root: str
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields `(split, id, content)` of every study of the source; what is left out is recorded in the index."""
    if options["source"] == "iu_xray":
        return iu_xray.list_studies(inputs, image_root, index.reject, options["seed"])
    if options["source"] == "mimic_cxr":
        return mimic_cxr.list_studies(inputs, index.database, index.reject, use_chexpert=options["labels"] == "auto")
    return _list_folder(inputs["images"], inputs.get("projections"), index.reject)


def _list_folder(folder: str, projections: str | None, reject: Reject) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields the studies of an R2Gen-format or image folder, split by split, with the paths of images inside it."""
    if not loading.is_study_folder(folder):
        raise DataError("The folder to prepare has neither annotation.json (R2Gen) nor metadata.jsonl (image folder)")
    for key in loading.ignored_keys(folder):
        reject(UNKNOWN_COLUMN, column=key)
    known = loading.folder_splits(folder)
    for split in filter(known.__contains__, SPLITS):
        for study in loading.folder_studies(folder, split, projections, reject):
            study["images"] = [os.path.relpath(path, folder).replace(os.sep, "/") for path in study["images"]]
            yield split, study["id"], {name: study[name] for name in STUDY_COLUMNS if name != "id"}


def _write_shards(shards: list[Shard], num_proc: int) -> None:
    todo = [shard for shard in shards if read_record(shard) is None]
    total = sum(shard.stop - shard.start for shard in shards)
    done = total - sum(shard.stop - shard.start for shard in todo)
    with tqdm(desc="Preparing studies", unit="study", total=total, initial=done) as bar:
        if num_proc == 1 or len(todo) < 2:
            for shard in todo:
                write_shard(shard, bar.update)
        else:
            for shard in _write_in_parallel(todo, num_proc):
                bar.update(shard.stop - shard.start)


def _write_in_parallel(todo: list[Shard], num_proc: int) -> Iterator[Shard]:
    # Spawned, not forked: pyarrow and torch have threads running, which a fork can leave locked.
    with ProcessPoolExecutor(min(num_proc, len(todo)), mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(write_shard, shard): shard for shard in todo}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _check_arguments(source: str, image_size: int | None, labels: str, num_proc: int, shard_size: int) -> None:
    if source not in GIVEN_INPUTS:
        raise DataError(f"Unknown source {source!r}: prepare one of {', '.join(GIVEN_INPUTS)}")
    if labels not in ("auto", "labeler"):
        raise DataError(f"labels must be 'auto' or 'labeler', not {labels!r}")
    for name, value in (("image_size", image_size or 1), ("num_proc", num_proc), ("shard_size", shard_size)):
        if value < 1:
            raise DataError(f"{name} must be a positive number, not {value}")


def _locate(source: str, data_dir: Any, reports: Any, images: Any, annotation: Any, projections: Any) -> dict[str, str]:
    """The absolute paths of a source's inputs, by their role; raises [`DataError`] for those that are not there."""
    folder = os.path.abspath(os.fspath(data_dir))
    if not os.path.isdir(folder):
        raise DataError(f"data_dir {os.fspath(data_dir)!r} is not a folder")
    given = {"reports": reports, "images": images, "annotation": annotation, "projections": projections}
    inputs = {role: os.path.abspath(os.fspath(path)) for role, path in given.items() if path}
    if unused := sorted(inputs.keys() - GIVEN_INPUTS[source]):
        raise DataError(f"{' and '.join(unused)} cannot be given for {source}, whose own files say it")
    if source == "mimic_cxr":
        inputs = mimic_cxr.find_inputs(folder, inputs)
    elif source == "iu_xray":
        inputs = iu_xray.find_inputs(folder, inputs)
    else:
        inputs["images"] = folder
    require_inputs(inputs, source)
    return inputs


def _tables(source: str, inputs: dict[str, str]) -> dict[str, str]:
    """The files inside an input folder that say which studies there are, by name."""
    if source == "mimic_cxr":
        found = [find_table(inputs["tables"], name) for name in mimic_cxr.TABLES]
    else:
        found = loading.study_files(inputs["images"]) if source == "folder" else []
    return {os.path.basename(path): path for path in found if path}


def _sizes(inputs: dict[str, str]) -> dict[str, Any]:
    """What tells inputs apart without a path of this machine: the name and, of a file, the size."""
    return {
        role: [os.path.basename(path), os.path.getsize(path) if os.path.isfile(path) else None]
        for role, path in inputs.items()
    }


def _relative(path: str, start: str) -> str:
    try:
        return os.path.relpath(path, start).replace(os.sep, "/")
    except ValueError:  # another drive
        return path


def _is_full_disk(error: BaseException) -> bool:
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or (isinstance(error, sqlite3.Error) and "full" in str(error)):
            return True
        error = error.__cause__
    return False
