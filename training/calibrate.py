"""`otdrg calibrate`: fits what a checkpoint decides by on validation studies, and writes it into its configuration."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from otdrg_hf.data.schema import INPUT_COLUMNS
from otdrg_hf.files import update_json
from otdrg_hf.modeling.configuration_otdrg import OTDRGConfig
from otdrg_hf.modeling.disease_states_otdrg import NAMED_POINTS, POSITIVE, thresholds_at
from otdrg_hf.reporting.confidence import FEWEST_CLAIMS, fit_sentence_calibration, report_and_judge
from otdrg_hf.reporting.loading import load_reporter, plain_name
from otdrg_hf.reporting.split import load_split
from otdrg_hf.training.calibration import config_file, fit_decisions
from otdrg_hf.training.decisions import ERROR_RATE, check_error_rate, set_coverage
from otdrg_hf.training.input_statistics import add_input_statistics

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Pipeline


def run_calibrate(
    model: str | os.PathLike,
    dataset: str | os.PathLike,
    *,
    split: str = "validation",
    test_split: str | None = None,
    data_dir: str | os.PathLike | None = None,
    num_studies: int | None = None,
    batch_size: int = 8,
    device: str | None = None,
    error_rate: float = ERROR_RATE,
    refit_scores: bool = False,
    sentences: bool = True,
    as_json: bool = False,
) -> None:
    """
    Calibrates a checkpoint and prints what its operating points reach: what its images look like, what decides its
    states, and the confidence in its sentences.

    The weights stay as they are. The configuration is written last and at once, or, after an error, not at all.

    Args:
        model (`str` or `os.PathLike`): Its folder; an adapter's too.
        dataset, split, data_dir: As `load_study_dataset` takes them. Phantoms are drawn at the model's image size.
        test_split (`str`, *optional*): Another split, to measure the sets of plausible states on.
        num_studies (`int`, *optional*): Only the first ones, of either split.
        batch_size (`int`), device (`str`, *optional*): Of the model.
        error_rate (`float`): Of the conformal sets.
        refit_scores (`bool`): As of [`fit_decisions`].
        sentences (`bool`): Fit the confidence in sentences as well, for which the studies are reported.
        as_json (`bool`): Print the fields that were written instead of a table.

    Raises:
        ValueError: for a folder without a model, a dataset or split that is not there or whose studies have other
            labels, and an error rate that is not between 0 and 1.
    """
    check_error_rate(error_rate)
    path = checkpoint_config(model)
    report = load_reporter(str(model), device)
    config = report.model.config
    splits = (split, test_split) if test_split is not None else (split,)
    studies, *tested = (load_split(report, dataset, each, data_dir, num_studies) for each in splits)
    states = np.array(studies["disease_labels"])  # [N, m]
    if states.shape[1] != config.num_disease_labels:
        raise ValueError(
            f"the model has {config.num_disease_labels} labels and the studies of {plain_name(dataset)} have "
            f"{states.shape[1]}; calibrate it on studies with its own labels"
        )
    add_input_statistics(path.parent, studies, report.model, report.processor, write=False, description="Images")
    report.read_input_statistics()
    logits = disease_logits(report, studies, batch_size)
    fields, errors = fit_decisions(logits, states, config, refit_scores=refit_scores, error_rate=error_rate)
    for name, value in fields.items():
        setattr(config, name, value)
    fields["input_statistics"] = config.input_statistics
    if sentences and config.trained_on_reports:
        inputs = ({name: study[name] for name in INPUT_COLUMNS} for study in studies)
        judged = report_and_judge(report, inputs, studies["report"], batch_size=batch_size)
        if len(judged.features) >= FEWEST_CLAIMS:
            fields["sentence_calibration"] = fit_sentence_calibration(judged)
    update_json(path, fields)
    text = _text(config, states, errors)
    for each in tested:
        logits, truth = disease_logits(report, each, batch_size), np.array(each["disease_labels"])
        coverage = set_coverage(logits, truth, config)
        fields = {**fields, "coverage": coverage}
        text += f"\n\n{_coverage_text(coverage, len(truth), test_split)}"
    print(json.dumps(fields) if as_json else text)


def checkpoint_config(model: str | os.PathLike) -> Path:
    """The configuration file of a model's folder; `ValueError` for anything that is not such a folder."""
    name = plain_name(model)
    if not os.path.isdir(model):
        raise ValueError(f"{name!r} is not a folder; what calibrate writes goes into one: download the model first")
    path = config_file(model, Path(model, "adapter_config.json").is_file())
    try:
        model_type = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        model_type = None
    if model_type != OTDRGConfig.model_type:
        raise ValueError(f"{name!r} holds no OTDRG model: there is no config.json of one in it")
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{name!r} cannot be written to; calibrate a copy of it")
    return path


