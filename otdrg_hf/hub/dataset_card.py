"""The card of a dataset: of a prepared folder from its summary.json, of phantoms from their seeds."""

import json
import os
from pathlib import Path
from typing import Any

from otdrg_hf.data.sources import SOURCES
from otdrg_hf.hub.card_file import CARD_FILE, TASK_TYPE, render_card, save_card

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_dataset_card(
    data_dir: str | os.PathLike, *, license: str | None = None, output: str | os.PathLike | None = None
) -> Path:
    """
    Writes the card of a folder that `otdrg prepare` made: counts and shares only, nothing of a study.

    Args:
        data_dir (`str` or `os.PathLike`): The folder, with its summary.json.
        license (`str`, *optional*): The Hub's identifier of the licence, of a collection of the user's own.
        output (`str` or `os.PathLike`, *optional*): Default: README.md in the folder.

    Raises:
        ValueError: for a folder without a summary.json, a licence other than the source's, or a card that was edited.
    """
    from otdrg_hf.data.prepared import SUMMARY_FILE, read_summary

    folder = Path(data_dir)
    try:
        summary = read_summary(str(folder))
        if not summary:
            raise ValueError(f"{folder.name} has no {SUMMARY_FILE}: give a folder that otdrg prepare finished.")
        content = render_dataset_card(summary, license)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{SUMMARY_FILE} of {folder.name} is damaged ({error}): prepare the folder again.") from None
    path = Path(output) if output else folder / CARD_FILE
    save_card(path, content)
    return path


def write_phantom_card(studies: dict[str, int], output: str | os.PathLike, name: str = "phantom") -> Path:
    """
    Writes the card of synthetic phantoms.

    Args:
        studies (`dict[str, int]`): How many of each split; a split's seeds count from 0.
        output (`str` or `os.PathLike`): Where to.
        name (`str`): `"phantom"` or `"phantom_hard"`.

    Raises:
        ValueError: for a split that is not known, or no study.
    """
    save_card(Path(output), render_dataset_card(phantom_summary(studies, name)))
    return Path(output)


def phantom_summary(studies: dict[str, int], name: str = "phantom") -> dict[str, Any]:
    """What summary.json of these phantoms would say; they are planned, but not drawn, which would take far longer."""
    from otdrg_hf.data.phantom.dataset import GENERATOR_VERSION, HARD_VERSION
    from otdrg_hf.data.phantom.hard import plan_hard_study
    from otdrg_hf.data.phantom.study import plan_study
    from otdrg_hf.data.preparing.summary import count_studies, describe_counts
    from otdrg_hf.data.schema import require_split
    from otdrg_hf.labeling import LABELS

    is_hard = name == "phantom_hard"
    plan_of = plan_hard_study if is_hard else plan_study

    def rows(split: str, number: int):
        for seed in range(number):
            plan = plan_of(seed, split)
            labels = [plan.text.states[label] for label in LABELS]
            texts = {"indication": plan.text.indication, "comparison": "", "findings": plan.text.findings}
            yield {"images": plan.views, "views": plan.views, "impression": plan.text.impression, **texts} | {
                "disease_labels": labels
            }

    wrong = [f"{split}={number}" for split, number in studies.items() if number < 1]
    if wrong or not studies:
        raise ValueError(f"{', '.join(wrong) or 'Nothing'}: a split of phantoms has at least one study.")
    studies = {require_split(split, SOURCES[name].splits): number for split, number in studies.items()}
    counts = {split: count_studies(rows(split, number)) for split, number in studies.items()}
    total = sum(counts.values(), start=type(next(iter(counts.values())))())
    splits = {split: describe_counts(count) for split, count in counts.items()}
    generator = {"version": f"{GENERATOR_VERSION}.{HARD_VERSION}" if is_hard else GENERATOR_VERSION}
    return {"source": name, "options": generator, **describe_counts(total), "splits": splits, "rejected": {}}


def render_dataset_card(summary: dict[str, Any], license: str | None = None) -> str:
    """The text of the card of a dataset with this summary, its metadata on top."""
    from huggingface_hub import DatasetCard, DatasetCardData

    name = summary["source"]
    source = SOURCES[name]
    if license is not None and source.license is not None and license != source.license:
        raise ValueError(f"The licence of {source.title} is {source.license}, not {license}: leave --license out.")
    terms = {"license": license or source.license}
    terms |= {"license_name": source.license_name, "license_link": source.license_link}
    synthetic = ["synthetic"] if source.synthetic else []
    data = DatasetCardData(
        language="en",
        pretty_name=source.title[0].upper() + source.title[1:],
        task_categories=[TASK_TYPE],
        size_categories=next((size for limit, size in SIZES if summary["studies"] < limit), "n>1M"),
        tags=["radiology", "chest-x-ray", "medical", *synthetic],
        **{key: value for key, value in terms.items() if value},
    )
    splits = {"all": summary, **summary["splits"]}
    options = summary["options"]
    return render_card(
        DatasetCard,
        data,
        "dataset_card.md",
        name=name,
        source=source,
        license_text=source.license_name or terms["license"],
        splits=splits,
        label_rows=[(label, states, _prevalences(splits, label)) for label, states in summary["labels"].items()],
        image_size=options.get("image_size"),
        labels_from=options.get("labels"),
        seed=options.get("seed"),
        annotated="annotation" in options.get("inputs", {}),
        generator_version=options.get("version"),
        rejected=summary["rejected"],
    )


def _prevalences(splits: dict[str, dict[str, Any]], label: str) -> list[str]:
    return [f"{100 * split['labels'][label]['prevalence']:.1f}" for split in splits.values()]
