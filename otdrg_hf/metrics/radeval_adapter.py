"""RadGraph F1, RaTEScore and GREEN through the `RadEval` package, where the user has installed it."""

import importlib.util
from collections.abc import Sequence
from importlib import metadata
from numbers import Real

from otdrg_hf.metrics.pairs import as_pairs

SCORES = ("radgraph", "ratescore", "green")


def radeval_is_available() -> bool:
    """Whether `RadEval` can be imported; it pins older versions of numpy than this package needs."""
    return importlib.util.find_spec("RadEval") is not None


def radeval_version() -> str:
    """Of the installed package, for the record."""
    try:
        return metadata.version("RadEval")
    except metadata.PackageNotFoundError:
        return "not known"


def check_radeval(scores: Sequence[str]) -> None:
    """Raises `ValueError` for an unknown score, `ImportError` if scores are asked for and RadEval is not installed."""
    unknown = sorted(set(scores) - set(SCORES))
    if unknown:
        raise ValueError(f"unknown RadEval score {unknown[0]!r}; give any of {', '.join(SCORES)}")
    if scores and not radeval_is_available():
        raise ImportError("RadGraph F1, RaTEScore and GREEN need RadEval: pip install RadEval")


def radeval_figures(
    predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]], scores: Sequence[str] = SCORES
) -> dict[str, float]:
    """
    Figures of RadEval, under its names and with `radeval_` before them; nothing of it is computed here.

    Args:
        predictions (`Sequence[str]`): N reports.
        references (`Sequence[str]` or `Sequence[Sequence[str]]`): reference reports; of several, the first is read.
        scores (`Sequence[str]`): any of `"radgraph"`, `"ratescore"` and `"green"`. Each loads a model.

    Raises:
        ImportError: if RadEval is not installed.
        ValueError: for an unknown score.
    """
    check_radeval(scores)
    predictions, references = as_pairs(predictions, references)
    from RadEval import RadEval

    evaluator = RadEval(**{f"do_{score}": score in scores for score in SCORES})
    answer = evaluator(refs=[texts[0] for texts in references], hyps=predictions)
    # It may answer texts and scores of single reports as well.
    return {f"radeval_{name}": float(value) for name, value in answer.items() if isinstance(value, Real)}
