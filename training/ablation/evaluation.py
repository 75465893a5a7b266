"""Writes the predictions of every variant, seed and test split of an ablation, those that are not there yet."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from tqdm.auto import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from otdrg_hf.data import load_study_dataset
from otdrg_hf.data.phantom import PHANTOM_NAMES
from otdrg_hf.evaluation.baselines import best_constant, nearest, shuffled
from otdrg_hf.files import write_json
from otdrg_hf.modeling.disease_states_otdrg import positive_log_odds
from otdrg_hf.reporting.predictions import PREDICTIONS_FILE
from otdrg_hf.reporting.split import generate_predictions
from otdrg_hf.training.ablation.baselines import EncoderFeatures, write_baseline
from otdrg_hf.training.ablation.llava_reports import generate_llava_predictions
from otdrg_hf.training.ablation.plan import Plan, Variant
from otdrg_hf.training.ablation.running import run_stage
from otdrg_hf.training.arguments import fit_recipe

SCORES_FILE = "label_scores.json"
BATCH = 32


def train_and_report(plan: Plan, output_dir: Path, jobs: int = 1) -> dict[str, dict[str, list[Path]]]:
    """
    Trains what is not trained and reports what is not reported, seed by seed, so that a part is a whole comparison.

    Args:
        plan ([`Plan`]): The ablation.
        output_dir (`Path`): For runs and predictions.
        jobs (`int`): How many variants and seeds at a time, each in a process of its own.

    Returns:
        `dict[str, dict[str, list[Path]]]`: By split and variant, the prediction files in the order of the seeds.
    """
    runs = [(plan, output_dir, seed, variant) for seed in plan.seeds for variant in plan.variants]
    progress = tqdm(desc="Ablation", unit="run", total=len(runs))
    if jobs == 1:
        for run in runs:
            _run(*run)
            progress.update()
    else:
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _share_processors, (jobs,)) as pool:
            for future in as_completed([pool.submit(_run, *run) for run in runs]):
                future.result()
                progress.update()
    progress.close()
    return {
        split: {
            variant.name: [
                predictions_folder(plan, variant, seed, split, output_dir) / PREDICTIONS_FILE for seed in plan.seeds
            ]
            for variant in plan.variants
        }
        for split in plan.tests
    }


def _share_processors(jobs: int) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))


def _run(plan: Plan, output_dir: Path, seed: int, variant: Variant) -> None:
    """Trains and reports one variant with one seed."""
    model_dir = run_stage(variant.last_stages[seed], output_dir) if variant.needs_model else None
    for split in plan.tests:
        folder = predictions_folder(plan, variant, seed, split, output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        finished = folder / "finished"
        with FileLock(folder / "running.lock"):  # another ablation may want the same
            if not finished.is_file():
                if variant.baseline:
                    _report_baseline(plan, variant, seed, split, folder, model_dir, output_dir)
                else:
                    _report(plan, variant, model_dir, split, folder)
                finished.touch()
            if variant.predicts_labels and "label_auroc" in plan.columns:
                _score_labels(plan, model_dir, split, folder / SCORES_FILE)


def predictions_folder(plan: Plan, variant: Variant, seed: int, split: str, output_dir: Path) -> Path:
    """Where the predictions of a variant on a split are: elsewhere once what they depend on has changed."""
    name = "".join(character if character.isalnum() else "_" for character in variant.name)
    key = plan.predictions_key(variant, seed)
    return output_dir / "predictions" / name / f"seed_{seed}" / f"{split}-{key}"


def _report(plan: Plan, variant: Variant, model_dir: Path, split: str, folder: Path) -> None:
    if variant.script == "llava":
        generate_llava_predictions(model_dir, load_studies_of(plan, split), folder, section=plan.section)
        return
    generate_predictions(
        str(model_dir),
        plan.dataset,
        folder,
        split=split,
        data_dir=plan.load_kwargs.get("data_dir"),
        section=plan.section,
        num_studies=plan.test_studies,
        batch_size=BATCH,
        true_labels=variant.true_labels,
    )


def _report_baseline(
    plan: Plan, variant: Variant, seed: int, split: str, folder: Path, model_dir: Path | None, output_dir: Path
) -> None:
    studies, section = load_studies_of(plan, split), plan.section
    if variant.baseline == "shuffled":
        reports = shuffled(studies[section], seed)
    elif variant.baseline == "constant":
        train, validation = (load_studies_of(plan, each)[section] for each in ("train", "validation"))
        chosen = best_constant([*train, *validation], list(validation), variant.by, plan.protocol)
        reports = [chosen] * len(studies)
    else:
        fields, stage = {}, variant.last_stages[seed]
        while stage is not None:
            fields, stage = {**stage.fields, **fields}, stage.start
        cache = Path(fields.get("feature_cache") or output_dir / "features")
        encode = EncoderFeatures(model_dir, cache, fit_recipe(fields, {}).get("frozen_dtype"))
        train = load_studies_of(plan, "train")
        reports = nearest(encode(studies).numpy(), encode(train).numpy(), train[section])
    write_baseline(folder, variant.name, studies, section, reports)


@torch.no_grad()
def _score_labels(plan: Plan, model_dir: Path, split: str, path: Path) -> None:
    """Writes the log-odds of positive `[14]` of each study, by id, to a JSON file."""
    if path.is_file():
        return
    model = AutoModelForImageTextToText.from_pretrained(model_dir).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    processor, studies, scores = AutoProcessor.from_pretrained(model_dir), load_studies_of(plan, split), {}
    for start in tqdm(range(0, len(studies), BATCH), desc="Scoring labels", unit="batch"):
        batch = studies.select(range(start, min(start + BATCH, len(studies))))
        inputs = processor(images=[study["images"] for study in batch]).to(model.device)
        logits = model(pixel_values=inputs["pixel_values"], view_mask=inputs["view_mask"]).disease_logits  # [B, 14, 4]
        values = positive_log_odds(logits).float().cpu().numpy()
        scores |= dict(zip(batch["id"], np.round(values, 5).tolist(), strict=True))
    write_json(path, scores, indent=None)


def load_studies_of(plan: Plan, split: str):
    """The studies of a split that have a reference, of a test split at most `test_studies`."""
    options, limit = dict(plan.load_kwargs), plan.test_studies if split in plan.tests else None
    if plan.dataset in PHANTOM_NAMES and limit:
        options["num_studies"] = limit
    studies = load_study_dataset(plan.dataset, split=split, **options)
    if limit and limit < len(studies):
        studies = studies.select(range(limit))
    kept = [index for index, text in enumerate(studies[plan.section]) if text.strip()]
    return studies if len(kept) == len(studies) else studies.select(kept)
