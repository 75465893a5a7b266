"""All probes of a model on phantoms, in one pass for the evidence and one for the steering of reports."""

import json
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from otdrg_hf.data.phantom import hard_phantom_dataset, phantom_dataset
from otdrg_hf.data.schema import INPUT_COLUMNS
from otdrg_hf.labeling import LABELS
from otdrg_hf.modeling.disease_states_otdrg import POSITIVE
from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration
from otdrg_hf.modeling.pipeline_otdrg import RadiologyReportPipeline
from otdrg_hf.training.calibration import expected_calibration_error
from otdrg_hf.training.probes.localization import chance, grad_cam, is_hit
from otdrg_hf.training.probes.results import ProbeResults
from otdrg_hf.training.probes.spread import effective_rank, mean_cosine
from otdrg_hf.training.probes.steering import Steered

SPREAD_STUDIES = 32
PHANTOMS = {"phantom": phantom_dataset, "phantom_hard": hard_phantom_dataset}


def probe_model(model_dir: str | Path, dataset: str, split: str, num_studies: int) -> ProbeResults:
    """
    Probes a model.

    Args:
        model_dir (`str` or `Path`): Its folder.
        dataset (`str`): `"phantom"` or `"phantom_hard"`.
        split (`str`), num_studies (`int`): Which phantoms.

    Raises:
        ValueError: for a dataset whose signs have no boxes.
    """
    if dataset not in PHANTOMS:
        raise ValueError(f"The signs of {dataset!r} have no boxes; choose {' or '.join(PHANTOMS)}.")
    model = AutoModelForImageTextToText.from_pretrained(model_dir).eval()
    processor = AutoProcessor.from_pretrained(model_dir)
    size = max(64, processor.image_processor.size["height"])
    studies = PHANTOMS[dataset](split, num_studies=num_studies, image_size=size)
    scores, actual, hits = _watch(model, processor, studies)
    # What training started from, or the like of it: the same architecture with fresh weights.
    torch.manual_seed(0)
    fresh = OTDRGForConditionalGeneration(model.config).eval()
    few = [studies[index] for index in range(min(SPREAD_STUDIES, len(studies)))]
    return ProbeResults(
        calibration_error=expected_calibration_error(scores, actual),
        pointing=_pointing_table(hits),
        steering=_steer(model, processor, studies),
        spread={"before": _spread(fresh, processor, few), "after": _spread(model, processor, few)},
    )


def _watch(model, processor, studies):
    """Scores `[N, m]`, truths `[N, m]`, and hits of the true positives."""
    scores, actual, hits = [], [], []
    for study in tqdm(studies, desc="Probing", unit="study"):
        inputs = processor(**{name: [study[name]] for name in INPUT_COLUMNS})
        with torch.no_grad():
            features = model.get_image_features(inputs["pixel_values"], inputs["view_mask"])
        scores.append(features.disease_logits[0].softmax(-1)[:, POSITIVE].numpy())
        truth = np.array(study["disease_labels"]) == POSITIVE
        actual.append(truth)
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
    table = {}
    for label in LABELS:
        rows = np.array([row[1:] for row in hits if row[0] == label], dtype=float)
        if len(rows):
            table[label] = dict(zip(("evidence", "grad_cam", "chance"), rows.mean(0).tolist(), strict=True))
            table[label]["count"] = len(rows)
    mean = {name: float(np.mean([row[name] for row in table.values()])) for name in ("evidence", "grad_cam", "chance")}
    return {**table, "mean": {**mean, "count": len(hits)}}


def _steer(model, processor, studies) -> dict[str, float]:
    """One label of each study, in turn, is overridden by what it was not predicted to be."""
    report = RadiologyReportPipeline(model=model, processor=processor, device="cpu")
    labels = [label for label in LABELS if label != "No Finding"]
    inputs = [{name: study[name] for name in INPUT_COLUMNS} for study in studies]
    plain = _write(report, inputs, "Reporting")
    changed, wishes = [], []
    for index, (study, answer) in enumerate(zip(inputs, plain, strict=True)):
        # Present where it is not, and, every other time, absent where something is.
        present = [f["label"] for f in answer["findings"] if f["state"] == "positive" and f["label"] in labels]
        absent = [label for label in labels if label not in present]
        pool, state = (present, "negative") if present and (index % 2 or not absent) else (absent, "positive")
        label = pool[index // 2 % len(pool)]
        wishes.append((label, state))
        changed.append({**study, "disease_labels": {label: state}})
    again = _write(report, changed, "Steering")
    steered = [
        Steered(label, state, before["generated_text"], after["generated_text"])
        for (label, state), before, after in zip(wishes, plain, again, strict=True)
    ]
    shares = {
        name: float(np.mean([each.obeyed() for each in steered if each.state == state] or [np.nan]))
        for name, state in (("present", "positive"), ("absent", "negative"))
    }
    return {**shares, "words": float(np.mean([each.words_changed() for each in steered])), "count": len(steered)}


def _write(report, studies: list[dict], description: str) -> list[dict]:
    # A list would be answered all at once, without progress.
    answers = report((study for study in studies), batch_size=32)
    return list(tqdm(answers, desc=description, total=len(studies), unit="study"))
