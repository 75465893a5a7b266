# Copyright 2026 The otdrg-hf authors. Licensed under the Apache License, Version 2.0.
"""From disease logits to label states: operating points, given labels, and a No Finding that agrees with the rest."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.compiler import is_compiling

from .configuration_otdrg import NUM_STATES, OTDRGConfig

BLANK, POSITIVE, NEGATIVE, UNCERTAIN = range(4)
# Of the training data; frequencies are smoothed, so that what never occurred is not at zero.
UNHEARD_OF = 1e-3
# Of F-beta (van Rijsbergen, 1979), the weight of recall; from few findings to many.
NAMED_POINTS = {"specific": 0.5, "balanced": 1.0, "sensitive": 2.0}
# A label that is called more often than this, for each study that has it, says too little.
MOST_CALLED = 4.0


def check_labels(
    disease_labels: torch.Tensor | None, pixel_values: torch.Tensor, config: OTDRGConfig
) -> torch.Tensor | None:
    """State codes `[B, m]` as int64 on the device of the pixels; -100 where the state is to be predicted."""
    if disease_labels is None:
        return None
    expected, states = (pixel_values.shape[0], config.num_disease_labels), NUM_STATES
    if tuple(disease_labels.shape) != expected or disease_labels.is_floating_point():
        raise ValueError(
            f"`disease_labels` must be integers of shape {expected}, "
            f"got {disease_labels.dtype} of shape {tuple(disease_labels.shape)}."
        )
    # No compiled graph can hold a look at values.
    if is_compiling():
        return disease_labels.to(pixel_values.device, torch.long)
    wrong = (disease_labels != -100) & ((disease_labels < 0) | (disease_labels >= states))
    if wrong.any():
        code = int(disease_labels[wrong][0])
        raise ValueError(f"`disease_labels` holds {code}: states are 0 to {states - 1}, or -100 to predict.")
    return disease_labels.to(pixel_values.device, torch.long)


def check_other_labels(
    other_labels: torch.Tensor | None, pixel_values: torch.Tensor, config: OTDRGConfig
) -> torch.Tensor | None:
    """State codes `[B, k, m]` of other studies as int64 on the device of the pixels."""
    if other_labels is None:
        return None
    batch, m, states = pixel_values.shape[0], config.num_disease_labels, NUM_STATES
    shape = tuple(other_labels.shape)
    if len(shape) != 3 or shape[::2] != (batch, m) or other_labels.is_floating_point():
        raise ValueError(
            f"`other_labels` must be integers of shape ({batch}, k, {m}), got {other_labels.dtype} of shape {shape}."
        )
    if not is_compiling() and (other_labels >= states).any():
        raise ValueError(f"`other_labels` holds {int(other_labels.max())}: states are 0 to {states - 1}.")
    return other_labels.to(pixel_values.device, torch.long)


def positive_log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Log-odds of positive against all other states, `[..., states]` -> `[...]`."""
    others = [state for state in range(logits.shape[-1]) if state != POSITIVE]
    return logits[..., POSITIVE] - logits[..., others].logsumexp(-1)


def predict_states(
    logits: torch.Tensor, config: OTDRGConfig, thresholds: Sequence[float] | None = None
) -> torch.Tensor:
    """
    The state of each label, `[B, m, states]` -> `[B, m]` (int64).

    A label is positive where its probability reaches `thresholds`, by default `config.positive_thresholds`, otherwise
    it takes the likeliest of the other states; without thresholds simply the likeliest state. No Finding follows from
    the other labels.
    """
    thresholds = config.positive_thresholds if thresholds is None else thresholds
    if thresholds is None:
        states = logits.argmax(-1)
    else:
        positive = logits.float().softmax(-1)[..., POSITIVE] >= torch.tensor(thresholds, device=logits.device)
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


def thresholds_at(
    point: str | dict[str, Any], config: OTDRGConfig
) -> tuple[list[float] | None, dict[str, dict[str, Any]]]:
    """
    The thresholds of an operating point.

    Args:
        point (`str` or `dict`):
            `"balanced"`, the thresholds of the configuration; `"sensitive"` or `"specific"`, the best by F2 or F0.5
            that calls at most four times as many studies as are positive, and on the right side of balanced;
            `{"recall": r}`, the highest that reach it; `{"precision": p}`, the lowest that reach it; or one of these
            by label, where labels that are not named stay balanced.
        config ([`OTDRGConfig`]): With `operating_curves`, except for `"balanced"`.

    Returns:
        `tuple[list[float], dict[str, dict]]`: One threshold per label (`None`: the likeliest state), and for each label
        that cannot reach what is asked `asked` and `reached`, the nearest that it gets, `None` without a curve.

    Raises:
        ValueError: for an unknown point or label, an impossible value, and a model without curves.
    """
    points = _points_by_label(point, config)
    balanced = config.positive_thresholds
    if all(each == "balanced" for each in points.values()):
        return balanced, {}
    if config.operating_curves is None or balanced is None:
        raise ValueError(
            "This model has no operating curves, so that it knows the balanced operating point only; `otdrg calibrate "
            "MODEL --dataset ...` adds them."
        )
    thresholds, unreached = list(balanced), {}
    for label, each in points.items():
        index, curve = config.label_names.index(label), config.operating_curves[label]
        if each == "balanced":
            continue
        if not curve:
            unreached[label] = {"asked": each, "reached": None}
        elif isinstance(each, str):
            thresholds[index] = _named_threshold(each, curve, balanced[index])
        else:
            thresholds[index], reached = _threshold_reaching(each, curve)
            if reached is not None:
                unreached[label] = {"asked": each, "reached": reached}
    return thresholds, unreached


