"""Metrics of the predicted labels on the validation set, and the frequencies of their states."""

import numpy as np
import torch
from transformers import EvalPrediction

from otdrg_hf.modeling.configuration_otdrg import OTDRGConfig
from otdrg_hf.modeling.disease_states_otdrg import POSITIVE, predict_states


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


def state_priors(labels: np.ndarray, num_states: int) -> list[list[float]]:
    """Frequencies of the states `[m][states]`, with one study added to each so that none is zero; -100 not counted."""
    counts = np.stack([(labels == state).sum(0) for state in range(num_states)], axis=1) + 1.0  # [m, states]
    return (counts / counts.sum(1, keepdims=True)).tolist()
