"""Plots of an evaluation: F1 of each label, and precision against recall at operating points."""

import os

from otdrg_hf.extras import require
from otdrg_hf.files import atomic_path
from otdrg_hf.labeling import LABELS
from otdrg_hf.metrics.report_card import ReportCard


def plot_label_f1(cards: dict[str, ReportCard], path: str | os.PathLike) -> None:
    """
    Draws F1 of the 14 labels (uncertain counts as not positive) and writes it as PNG, PDF or SVG.

    Args:
        cards (`dict[str, ReportCard]`): by the name of the system; intervals are drawn where a bootstrap was run.
        path (`str` or `os.PathLike`): file to write; its ending gives the format.

    Raises:
        ImportError: without matplotlib.
        ValueError: for another ending.
    """
    kind = plot_format(path)
    require("matplotlib", "eval")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5 + len(cards)), layout="constrained")
    axes = figure.subplots()
    step = 0.8 / len(cards)
    for position, (system, card) in enumerate(cards.items()):
        rows = [row for row in card.labels if not row["uncertain_positive"]]
        heights = [index + (position - (len(cards) - 1) / 2) * step for index in range(len(rows))]
        scores = [row["f1"] for row in rows]
        bounds = [(row.get("f1_low"), row.get("f1_high")) for row in rows]
        axes.plot(scores, heights, "o", markersize=5, color=f"C{position}", label=system)
        for height, (low, high) in zip(heights, bounds, strict=True):
            if low is not None and high is not None:
                axes.hlines(height, low, high, color=f"C{position}", linewidth=1.5)
    first = next(iter(cards.values()))
    support = [row["true_positives"] + row["false_negatives"] for row in first.labels if not row["uncertain_positive"]]
    axes.set_yticks(range(len(LABELS)), [f"{label} ({n})" for label, n in zip(LABELS, support, strict=True)])
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(_axis_title(first))
    axes.grid(axis="x", alpha=0.3)
    for row in range(0, len(LABELS), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="0.96", zorder=0)
    axes.set_ylim(len(LABELS) - 0.5, -0.5)
    if len(cards) > 1:
        # Outside: there is no corner that no label's interval can reach.
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=150)


def plot_points(points: dict[str, dict], path: str | os.PathLike, recall: str, precision: str) -> None:
    """
    Draws precision against recall of reports at operating points and writes it as PNG, PDF or SVG.

    Args:
        points (`dict[str, dict]`): by name, figures with `NAME_low` and `NAME_high` where a bootstrap was run. Those of
            a given recall are joined by a line, and those with a name of their own by another.
        path (`str` or `os.PathLike`): file to write; its ending gives the format.
        recall, precision (`str`): names of the figures.

    Raises:
        ImportError: without matplotlib.
        ValueError: for another ending.
    """
    kind = plot_format(path)
    require("matplotlib", "eval")
    from matplotlib.figure import Figure

    from otdrg_hf.modeling.disease_states_otdrg import NAMED_POINTS

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for style, is_given in (("-", True), ("--", False)):
        names = [name for name in points if ("=" in name if is_given else name in NAMED_POINTS)]
        chosen = [points[name] for name in names]
        joined = sorted((each[recall], each[precision]) for each in chosen)
        axes.plot([x for x, _ in joined], [y for _, y in joined], style, color="0.7", zorder=1)
    for position, (name, figures) in enumerate(points.items()):
        x, y = figures[recall], figures[precision]
        color, marker = ("black", "x") if name == "constant" else (f"C{position}", "o")
        if f"{recall}_low" in figures:
            axes.hlines(y, figures[f"{recall}_low"], figures[f"{recall}_high"], color=color, linewidth=1.5)
            axes.vlines(x, figures[f"{precision}_low"], figures[f"{precision}_high"], color=color, linewidth=1.5)
        axes.plot(x, y, marker, color=color, markersize=7, label=name, linestyle="none")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall of reports", ylabel="precision of reports")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=150)


def plot_format(path: str | os.PathLike) -> str:
    """`"png"`, `"pdf"` or `"svg"` from the ending of a file name; `ValueError` for any other."""
    kind = os.path.splitext(os.fspath(path))[1].lstrip(".").lower()
    if kind not in ("png", "pdf", "svg"):
        raise ValueError(f"cannot draw a {kind or 'nameless'} file; end the name of the plot in .png, .pdf or .svg")
    return kind


def _axis_title(card: ReportCard) -> str:
    bootstrap = card.record["bootstrap"]
    interval = f" with {bootstrap['confidence']:.0%} interval" if bootstrap else ""
    return f"F1{interval}, labels by {card.record['clinical']['labeler']} (number of positive references)"
