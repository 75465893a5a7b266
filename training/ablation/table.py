"""The table of an ablation: mean and deviation over seeds, and the paired difference to the full method."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from otdrg_hf.evaluation.report_files import read_studies
from otdrg_hf.metrics.bootstrap import Statistics, paired_bootstrap
from otdrg_hf.metrics.report_card import disease_head_card, make_report_card

FIGURES = {
    "ce14_micro_f1": "CE micro-F1",
    "ce14_macro_f1": "CE macro-F1",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
}
COMPARED = "ce14_micro_f1"


@dataclass(frozen=True)
class Result:
    """
    A variant on one test split.

    Attributes:
        per_seed (`list[dict[str, float]]`): Figures of the reports of each seed.
        head (`list[float]`): Micro-F1 of the labels that each seed predicts; empty where there is no disease head.
        statistics (`Statistics`): Of the reports, averaged over the seeds study by study.
    """

    per_seed: list[dict[str, float]]
    head: list[float]
    statistics: Statistics

    def mean(self, figure: str) -> float:
        return float(np.mean([figures[figure] for figures in self.per_seed]))

    def deviation(self, figure: str) -> float:
        """Over seeds, with n - 1; NaN for a single one."""
        values = [figures[figure] for figures in self.per_seed]
        return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def read_result(prediction_files: list[Path], has_head: bool) -> Result:
    """The predictions of one variant on one split, a file per seed, all of the same studies."""
    cards, head = [], []
    for file in prediction_files:
        studies = read_studies([file])
        (system,) = studies.predictions
        card = make_report_card(studies.predictions[system], studies.references, meteor=False)
        cards.append(card)
        if has_head and system in studies.predicted_labels:
            predicted = disease_head_card(studies.predicted_labels[system], card.reference_labels)
            head.append(predicted.figures[COMPARED])
    columns = np.mean([card.statistics.columns for card in cards], axis=0)
    return Result([card.figures for card in cards], head, Statistics(columns, cards[0].statistics.figures))


def differences(results: dict[str, Result], num_bootstrap: int = 2000) -> dict[str, dict[str, float]]:
    """
    What the first result has over each other one in CE micro-F1: `difference`, `low`, `high`, `p_value`.

    The studies are resampled, the same for both and for all seeds of both.
    """
    (_, full), *others = results.items()
    return {
        name: paired_bootstrap(full.statistics, other.statistics, num_bootstrap=num_bootstrap)[COMPARED]
        for name, other in others
    }


def drop(
    test: Result, broken: Result, plain_test: Result, plain_broken: Result, num_bootstrap: int = 2000
) -> dict[str, float]:
    """
    How much more CE micro-F1 a plain model loses than another where the correlations of training are broken.

    Returns:
        `dict`: `loss` and `plain_loss`, and `difference` (plain minus the other) with its 95 % interval `low`, `high`.
        The two splits are resampled independently, each the same for both models.
    """

    def samples(first: Statistics, second: Statistics, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return tuple(
            each.figures(each.resampled_totals(num_bootstrap, seed), each.num_reports)[COMPARED]
            for each in (first, second)
        )

    ours, plain = samples(test.statistics, plain_test.statistics, 0)
    ours_broken, plain_broken_samples = samples(broken.statistics, plain_broken.statistics, 1)
    gap = (plain - plain_broken_samples) - (ours - ours_broken)
    loss = test.mean(COMPARED) - broken.mean(COMPARED)
    plain_loss = plain_test.mean(COMPARED) - plain_broken.mean(COMPARED)
    low, high = np.quantile(gap, [0.025, 0.975])
    return {
        "loss": loss,
        "plain_loss": plain_loss,
        "difference": plain_loss - loss,
        "low": float(low),
        "high": float(high),
    }


def markdown_table(results: dict[str, Result]) -> str:
    """One row per variant: mean and deviation over seeds, and how far the first is above it, with a 95 % interval."""
    gaps = differences(results)
    lines = [
        "| Variant | " + " | ".join(FIGURES.values()) + " | labels, micro-F1 | full - variant, CE micro-F1 |",
        "|---|" + "--:|" * (len(FIGURES) + 2),
    ]
    for name, result in results.items():
        cells = [_mean_deviation(result.mean(key), result.deviation(key)) for key in FIGURES]
        head = f"{np.mean(result.head):.3f}" if result.head else "-"
        gap = gaps.get(name)
        compared = f"{gap['difference']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]" if gap else ""
        lines.append(f"| {name} | " + " | ".join([*cells, head, compared]) + " |")
    return "\n".join(lines)


def _mean_deviation(mean: float, deviation: float) -> str:
    return f"{mean:.3f}" if np.isnan(deviation) else f"{mean:.3f} ± {deviation:.3f}"
