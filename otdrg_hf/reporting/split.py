"""Reports of a whole split by a model, in a file that `otdrg evaluate` scores and that a later run resumes."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otdrg_hf.data.phantom import PHANTOM_NAMES
from otdrg_hf.data.schema import INPUT_COLUMNS, split_name
from otdrg_hf.labeling import LABELS, STATES, label_reports, named_states
from otdrg_hf.reporting.candidates import SEED, sampling_options
from otdrg_hf.reporting.loading import load_reporter, plain_name, weights_digest
from otdrg_hf.reporting.loop import report_studies
from otdrg_hf.reporting.predictions import check_section, finished_studies, open_predictions
from otdrg_hf.reporting.results_file import ResultsFile

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Pipeline

_PHANTOM_SIZES = (64, 1024)


def generate_predictions(
    model: str | None,
    dataset: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    split: str = "test",
    data_dir: str | os.PathLike | None = None,
    section: str = "report",
    num_studies: int | None = None,
    batch_size: int = 8,
    device: str | None = None,
    max_new_tokens: int = 256,
    candidates: int = 1,
    true_labels: bool = False,
    operating_point: str | dict | None = None,
    reporter: "Pipeline | None" = None,
) -> Path:
    """
    Reports the studies of a split, each from its images, views, indication and earlier report, by default unsampled.

    `predictions.jsonl` gets a line for each study as its batch is done: `id`, `generated_text`, `reference`, `section`
    and `predicted_labels`, the states that the disease head predicted (blank ones left out). `generation.json` says how
    they were made. A run that was interrupted resumes after the last whole line; batches are those of an uninterrupted
    run, so that the file ends the same. Studies whose reference is empty are left out.

    Args:
        model (`str`, *optional*): Folder or Hub id; the bundled demo model by default.
        dataset, split, data_dir: As `load_study_dataset` takes them. Phantoms are drawn at the model's image size.
        output_dir (`str` or `os.PathLike`): Created if it is not there.
        section (`str`): The column that is the reference: `"findings"`, `"impression"` or `"report"`, which is both.
        num_studies (`int`, *optional*): Only the first ones; a later run may ask for more.
        batch_size, device, max_new_tokens: Of the pipeline.
        candidates (`int`): As of [`report_studies`].
        true_labels (`bool`): Prompt with the labels of the reference instead of predicted ones: an upper bound.
        operating_point (`str` or `dict`, *optional*): As of the pipeline; `generation.json` has its thresholds.
        reporter ([`Pipeline`], *optional*): `model` as [`load_reporter`] loads it, where it is loaded already.

    Returns:
        `Path`: of `predictions.jsonl`.

    Raises:
        ValueError: for a model, split or section that is not there, a study that cannot be read, and an output folder
            with predictions of other settings, another model or other references.
    """
    options = {"split": split, "data_dir": data_dir, "section": section, "num_studies": num_studies}
    options |= {"batch_size": batch_size, "device": device, "max_new_tokens": max_new_tokens, "candidates": candidates}
    options |= {"true_labels": true_labels, "operating_point": operating_point, "reporter": reporter}
    path, _ = write_share(model, dataset, output_dir, **options)
    return path


def write_share(
    model: str | None,
    dataset: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    split: str,
    data_dir: str | os.PathLike | None,
    section: str,
    num_studies: int | None,
    batch_size: int,
    device: str | None,
    max_new_tokens: int,
    candidates: int = 1,
    true_labels: bool = False,
    operating_point: str | dict | None = None,
    reporter: "Pipeline | None" = None,
    share: tuple[int, int] = (0, 1),
    others: Sequence[Path] = (),
    ready: Callable[[], None] = lambda: None,
) -> tuple[Path, list[str]]:
    """
    [`generate_predictions`] of one of several processes.

    Args:
        share (`tuple[int, int]`): Which process this is, and of how many: it takes every so many-th batch.
        others (`Sequence[Path]`): Files whose predictions need not be written again.
        ready (`Callable`): Called when they are read, and before anything is written: all processes have to read the
            same of each other.

    Returns:
        `tuple[Path, list[str]]`: of the file, and the ids of all studies of the split in their order.
    """
    check_section(section)
    split = split_name(split) or split
    report = load_reporter(model, device) if reporter is None else reporter
    studies = load_split(report, dataset, split, data_dir, num_studies)
    studies, left_out = _with_reference(studies, section, f"{split} study of {plain_name(dataset)}")
    settings = {
        "model": plain_name(model) if model else "bundled demo model",
        "weights": weights_digest(report.model),
        "dtype": str(report.model.dtype).removeprefix("torch."),
        "dataset": plain_name(dataset),
        "split": split,
        "section": section,
        "max_new_tokens": max_new_tokens,
        "generation_config": generation_config(report.model),
        "sampling": {"seed": SEED, **sampling_options(candidates - 1)} if candidates > 1 else False,
        "labels": "of the reference" if true_labels else "predicted",
    }
    if operating_point is not None:
        settings["operating_point"] = _point_settings(operating_point, report)
    references = dict(zip(studies["id"], studies[section], strict=True))
    written = {key for path in others for key in finished_studies(path, settings)}
    with open_predictions(folder, settings, check=lambda row: _check_row(row, references)) as file:
        ready()
        append_reports(
            report,
            file,
            list(references),
            lambda indices: _read_studies(studies, indices, section, true_labels),
            lambda key, answer: _row(key, references[key], section, answer),
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            candidates=candidates,
            operating_point=operating_point,
            written=written,
            share=share,
            description=f"Reporting ({left_out} without {section} left out)" if left_out else "Reporting",
        )
    return file.path, list(references)


def append_reports(
    report: "Pipeline",
    file: ResultsFile,
    ids: Sequence[str],
    read_studies: Callable[[Sequence[int]], Iterator[dict | ValueError]],
    make_row: Callable[[str, dict], dict | None],
    *,
    batch_size: int,
    max_new_tokens: int,
    candidates: int = 1,
    operating_point: str | dict | None = None,
    written: Collection[str] = (),
    share: tuple[int, int] = (0, 1),
    description: str = "Reporting",
) -> None:
    """
    Reports the studies that a file has no line of yet, and appends their lines batch by batch.

    Batches are those of an uninterrupted run, whatever the file holds already, so that it ends the same.

    Args:
        report ([`Pipeline`]): As of [`load_reporter`].
        file ([`ResultsFile`]): As of [`open_predictions`].
        ids (`Sequence[str]`): Of all studies, in their order.
        read_studies (`Callable`): Yields what [`report_studies`] takes for the studies of these indices.
        make_row (`Callable`): The line of an id and its answer; `None` for none.
        batch_size, max_new_tokens, candidates, operating_point: As of [`report_studies`].
        written (`Collection[str]`): Ids that need no line, since another file has one.
        share (`tuple[int, int]`): As of [`write_share`].
        description (`str`): Of the progress bar, which the first process shows.
    """
    process, num_processes = share
    present = {*written, *file.finished}
    batches = _unfinished_batches(ids, present, batch_size)[process::num_processes]
    again = sum(key in file.finished for batch in batches for key in batch.values())
    answers = report_studies(
        report,
        read_studies([index for batch in batches for index in batch]),
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        candidates=candidates,
        operating_point=operating_point,
        generate_kwargs={"do_sample": False},
        description=None if process > 0 else description,
        total=len(file.finished) - again + sum(map(len, batches)),
        finished=len(file.finished) - again,
    )
    for batch in batches:
        rows = [(key, make_row(key, next(answers))) for key in batch.values()]
        file.append(*(row for key, row in rows if row is not None and key not in present))
    answers.close()


def _point_settings(point: str | dict, report: "Pipeline") -> dict:
    """All that a report depends on at an operating point: another calibration gives it other thresholds."""
    from otdrg_hf.modeling.disease_states_otdrg import thresholds_at

    thresholds, unreached = thresholds_at(point, report.model.config)
    return {"asked": point, "thresholds": thresholds, "unreached": unreached}


def _unfinished_batches(ids: Sequence[str], finished: set[str], batch_size: int) -> list[dict[int, str]]:
    """Of the batches of all studies, those with a study that has no report yet, each as `{index: id}`."""
    batches = [dict(enumerate(ids[start : start + batch_size], start)) for start in range(0, len(ids), batch_size)]
    return [batch for batch in batches if not finished.issuperset(batch.values())]


def load_split(
    report: "Pipeline",
    dataset: str | os.PathLike,
    split: str,
    data_dir: str | os.PathLike | None = None,
    num_studies: int | None = None,
) -> "Dataset":
    """The studies of a split, or its first ones, for a model: phantoms are drawn at its image size."""
    from otdrg_hf.data import load_study_dataset

    options: dict[str, Any] = {} if data_dir is None else {"data_dir": data_dir}
    if dataset in PHANTOM_NAMES:
        options["image_size"] = phantom_size(report)
    return load_study_dataset(dataset, split=split_name(split) or split, num_studies=num_studies, **options)


def _with_reference(studies: "Dataset", section: str, described: str) -> tuple["Dataset", int]:
    """The studies with a reference, and how many are left out for want of one."""
    kept = [index for index, text in enumerate(studies[section]) if text.strip()]
    if not kept:
        raise ValueError(f"no {described} has a text in its column {section}")
    ids = studies["id"]
    if len(set(ids)) < len(ids):
        raise ValueError(f"an id is there twice: each {described} needs its own")
    left_out = len(studies) - len(kept)
    return (studies.select(kept) if left_out else studies), left_out


def phantom_size(report: "Pipeline") -> int:
    """The size at which phantoms are drawn for a model: its own, where there are phantoms of it."""
    smallest, largest = _PHANTOM_SIZES
    return min(max(report.processor.image_processor.size["height"], smallest), largest)


def _check_row(row: dict, references: dict[str, str]) -> None:
    """A line that is there already must be of one of these studies, with this reference."""
    if row["id"] not in references:
        raise ValueError(f"id {row['id']!r} is not among the studies asked for; give another --output_dir")
    if row.get("reference") != references[row["id"]]:
        raise ValueError(f"the reference of id {row['id']!r} has changed since; give another --output_dir")


def _read_studies(studies, indices: Sequence[int], section: str, true_labels: bool) -> Iterator[dict]:
    """What the pipeline takes of each study, with the labels of its reference where they are asked for."""
    for index in indices:
        study = _read_study(studies, index)
        inputs = {key: study[key] for key in INPUT_COLUMNS}
        if true_labels:
            [codes] = label_reports([study[section]])
            inputs["disease_labels"] = named_states(codes)
        yield inputs


def _row(key: str, reference: str, section: str, answer: dict) -> dict:
    row = {"id": key, "generated_text": answer["generated_text"], "reference": reference, "section": section}
    states = {finding["label"]: finding["state"] for finding in answer["findings"]}
    if tuple(states) == LABELS:  # a model may have been trained for other labels, which nothing here can score
        row["predicted_labels"] = {label: state for label, state in states.items() if state != STATES[0]}
    return row


def _read_study(studies, index: int) -> dict:
    try:
        return studies[index]
    except (OSError, ValueError) as error:
        key = studies.select_columns("id")[index]["id"]
        raise ValueError(f"study {key!r} cannot be read: {' '.join(str(error).split())}") from error


def generation_config(model) -> dict:
    """What the checkpoint says on how to generate, such as beams, without what does not change a text."""
    fields = model.generation_config.to_diff_dict()
    silent = ("_", "output_", "use_cache", "transformers_version")
    return {name: value for name, value in sorted(fields.items()) if not name.startswith(silent)}
