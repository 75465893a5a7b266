# Copyright 2026 The otdrg-hf authors. Licensed under the Apache License, Version 2.0.
"""From disease logits to label states: thresholds, given labels, and a No Finding that agrees with the rest."""

import torch

from .configuration_otdrg import OTDRGConfig

BLANK, POSITIVE, NEGATIVE, UNCERTAIN = range(4)
# Of the training data; frequencies are smoothed, so that what never occurred is not at zero.
UNHEARD_OF = 1e-3


def positive_log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Log-odds of positive against all other states, `[..., states]` -> `[...]`."""
    others = [state for state in range(logits.shape[-1]) if state != POSITIVE]
    return logits[..., POSITIVE] - logits[..., others].logsumexp(-1)


def predict_states(logits: torch.Tensor, config: OTDRGConfig) -> torch.Tensor:
    """
    The state of each label, `[B, m, states]` -> `[B, m]` (int64).

    A label is positive where its probability reaches `config.positive_thresholds`, otherwise it takes the likeliest
    of the other states; without thresholds simply the likeliest state. No Finding follows from the other labels.
    """
    if config.positive_thresholds is None:
        states = logits.argmax(-1)
    else:
        thresholds = torch.tensor(config.positive_thresholds, device=logits.device)
        positive = logits.float().softmax(-1)[..., POSITIVE] >= thresholds
        others = logits.clone()
        others[..., POSITIVE] = float("-inf")
        states = torch.where(positive, POSITIVE, others.argmax(-1))
    return _with_no_finding(states, torch.ones_like(states, dtype=torch.bool), config)


def resolve_states(disease_labels: torch.Tensor | None, predicted: torch.Tensor, config: OTDRGConfig) -> torch.Tensor:
    """
    Given labels where there are any, predicted ones elsewhere (-100), `[B, m]`.

    What is given is never changed. A given positive No Finding clears the predicted findings; otherwise No Finding
    follows from the others unless it was given itself.
    """
    if disease_labels is None:
        return predicted
    given = disease_labels >= 0
    states = torch.where(given, disease_labels, predicted)
    findings, normal = _finding_indices(config)
    if normal is not None:
        is_normal = (given[:, normal] & (states[:, normal] == POSITIVE)).unsqueeze(-1)  # [B, 1]
        contradicts = _is_present(states) & ~given
        cleared = torch.where(contradicts & is_normal, BLANK, states)
        states = torch.where(_mask(findings, states), cleared, states)
    return _with_no_finding(states, ~given, config)


def shown_states(states: torch.Tensor, config: OTDRGConfig) -> torch.Tensor:
    """
    The states whose phrases the LLM is shown, `[B, m]` -> `[B, m]`.

    Reports deny few of the labels: nobody writes that there is no device. Where training held no denial of a label, the
    LLM has never met its phrase, and is shown what absence was called there: blank.
    """
    if config.state_priors is None:
        return states
    priors = torch.tensor(config.state_priors, device=states.device)  # [m, states]
    return torch.where((states == NEGATIVE) & (priors[:, NEGATIVE] < UNHEARD_OF), BLANK, states)


def _with_no_finding(states: torch.Tensor, may_change: torch.Tensor, config: OTDRGConfig) -> torch.Tensor:
    findings, normal = _finding_indices(config)
    if normal is None:
        return states
    abnormal = (_is_present(states) & _mask(findings, states)).any(-1)
    states = states.clone()
    states[:, normal] = torch.where(may_change[:, normal], torch.where(abnormal, BLANK, POSITIVE), states[:, normal])
    return states


def _finding_indices(config: OTDRGConfig) -> tuple[list[int], int | None]:
    exempt = {*config.device_labels, config.no_finding_label}
    findings = [index for index, name in enumerate(config.label_names) if name not in exempt]
    normal = config.no_finding_label
    return findings, None if normal is None or normal not in config.label_names else config.label_names.index(normal)


def _is_present(states: torch.Tensor) -> torch.Tensor:
    return (states == POSITIVE) | (states == UNCERTAIN)


def _mask(indices: list[int], states: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(states.shape[-1], dtype=torch.bool, device=states.device)
    mask[indices] = True
    return mask
