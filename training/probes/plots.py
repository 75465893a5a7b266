"""Plots of the probes: where the evidence lies, and whether features have stayed apart."""

from pathlib import Path

import numpy as np

from otdrg_hf.training.probes.figures import Figures

SOURCES = {"evidence": "evidence", "grad_cam": "Grad-CAM", "chance": "chance"}
SPREADS = {"effective_rank": "effective rank of patches", "label_cosine": "mean cosine between labels"}


def plot_figures(figures: Figures, path: Path) -> None:
    """Draws the pointing game by label, and rank and cosine before and after training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplot_mosaic([["pointing", "effective_rank"], ["pointing", "label_cosine"]], figsize=(9, 5))
    _plot_pointing(axes["pointing"], figures.pointing)
    for name, title in SPREADS.items():
        values = [figures.spread[when][name] for when in ("before", "after")]
        bars = axes[name].bar(["before", "after training"], values, color=["C7", "C0"], width=0.5)
        axes[name].bar_label(bars, fmt="%.2f")
        axes[name].margins(y=0.2)
        axes[name].set_title(title, fontsize="medium")
    figure.tight_layout()
    # The suffix is what tells matplotlib the format.
    unfinished = path.with_name(f"unfinished_{path.name}")
    figure.savefig(unfinished, dpi=150)
    pyplot.close(figure)
    unfinished.replace(path)


def _plot_pointing(axes, pointing: dict[str, dict[str, float]]) -> None:
    rows = np.arange(len(pointing))
    for index, (name, title) in enumerate(SOURCES.items()):
        values = [row[name] for row in pointing.values()]
        axes.barh(rows + (index - 1) * 0.27, values, height=0.25, color=("C0", "C1", "C7")[index], label=title)
    axes.set_yticks(rows, list(pointing))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_title("peak of the map in the sign's box", fontsize="medium")
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.4, -0.05), ncols=3)
