"""All probes of a model: one pass over the studies for scores and evidence, three for what labels do to the reports."""

import json
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from otdrg_hf.data.phantom import hard_phantom_dataset, phantom_dataset
from otdrg_hf.data.schema import INPUT_COLUMNS
from otdrg_hf.labeling import LABELS
from otdrg_hf.modeling.disease_states_otdrg import POSITIVE
from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration
from otdrg_hf.reporting.loading import load_reporter
from otdrg_hf.reporting.split import load_split, phantom_size
from otdrg_hf.training.calibration import expected_calibration_error
from otdrg_hf.training.probes.localization import chance, grad_cam, is_hit
from otdrg_hf.training.probes.results import ProbeResults
from otdrg_hf.training.probes.spread import effective_rank, mean_cosine
from otdrg_hf.training.probes.steering import state_true_labels, steer

SPREAD_STUDIES = 32
PHANTOMS = {"phantom": phantom_dataset, "phantom_hard": hard_phantom_dataset}


def probe_model(
    model_dir: str | Path,
    dataset: str,
    split: str,
    num_studies: int,
    *,
    data_dir: str | Path | None = None,
    section: str = "report",
    candidates: int = 1,
) -> ProbeResults:
    """
    Probes a model.

    Args:
        model_dir (`str` or `Path`): Its folder.
        dataset, split, num_studies, data_dir: As of [`~reporting.split.load_split`]. Where the signs of phantoms lie is
            known; of other studies the evidence is not judged.
        section (`str`): The column whose labels are the true ones, where reports are written from these.
        candidates (`int`): As of [`~reporting.loop.report_studies`].
    """
    report = load_reporter(str(model_dir), "cpu")
    model, processor = report.model, report.processor
    if dataset in PHANTOMS:  # with their boxes
        studies = PHANTOMS[dataset](split, num_studies=num_studies, image_size=phantom_size(report))
    else:
        studies = load_split(report, dataset, split, data_dir, num_studies)
    scores, actual, hits = _watch(model, processor, studies)
    # What training started from, or the like of it: the same architecture with fresh weights.
    torch.manual_seed(0)
    fresh = OTDRGForConditionalGeneration(model.config).eval()
    few = [studies[index] for index in range(min(SPREAD_STUDIES, len(studies)))]
    return ProbeResults(
        calibration_error=expected_calibration_error(scores, actual),
        pointing=_pointing_table(hits) if "boxes" in studies.column_names else {},
        steering=steer(report, studies, candidates),
        true_labels=state_true_labels(report, studies, section, candidates),
        spread={"before": _spread(fresh, processor, few), "after": _spread(model, processor, few)},
    )


def _watch(model, processor, studies):
    """Scores `[N, m]`, truths `[N, m]`, and hits of the true positives of phantoms."""
    scores, actual, hits = [], [], []
    for study in tqdm(studies, desc="Probing", unit="study"):
        inputs = processor(**{name: [study[name]] for name in INPUT_COLUMNS})
        with torch.no_grad():
            features = model.get_image_features(inputs["pixel_values"], inputs["view_mask"])
        scores.append(features.disease_logits[0].softmax(-1)[:, POSITIVE].numpy())
        truth = np.array(study["disease_labels"]) == POSITIVE
        actual.append(truth)
        if "boxes" not in study:
            continue
        boxes = json.loads(study["boxes"])
        predicted = features.disease_states[0].numpy() == POSITIVE
        drawn = [any(of_view.get(label) for of_view in boxes) for label in LABELS]
        found = np.flatnonzero(truth & predicted & drawn).tolist()
        if not found:
            continue
        cams = grad_cam(model, inputs["pixel_values"], inputs["view_mask"], found)
        (rows, columns), offset = model.config.image_grid, model.config.patch_offset
        evidence = features.evidence[0].T.unflatten(1, (len(boxes), rows, columns))  # [m, V, rows, columns]
        for label in found:
            of_label = [of_view.get(LABELS[label], []) for of_view in boxes]
            hit = [is_hit(each[label].numpy(), of_label, offset) for each in (evidence, cams)]
            hits.append((LABELS[label], *hit, chance((rows, columns), of_label, offset)))
    return np.stack(scores), np.stack(actual), hits


@torch.no_grad()
def _spread(model, processor, studies) -> dict[str, float]:
    patches = []
    for study in studies:
        inputs = processor(**{name: [study[name]] for name in INPUT_COLUMNS})
        patches.append(model.model.see(inputs["pixel_values"], inputs["view_mask"]).patches[0])
    _, phrases = model.model.encode_labels()
    return {"effective_rank": effective_rank(torch.cat(patches)), "label_cosine": mean_cosine(phrases[:, POSITIVE])}


def _pointing_table(hits: list[tuple]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for label in LABELS:
        rows = np.array([row[1:] for row in hits if row[0] == label], dtype=float)
        if len(rows):
            table[label] = dict(zip(("evidence", "grad_cam", "chance"), rows.mean(0).tolist(), strict=True))
            table[label]["count"] = len(rows)
    mean = {name: float(np.mean([row[name] for row in table.values()])) for name in ("evidence", "grad_cam", "chance")}
    return {**table, "mean": {**mean, "count": len(hits)}}
