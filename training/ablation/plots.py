"""Plots of an ablation: CE micro-F1 of each variant and split, and what each label gains."""

from pathlib import Path

import numpy as np

from otdrg_hf.metrics.bootstrap import interval
from otdrg_hf.training.ablation.table import Result, title_of


def plot_variants(results: dict[str, dict[str, Result]], path: Path, compared: str, num_bootstrap: int = 1000) -> None:
    """Draws a metric with 95 % intervals (studies resampled) and a dot per seed, `results` by split and variant."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(next(iter(results.values())))
    figure, axes = pyplot.subplots(figsize=(7, 0.45 * len(names) + 1.2), layout="constrained")
    rows = np.arange(len(names))
    for index, (split, by_variant) in enumerate(results.items()):
        offset = (index - (len(results) - 1) / 2) * 0.3
        for row, name in zip(rows, names, strict=True):
            result = by_variant[name]
            statistics = result.statistics
            totals = statistics.resampled_totals(num_bootstrap, 0)
            samples = statistics.figures(totals, statistics.num_reports)[compared]
            low, high = interval(samples, 0.95)
            color = f"C{index}"
            axes.plot([low, high], [row + offset] * 2, color=color, linewidth=2, label=split if row == 0 else None)
            seeds = [scores[compared] for scores in result.per_seed]
            axes.plot(seeds, [row + offset] * len(seeds), "o", color=color, markersize=4)
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_xlabel(f"{title_of(compared)} of reports\n(bar: 95 % interval over studies; dots: seeds)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="best")
    # The suffix is what tells matplotlib the format.
    unfinished = path.with_name(f"unfinished_{path.name}")
    figure.savefig(unfinished, dpi=150)
    pyplot.close(figure)
    unfinished.replace(path)
