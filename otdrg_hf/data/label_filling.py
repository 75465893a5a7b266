"""Gives the studies that come without disease labels the labels that the labeler reads from their reports."""

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from .schema import NUM_LABELS


def fill_labels(studies: Iterable[dict[str, Any]], batch_size: int = 256) -> Iterator[dict[str, Any]]:
    """Yield the studies with `disease_labels` set where it was `None`: from the report, or 14 blanks without one."""
    studies = iter(studies)
    while batch := list(islice(studies, batch_size)):
        unlabeled = [study for study in batch if study["disease_labels"] is None]
        for study, labels in zip(unlabeled, label_texts([study["report"] for study in unlabeled]), strict=True):
            study["disease_labels"] = labels
        yield from batch


def label_texts(reports: list[str]) -> list[list[int]]:
    """The 14 label states of each report; all blank for an empty report."""
    from ..labeling import label_reports

    given = [report for report in reports if report.strip()]
    states = iter(label_reports(given).tolist() if given else [])
    return [next(states) if report.strip() else [0] * NUM_LABELS for report in reports]


@lru_cache(maxsize=1)
def labeler_fingerprint() -> str:
    """A hash of the labeler's rules and code, so that labels cached from older ones are not taken for its."""
    from .. import labeling

    digest = hashlib.sha256()
    for path in sorted(Path(next(iter(labeling.__path__))).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
