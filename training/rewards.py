"""Clinical rewards of sampled reports, and the advantages that a group of samples has over its mean."""

import importlib
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from otdrg_hf.labeling import label_reports
from otdrg_hf.labeling.labels import NEGATIVE, POSITIVE, UNCERTAIN
from otdrg_hf.metrics.clinical import FINDINGS
from otdrg_hf.metrics.laterality import finding_sides
from otdrg_hf.metrics.rexrank import rexrank_bleu_2
from otdrg_hf.metrics.rouge import rouge_l_scores

# As TRL calls them, with keywords alone: `completions` and whatever columns they name.
Reward = Callable[..., Sequence[float | None]]

LEAST_SPREAD = 1e-6  # standard deviation within a group, below which a reward tells none of its samples apart
RADEVAL = "radeval"  # whose metrics its make_reward_fn makes rewards of
RANGE = (5, 95)  # percentiles of the references' lengths


def clinical(written: np.ndarray, labels: np.ndarray, label_weights: np.ndarray, beta: float, **columns) -> list[float]:
    """
    F-beta of the positive findings of each report, 1 where neither report nor reference has any.

    Args:
        written, labels (`np.ndarray` of shape `[N, 14]`): States of the reports and of their references.
        label_weights (`np.ndarray` of shape `[13]`): Of each finding in the counts.
        beta (`float`): Above 1 for recall, below 1 for precision.
    """
    found, true = (np.asarray(states)[:, FINDINGS] == POSITIVE for states in (written, labels))
    hits, called, stated = ((each * label_weights).sum(1) for each in (found & true, found, true))
    whole = called + beta**2 * stated
    return np.divide((1 + beta**2) * hits, whole, out=np.ones(len(whole)), where=whole > 0).tolist()


def head_agreement(written: np.ndarray, shown: np.ndarray, **columns) -> list[float]:
    """Share of findings that a report states as the disease head predicted them: present, uncertain or absent."""
    written, shown = (_absent_as_blank(np.asarray(states)[:, FINDINGS]) for states in (written, shown))
    return (written == shown).mean(1).tolist()


def laterality(completions: Sequence[str], references: Sequence[str], **columns) -> list[float]:
    """Share of equal sides among the findings that both reports place on a side, 1 without any."""
    written, referred = finding_sides(list(completions)), finding_sides(list(references))
    compared = (written > 0) & (referred > 0)
    agreed = (compared & (written == referred)).sum(1)
    count = compared.sum(1)
    return np.divide(agreed, count, out=np.ones(len(count)), where=count > 0).tolist()


def rouge_l(completions: Sequence[str], references: Sequence[str], **columns) -> list[float]:
    return rouge_l_scores(list(completions), [[reference] for reference in references]).tolist()


def bleu_2(completions: Sequence[str], references: Sequence[str], **columns) -> list[float]:
    return rexrank_bleu_2(list(completions), list(references))


def length(completions: Sequence[str], length_range: tuple[float, float], **columns) -> list[float]:
    """1 within the range of the references' lengths in words, falling to 0 at none of them and at twice as many."""
    low, high = length_range
    words = [len(text.split()) for text in completions]
    return [max(0.0, min(1.0, count / max(low, 1), 2 - count / max(high, 1))) for count in words]


def no_repetition(completions: Sequence[str], **columns) -> list[float]:
    """Share of the 3-grams of a report that are not repetitions of earlier ones."""
    return [1 - _repeated(text.lower().split()) for text in completions]


REWARDS: dict[str, Reward] = {
    each.__name__: each for each in (clinical, head_agreement, laterality, rouge_l, bleu_2, length, no_repetition)
}


def load_rewards(
    weights: dict[str, float], references: Sequence[str], beta: float, rare_label_power: float
) -> dict[str, Reward]:
    """
    The reward functions of a run, by name.

    Args:
        weights (`dict[str, float]`):
            By names of `REWARDS`, `module:function` of one's own, or `radeval:METRIC` (`radeval:METRIC.KEY` of a metric
            with several scores).
        references (`Sequence[str]`): Training reports, whose labels and lengths the rewards are fitted to.
        beta, rare_label_power (`float`): See [`RewardArguments`].

    Raises:
        ValueError: for a name that is not a reward, and one's own that cannot be imported.
    """
    labels = label_reports(list(references))
    options = {
        "clinical": {"beta": beta, "label_weights": rare_label_weights(labels, rare_label_power)},
        "length": {"length_range": tuple(np.percentile([len(text.split()) for text in references], RANGE))},
    }
    rewards = {name: REWARDS.get(name) or _own_reward(name) for name in weights}
    return {name: partial(reward, **options[name]) if name in options else reward for name, reward in rewards.items()}


