"""Reports of a whole split by a model, written to a file that `otdrg evaluate` scores and that a later run goes on."""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ..data.phantom import PHANTOM_NAMES
from ..data.schema import INPUT_COLUMNS, split_name
from ..labeling import LABELS, STATES, label_reports
from .prediction_file import PredictionFile
from .report_files import check_section

_PHANTOM_SIZES = (64, 1024)
_SAMPLED = 64
_CAUSE = re.compile(r"(\w+\.)*\w+Error: ")


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
    true_labels: bool = False,
) -> Path:
    """
    Reports the studies of a split, without sampling, each from its films, views, indication and earlier report.

    `predictions.jsonl` gets a line for each study as its batch is done: `id`, `generated_text`, `reference`, `section`
    and `predicted_labels`, the states that the disease head saw (blank ones left out). `generation.json` says how they
    were made. A run that was cut off goes on after the last whole line; batches are cut as in an unbroken run, so that
    the file ends the same. Studies whose reference is empty are left out.

    Args:
        model (`str`, *optional*): Folder or Hub id; the bundled demo model by default.
        dataset, split, data_dir: As `load_study_dataset` takes them. Phantoms are drawn at the model's image size.
        output_dir (`str` or `os.PathLike`): Made if it is not there.
        section (`str`): The column that is the reference: `"findings"`, `"impression"` or `"report"`, which is both.
        num_studies (`int`, *optional*): Only the first ones; a later run may ask for more.
        batch_size, device, max_new_tokens: Of the pipeline.
        true_labels (`bool`): Prompt with the labels of the reference instead of predicted ones: an upper bound.

    Returns:
        `Path`: of `predictions.jsonl`.

    Raises:
        ValueError: for a model, split or section that is not there, a study that cannot be read, and an output folder
            with predictions of other settings, another model or other references.
    """
    options = {"split": split, "data_dir": data_dir, "section": section, "num_studies": num_studies}
    options |= {"batch_size": batch_size, "device": device, "max_new_tokens": max_new_tokens}
    path, _ = write_share(model, dataset, output_dir, true_labels=true_labels, **options)
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
    true_labels: bool = False,
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
    report = _load_pipeline(model, device)
    studies, left_out = _load_studies(report, dataset, split, data_dir, section, num_studies)
    settings = {
        "model": _plain_name(model) if model else "bundled demo model",
        "weights": weights_digest(report.model),
        "dtype": str(report.model.dtype).removeprefix("torch."),
        "dataset": _plain_name(dataset),
        "split": split,
        "section": section,
        "max_new_tokens": max_new_tokens,
        "generation_config": _generation_config(report.model),
        "sampling": False,
        "labels": "of the reference" if true_labels else "predicted",
    }
    written = {key for path in others for key in PredictionFile(path.parent, settings).rows}
    file = PredictionFile(folder, settings)
    ready()
    references = dict(zip(studies["id"], studies[section], strict=True))
    _check_rows(file, references)
    ids = list(references)
    waiting = []
    for start in range(0, len(ids), batch_size):
        batch = range(start, min(start + batch_size, len(ids)))
        missing = {ids[index] for index in batch if ids[index] not in file.rows and ids[index] not in written}
        if missing:
            waiting.append((batch, missing))
    index, number = share
    waiting = waiting[index::number]
    total = len(file.rows) + sum(len(missing) for _, missing in waiting)
    description = f"Reporting ({left_out} without {section} left out)" if left_out else "Reporting"
    with tqdm(total=total, initial=len(file.rows), desc=description, unit="study", disable=index > 0) as progress:
        for batch, missing in waiting:
            rows = _report_batch(report, studies, batch, section, max_new_tokens, true_labels)
            file.append([row for row in rows if row["id"] in missing])
            progress.update(len(missing))
    return file.path, ids


