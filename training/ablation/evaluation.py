"""Writes the predictions of every variant, seed and test split of an ablation, those that are not there yet."""

from pathlib import Path

from tqdm.auto import tqdm

from otdrg_hf.data import load_study_dataset
from otdrg_hf.data.phantom import PHANTOM_NAMES
from otdrg_hf.reporting.predictions import PREDICTIONS_FILE
from otdrg_hf.reporting.split import generate_predictions
from otdrg_hf.training.ablation.llava_reports import generate_llava_predictions
from otdrg_hf.training.ablation.plan import Plan, Variant
from otdrg_hf.training.ablation.running import run_stage


def train_and_report(plan: Plan, output_dir: Path) -> dict[str, dict[str, list[Path]]]:
    """
    Trains what is not trained and reports what is not reported, seed by seed, so that a part is a whole comparison.

    Returns:
        `dict[str, dict[str, list[Path]]]`: By split and variant, the prediction files in the order of the seeds.
    """
    files: dict[str, dict[str, list[Path]]] = {
        split: {variant.name: [] for variant in plan.variants} for split in plan.tests
    }
    runs = [(seed, variant) for seed in plan.seeds for variant in plan.variants]
    for seed, variant in tqdm(runs, desc="Ablation", unit="run"):
        model_dir = run_stage(variant.last_stages[seed], output_dir)
        for split in plan.tests:
            folder = output_dir / "predictions" / _file_name(variant.name) / f"seed_{seed}" / split
            files[split][variant.name].append(_report(plan, variant, model_dir, split, folder))
    return files


def _file_name(name: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in name)


def _report(plan: Plan, variant: Variant, model_dir: Path, split: str, folder: Path) -> Path:
    finished = folder / "finished"
    if finished.is_file():
        return folder / PREDICTIONS_FILE
    if variant.script == "llava":
        studies = load_test_studies(plan, split)
        path = generate_llava_predictions(model_dir, studies, folder)
    else:
        path = generate_predictions(
            str(model_dir),
            plan.dataset,
            folder,
            split=split,
            num_studies=plan.test_studies,
            batch_size=32,
            true_labels=variant.true_labels,
        )
    finished.touch()
    return path


def load_test_studies(plan: Plan, split: str):
    """The studies of a test split that every variant reports: those with a report, at most `test_studies`."""
    options = dict(plan.load_kwargs)
    if plan.dataset in PHANTOM_NAMES and plan.test_studies:
        options["num_studies"] = plan.test_studies
    studies = load_study_dataset(plan.dataset, split=split, **options)
    if plan.test_studies and plan.test_studies < len(studies):
        studies = studies.select(range(plan.test_studies))
    kept = [index for index, text in enumerate(studies["report"]) if text.strip()]
    return studies if len(kept) == len(studies) else studies.select(kept)
