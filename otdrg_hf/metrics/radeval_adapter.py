"""The metrics of the `radeval` package (2.2 or newer), where the user has installed it, with bootstrap intervals."""

import contextlib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from numbers import Real
from types import ModuleType
from typing import Any

import numpy as np

from otdrg_hf.metrics.bootstrap import (
    Statistics,
    check_bootstrap,
    join_statistics,
    mean_statistics,
    resampled_figures,
)
from otdrg_hf.metrics.pairs import as_pairs

# What radeval 2.2 calls its metrics. Its radfact_ct and mammo_green are left out: they send the reports to a service
# outside, and are about other images.
MEANS = (
    "rouge",
    "bertscore",
    "radeval_bertscore",
    "radgraph",
    "radgraph_radcliq",
    "ratescore",
    "green",
    "crimson",
    "temporal",
)
# Those whose score of a set is not the mean of the scores of its reports.
OF_SETS = ("bleu", "f1chexbert", "f1radbert_ct", "srrbert", "radcliq")
SCORES = MEANS + OF_SETS
PER_REPORT = "_per_report"
_OLD_NAME, _NAME = "RadEval", "radeval"


def radeval_is_available() -> bool:
    """Whether `radeval` can be imported."""
    return importlib.util.find_spec(_NAME) is not None


def radeval_version() -> str:
    """Of the installed package, for the record."""
    try:
        return metadata.version(_NAME)
    except metadata.PackageNotFoundError:
        return "not known"


def check_radeval(scores: Sequence[str]) -> None:
    """Raises `ValueError` for an unknown score, `ImportError` if scores are asked for and RadEval is not installed."""
    unknown = sorted(set(scores) - set(SCORES))
    if unknown:
        raise ValueError(f"unknown RadEval score {unknown[0]!r}; give any of {', '.join(SCORES)}")
    if scores and not radeval_is_available():
        raise ImportError(f"{', '.join(scores)} need RadEval: pip install RadEval (2.2 or newer)")


def radeval_figures(
    predictions: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    scores: Sequence[str] = SCORES,
    num_bootstrap: int = 0,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, float | None]:
    """
    Scores of RadEval, under its names and with `radeval_` before them; nothing of it is computed here but means.

    Args:
        predictions (`Sequence[str]`): N reports.
        references (`Sequence[str]` or `Sequence[Sequence[str]]`): reference reports; of several, the first is read.
        scores (`Sequence[str]`): any of `SCORES`. Most load a model.
        num_bootstrap, seed, confidence: as of `make_report_card`; the samples are the same.

    Returns:
        `dict[str, float | None]`: `radeval_NAME` is what RadEval gives for the set. Where that is the mean over the
        reports it is given unrounded, with `_low` and `_high` after a bootstrap. Where it is not, such as for corpus
        BLEU, it has no interval, and `radeval_NAME_per_report`, the mean of the scores of each report, has one.

    Raises:
        ImportError: if RadEval, or a package that the metric needs, is not installed.
        ValueError: for an unknown score.
        OSError: for a metric that cannot run here, such as for want of its weights.
    """
    check_radeval(scores)
    check_bootstrap(num_bootstrap, confidence)
    figures: dict[str, float | None] = {}
    for score in dict.fromkeys(scores):
        of_set, statistics = radeval_statistics(predictions, references, score)
        figures |= of_set
        figures |= resampled_figures(statistics, num_bootstrap, seed).with_intervals(confidence)
    return figures


def radeval_statistics(
    predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]], score: str
) -> tuple[dict[str, float], Statistics]:
    """
    One metric of RadEval: what it gives for the set where that is not a mean, and statistics of its scores per report.

    Args:
        predictions, references: as of `radeval_figures`.
        score (`str`): one of `SCORES`.
    """
    predictions, references = as_pairs(predictions, references)
    texts: dict[str, list[str]] = {"refs": [reference[0] for reference in references], "hyps": predictions}
    with running_radeval(score) as radeval:
        evaluator = radeval.RadEval(metrics=[score], per_sample=True, show_progress=False)
        per_report = evaluator(**texts)
        of_set: dict[str, Any] = {}
        if score in OF_SETS:
            evaluator.per_sample = False
            of_set = evaluator(**texts)
    parts = [
        mean_statistics(f"radeval_{name}{PER_REPORT if name in of_set else ''}", np.asarray(values, dtype=np.float64))
        for name, values in per_report.items()
    ]
    of_set = {f"radeval_{name}": float(value) for name, value in of_set.items() if isinstance(value, Real)}
    return of_set, join_statistics(parts)


@contextlib.contextmanager
def running_radeval(score: str) -> Iterator[ModuleType]:
    """
    The module `radeval`, which prints to standard error and filters warnings in this context only.

    Args:
        score (`str`): the metric that is run, for errors.

    Raises:
        ImportError: for a package that the metric needs and that is not installed.
        OSError: for whatever else it stops for, in one line.
    """
    finder = _OldName()
    sys.meta_path.append(finder)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            yield importlib.import_module(_NAME)
    except ModuleNotFoundError as error:
        raise ImportError(f"RadEval's {score} needs {error.name}: pip install {error.name}") from error
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise OSError(f"RadEval's {score} cannot run here: {reason[:200]}{_remedy(reason)}") from error
    finally:
        sys.meta_path.remove(finder)


def _remedy(reason: str) -> str:
    wants_weights = any(word in reason.lower() for word in ("hub", "huggingface", "download"))
    return " (its weights are downloaded once: run it where the Hub can be reached)" if wants_weights else ""


class _OldName(MetaPathFinder, Loader):
    """
    Gives the modules of `radeval` under its old name, `RadEval`, too.

    RadGraph in radeval 2.2.1 imports parts of itself by that name, which works only where the file system does not tell
    capitals apart.
    """

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname.partition(".")[0] == _OLD_NAME else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(_NAME + spec.name[len(_OLD_NAME) :])
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import has given the module, which has run before, the specification of the old name.
        if module.__spec__ is not None:
            module.__spec__ = self._specs.pop(module.__spec__.name)
