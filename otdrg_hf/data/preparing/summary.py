"""The summary of a preparation: counted shard by shard, shown as text, and drawn as label prevalence."""

import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

from otdrg_hf.data.errors import DataError
from otdrg_hf.data.schema import VIEWS
from otdrg_hf.extras import require
from otdrg_hf.files import atomic_path
from otdrg_hf.labeling import LABELS, STATES

SECTIONS = ("indication", "comparison", "findings", "impression")
COLOURS = {"positive": "#c44e52", "uncertain": "#dd8452", "negative": "#4c72b0"}


def count_studies(studies: Iterable[dict[str, Any]]) -> Counter:
    """Flat counts of a few studies, by keys like `("views", "frontal")`; they add up with `+`."""
    counts: Counter = Counter()
    for study in studies:
        counts["studies",] += 1
        counts["images",] += len(study["images"])
        counts.update(("views", view) for view in study["views"])
        counts.update(("sections", name) for name in SECTIONS if study[name])
        counts["sections", "findings and impression"] += bool(study["findings"] and study["impression"])
        counts.update(
            ("labels", label, STATES[state]) for label, state in zip(LABELS, study["disease_labels"], strict=True)
        )
    return counts


def describe_counts(counts: Counter) -> dict[str, Any]:
    """The counts as the summary shows them; prevalence is the share of the studies in which a label is positive."""
    studies = counts["studies",]
    labels = {}
    for label in LABELS:
        states = {state: counts["labels", label, state] for state in STATES}
        labels[label] = {**states, "prevalence": round(states["positive"] / studies, 6) if studies else 0.0}
    return {
        "studies": studies,
        "images": counts["images",],
        "views": {view: counts["views", view] for view in VIEWS},
        "sections": {name: counts["sections", name] for name in (*SECTIONS, "findings and impression")},
        "labels": labels,
    }


def counts_to_json(counts: Counter) -> list[list[Any]]:
    """Counts as a sorted list of `[key parts, number]`, which JSON can hold."""
    return sorted([list(key), number] for key, number in counts.items() if number)


def counts_from_json(entries: list[list[Any]]) -> Counter:
    """What [`counts_to_json`] wrote, as counts again."""
    return Counter({tuple(key): number for key, number in entries})


def summary_text(summary: dict[str, Any]) -> str:
    """
    Tables of a summary: studies, images and texts per split; label states; counts of what was left out.

    Args:
        summary (`dict`):
            What [`prepare_dataset`] returned.
    """
    parts = [_splits(summary), _labels(summary)]
    if summary["rejected"]:
        parts.append(_rejected(summary["rejected"]))
    return "\n\n".join(parts)


def _splits(summary: dict[str, Any]) -> str:
    columns = {**summary["splits"], "all": summary}
    rows = [
        ("studies", [entry["studies"] for entry in columns.values()]),
        ("images", [entry["images"] for entry in columns.values()]),
    ]
    for group, indent in (("views", "  "), ("sections", "with ")):
        rows += [(indent + name, [entry[group][name] for entry in columns.values()]) for name in summary[group]]
    lines = [f"{summary['source']:<30}" + "".join(f"{name:>12}" for name in columns)]
    lines += [f"{name:<30}" + "".join(f"{value:>12,}" for value in values) for name, values in rows]
    return "\n".join(lines)


def _labels(summary: dict[str, Any]) -> str:
    states = ("positive", "negative", "uncertain", "blank")
    lines = [f"{'label':<30}" + "".join(f"{state:>12}" for state in (*states, "% positive"))]
    for label, counts in summary["labels"].items():
        numbers = "".join(f"{counts[state]:>12,}" for state in states)
        lines.append(f"{label:<30}{numbers}{100 * counts['prevalence']:>12.1f}")
    return "\n".join(lines)


def _rejected(reasons: dict[str, int]) -> str:
    lines = ["left out (each with its reason in rejected.jsonl)"]
    lines += [f"{reason:<30}{count:>12,}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1])]
    return "\n".join(lines)


def plot_label_prevalence(summary: dict[str, Any], path: str | os.PathLike) -> None:
    """
    Writes a bar chart: for each label the share of studies in which it is positive, uncertain or negative; the rest is
    blank.

    Args:
        summary (`dict`):
            What [`prepare_dataset`] returned.
        path (`str` or `os.PathLike`):
            The image file to write; its extension sets the format.
    """
    require("matplotlib", extra="plot")
    from matplotlib.figure import Figure

    if not summary.get("studies"):
        raise DataError("There is no study to plot the labels of")
    labels = list(summary["labels"])[::-1]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(labels)
    for state, colour in COLOURS.items():
        shares = [100 * summary["labels"][label][state] / summary["studies"] for label in labels]
        axes.barh(labels, shares, left=left, color=colour, label=state)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.set_xlabel(f"% of {summary['studies']:,} studies ({summary['source']})")
    axes.legend(frameon=False)
    kind = os.path.splitext(path)[1][1:] or "png"
    with atomic_path(path) as unfinished:
        # Without the software's version in the file, the same counts give the same bytes.
        figure.savefig(unfinished, format=kind, dpi=150, metadata={"Software": None} if kind == "png" else None)
