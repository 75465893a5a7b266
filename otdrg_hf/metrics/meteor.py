"""METEOR 1.5 through the jar that pycocoevalcap brings, one Java process for a whole set of reports."""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from otdrg_hf.metrics.pairs import as_pairs

NEEDS_JAVA = "not computed: needs Java"
NEEDS_JAR = "not computed: needs pycocoevalcap, which brings the jar; run pip install pycocoevalcap"

# English parameters of METEOR 1.5 (Denkowski and Lavie, WMT 2014), as the jar holds them.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_MATCHER_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
_NUM_STATISTICS = 23


class MeteorUnavailableError(RuntimeError):
    """METEOR cannot be computed here; the message is the reason to report instead of a score."""


def meteor_statistics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """
    The jar's sufficient statistics of each report.

    Args:
        predictions (`Sequence[str]`): N texts. Line breaks and `|||`, which the jar reads as marks, become blanks.
        references (`Sequence[Sequence[str]]`): N lists of texts; the jar takes the best one.

    Returns:
        `np.ndarray` of shape `[N, 23]`, float64: lengths and function words of the prediction and the reference,
        matched content and function words of both for each of four matchers, chunks (0 for a perfect match),
        matched words of both.

    Raises:
        MeteorUnavailableError: without Java, without the jar, or if the process fails.
    """
    java, jar = _find_java(), _find_jar()
    lines = [
        " ||| ".join(["SCORE", *map(_one_line, texts), _one_line(prediction)])
        for prediction, texts in zip(predictions, references, strict=True)
    ]
    command = [java, "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    try:
        done = subprocess.run(
            command, cwd=jar.parent, input="\n".join(lines) + "\n", capture_output=True, text=True, encoding="utf-8"
        )
    except OSError as error:
        raise MeteorUnavailableError(f"not computed: Java did not start ({error.strerror})") from error
    rows = [line.split() for line in done.stdout.splitlines()]
    if done.returncode != 0 or len(rows) != len(lines) or any(len(row) != _NUM_STATISTICS for row in rows):
        raise MeteorUnavailableError(f"not computed: METEOR's Java process failed with exit code {done.returncode}")
    statistics = np.array(rows, dtype=np.float64)
    # The jar leaves the one chunk of a perfect report out of its sums, so that a perfect report is not penalised.
    perfect = (statistics[:, [21, 22]] == statistics[:, [0, 1]]).all(axis=1) & (statistics[:, 20] == 1)
    statistics[perfect, 20] = 0
    return statistics


def meteor_from_totals(totals: np.ndarray) -> np.ndarray:
    """METEOR `[...]` from sums of the rows of `meteor_statistics` `[..., 23]`, as the jar scores a set."""
    length, reference_length, function, reference_function = np.moveaxis(totals[..., :4], -1, 0)
    matches = totals[..., 4:20].reshape(*totals.shape[:-1], 4, 4)  # [..., matcher, content/function of both]
    weighted = (matches * _MATCHER_WEIGHTS[:, None]).sum(axis=-2)
    content, reference_content, small, reference_small = np.moveaxis(weighted, -1, 0)
    chunks, words, reference_words = np.moveaxis(totals[..., 20:23], -1, 0)
    precision = _ratio(_weigh(content, small), _weigh(length - function, function))
    recall = _ratio(
        _weigh(reference_content, reference_small), _weigh(reference_length - reference_function, reference_function)
    )
    mean = _ratio(precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall)
    fragmentation = _ratio(chunks, (words + reference_words) / 2)
    return mean * (1 - _GAMMA * fragmentation**_BETA)


def meteor(predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]]) -> float:
    """METEOR 1.5 of a set, equal to pycocoevalcap's `Meteor`; raises `MeteorUnavailableError` with the reason."""
    return float(meteor_from_totals(meteor_statistics(*as_pairs(predictions, references)).sum(axis=0)))


def _weigh(content: np.ndarray, function: np.ndarray) -> np.ndarray:
    return _DELTA * content + (1 - _DELTA) * function


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole != 0)


def _one_line(text: str) -> str:
    return " ".join(text.replace("|||", " ").split())


def _find_java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java") or (home and shutil.which("java", path=os.path.join(home, "bin")))
    if not java:
        raise MeteorUnavailableError(NEEDS_JAVA)
    return java


def _find_jar() -> Path:
    package = importlib.util.find_spec("pycocoevalcap")
    for folder in package.submodule_search_locations or [] if package else []:
        jar = Path(folder) / "meteor" / "meteor-1.5.jar"
        if jar.is_file():
            return jar
    raise MeteorUnavailableError(NEEDS_JAR)
