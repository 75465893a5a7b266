"""Figures of an evaluation, as `otdrg evaluate --json` wrote them, for the model-index and the tables of a card."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otdrg_hf.data.sources import SOURCES

UNCERTAIN_POSITIVE = "_uncertain_positive"
CLINICAL = re.compile(r"ce(14|5)_(micro|macro|example)_(precision|recall|f1)")
NLG = {
    "bleu_1": ("bleu", "BLEU-1"),
    "bleu_2": ("bleu", "BLEU-2"),
    "bleu_3": ("bleu", "BLEU-3"),
    "bleu_4": ("bleu", "BLEU-4"),
    "rouge_l": ("rouge", "ROUGE-L"),
    "cider": ("cider", "CIDEr"),
    "meteor": ("meteor", "METEOR"),
}
COUNTED = {
    "hallucinations_per_report": "Labels stated without cause, per report",
    "omissions_per_report": "Labels left out, per report",
    "laterality_agreement": "Side agrees, where both reports name one",
}
# Of the labels that the disease head predicts from the films, apart from those that the written reports state.
HEAD = "disease_head_"
TASK_TYPE, TASK_NAME = "image-to-text", "Radiology report generation"


@dataclass(frozen=True)
class Figures:
    """
    One system's figures on one dataset.

    Attributes:
        values (`dict[str, float]`): By the names of `evaluate_reports`, and `disease_head_NAME` of the labels that the
            model predicts, with `NAME_low` and `NAME_high` where there are intervals; without those not computed.
        labels (`list[dict]`): F1 of each label, uncertain as not positive.
        record (`dict`): Protocol, labeler, counts, bootstrap and versions; section and generation or `None`.
        dataset, split (`str`): What was evaluated on.
    """

    values: dict[str, float]
    labels: list[dict[str, Any]]
    record: dict[str, Any]
    dataset: str
    split: str

    @property
    def confidence(self) -> float | None:
        """Coverage of the intervals; `None` without."""
        return (self.record["bootstrap"] or {}).get("confidence")


def read_figures(
    path: str | os.PathLike, dataset: str | None = None, split: str | None = None, system: str | None = None
) -> Figures:
    """
    Reads what `otdrg evaluate --json` wrote.

    Args:
        path (`str` or `os.PathLike`): The file.
        dataset, split (`str`, *optional*): What was evaluated on. Default: what the file says, which it does where
            `otdrg evaluate --dataset` made the predictions, and the split `"test"` where it does not.
        system (`str`, *optional*): Which system of the file, if it compares several.

    Raises:
        ValueError: for a file of another form, several systems without a choice, a system that it has not, or a dataset
            or split that is not given, or is another than the file says.
        FileNotFoundError: if there is no such file.
    """
    name = Path(path).name
    try:
        systems = dict(json.loads(Path(path).read_text(encoding="utf-8"))["systems"])
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no evaluation {name}: write it by otdrg evaluate --json {name}.") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{name} is no evaluation: give the file that otdrg evaluate --json wrote.") from None
    if system is None and len(systems) != 1:
        raise ValueError(f"{name} compares {', '.join(systems)}: choose one with --system.")
    if system is not None and system not in systems:
        raise ValueError(f"{name} has no system {system!r}, only {', '.join(systems)}.")
    card = systems[system or next(iter(systems))]
    try:
        head = card.get("disease_head", {"figures": {}})["figures"]
        values = {**card["figures"], **{f"{HEAD}{key}": value for key, value in head.items()}}
        values = {key: value for key, value in values.items() if value is not None}
        labels = [row for row in card["labels"] if not row["uncertain_positive"]]
        record = {key: card["record"][key] for key in ("protocol", "clinical", "counts", "bootstrap", "versions")}
        record |= {key: card["record"].get(key) for key in ("section", "generation")}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} is no evaluation: its system lacks {error}.") from None
    made = record["generation"] or {}
    for option, given, said in (("dataset", dataset, made.get("dataset")), ("split", split, made.get("split"))):
        if given is not None and said is not None and given != said:
            raise ValueError(f"{name} is an evaluation on the {option} {said}, not {given}.")
    dataset = dataset or made.get("dataset")
    if dataset is None:
        raise ValueError(f"{name} does not say which dataset it is about: give it by --evaluated_on.")
    title = SOURCES[dataset].title if dataset in SOURCES else dataset
    return Figures(values, labels, record, title, split or made.get("split", "test"))


def figure_names(figures: Figures) -> list[str]:
    """The figures themselves, without their bounds, in the order of the evaluation."""
    return [name for name in figures.values if not name.endswith(("_low", "_high"))]


def describe_figure(name: str) -> tuple[str, str]:
    """The metric's type for the model-index and its readable name."""
    plain = name.removesuffix(UNCERTAIN_POSITIVE).removeprefix(HEAD)
    other = " (uncertain counts as positive)" if name.endswith(UNCERTAIN_POSITIVE) else ""
    subject = "Predicted labels" if name.startswith(HEAD) else "Clinical efficacy"
    if plain in NLG:
        return NLG[plain]
    if match := CLINICAL.fullmatch(plain):
        labels, average, metric = match.groups()
        average = "example-based" if average == "example" else average
        return metric, f"{subject}, {labels} labels, {average} {metric.replace('f1', 'F1')}{other}"
    readable = COUNTED.get(plain, plain.replace("_", " "))
    return plain, (f"{subject}: {readable}" if name.startswith(HEAD) else readable) + other