def weights_digest(model: torch.nn.Module) -> str:
    """A fingerprint of a model's weights, from up to 64 values of each: training changes it, a copy does not."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        values = tensor.detach().reshape(-1)
        sample = values[:: max(1, len(values) // _SAMPLED)][:_SAMPLED].contiguous().cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return f"sha256 of samples {digest.hexdigest()[:16]}"


def _load_pipeline(model: str | None, device: str | None):
    from transformers import pipeline

    from otdrg_hf import DEMO_CHECKPOINT
    from otdrg_hf.modeling.pipeline_otdrg import TASK

    source = model or str(DEMO_CHECKPOINT)
    path = Path(source)
    if not path.is_dir() and path.name != source and path.parent.is_dir():
        raise ValueError(f"cannot load the model {source}: there is no such folder")  # and the Hub need not be asked
    try:
        report = pipeline(TASK, model=source, device=device)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load the model {source}: {_reason(error)}") from error
    return report


def _reason(error: Exception) -> str:
    """The line of an error that says what is wrong: pipelines put whole tracebacks into theirs."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if _CAUSE.match(line)]
    return (causes or lines or [type(error).__name__])[-1 if causes else 0][:300]


def _load_studies(report, dataset, split, data_dir, section, num_studies):
    """The studies of the split with a reference, and how many are left out for want of one."""
    from ..data import load_study_dataset

    options = {} if data_dir is None else {"data_dir": data_dir}
    if dataset in PHANTOM_NAMES:
        smallest, largest = _PHANTOM_SIZES
        options["image_size"] = min(max(report.processor.image_processor.size["height"], smallest), largest)
        if num_studies is not None:
            options["num_studies"] = num_studies
    studies = load_study_dataset(dataset, split=split, **options)
    if num_studies is not None and num_studies < len(studies):
        studies = studies.select(range(num_studies))
    kept = [index for index, text in enumerate(studies[section]) if text.strip()]
    if not kept:
        raise ValueError(f"no {split} study of {_plain_name(dataset)} has a text in its column {section}")
    ids = studies["id"]
    if len(set(ids)) < len(ids):
        raise ValueError(f"{_plain_name(dataset)} has an id twice in its split {split}; each study needs its own")
    left_out = len(studies) - len(kept)
    return (studies.select(kept) if left_out else studies), left_out


def _check_rows(file: PredictionFile, references: dict[str, str]):
    """Lines that are there already must be of these studies with these references."""
    for key, row in file.rows.items():
        where = f"{file.path.name} line {row.line}"
        if key not in references:
            raise ValueError(f"{where}: id {key!r} is not among the studies asked for; give another --output_dir")
        if row.value.get("reference") != references[key]:
            raise ValueError(f"{where}: the reference of id {key!r} has changed since; give another --output_dir")


def _report_batch(report, studies, indices: range, section: str, max_new_tokens: int, true_labels: bool) -> list[dict]:
    batch = [_read_study(studies, index) for index in indices]
    inputs = [{key: study[key] for key in INPUT_COLUMNS} for study in batch]
    if true_labels:
        states = label_reports([study[section] for study in batch])
        for study, codes in zip(inputs, states, strict=True):
            study["disease_labels"] = {label: STATES[code] for label, code in zip(LABELS, codes, strict=True)}
    options = {"max_new_tokens": max_new_tokens, "generate_kwargs": {"do_sample": False}}
    rows = []
    for study, answer in zip(batch, report(inputs, batch_size=len(inputs), **options), strict=True):
        row = {"id": study["id"], "generated_text": answer["generated_text"], "reference": study[section]}
        row["section"] = section
        states = {finding["label"]: finding["state"] for finding in answer["findings"]}
        if tuple(states) == LABELS:  # a model may have been trained for other labels, which nothing here can score
            row["predicted_labels"] = {label: state for label, state in states.items() if state != STATES[0]}
        rows.append(row)
    return rows


def _read_study(studies, index: int) -> dict:
    try:
        return studies[index]
    except (OSError, ValueError) as error:
        key = studies.select_columns("id")[index]["id"]
        raise ValueError(f"study {key!r} cannot be read: {' '.join(str(error).split())}") from error


def _generation_config(model) -> dict:
    """What the checkpoint says on how to generate, such as beams, without what does not change a text."""
    fields = model.generation_config.to_diff_dict()
    silent = ("_", "output_", "use_cache", "transformers_version")
    return {name: value for name, value in sorted(fields.items()) if not name.startswith(silent)}


def _plain_name(source: str | os.PathLike) -> str:
    """A folder without the path to it, which says nothing elsewhere; a name or Hub id as it is."""
    path = Path(source)
    return path.resolve().name if path.is_dir() else str(source)
