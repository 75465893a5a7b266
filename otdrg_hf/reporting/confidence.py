"""Calibration of the confidence in sentences: fitted on validation reports, shown as reliability."""

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from otdrg_hf.extras import require
from otdrg_hf.files import atomic_path
from otdrg_hf.labeling import label_reports, named_states
from otdrg_hf.reporting.loop import report_studies
from otdrg_hf.reporting.review import PRESENT
from otdrg_hf.reporting.sentences import claim_features, claims_of

if TYPE_CHECKING:
    from transformers import Pipeline

NUM_BINS = 15
LEAST_CONFIDENT = 0.1  # the share of sentences to look at first
RIDGE = 1.0
FEWEST_CLAIMS = 100


class JudgedSentences(NamedTuple):
    """
    Sentences by which a model claims something, and whether they are right.

    Attributes:
        features (`list[dict[str, float]]`): Of each, as of [`claim_features`].
        confidence (`np.ndarray` of shape `[N]`): NaN without a calibration.
        is_right (`np.ndarray` of shape `[N]`, bool): By the labels of the reference.
    """

    features: list[dict[str, float]]
    confidence: np.ndarray
    is_right: np.ndarray


def report_and_judge(
    report: "Pipeline",
    studies: Iterable[dict],
    references: Sequence[str],
    *,
    batch_size: int = 8,
    max_new_tokens: int | None = None,
) -> JudgedSentences:
    """
    Writes the reports of studies and judges their sentences by the reference reports.

    Args:
        report ([`Pipeline`]): As of [`load_reporter`].
        studies (`Iterable[dict]`): What the pipeline takes as studies; read as they are needed.
        references (`Sequence[str]`): Of each study.
        batch_size, max_new_tokens: As of [`report_studies`].
    """
    answers = report_studies(
        report,
        studies,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        sentences=True,
        generate_kwargs={"do_sample": False},
        total=len(references),
    )
    return judge_sentences(answers, references)


def judge_sentences(answers: Iterable[dict], references: Sequence[str]) -> JudgedSentences:
    """
    Judges the sentences of reports by the labels of their references.

    A sentence is right if each label that it has present, positive or uncertain, is present in the reference, and each
    that it denies is not: negative or not mentioned. Sentences by which the model claims nothing are left out.

    Args:
        answers (`Iterable[dict]`): With `findings` and `sentences`, as the pipeline or `otdrg report` answers.
        references (`Sequence[str]`): As many reports.
    """
    features, confidence, is_right = [], [], []
    for answer, states in zip(answers, label_reports(references), strict=True):
        if "error" in answer:
            raise ValueError(answer["error"])
        in_reference = {label: state in PRESENT for label, state in named_states(states).items()}
        for sentence in answer["sentences"]:
            claim = claim_features(sentence, answer["findings"])
            if claim is not None:
                features.append(claim)
                confidence.append(np.nan if sentence["confidence"] is None else sentence["confidence"])
                claims = claims_of(sentence)
                is_right.append(all(in_reference[row["label"]] == (row["state"] in PRESENT) for row in claims))
    return JudgedSentences(features, np.array(confidence, dtype=np.float64), np.array(is_right, dtype=bool))