def eval_results(figures: Figures) -> list:
    """
    All figures as [`~huggingface_hub.EvalResult`]s.

    Interval, protocol, labeler and bootstrap are each metric's arguments; section and number of the reports are the
    dataset's.
    """
    from huggingface_hub import EvalResult

    counts = figures.record["counts"]
    about = {"reports": counts["reports"], "references": counts["references"], "section": figures.record["section"]}
    dataset = {
        "dataset_type": re.sub(r"[^a-z0-9_.-]+", "_", figures.dataset.lower()).strip("_"),
        "dataset_name": figures.dataset,
        "dataset_split": figures.split,
        "dataset_args": {key: value for key, value in about.items() if value is not None},
    }
    results = []
    for name in figure_names(figures):
        metric_type, metric_name = describe_figure(name)
        result = EvalResult(
            task_type=TASK_TYPE,
            task_name=TASK_NAME,
            metric_type=metric_type,
            metric_name=metric_name,
            metric_value=round(figures.values[name], 6),
            metric_args=_metric_args(figures, name),
            **dataset,
        )
        results.append(result)
    return results


def _metric_args(figures: Figures, name: str) -> dict[str, Any]:
    record, bounds = figures.record, _bounds(figures, name)
    arguments: dict[str, Any] = {"figure": name}
    if name in NLG:
        arguments["protocol"] = record["protocol"]["name"]
        if "vocabulary" in record["protocol"]:
            arguments["vocabulary"] = record["protocol"]["vocabulary"]
    elif CLINICAL.search(name) or name.removesuffix(UNCERTAIN_POSITIVE).removeprefix(HEAD) in COUNTED:
        arguments["labeler"] = record["clinical"]["labeler"]
    if bounds:
        bootstrap = record["bootstrap"]
        arguments |= {"low": round(bounds[0], 6), "high": round(bounds[1], 6), "confidence": bootstrap["confidence"]}
        arguments |= {"bootstrap_samples": bootstrap["samples"], "bootstrap_seed": bootstrap["seed"]}
    return arguments


def _bounds(figures: Figures, name: str) -> tuple[float, float] | None:
    low, high = figures.values.get(f"{name}_low"), figures.values.get(f"{name}_high")
    return None if low is None or high is None else (low, high)


def is_headline(name: str) -> bool:
    """Whether a card shows the figure at once: no precision or recall beside F1, nor the other mapping of uncertain."""
    return not name.endswith((UNCERTAIN_POSITIVE, "_precision", "_recall"))


def figure_rows(figures: Figures, headline: bool) -> list[tuple[str, str, str]]:
    """Name, value and interval, as text, of each figure that is a headline, or of each other one."""
    rows = []
    for name in figure_names(figures):
        if is_headline(name) != headline:
            continue
        bounds = _bounds(figures, name)
        interval = f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else ""
        rows.append((describe_figure(name)[1], f"{figures.values[name]:.3f}", interval))
    return rows


def label_rows(figures: Figures) -> list[tuple[str, int, str, str]]:
    """Label, positives among the references, F1 and interval of each label, as text."""
    rows = []
    for row in figures.labels:
        interval = f"{row['f1_low']:.3f} to {row['f1_high']:.3f}" if row.get("f1_low") is not None else ""
        rows.append((row["label"], row["true_positives"] + row["false_negatives"], f"{row['f1']:.3f}", interval))
    return rows