def _points_by_label(point: Any, config: OTDRGConfig) -> dict[str, Any]:
    """The point of each label that has one of its own, checked."""
    labels = [label for label in config.label_names if label != config.no_finding_label]
    if isinstance(point, dict) and not {"recall", "precision"} & set(point):
        if not point:
            raise ValueError("The operating point is an empty dict: name a label, or give {'recall': 0.95}.")
        for label in point:
            if label == config.no_finding_label:
                raise ValueError(f"{label!r} has no operating point of its own: it follows from the other labels.")
            if label not in labels:
                raise ValueError(f"The operating point names {label!r}; the labels are {', '.join(labels)}.")
        by_label = point
    else:
        by_label = dict.fromkeys(labels, point)
    for each in by_label.values():
        _check_point(each)
    return by_label


def _check_point(point: Any):
    if isinstance(point, str) and point in NAMED_POINTS:
        return
    if not isinstance(point, dict) or len(point) != 1 or not {"recall", "precision"} & set(point):
        raise ValueError(
            f"{point!r} is not an operating point: give {', '.join(NAMED_POINTS)}, {{'recall': 0.95}} or "
            "{'precision': 0.9}, for all labels or by label."
        )
    [(measure, value)] = point.items()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ValueError(f"An operating point with a {measure} of {value!r} is impossible: give a share such as 0.9.")


def _named_threshold(point: str, curve: list[list[float]], balanced: float) -> float:
    weight = NAMED_POINTS[point] ** 2
    rows = [row for row in curve if row[2] <= MOST_CALLED * row[1]]  # calls per positive study: recall / precision
    best = max(rows, key=lambda row: (1 + weight) * row[1] * row[2] / (weight * row[1] + row[2]), default=[balanced])
    return min(best[0], balanced) if point == "sensitive" else max(best[0], balanced)


def _threshold_reaching(point: dict[str, float], curve: list[list[float]]) -> tuple[float, float | None]:
    """The threshold, and what it reaches where that is less than asked."""
    [(measure, value)] = point.items()
    if measure == "recall":
        row = next((row for row in curve if row[2] >= value), curve[-1])
        return row[0], None if row[2] >= value else row[2]
    reaching = [row for row in curve if row[1] >= value]
    if reaching:
        return reaching[-1][0], None
    best = max(curve, key=lambda row: (row[1], row[2]))
    return best[0], best[1]


def moved_labels(thresholds: Sequence[float], disease_labels: torch.Tensor, config: OTDRGConfig) -> torch.Tensor:
    """
    Labels that do not stay balanced at an operating point and were not given, `[B, m]` (bool).

    Args:
        thresholds (`Sequence[float]`): Of the point, as of [`thresholds_at`].
        disease_labels (`torch.Tensor` of shape `[B, m]`): Given states, -100 where predicted.
    """
    balanced = config.positive_thresholds
    moved = [balanced is None or threshold != balanced[label] for label, threshold in enumerate(thresholds)]
    return torch.tensor(moved, device=disease_labels.device) & (disease_labels < 0)


def contradicted_labels(stated: torch.Tensor, states: torch.Tensor, overridden: torch.Tensor | None) -> torch.Tensor:
    """
    Labels of which reports state another of positive, uncertain and absent, `[B, m]` (bool).

    Args:
        stated (`torch.LongTensor` of shape `[B, m]`): What the reports state, negative where that cannot be read off.
        states (`torch.LongTensor` of shape `[B, m]`): What they were written from.
        overridden (`torch.BoolTensor` of shape `[B, m]`, *optional*): The answer where nothing can be read off.
    """
    stated = stated.to(states.device)
    differs = stated.where(stated != NEGATIVE, BLANK) != states.where(states != NEGATIVE, BLANK)
    return differs.where(stated >= 0, torch.zeros_like(differs) if overridden is None else overridden)


def plausible_states(logits: torch.Tensor, config: OTDRGConfig) -> torch.Tensor | None:
    """
    The conformal set of states of each label, `[..., m, states]` -> bool of the same shape; `None` for a model without
    thresholds. A set is empty where no state is as probable as the true one nearly always was on validation.
    """
    if config.conformal_thresholds is None:
        return None
    pairs = torch.tensor([config.conformal_thresholds[label] for label in config.label_names], device=logits.device)
    thresholds = pairs[:, 1:].repeat(1, logits.shape[-1])  # [m, states]
    thresholds[:, POSITIVE] = pairs[:, 0]
    return logits.float().softmax(-1) >= thresholds


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