def fit_sentence_calibration(judged: JudgedSentences) -> dict[str, float]:
    """
    Fits the confidence in sentences by logistic regression, with a small penalty on all weights but the intercept.

    Args:
        judged ([`JudgedSentences`]): Of validation studies; of several datasets, one after another, for one calibration
            that serves them all.

    Returns:
        `dict[str, float]`: The weights of [`claim_features`], for `config.sentence_calibration`.

    Raises:
        ValueError: for fewer than 100 sentences.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    if len(judged.features) < FEWEST_CLAIMS:
        raise ValueError(
            f"{len(judged.features)} sentences state a label: {FEWEST_CLAIMS} are the fewest to calibrate the "
            "confidence in them with. Give more studies."
        )
    names = sorted({name for claim in judged.features for name in claim}, key=lambda name: (name != "intercept", name))
    table = torch.tensor([[claim.get(name, 0.0) for name in names] for claim in judged.features], dtype=torch.float64)
    # Of like size, so that the penalty is the same for each; what tells a label is 0 or 1 as it is.
    is_label = torch.tensor([": " in name for name in names])
    spread = torch.where(is_label, 1.0, table.std(0)).clamp(min=1e-6)
    centre = torch.where(is_label, 0.0, table.mean(0))
    spread[0], centre[0] = 1.0, 0.0
    scaled, targets = (table - centre) / spread, torch.from_numpy(judged.is_right.astype(np.float64))
    weights = torch.zeros(len(names), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = binary_cross_entropy_with_logits(scaled @ weights, targets, reduction="sum")
        total = total + RIDGE * weights[1:].square().sum() / 2
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    fitted = weights.detach() / spread
    fitted[0] -= (fitted * centre).sum()
    return {name: round(weight, 5) for name, weight in zip(names, fitted.tolist(), strict=True)}


def sentence_reliability(confidence: np.ndarray, is_right: np.ndarray) -> dict:
    """
    How far the confidence in sentences can be trusted.

    Args:
        confidence (`np.ndarray` of shape `[N]`), is_right (`np.ndarray` of shape `[N]`): As of [`JudgedSentences`].

    Returns:
        `dict`: `sentences` and `wrong` (a share), `expected_calibration_error` over 15 bins of equal width (Guo et al.,
        2017), `wrong_least_confident` (the share among the 10 % of least confidence) and `times_as_many` (as on
        average; `None` where nothing is wrong), and `bins`, those that hold any: `confidence` (mean), `right` (share)
        and `sentences`.
    """
    if len(confidence) == 0:
        raise ValueError("No sentence states a label: there is nothing to measure.")
    index = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    count = np.bincount(index, minlength=NUM_BINS)
    sums, right = np.bincount(index, confidence, NUM_BINS), np.bincount(index, is_right, NUM_BINS)
    least = np.argsort(confidence, kind="stable")[: max(1, round(LEAST_CONFIDENT * len(confidence)))]
    wrong, wrong_least = float(1 - is_right.mean()), float(1 - is_right[least].mean())
    return {
        "sentences": len(confidence),
        "wrong": wrong,
        "expected_calibration_error": float(np.abs(sums - right).sum() / len(confidence)),
        "wrong_least_confident": wrong_least,
        "times_as_many": wrong_least / wrong if wrong else None,
        "bins": [
            {"confidence": float(sums[k] / count[k]), "right": float(right[k] / count[k]), "sentences": int(count[k])}
            for k in np.flatnonzero(count)
        ],
    }


def plot_sentence_reliability(reliabilities: dict[str, dict], path: str | os.PathLike) -> None:
    """
    Draws the share of right sentences over their confidence, and writes it as PNG, PDF or SVG.

    Args:
        reliabilities (`dict[str, dict]`): Of [`sentence_reliability`], by the name of the studies.
        path (`str` or `os.PathLike`): File to write; its ending gives the format.

    Raises:
        ImportError: without matplotlib.
    """
    require("matplotlib", "plot")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, reliability in reliabilities.items():
        bins = reliability["bins"]
        error = reliability["expected_calibration_error"]
        x, y = [each["confidence"] for each in bins], [each["right"] for each in bins]
        sizes = [10 + 200 * each["sentences"] / reliability["sentences"] for each in bins]
        [line] = axes.plot(x, y, linewidth=1, label=f"{name} (error {error:.3f})")
        axes.scatter(x, y, s=sizes, color=line.get_color(), alpha=0.7)
    axes.set(
        xlabel="Confidence in a sentence", ylabel="Share of right sentences", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02)
    )
    axes.grid(alpha=0.3)
    figure.legend(frameon=False, loc="outside upper center", ncols=len(reliabilities))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=os.path.splitext(os.fspath(path))[1].lstrip(".").lower() or "png", dpi=150)
