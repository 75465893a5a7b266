"""
What is fitted at the end of a stage: on validation studies the disease head's scores, thresholds, operating curves and
conformal sets, on training studies the statistics by which an unfamiliar image is known.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from otdrg_hf.files import update_json
from otdrg_hf.modeling.configuration_otdrg import OTDRGConfig
from otdrg_hf.modeling.disease_states_otdrg import POSITIVE, positive_log_odds
from otdrg_hf.training.decisions import ERROR_RATE, conformal_thresholds, operating_curves
from otdrg_hf.training.input_statistics import add_input_statistics

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer

NUM_BINS = 15
MIN_SLOPE = 0.05
MOST_CALLED = 2  # times as many studies as are positive


def calibrate(trainer: "Trainer", studies: "Dataset") -> None:
    """
    Calibrates the scores of the model in `output_dir`, and fits what states are decided by.

    All of it goes into its configuration, which is all that is written.
    """
    # Here: `otdrg calibrate` needs no trainer.
    from accelerate import PartialState
    from accelerate.utils import is_peft_model

    prediction = trainer.predict(studies, metric_key_prefix="validation")
    config = trainer.model.config
    fitted, errors = fit_decisions(prediction.predictions, prediction.label_ids, config, refit_scores=True)
    PartialState().print(f"Expected calibration error of the scores: {errors[0]:.3f}, calibrated {errors[1]:.3f}.")
    for name, value in fitted.items():
        setattr(config, name, value)
    if trainer.is_world_process_zero():
        update_json(config_file(trainer.args.output_dir, is_peft_model(trainer.model)), fitted)


def config_file(folder: str | Path, is_adapter: bool) -> Path:
    """Where the configuration of a model's folder is: an adapter's holds none, it is that of the base."""
    return Path(folder, "base" if is_adapter else "", "config.json")


def fit_decisions(
    logits: np.ndarray,
    states: np.ndarray,
    config: OTDRGConfig,
    *,
    refit_scores: bool = False,
    error_rate: float = ERROR_RATE,
) -> tuple[dict[str, Any], tuple[float, float]]:
    """
    What the configuration says of the disease head's scores, and of the states that follow from them.

    Args:
        logits (`np.ndarray` of shape `[N, m, states]`), states (`np.ndarray` of shape `[N, m]`): Predicted and true.
        config ([`OTDRGConfig`]): Of the model that gave the logits.
        refit_scores (`bool`, *optional*, defaults to `False`):
            Calibrate the scores, and choose the thresholds of positive, also where the configuration has them.
        error_rate (`float`, *optional*, defaults to 0.1): Of the conformal sets.

    Returns:
        `tuple[dict, tuple[float, float]]`: Fields of the configuration; the expected calibration error of the scores
        before and after.
    """
    log_probs = torch.from_numpy(logits).double().log_softmax(-1)
    actual = states == POSITIVE
    before = expected_calibration_error(log_probs[..., POSITIVE].exp().numpy(), actual)
    fields: dict[str, Any] = {}
    if refit_scores or config.score_calibration is None:
        scaling = platt_scaling(positive_log_odds(log_probs).numpy(), actual)
        fields["score_calibration"] = compose(config.score_calibration, scaling)
        log_probs = rescale(log_probs, scaling)
    probabilities = log_probs.float().exp().numpy()  # [N, m, states]
    positive = probabilities[..., POSITIVE]
    if refit_scores or config.positive_thresholds is None:
        findings = [index for index, name in enumerate(config.label_names) if name != config.no_finding_label]
        fields["positive_thresholds"] = steady_thresholds(positive, actual, findings)
    fields["operating_curves"] = operating_curves(positive, actual, config)
    fields["conformal_thresholds"] = conformal_thresholds(probabilities, states, config, error_rate)
    fields["conformal_error_rate"] = error_rate
    return fields, (before, expected_calibration_error(positive, actual))


def rescale(log_probs: torch.Tensor, scaling: list[list[float]]) -> torch.Tensor:
    """Log-probabilities `[N, m, states]` with Platt's scaling of positive; the others keep their proportions."""
    slope, intercept = torch.tensor(scaling, dtype=log_probs.dtype).T  # [m], [m]
    presence = slope * positive_log_odds(log_probs) + intercept  # [N, m]
    absent = torch.ones_like(log_probs, dtype=torch.bool)
    absent[..., POSITIVE] = False
    others = log_probs.masked_fill(~absent, -torch.inf).log_softmax(-1) + F.logsigmoid(-presence).unsqueeze(-1)
    return torch.where(absent, others, F.logsigmoid(presence).unsqueeze(-1))


def describe_inputs(trainer: "Trainer", studies: "Dataset") -> None:
    """Writes the statistics of training images into the configuration of the model in `output_dir`."""
    from accelerate import PartialState
    from accelerate.utils import is_peft_model
    from datasets import Image, List

    from otdrg_hf.training.feature_cache import fill_cache

    model = trainer.accelerator.unwrap_model(trainer.model)
    model = model.get_base_model() if is_peft_model(model) else model
    cache, raw = trainer.data_collator.features, studies
    if cache is not None:  # the images of a run with a cache are not decoded
        studies = studies.cast_column("images", List(Image()))
        if cache.blocks is not None:
            # Those of the encoder as it is now: what the stage finetune asks for as well.
            validation = trainer.eval_dataset.cast_column("images", List(Image()))
            cache = fill_cache(cache.folder, model, trainer.processing_class, (studies, validation), start=cache)
    counts = add_input_statistics(
        config_file(trainer.args.output_dir, is_peft_model(trainer.model)).parent,
        studies,
        model,
        trainer.processing_class,
        read_features=None if cache is None else lambda index: cache.read(raw[index]),
        write=trainer.is_world_process_zero(),
    )
    images = ", ".join(f"{count} {view}" for view, count in counts.items())
    PartialState().print(f"Input statistics: {f'of {images} images' if images else 'none, there are too few images'}.")


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


def steady_thresholds(probabilities: np.ndarray, actual: np.ndarray, findings: list[int]) -> list[float]:
    """
    The threshold per label of [`best_thresholds`], steadied by what the scores alone expect.

    On a few hundred studies, of which ten have a label, the threshold of the best F1 is an accident. Calibrated scores
    say as well which F1 to expect of a threshold (Lipton et al., 2014), without counting positives: for the label, and
    for all findings together. The mean of the three errs less than each. On IU X-Ray (296 validation studies, 39
    splits, two models) micro-F1 rises from 0.334 to 0.353 and from 0.294 to 0.313, and varies less.

    Args:
        probabilities (`np.ndarray` of shape `[N, m]`): Of positive, calibrated.
        actual (`np.ndarray` of shape `[N, m]`): Whether it is; a label without a positive keeps 0.5.
        findings (`list[int]`): The labels that are findings, which share one expectation.
    """
    of_all = probabilities[:, findings].ravel()
    shared = _best_threshold(of_all, of_all)
    return [
        (best + _best_threshold(scores, scores) + shared) / 3 if truth.any() else best
        for best, scores, truth in zip(best_thresholds(probabilities, actual), probabilities.T, actual.T, strict=True)
    ]


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
