"""A preparation's summary as a person reads it: what is kept, per split and label, and what is left out and why."""

from typing import Any


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
