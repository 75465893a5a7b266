"""Precision and recall of a model's reports at several operating points, against the balanced one and the constant."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otdrg_hf.evaluation.compare import Evaluation
from otdrg_hf.evaluation.plots import plot_points
from otdrg_hf.evaluation.tables import markdown_table
from otdrg_hf.labeling import LABELS
from otdrg_hf.metrics.bootstrap import ResampledFigures, resampled_figures
from otdrg_hf.metrics.clinical import Labeler, resolve_labeler
from otdrg_hf.metrics.report_card import DiseaseHeadCard, disease_head_card
from otdrg_hf.reporting.predictions import generation_settings
from otdrg_hf.reporting.results_file import read_results
from otdrg_hf.reporting.split import generate_predictions

if TYPE_CHECKING:
    from transformers import Pipeline

# Without the balanced one, at which reports are those without a point.
POINTS = ("specific", "sensitive", *({"recall": recall} for recall in (0.5, 0.8, 0.9, 0.95, 0.99)))
FOLDER, RESULTS_FILE, PLOT_FILE = "operating_points", "operating_points.json", "operating_points.png"
BALANCED, CONSTANT = "balanced", "constant"
_PRECISION, _RECALL, _F1 = (f"ce13_micro_{measure}" for measure in ("precision", "recall", "f1"))
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class OperatingPoints:
    """
    What reports reach at operating points; a label counts where the text states it, whatever the disease head says.

    Attributes:
        cards (`dict[str, DiseaseHeadCard]`): By the name of the point; of the reports without one as `"balanced"`, and
            of the best constant as `"constant"` where there is one.
        resampled (`dict[str, ResampledFigures]`): The same in bootstrap samples.
        unreached (`dict[str, dict]`): For each point the labels that could not reach it on validation.
    """

    cards: dict[str, DiseaseHeadCard]
    resampled: dict[str, ResampledFigures]
    unreached: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict:
        """Figures, label rows, and differences in micro-F1 to the balanced point and the constant, for JSON."""
        return {
            name: {
                "figures": card.figures,
                "labels": card.labels,
                "unreached": self.unreached.get(name, {}),
                "f1_over": {other: self._over(name, other) for other in self._others(name)},
            }
            for name, card in self.cards.items()
        }

    def _others(self, name: str) -> list[str]:
        return [other for other in (BALANCED, CONSTANT) if other != name and other in self.cards]

    def _over(self, name: str, other: str) -> dict[str, float | None]:
        return self.resampled[name].difference(self.resampled[other], _F1, _CONFIDENCE)

    def text(self) -> str:
        """Two Markdown tables: micro averages over the findings, and precision and recall of each label."""
        names = sorted(self.cards, key=lambda name: (name == CONSTANT, self.cards[name].figures[_RECALL]))
        others = self._others("")
        rows = []
        for name in names:
            scores = [_with_interval(self.cards[name].figures, figure) for figure in (_PRECISION, _RECALL, _F1)]
            rows.append(
                [name, *scores, *(_difference(self._over(name, each)) if each != name else "" for each in others)]
            )
        header = [
            "Reports at",
            "precision",
            "recall",
            "F1 (13 findings, micro)",
            *(f"F1 over {each}" for each in others),
        ]
        lines = ["", *markdown_table(header, rows), ""]
        by_label = [[row for row in self.cards[name].labels if not row["uncertain_positive"]] for name in names]
        rows = [
            [
                f"{label} ({of_points[0]['support']})",
                *(f"{row['precision']:.2f} / {row['recall']:.2f}" for row in of_points),
            ]
            for label, *of_points in zip(LABELS, *by_label, strict=True)
        ]
        lines += markdown_table(["precision / recall (positives)", *names], rows)
        for name, labels in self.unreached.items():
            lines += [f"{name}: {', '.join(labels)} could not reach it on validation"] if labels else []
        return "\n".join(lines) + "\n"

    def write_plot(self, path: str | os.PathLike) -> None:
        """Draws recall against precision; see `plot_points`."""
        plot_points({name: card.figures for name, card in self.cards.items()}, path, _RECALL, _PRECISION)


def measure_points(
    evaluation: Evaluation,
    labeler: str | Labeler,
    model: str | None,
    dataset: str | os.PathLike,
    output_dir: Path,
    options: dict[str, Any],
    *,
    reporter: "Pipeline | None" = None,
    points: Sequence[str | dict] = POINTS,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> OperatingPoints:
    """
    Reports the studies of an evaluation at other operating points, and scores the labels that the reports state.

    Args:
        evaluation ([`Evaluation`]): Whose first system is the model without a point.
        labeler (`str` or `Callable`): As of [`evaluate_files`].
        model, dataset, options, reporter: As of [`generate_predictions`], of these reports.
        output_dir (`Path`): Each point gets a folder in its `operating_points`; an interrupted run resumes.
        points (`Sequence`): As the pipeline takes them.
        num_bootstrap, seed: As of [`evaluate_files`].

    Raises:
        ValueError: for a model without operating curves, and as of [`generate_predictions`].
    """
    _, label = resolve_labeler(labeler)
    plain = next(iter(evaluation.cards.values()))
    states = {BALANCED: label(next(iter(evaluation.studies.predictions.values())))}
    constants = {name: card for name, card in evaluation.baseline_cards.items() if name.startswith(CONSTANT)}
    if constants:
        best = max(constants, key=lambda name: constants[name].figures[_F1])
        states[CONSTANT] = label(evaluation.baselines[best].reports)
    unreached = {}
    for point in points:
        name = point_name(point)
        folder = output_dir / FOLDER / name
        path = generate_predictions(model, dataset, folder, operating_point=point, reporter=reporter, **options)
        texts = {row["id"]: row["generated_text"] for row in read_results(path, "id")}
        states[name] = label([texts[key] for key in evaluation.studies.ids])
        unreached[name] = (generation_settings(path) or {})["operating_point"]["unreached"]
    cards = {
        name: disease_head_card(np.asarray(each), plain.reference_labels, num_bootstrap=num_bootstrap, seed=seed)
        for name, each in states.items()
    }
    resampled = {name: resampled_figures(card.statistics, num_bootstrap, seed) for name, card in cards.items()}
    return OperatingPoints(cards, resampled, unreached)


def point_name(point: str | dict) -> str:
    """A name for tables and folders: `"sensitive"`, `"recall=0.95"`."""
    return point if isinstance(point, str) else ",".join(f"{measure}={value:g}" for measure, value in point.items())


def _with_interval(figures: dict, name: str) -> str:
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    return f"{figures[name]:.3f}" if low is None else f"{figures[name]:.3f} [{low:.3f}, {high:.3f}]"


def _difference(test: dict[str, float | None]) -> str:
    if test["low"] is None:
        return f"{test['difference']:+.3f}"
    return f"{test['difference']:+.3f} [{test['low']:+.3f}, {test['high']:+.3f}]"
