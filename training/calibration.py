"""Scores that mean what they say: Platt scaling of the disease head on validation studies, and its error."""

import numpy as np

NUM_BINS = 15
MIN_SLOPE = 0.05


def platt_scaling(log_odds: np.ndarray, actual: np.ndarray) -> list[list[float]]:
    """
    Slope and intercept per label that make `sigmoid(slope * log_odds + intercept)` a probability (Platt, 1999).

    Args:
        log_odds (`np.ndarray` of shape `[N, m]`): Of positive.
        actual (`np.ndarray` of shape `[N, m]`): Whether it is. A label without a positive or a negative stays as it is.

    Returns:
        `list[list[float]]`: `[m][2]`, slopes > 0.
    """
    return [
        _fit(scores.astype(np.float64), truth) if truth.any() and not truth.all() else [1.0, 0.0]
        for scores, truth in zip(log_odds.T, actual.T, strict=True)
    ]


def _fit(scores: np.ndarray, truth: np.ndarray) -> list[float]:
    # Platt's targets, which keep the fit finite where the scores part the two classes.
    positives, negatives = int(truth.sum()), int((~truth).sum())
    targets = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    features = np.stack([scores, np.ones_like(scores)], axis=1)  # [N, 2]
    weights = np.array([1.0, 0.0])
    loss = _cross_entropy(features @ weights, targets)
    for _ in range(100):
        probabilities = 0.5 * (1 + np.tanh(features @ weights / 2))
        gradient = features.T @ (probabilities - targets)
        hessian = (features * (probabilities * (1 - probabilities))[:, None]).T @ features + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-6 and _cross_entropy(features @ (weights - size * step), targets) > loss:
            size /= 2  # Newton's step overshoots far from the optimum
        weights = weights - size * step
        loss = _cross_entropy(features @ weights, targets)
        if np.abs(size * step).max() < 1e-8:
            break
    if weights[0] < MIN_SLOPE:  # the scores say nothing of the label: keep their order and the base rate alone
        return [MIN_SLOPE, float(np.log(targets.mean() / (1 - targets.mean())) - MIN_SLOPE * scores.mean())]
    return weights.tolist()


def _cross_entropy(log_odds: np.ndarray, targets: np.ndarray) -> float:
    return float((np.logaddexp(0, log_odds) - targets * log_odds).sum())


def compose(first: list[list[float]] | None, then: list[list[float]]) -> list[list[float]]:
    """One calibration that does what `first` and then another do."""
    if first is None:
        return then
    return [[s2 * s1, s2 * i1 + i2] for (s1, i1), (s2, i2) in zip(first, then, strict=True)]


def expected_calibration_error(probabilities: np.ndarray, actual: np.ndarray) -> float:
    """
    Expected calibration error over `NUM_BINS` bins of equal width (Guo et al., 2017), averaged over labels.

    Args:
        probabilities (`np.ndarray` of shape `[N, m]`): Of positive.
        actual (`np.ndarray` of shape `[N, m]`): Whether it is.

    Returns:
        `float`: From 0, where a score of 0.8 is right eight times in ten, to 1.
    """
    return float(np.mean([_one_error(scores, truth) for scores, truth in zip(probabilities.T, actual.T, strict=True)]))


def _one_error(scores: np.ndarray, truth: np.ndarray) -> float:
    bins = np.minimum((scores * NUM_BINS).astype(int), NUM_BINS - 1)
    count = np.bincount(bins, minlength=NUM_BINS)
    gap = np.bincount(bins, scores, NUM_BINS) - np.bincount(bins, truth.astype(np.float64), NUM_BINS)
    return float(np.abs(gap).sum() / max(count.sum(), 1))
