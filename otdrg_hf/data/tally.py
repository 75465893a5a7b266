"""Counts what a preparation keeps and leaves out, shard by shard, as the summary reports it."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from ..labeling import LABELS, STATES
from .schema import VIEWS

SECTIONS = ("indication", "comparison", "findings", "impression")


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
