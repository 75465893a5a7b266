"""Tells reports that say nothing, or say it in another language, from English ones by simple rules."""

import re

from .rejections import EMPTY_REPORT, NOT_ENGLISH

_WORD = re.compile(r"[^\W\d_]+")
_PLACEHOLDER = re.compile(r"\bX{3,}\b|_{2,}")

# Function words and reporting words that one side has and the other has not; words of both ("no", "normal") are left
# out. Foreign ones are Spanish, Portuguese, French, German, Italian and Dutch.
_ENGLISH = frozenset(
    "the there is are of and with for without has have been this that was were not or at from by to be "
    "lungs heart chest clear within limits unremarkable stable seen noted unchanged".split()
)
_FOREIGN = frozenset(
    "el los las del con sin hay una por que es se lo le les des une est sont avec sans dans et pas du au aux "
    "der das und ist kein keine keinen mit ohne nicht ein eine bei von zu den dem sowie keinerlei "
    "il gli della nel nei nessun nessuna sono di è os da dos em sem um uma ao na pelo não há "
    "het een geen niet van zijn en de y".split()
)


def report_problem(report: str) -> str | None:
    """
    "empty report" for a report without a word besides placeholders (XXXX, ___), "report not in English" for one that
    is mostly in a non-Latin script or has more function words of other languages than of English (at least two, or one
    in five words or more without any English one); `None` otherwise.
    """
    words = _WORD.findall(_PLACEHOLDER.sub(" ", report))
    if not words:
        return EMPTY_REPORT
    letters = "".join(words)
    if sum(ord(letter) > 0x24F for letter in letters) * 2 > len(letters):
        return NOT_ENGLISH
    lowered = [word.lower() for word in words]
    foreign = sum(word in _FOREIGN for word in lowered)
    english = sum(word in _ENGLISH for word in lowered)
    if (foreign >= 2 and foreign > english) or (foreign == 1 and not english and len(words) >= 5):
        return NOT_ENGLISH
    return None
