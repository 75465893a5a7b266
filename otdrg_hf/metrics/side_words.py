"""The words that name a side of the body in a report, and those that only look like it."""

import re
from typing import NamedTuple

LEFT, RIGHT, BOTH = 1, 2, 3

# A single letter is a side unless it counts litres (1.5 L), abbreviates (r/o) or names a vertebra (L spine).
_LETTER = r"(?<!\d)(?<!\d\s)(?<![\w/'&.])[{}](?![\w'/&]|\s*\d|[- ]spine)"
_L, _R = rf"(?:left|lt\b|{_LETTER.format('l')})", rf"(?:right|rt\b|{_LETTER.format('r')})"
_SIDE = rf"(?:{_L}|{_R})"
_SIDED = rf"{_SIDE}(?:[- ](?:sided?\b))?"
_THE = r"(?:(?:on|in|at|of|from|over|to|towards?|into|within)\s+)?(?:the\s+)?"

# Parts that are called left or right wherever a finding is: chambers and borders of the heart, the arch of the aorta,
# large vessels and bronchi, diaphragm and abdomen, projections.
_ANATOMY = (
    rf"{_SIDED}[-\s]+(?:(?:and|or|&|/)\s*{_SIDED}[-\s]+)?(?:(?:upper|lower|mid|middle|main|proximal|distal|high|low|lobe)[-\s]+)*"
    r"(?:atri(?:um|a|al)\b|ventric\w+|auric\w+|heart\b|cardiac\b|aort\w+|(?:hemi-?)?diaphragm\w*|main-?stem\w*|bronch\w+"
    r"|pulmonary\s+(?:arter\w+|veins?|trunk)|pulmonic\b|coronary|circumflex|anterior\s+descending|paratracheal\s+stripe"
    r"|brachiocephalic\s+(?:vein|artery|junction)|innominate\s+(?:vein|artery)"
    r"|(?:upper\s+)?quadrant|(?:upper\s+)?abdom\w+|kidney|renal|hepatic|breasts?\b|mastectomy|nephrectomy|thyroid|colon\w*"
    r"|(?:(?:lateral|anterior|posterior)\s+)*(?:decubitus|oblique)|lateral\s+(?:view|film|projection|radiograph|image)s?"
    r"|convex\w*|concav\w*|ward\b)"
)
_TIP_IN_VEIN = (
    rf"(?:in|into|within|at|near|to|of|overlying)\s+(?:the\s+)?(?:(?:low|upper|lower|mid|proximal|distal)\s+)?{_SIDE}\s+"
    r"(?:(?:internal|external)\s+)?(?:brachiocephalic|innominate|(?:subclavian|jugular|axillary|iliac|femoral)\s+(?:vein|artery))"
)
_DIRECTION = (
    r"(?:shift\w*|deviat\w*|displac\w*|rotat\w*|push\w*|pull\w*|bow\w*|tilt\w*|turn\w*|convex\w*|curv\w*|scoliosis|lean\w*)"
    rf"(?:\s+[\w-]+){{0,5}}?\s+(?:to|towards?)\s+(?:the\s+|(?:patient'?s\s+))?{_SIDE}\b"
    rf"|(?:rotated|convex|convexity|turned|tilted)\s+{_SIDE}\b"
)
_OTHER_SENSE = (
    r"(?<!the\s)\bleft\s+(?:in\s+(?:place|situ)|behind|open|alone|intact)\b"
    r"|(?<!the\s)\bright\s+(?:at|above|below|behind|after|before|next|now|away|through)\b"
)
_EXCLUDED = (
    r"\b(?:(?:rather|other)\s+than|instead\s+of|(?:compared|comparison)\s+(?:to|with)|unlike|none|nothing|not|nor)\s+"
    rf"(?:(?:seen|identified|present)\s+)?{_THE}{_SIDED}\b"
)

_COMPARED = (
    r"(?:\s+(?:side|lung|base))?"
    r"(?:\s+(?:is|are|slightly|much|mildly|somewhat|appears?|and))*"
    r"\s+(?:greater|more|larger|worse|bigger|less|smaller|higher|denser|lower|better)(?:\s+\w+){0,2}?"
    r"\s+(?:than|compared\s+to)\s+"
)
_JOINED = r"\s+(?:and(?:/or)?|or|as\s+well\s+as|and\s+to\s+a\s+lesser\s+(?:extent|degree))\s+|\s*[<>&/]\s*"
_TWO_SIDES = rf"\b{_SIDED}(?:{_COMPARED}|{_JOINED}){_THE}{_SIDE}\b"
_PARTS = (
    r"(?:lungs?|sides?|bases|apices|hemithora\w+|lobes|zones|fields|angles|sulci|hila|ribs|clavicles|shoulders"
    r"|pleura\w*)"
)
_BOTH = (
    r"\b(?:bilat\w*|b/l|l/r|r/l|bi-?bas\w+|bi-?apical\w*|bi-?hilar|bi-?perihilar)\b"
    r"|\b(?:each|either)\s+(?:side|lung|base)\b"
    rf"|\bboth\s+(?:of\s+the\s+|the\s+)?(?:[\w-]+\s+){{0,3}}?{_PARTS}\b|{_TWO_SIDES}"
)
_PAIR = (
    r"\b(?:bases|apices|(?:lower|upper)\s+(?:lobes|lungs|zones|lung\s+(?:zones|fields))"
    r"|costophrenic\s+(?:angles|sulci))\b"
)
_LEFT_ONLY = rf"\b(?:lul|lll|lingul\w+|lij|lue|luz|lmz|llz)\b|\b{_L}(?:-?sided)?\b"
_RIGHT_ONLY = rf"\b(?:rul|rml|rll|middle\s+lobe|rij|rue|ruz|rmz|rlz)\b|\b{_R}(?:-?sided)?\b"

SIDE_WORDS = re.compile(
    rf"(?P<none>\b{_ANATOMY}|\b{_TIP_IN_VEIN}|\b{_DIRECTION}|{_OTHER_SENSE}|{_EXCLUDED})"
    rf"|(?P<both>{_BOTH})|(?P<pair>{_PAIR})|(?P<left>{_LEFT_ONLY})|(?P<right>{_RIGHT_ONLY})",
    re.IGNORECASE,
)
_SIDE_OF = {"left": LEFT, "right": RIGHT, "both": BOTH, "pair": BOTH}


_CLAUSE_WORD = re.compile(r"[,;:.]|\b(?:in|at|with|is|are|of|there|over)\b", re.IGNORECASE)


class SideWord(NamedTuple):
    """A side that a sentence names: the span of the words, and `LEFT`, `RIGHT` or `BOTH`."""

    start: int
    end: int
    side: int


def find_side_words(sentence: str) -> list[SideWord]:
    """The sides that a sentence names, in order, without those that belong to the name of an organ or view."""
    found: list[SideWord] = []
    for match in SIDE_WORDS.finditer(sentence):
        kind = match.lastgroup
        # "Left lower lobes" and "right base and apices" are those of one side.
        one_sided = kind == "pair" and found and not _CLAUSE_WORD.search(sentence[found[-1].end : match.start()])
        if kind != "none" and not one_sided:
            found.append(SideWord(match.start(), match.end(), _SIDE_OF[kind]))
    return found
