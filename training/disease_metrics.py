"""Disease figures on the validation set: F1 of the predicted labels, and the thresholds that maximise it."""

import numpy as np
import torch
from transformers import EvalPrediction

from otdrg_hf.modeling.configuration_otdrg import OTDRGConfig
from otdrg_hf.modeling.disease_states_otdrg import POSITIVE, predict_states

MOST_CALLED = 2  # times as many studies as are positive


def disease_metrics(config: OTDRGConfig):
    """A `compute_metrics` for the trainer: micro- and macro-F1 of positive labels, as predicted without a report."""

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        logits, labels = torch.from_numpy(prediction.predictions), torch.from_numpy(prediction.label_ids)
        predicted = predict_states(logits, config) == POSITIVE  # [N, m]
        return f1_scores(predicted.numpy(), (labels == POSITIVE).numpy())

    return compute


def f1_scores(predicted: np.ndarray, actual: np.ndarray) -> dict[str, float]:
    """Micro- and macro-F1 of boolean arrays `[N, m]`; a label that never occurs and is never predicted counts 0."""
    true = (predicted & actual).sum(0)
    total = predicted.sum(0) + actual.sum(0)
    per_label = 2 * true / np.maximum(total, 1)
    return {
        "disease_micro_f1": float(2 * true.sum() / max(total.sum(), 1)),
        "disease_macro_f1": float(per_label.mean()),
    }


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
    # Half-way to the next score, so that the choice does not hang on the last digit of one study; there is no half-way
    # between two neighbours in fp32.
    threshold = (scores[best] + following[best]) / 2
    return float(threshold if np.float32(threshold) > following[best] else scores[best])


def state_priors(labels: np.ndarray, num_states: int) -> list[list[float]]:
    """Frequencies of the states `[m][states]`, with one study added to each so that none is zero; -100 not counted."""
    counts = np.stack([(labels == state).sum(0) for state in range(num_states)], axis=1) + 1.0  # [m, states]
    return (counts / counts.sum(1, keepdims=True)).tolist()