@torch.no_grad()
def disease_logits(report: "Pipeline", studies: "Dataset", batch_size: int = 8) -> np.ndarray:
    """
    What the disease head says of N studies, `[N, m, states]`; no report is written.

    Args:
        report ([`Pipeline`]): As of [`load_reporter`].
        studies (`Dataset`): As of `load_study_dataset`.
        batch_size (`int`, *optional*, defaults to 8): Studies that run together.
    """
    found = []
    for start in tqdm(range(0, len(studies), batch_size), desc="Calibrating", unit="batch"):
        batch = studies[start : start + batch_size]
        inputs = report.processor(**{name: batch[name] for name in INPUT_COLUMNS}).to(report.device)
        pixel_values = inputs["pixel_values"].to(report.model.dtype)
        features = report.model.get_image_features(pixel_values, inputs["view_mask"], return_dict=True)
        found.append(features.disease_logits.float().cpu().numpy())
    return np.concatenate(found)


def _text(config: OTDRGConfig, states: np.ndarray, errors: tuple[float, float]) -> str:
    """What each label reaches at the named operating points, on the studies that they were fitted on."""
    lines = [
        f"{len(states)} studies; calibration error of the scores {errors[0]:.3f}, now {errors[1]:.3f}",
        f"plausible states lack the true one at a rate of {config.conformal_error_rate:g}",
        f"{'precision / recall':<28}{'positive':>9}" + "".join(f"  {point:>12}" for point in NAMED_POINTS),
    ]
    at = {point: thresholds_at(point, config)[0] for point in NAMED_POINTS}
    for index, label in enumerate(config.label_names):
        curve = (config.operating_curves or {}).get(label)
        if curve is None:
            continue
        cells = [_cell(curve, thresholds[index]) for thresholds in at.values()]
        lines.append(
            f"{label:<28}{(states[:, index] == POSITIVE).sum():>9}" + "".join(f"  {cell:>12}" for cell in cells)
        )
    return "\n".join(lines)


def _coverage_text(coverage: dict[str, dict], num_studies: int, split: str) -> str:
    """A table of [`set_coverage`]."""
    lines = [
        f"plausible states of {num_studies} studies of the split {split}",
        f"{'holds the true state':<28}{'positive':>9}{'of all':>9}{'of positive':>13}{'states':>9}{'empty':>9}",
    ]
    for label, row in coverage.items():
        of_positive = "-" if row["positive_coverage"] is None else f"{row['positive_coverage']:.3f}"
        cells = f"{row['coverage']:>9.3f}{of_positive:>13}{row['size']:>9.2f}{row['empty']:>9.3f}"
        lines.append(f"{label:<28}{row['positives']:>9}{cells}")
    return "\n".join(lines)


def _cell(curve: list[list[float]], threshold: float) -> str:
    """Precision and recall of the row that is nearest to a threshold; a dash without a positive study."""
    if not curve:
        return "-"
    _, precision, recall = min(curve, key=lambda row: abs(row[0] - threshold))
    return f"{precision:.2f} / {recall:.2f}"
