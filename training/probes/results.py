"""What the probes of a model found: as text, JSON and a plot."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

METHODS = {"evidence": "evidence", "grad_cam": "Grad-CAM", "chance": "chance"}
SPREADS = {"effective_rank": "effective rank of patches", "label_cosine": "mean cosine between labels"}


@dataclass(frozen=True)
class ProbeResults:
    """
    Attributes:
        calibration_error (`float`): Expected calibration error of the scores, averaged over labels.
        pointing (`dict[str, dict[str, float]]`): Per label with a true positive, and as `"mean"`, the share of peaks
            inside a box of `evidence`, of `grad_cam` and by `chance`, and the `count` of true positives. Empty for
            studies without boxes.
        steering (`dict[str, float]`): Of [`~steering.steer`].
        true_labels (`dict[str, float]`): Of [`~steering.state_true_labels`].
        spread (`dict[str, dict[str, float]]`): `before` and `after` training: `effective_rank` of patch features and
            `label_cosine`, the mean cosine between the phrases of presence.
    """

    calibration_error: float
    pointing: dict[str, dict[str, float]]
    steering: dict[str, float]
    true_labels: dict[str, float]
    spread: dict[str, dict[str, float]]

    def to_dict(self) -> dict:
        return asdict(self)

    def text(self) -> str:
        """The results as a table for a terminal."""
        lines = [f"calibration error of the scores  {self.calibration_error:.3f}"]
        if self.pointing:
            lines += ["", "peak of the map in the sign's box"]
            lines.append(f"  {'':<28}{'evidence':>9}{'Grad-CAM':>9}{'chance':>9}{'n':>6}")
        for label, row in self.pointing.items():
            lines.append(
                f"  {label:<28}{row['evidence']:>9.3f}{row['grad_cam']:>9.3f}{row['chance']:>9.3f}{row['count']:>6.0f}"
            )
        steering, truth = self.steering, self.true_labels
        lines += [
            "",
            f"an overridden label ({steering['count']:.0f} reports)",
            f"  present: stated              {steering['present']:.3f}",
            f"  absent: denied or not stated {steering['absent']:.3f}",
            f"  other words that change, on average {steering['words']:.1f}",
            "",
            f"all true labels given ({truth['count']:.0f} positive findings)",
            f"  stated                       {truth['stated']:.3f}",
            "",
            "features                      before   after training",
        ]
        for name, title in (("effective_rank", "effective rank of patches"), ("label_cosine", "cosine between labels")):
            lines.append(f"  {title:<26}{self.spread['before'][name]:>8.2f}{self.spread['after'][name]:>8.2f}")
        return "\n".join(lines)


def plot_results(results: ProbeResults, path: Path) -> None:
    """Draws the pointing game by label, where there is one, and rank and cosine before and after training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = [["pointing"] if results.pointing else [] for _ in SPREADS]
    mosaic = [[*column, name] for column, name in zip(columns, SPREADS, strict=True)]
    figure, axes = pyplot.subplot_mosaic(mosaic, figsize=(9, 5))
    if results.pointing:
        _plot_pointing(axes["pointing"], results.pointing)
    for name, title in SPREADS.items():
        values = [results.spread[when][name] for when in ("before", "after")]
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
    for index, (name, title) in enumerate(METHODS.items()):
        values = [row[name] for row in pointing.values()]
        axes.barh(rows + (index - 1) * 0.27, values, height=0.25, color=("C0", "C1", "C7")[index], label=title)
    axes.set_yticks(rows, list(pointing))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_title("peak of the map in the sign's box", fontsize="medium")
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.4, -0.05), ncols=3)
