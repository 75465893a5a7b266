"""What states are decided by, fitted on validation: operating curves and conformal thresholds of each label."""

import numpy as np
import torch

from otdrg_hf.modeling.configuration_otdrg import OTDRGConfig
from otdrg_hf.modeling.disease_states_otdrg import POSITIVE, plausible_states

ERROR_RATE = 0.1
# Recalls of which a curve keeps a row: those that are asked for lie close to 1.
RECALLS = (*np.arange(0.05, 0.8, 0.05), *np.arange(0.8, 1.0, 0.01), 1.0)


def operating_curves(
    probabilities: np.ndarray, actual: np.ndarray, config: OTDRGConfig
) -> dict[str, list[list[float]]]:
    """
    Precision and recall of each label at up to 36 thresholds.

    Args:
        probabilities (`np.ndarray` of shape `[N, m]`): Of positive.
        actual (`np.ndarray` of shape `[N, m]`): Whether it is.
        config ([`OTDRGConfig`]): Names the labels, and the one that follows from the others, which has no curve.

    Returns:
        `dict[str, list[list[float]]]`: Rows of threshold, precision and recall, from the highest threshold down; none
        for a label without a positive.
    """
    return {
        label: _curve(probabilities[:, index].astype(np.float64), actual[:, index])
        for index, label in enumerate(config.label_names)
        if label != config.no_finding_label
    }


def _curve(scores: np.ndarray, truth: np.ndarray) -> list[list[float]]:
    of_positives = np.sort(scores[truth])[::-1]
    if len(of_positives) == 0:
        return []
    needed = {int(np.ceil(recall * len(of_positives) - 1e-9)) for recall in RECALLS}
    thresholds = {_just_below(of_positives[count - 1], scores) for count in needed}
    rows = []
    for threshold in sorted(thresholds, reverse=True):
        called = scores >= threshold
        hits = (called & truth).sum()
        rows.append([threshold, round(float(hits / called.sum()), 4), round(float(hits / truth.sum()), 4)])
    return rows


def _just_below(score: float, scores: np.ndarray) -> float:
    """Half-way to the next lower score, so that the choice does not depend on the last digit of one study."""
    lower = scores[scores < score]
    half_way = (score + (lower.max() if len(lower) else 0.0)) / 2
    rounded = float(f"{half_way:.6g}")
    return rounded if rounded <= score else float(half_way)


def conformal_thresholds(
    probabilities: np.ndarray, states: np.ndarray, config: OTDRGConfig, error_rate: float = ERROR_RATE
) -> dict[str, list[float]]:
    """
    Thresholds of split-conformal sets of states (Vovk et al., 2005; Sadinle et al., 2019), for each label.

    A state is plausible where its probability reaches the threshold. That of positive is fitted on positive studies
    and that of the other states on the others, so that either is missed as rarely as is promised.

    Args:
        probabilities (`np.ndarray` of shape `[N, m, states]`): Of the states.
        states (`np.ndarray` of shape `[N, m]`): The true ones, -100 where not known.
        error_rate (`float`): The share of studies whose true state may be left out.

    Returns:
        `dict[str, list[float]]`: The threshold of positive and that of other states. 0 where there are too few
        studies to promise anything: then all are plausible.

    Raises:
        ValueError: for an error rate that is not between 0 and 1.
    """
    check_error_rate(error_rate)
    found = {}
    for index, label in enumerate(config.label_names):
        known = states[:, index] >= 0
        truth = states[known, index]
        of_truth = np.take_along_axis(probabilities[known, index], truth[:, None].astype(np.int64), axis=1)[:, 0]
        groups = (of_truth[truth == POSITIVE], of_truth[truth != POSITIVE])
        found[label] = [_lower_quantile(scores, error_rate) for scores in groups]
    return found


def check_error_rate(error_rate: float) -> None:
    """Raises `ValueError` unless sets can be promised to err at this rate."""
    if not 0 < error_rate < 1:
        raise ValueError(
            f"the error rate is {error_rate:g}: give one between 0 and 1, such as 0.1; at 0 all states are plausible, "
            "at 1 none is"
        )


def set_coverage(logits: np.ndarray, states: np.ndarray, config: OTDRGConfig) -> dict[str, dict[str, float | None]]:
    """
    What conformal sets keep of their promise on other studies than they were fitted on.

    Args:
        logits (`np.ndarray` of shape `[N, m, states]`), states (`np.ndarray` of shape `[N, m]`): Predicted and true.
        config ([`OTDRGConfig`]): With `conformal_thresholds`.

    Returns:
        `dict[str, dict]`: For each label, and as `"all"`, how many are `positives`; the share of studies whose true
        state is in the set, `coverage`, and of positive studies, `positive_coverage`; the mean `size` and the share of
        `empty` sets. `None` where there is no study.
    """
    plausible = plausible_states(torch.from_numpy(logits), config).numpy()  # [N, m, states]
    sizes, known = plausible.sum(-1), states >= 0
    covered = np.take_along_axis(plausible, np.maximum(states, 0)[..., None].astype(np.int64), axis=-1)[..., 0]
    of_labels = [(label, np.s_[:, index]) for index, label in enumerate(config.label_names)]
    return {
        name: {
            "positives": int((states[chosen] == POSITIVE).sum()),
            "coverage": _mean(covered[chosen][known[chosen]]),
            "positive_coverage": _mean(covered[chosen][states[chosen] == POSITIVE]),
            "size": _mean(sizes[chosen]),
            "empty": _mean(sizes[chosen] == 0),
        }
        for name, chosen in [*of_labels, ("all", np.s_[:])]
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _lower_quantile(scores: np.ndarray, error_rate: float) -> float:
    rank = int(np.floor(error_rate * (len(scores) + 1) + 1e-9))  # so many of N + 1 exchangeable scores may be below
    if rank == 0:
        return 0.0
    score = np.sort(scores)[rank - 1]
    # fp32 on another machine differs in the last digits; downwards errs on the side of the promise.
    return float(np.floor(score * 1e6) / 1e6)
