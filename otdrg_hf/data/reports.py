"""Reports as studies are read: those that say nothing or are not in English, and the labels that they state."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from otdrg_hf.data.errors import EMPTY_REPORT, NOT_ENGLISH
from otdrg_hf.data.schema import NUM_LABELS

_WORD = re.compile(r"[^\W\d_]+")
_PLACEHOLDER = re.compile(r"\bX{3,}\b|_{2,}")

# Terms that English reports have from Latin and French.
_BORROWED = re.compile(r"\b(?:de novo|en (?:face|bloc|passant|masse|route)|et al|cul de sac|le fort)\b")
# Function words and reporting words that only one side uses; words of both ("no", "normal") are left out. The foreign
# ones are Spanish, Portuguese, French, German, Italian and Dutch.
_ENGLISH = frozenset(
    "the there is are of and with for without has have been this that was were not or at from by to be "
    "lungs heart chest clear within limits unremarkable stable seen noted unchanged "
    "right left upper lower middle lung mild moderate small new old cardiomegaly effusion opacity opacities".split()
)
_FOREIGN = frozenset(
    "el los las del con sin hay una por que es se lo le les des une est sont avec sans dans et pas du au aux "
    "der das und ist kein keine keinen mit ohne nicht ein eine bei von zu den dem sowie keinerlei "
    "il gli della nel nei nessun nessuna sono di è os da dos em sem um uma ao na pelo não há "
    "het een geen niet van zijn en de y".split()
)


def report_problem(report: str) -> str | None:
    """
    Why a report is left out: "empty report" without a word besides placeholders (XXXX, ___), "report not in English" if
    it is mostly in a non-Latin script or has more function words of other languages than of English (at least two, or
    one in five words or more without any English one), else `None`.
    """
    words = _WORD.findall(_PLACEHOLDER.sub(" ", report))
    if not words:
        return EMPTY_REPORT
    letters = "".join(words)
    if sum(ord(letter) > 0x24F for letter in letters) * 2 > len(letters):
        return NOT_ENGLISH
    lowered = _BORROWED.sub(" ", " ".join(words).lower()).split()
    foreign = sum(word in _FOREIGN for word in lowered)
    english = sum(word in _ENGLISH for word in lowered)
    if (foreign >= 2 and foreign > english) or (foreign == 1 and not english and len(words) >= 5):
        return NOT_ENGLISH
    return None


def fill_labels(studies: Iterable[dict[str, Any]], batch_size: int = 256) -> Iterator[dict[str, Any]]:
    """Yields the studies with `disease_labels` set where it was `None`: from the report, or 14 blanks without one."""
    studies = iter(studies)
    while batch := list(islice(studies, batch_size)):
        unlabeled = [study for study in batch if study["disease_labels"] is None]
        for study, labels in zip(unlabeled, label_texts([study["report"] for study in unlabeled]), strict=True):
            study["disease_labels"] = labels
        yield from batch


def label_texts(reports: list[str]) -> list[list[int]]:
    """The 14 label states of each report; all blank for an empty report."""
    from otdrg_hf.labeling import label_reports

    given = [report for report in reports if report.strip()]
    states = iter(label_reports(given).tolist() if given else [])
    return [next(states) if report.strip() else [0] * NUM_LABELS for report in reports]


@lru_cache(maxsize=1)
def labeler_fingerprint() -> str:
    """A hash of the labeler's rules and code, which keys cached labels."""
    from otdrg_hf import labeling

    digest = hashlib.sha256()
    for path in sorted(Path(next(iter(labeling.__path__))).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
