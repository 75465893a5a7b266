"""
What is fitted at the end of a stage: on validation studies the calibration of the disease head (Platt scaling of its
scores, its error, and thresholds), on training studies the statistics by which an unfamiliar image is known.
"""

import json
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import is_peft_model
from datasets import Dataset, Image, List
from transformers import Trainer

from otdrg_hf.calibrating.input_statistics import add_input_statistics
from otdrg_hf.files import write_json
from otdrg_hf.modeling.disease_states_otdrg import POSITIVE, positive_log_odds

NUM_BINS = 15
MIN_SLOPE = 0.05
MOST_CALLED = 2  # times as many studies as are positive


def calibrate(trainer: Trainer, studies: Dataset) -> None:
    """
    Calibrates the scores of the model in `output_dir`, and chooses the thresholds of positive labels.

    Both go into its configuration, which is all that is written.
    """
    prediction = trainer.predict(studies, metric_key_prefix="validation")
    logits = torch.from_numpy(prediction.predictions).double()  # [N, m, states]
    log_odds = positive_log_odds(logits)  # [N, m]
    actual = prediction.label_ids == POSITIVE
    scaling = platt_scaling(log_odds.numpy(), actual)
    slope, intercept = torch.tensor(scaling, dtype=torch.float64).T  # [m], [m]
    probabilities = (slope * log_odds + intercept).sigmoid().float().numpy()
    config = trainer.model.config
    config.score_calibration = compose(config.score_calibration, scaling)
    config.positive_thresholds = best_thresholds(probabilities, actual)
    errors = [expected_calibration_error(p, actual) for p in (log_odds.sigmoid().numpy(), probabilities)]
    PartialState().print(f"Expected calibration error of the scores: {errors[0]:.3f}, calibrated {errors[1]:.3f}.")
    if trainer.is_world_process_zero():
        path = _configured_folder(trainer) / "config.json"
        chosen = {name: getattr(config, name) for name in ("positive_thresholds", "score_calibration")}
        write_json(path, {**json.loads(path.read_text()), **chosen})


def describe_inputs(trainer: Trainer, studies: Dataset) -> None:
    """Writes the statistics of training images into the configuration of the model in `output_dir`."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    model = model.get_base_model() if is_peft_model(model) else model
    cache, raw = trainer.data_collator.features, studies
    if cache is not None:  # the images of a run with a cache are not decoded
        studies = studies.cast_column("images", List(Image()))
    counts = add_input_statistics(
        _configured_folder(trainer),
        studies,
        model,
        trainer.processing_class,
        read_features=None if cache is None else lambda index: cache.read(raw[index]),
        write=trainer.is_world_process_zero(),
    )
    images = ", ".join(f"{count} {view}" for view, count in counts.items())
    PartialState().print(f"Input statistics: {f'of {images} images' if images else 'none, there are too few images'}.")


def _configured_folder(trainer: Trainer) -> Path:
    """An adapter's folder holds no configuration; it is that of the base."""
    return Path(trainer.args.output_dir, "base" if is_peft_model(trainer.model) else "")


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


def best_thresholds(probabilities: np.ndarray, actual: np.ndarray) -> list[float]:
    """
    The threshold per label that maximises its F1, among those that call at most twice as many studies positive as are.

    Of a label that the scores say little of, F1 alone is best where every study is called positive, which leaves no
    study normal.

    Args:
        probabilities (`np.ndarray` of shape `[N, m]`): Of positive.
        actual (`np.ndarray` of shape `[N, m]`): Whether it is; a label without a positive keeps 0.5.
    """
    return [
        _best_threshold(scores, truth) if truth.any() else 0.5
        for scores, truth in zip(probabilities.T, actual.T, strict=True)
    ]


def _best_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    scores, truth = scores[order].astype(np.float64), truth[order]
    called = np.arange(1, len(scores) + 1)
    f1 = 2 * np.cumsum(truth) / (called + truth.sum())
    following = np.append(scores[1:], 0.0)
    # Studies of equal score are on the same side of any threshold.
    f1[:-1][scores[:-1] == following[:-1]] = 0.0
    f1[called > MOST_CALLED * truth.sum()] = 0.0
    best = int(np.argmax(f1))
    if f1[best] == 0:
        return float((1 + scores[0]) / 2)
    # Half-way to the next score, so that the choice does not depend on the last digit of one study. Between two
    # neighbours in fp32 there is no such value.
    threshold = (scores[best] + following[best]) / 2
    return float(threshold if np.float32(threshold) > following[best] else scores[best])