def rare_label_weights(labels: np.ndarray, power: float) -> np.ndarray:
    """Weights `[13]` of the findings by how rare they are among `labels` `[N, 14]`: `prevalence ** -power`, mean 1."""
    positives = (labels[:, FINDINGS] == POSITIVE).sum(0)
    weights = np.maximum(positives, 1) ** -float(power)
    return weights / weights.mean()


def check_rewards(rewards: dict[str, Reward], columns: dict) -> None:
    """
    Calls each reward once, on references as completions.

    Raises:
        ValueError: for one that fails, or that does not give a number per completion.
    """
    for name, reward in rewards.items():
        try:
            call_reward(name, reward, columns)
        except ValueError:
            raise
        except Exception as error:  # of a function that is not ours: whatever it raises is the user's to see in a line
            hint = ". It is called with keywords, and has to take **columns" if isinstance(error, TypeError) else ""
            raise ValueError(f"The reward {name!r} fails: {type(error).__name__}: {error}{hint}") from error


def call_reward(name: str, reward: Reward, columns: dict) -> torch.Tensor:
    """The rewards of N completions, `[N]`; NaN where a reward is `None` or not finite."""
    values = reward(**columns)
    values = values.tolist() if hasattr(values, "tolist") else values
    count = len(columns["completions"])
    if not isinstance(values, Sequence) or len(values) != count:
        given = f"{len(values)} rewards" if isinstance(values, Sequence) else type(values).__name__
        raise ValueError(f"The reward {name!r} gives {given} for {count} completions: it must give a list of as many.")
    values = [value.item() if hasattr(value, "item") else value for value in values]
    wrong = [value for value in values if not isinstance(value, (int, float, type(None)))]
    if wrong:
        raise ValueError(f"The reward {name!r} gives {type(wrong[0]).__name__}: it must give numbers.")
    return torch.tensor([math.nan if value is None or not math.isfinite(value) else value for value in values])


def group_advantages(
    rewards: torch.Tensor, weights: torch.Tensor, group: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Advantages of samples over the others of their group: each reward normalised over the group, then weighted.

    Args:
        rewards (`torch.Tensor` of shape `[N, k]`): Of each sample; NaN where it has none.
        weights (`torch.Tensor` of shape `[k]`): Of each reward.
        group (`int`): Samples of a study, which come one after another.

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`, each of shape `[N]`: the advantages; whether a sample has all
        rewards; and whether its group varies in a reward that counts. Without either, an advantage is 0.
    """
    scored = ~rewards.isnan().any(1)  # [N]
    grouped = rewards.double().unflatten(0, (-1, group))  # [B, G, k]
    used = scored.unflatten(0, (-1, group)).unsqueeze(-1)  # [B, G, 1]
    count = used.sum(1, keepdim=True).clamp(min=1)
    grouped = grouped.masked_fill(~used, 0)
    mean = grouped.sum(1, keepdim=True) / count
    centred = (grouped - mean).masked_fill(~used, 0)
    spread = (centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()  # [B, 1, k]
    tells = spread > LEAST_SPREAD
    normalised = torch.where(tells, centred / spread.clamp(min=LEAST_SPREAD), 0)
    advantages = (normalised * weights.double()).sum(-1).flatten()  # [N]
    varies = (tells & (weights != 0)).any(-1).expand(-1, group).flatten()  # [N]
    return advantages.float(), scored, varies


def varying_groups(rewards: torch.Tensor, group: int) -> torch.Tensor:
    """Whether samples of a study differ in a reward, `[B, k]`, from rewards `[B * G, k]`, NaN where there is none."""
    grouped = rewards.unflatten(0, (-1, group))  # [B, G, k]
    highest = grouped.nan_to_num(nan=-math.inf).amax(1)
    return highest - grouped.nan_to_num(nan=math.inf).amin(1) > LEAST_SPREAD


def _own_reward(name: str) -> Reward:
    module, _, function = name.partition(":")
    if not function:
        raise ValueError(
            f"{name!r} is not a reward: choose from {', '.join(REWARDS)}, or give module:function of one of your own."
        )
    # Of a script that is launched, Python looks next to the script alone.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        if module == RADEVAL:
            metric, _, key = function.partition(".")
            return importlib.import_module(module).make_reward_fn(metric, key=key or None)
        reward = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The reward {name!r} cannot be imported: {error}") from error
    if not callable(reward):
        raise ValueError(f"The reward {name!r} is not a function.")
    return reward


def _absent_as_blank(states: np.ndarray) -> np.ndarray:
    return np.where(np.isin(states, (POSITIVE, UNCERTAIN)), states, NEGATIVE)


def _repeated(words: list[str]) -> float:
    trigrams = Counter(zip(words, words[1:], words[2:], strict=False))
    total = trigrams.total()
    return (total - len(trigrams)) / total if total else 0.0
