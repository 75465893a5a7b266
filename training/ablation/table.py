"""The table of an ablation: mean and deviation over seeds, and the paired difference to the full method."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from otdrg_hf.evaluation.report_files import Studies, read_studies
from otdrg_hf.labeling.labels import POSITIVE
from otdrg_hf.metrics.bootstrap import Statistics, paired_bootstrap
from otdrg_hf.metrics.clinical import FINDINGS
from otdrg_hf.metrics.report_card import disease_head_card, make_report_card

COLUMNS = ("ce14_micro_f1", "ce14_macro_f1", "bleu_4", "rouge_l", "label_micro_f1")
TITLES = {
    "ce14_micro_f1": "CE micro-F1",
    "ce14_macro_f1": "CE macro-F1",
    "ce13_micro_f1": "CE13 micro-F1",
    "ce13_macro_f1": "CE13 macro-F1",
    **{f"bleu_{order}": f"BLEU-{order}" for order in range(1, 5)},
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
    "distinct_reports": "distinct reports",
    "label_micro_f1": "labels, micro-F1",
    "label_auroc": "labels, AUROC",
}
LEAST_POSITIVES = 8  # of a label whose AUROC counts


@dataclass(frozen=True)
class Result:
    """
    A variant on one test split.

    Attributes:
        per_seed (`list[dict[str, float | None]]`): Metrics of the reports of each seed, and `distinct_reports`; where
            there is a disease head, `label_micro_f1` and, with its scores, `label_auroc` of the predicted labels.
        statistics (`Statistics`): Of the reports, averaged over the seeds study by study.
    """

    per_seed: list[dict[str, float | None]]
    statistics: Statistics

    def values(self, metric: str) -> np.ndarray:
        """Of each seed, NaN where it was not computed."""
        return np.array([scores.get(metric) for scores in self.per_seed], dtype=float)

    def mean(self, metric: str) -> float:
        return float(self.values(metric).mean())

    def deviation(self, metric: str) -> float:
        """Over seeds, with n - 1; NaN for a single one."""
        values = self.values(metric)
        return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def read_result(
    prediction_files: list[Path],
    has_head: bool,
    protocol: str = "raw",
    vocabulary_reports: list[str] | None = None,
    meteor: bool = False,
) -> Result:
    """
    The predictions of one variant on one split, a file per seed, all of the same studies.

    Args:
        has_head (`bool`): Whether the labels in the files are those of a disease head.
        protocol, vocabulary_reports, meteor: As of `make_report_card`.
    """
    per_seed, statistics = [], []
    options = {"protocol": protocol, "vocabulary_reports": vocabulary_reports, "meteor": meteor}
    for file in prediction_files:
        studies = read_studies([file])
        (reports,) = studies.predictions.values()
        card = make_report_card(reports, studies.references, **options)
        statistics.append(card.statistics)
        scores = card.figures | {"distinct_reports": card.diversity["distinct_reports"]}
        per_seed.append(scores | (_head_scores(file, studies, card.reference_labels) if has_head else {}))
    columns = np.mean([each.columns for each in statistics], axis=0)
    return Result(per_seed, Statistics(columns, statistics[0].figures))


def _head_scores(file: Path, studies: Studies, actual: np.ndarray) -> dict[str, float]:
    """Scores of the labels that the disease head predicts, and of their log-odds where they were written."""
    scores = {}
    for predicted in studies.predicted_labels.values():
        scores["label_micro_f1"] = disease_head_card(predicted, actual).figures["ce14_micro_f1"]
    path = file.with_name("label_scores.json")
    if path.is_file():
        written = json.loads(path.read_text(encoding="utf-8"))
        scores["label_auroc"] = label_auroc(np.array([written[key] for key in studies.ids]), actual == POSITIVE)
    return scores


def label_auroc(scores: np.ndarray, actual: np.ndarray) -> float:
    """
    Mean area under the ROC curve over findings with enough positives; NaN where there is none.

    Args:
        scores (`np.ndarray` of shape `[N, 14]`): The higher, the likelier positive.
        actual (`np.ndarray` of shape `[N, 14]`): Whether it is.
    """
    from sklearn.metrics import roc_auc_score

    enough = [label for label in FINDINGS if LEAST_POSITIVES <= actual[:, label].sum() < len(actual)]
    return float(np.mean([roc_auc_score(actual[:, label], scores[:, label]) for label in enough] or [np.nan]))


def title_of(metric: str) -> str:
    return TITLES.get(metric, metric)


def differences(
    results: dict[str, Result], compared: str = COLUMNS[0], num_bootstrap: int = 2000
) -> dict[str, dict[str, float]]:
    """
    What the first result has over each other one in a metric: `difference`, `low`, `high`, `p_value`.

    The studies are resampled, the same for both and for all seeds of both.
    """
    (_, full), *others = results.items()
    return {
        name: paired_bootstrap(full.statistics, other.statistics, num_bootstrap=num_bootstrap)[compared]
        for name, other in others
    }


def drop(
    test: Result,
    broken: Result,
    plain_test: Result,
    plain_broken: Result,
    compared: str = COLUMNS[0],
    num_bootstrap: int = 2000,
) -> dict[str, float]:
    """
    How much more of a metric a plain model loses than another where the correlations of training are broken.

    Returns:
        `dict`: `loss` and `plain_loss`, and `difference` (plain minus the other) with its 95 % interval `low`, `high`.
        The two splits are resampled independently, each the same for both models.
    """

    def samples(first: Statistics, second: Statistics, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return tuple(
            each.figures(each.resampled_totals(num_bootstrap, seed), each.num_reports)[compared]
            for each in (first, second)
        )

    ours, plain = samples(test.statistics, plain_test.statistics, 0)
    ours_broken, plain_broken_samples = samples(broken.statistics, plain_broken.statistics, 1)
    gap = (plain - plain_broken_samples) - (ours - ours_broken)
    loss = test.mean(compared) - broken.mean(compared)
    plain_loss = plain_test.mean(compared) - plain_broken.mean(compared)
    low, high = np.quantile(gap, [0.025, 0.975])
    return {
        "loss": loss,
        "plain_loss": plain_loss,
        "difference": plain_loss - loss,
        "low": float(low),
        "high": float(high),
    }


def markdown_table(results: dict[str, Result], columns: Sequence[str] = COLUMNS) -> str:
    """
    One row per variant: mean and deviation over seeds, and how far the first is above it, with a 95 % interval.

    Args:
        columns (`Sequence[str]`, *optional*): Metrics; variants are compared by the first.
    """
    gaps = differences(results, columns[0])
    titles = [title_of(metric) for metric in columns]
    lines = [
        f"| Variant | {' | '.join(titles)} | full - variant, {titles[0]} |",
        "|---|" + "--:|" * (len(columns) + 1),
    ]
    for name, result in results.items():
        cells = [_mean_deviation(metric, result) for metric in columns]
        gap = gaps.get(name)
        compared = f"{gap['difference']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]" if gap else ""
        lines.append(f"| {name} | " + " | ".join([*cells, compared]) + " |")
    return "\n".join(lines)


def _mean_deviation(metric: str, result: Result) -> str:
    mean, deviation = result.mean(metric), result.deviation(metric)
    if np.isnan(mean):
        return "-"
    digits = 0 if metric == "distinct_reports" else 3
    return f"{mean:.{digits}f}" if np.isnan(deviation) else f"{mean:.{digits}f} ± {deviation:.{digits}f}"
