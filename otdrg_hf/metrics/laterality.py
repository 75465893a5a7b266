"""Whether predicted reports put a finding on the same side as the reference reports do."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from otdrg_hf.labeling import label_reports
from otdrg_hf.labeling.labels import LABELS
from otdrg_hf.labeling.sections import split_sections, split_sentences
from otdrg_hf.metrics.bootstrap import Statistics

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
        kind = str(match.lastgroup)
        # "Left lower lobes" and "right base and apices" are those of one side.
        one_sided = kind == "pair" and found and not _CLAUSE_WORD.search(sentence[found[-1].end : match.start()])
        if kind != "none" and not one_sided:
            found.append(SideWord(match.start(), match.end(), _SIDE_OF[kind]))
    return found


# The heart and the mediastinum lie in the middle; No Finding lies nowhere.
_MIDLINE = frozenset({"No Finding", "Cardiomegaly", "Enlarged Cardiomediastinum"})
# What is not where the finding listed before it is: edema is diffuse, a device has a position of its own.
_ALONE = frozenset({"Edema", "Support Devices"})

_CLAUSE_END = re.compile(r"[;]|\b(?:but|while|whereas|although|though|however|except)\b", re.IGNORECASE)
_CONJUNCTION = re.compile(r"[,&/]|\b(?:and|or|nor|with|without|plus)\b", re.IGNORECASE)
# Between a side and the finding that it is an adjective of stands none of these words.
_NO_ADJECTIVE = re.compile(
    r"[,:.()&/]|\b(?:and|or|nor|with|without|in|on|at|of|to|from|over|within|along|near|for|by|via|than|is|are|was|were|be"
    r"|has|have|had|shows?|showing|demonstrates?|reveals?|contains?|remains?|appears?|there|no|not|an?|the|this|which|that"
    r"|may|could|likely|due|secondary|representing|suggest\w*|consistent|compatible|concerning)\b",
    re.IGNORECASE,
)
# Parts and sizes in a list of adjectives: "left lower and right upper lobe opacities", "small right and large left".
_LISTED_ADJECTIVES = re.compile(
    r"(?:[\s,&/-]|\b(?:\d+(?:st|nd|rd|th)?|and|or|upper|lower|middle|mid|lungs?|lobes?|zones?|fields?|bas(?:es?|al|ilar)|apex|apical|apices|\w*hilar"
    r"|retrocardiac|pleural|anterior|posterior|lateral|medial|central|peripheral|costophrenic|cardiophrenic|angles?|chest"
    r"|wall|hemithorax|lingular?|side|sided|tiny|small|moderate|large|mild|minimal|severe|trace|new|old|patchy|left|right"
    r"|to|moderately|sized|[lr]t?|[lr][uml]l)\b)*",
    re.IGNORECASE,
)
_PREPOSITION = re.compile(
    r"\b(?:in|on|at|of|over|overlying|within|involving|near|along|throughout|across|via|through|from|to|affecting|obscuring)"
    r"\s+(?:the\s+)?(?:[\w-]+\s+){0,2}$|^\s+$",
    re.IGNORECASE,
)
# What may stand between two findings of a list that shares a side.
_NEW_STATEMENT = re.compile(
    r"[:.]|\b(?:no|not|without|there|an?|has|have|had|which|that|due|secondary|from)\b"
    r"|\b(?:is|are|was|were|remains?|appears?)\b.*(?:,|\band\b|\bwith\b)",
    re.IGNORECASE | re.DOTALL,
)
# Words that bind one finding to another that is the same thing.
_SAME_THING = re.compile(
    r"\b(?:consistent|compatible|associated|in\s+keeping)\s+with\b"
    r"|\b(?:which|that)\b(?=\s+(?:\w+\s+){0,2}(?:represent|reflect|suggest|indicat|correspond))",
    re.IGNORECASE,
)
_DENIAL = re.compile(
    r"\b(?:no|not|none|without)\b(?!\s+(?:\w+\s+){0,2}chang)|\b(?:resolved|cleared|gone|absent)\b", re.IGNORECASE
)


class _Head(NamedTuple):
    """Words that state one finding or several at once: their span, and `(label, state)` of each."""

    start: int
    end: int
    states: tuple[tuple[str, str], ...]

    @property
    def is_asserted(self) -> bool:
        return any(state != "negative" for _, state in self.states)

    @property
    def shares(self) -> bool:
        return not any(label in _ALONE for label, _ in self.states)


def finding_sides(reports: Sequence[str]) -> np.ndarray:
    """
    The sides on which N reports place each label.

    A mention that the rule labeler finds positive has the side that is its adjective ("left effusion") or stands behind
    it ("effusion on the left"), or that of the list it is in ("left effusion and atelectasis"). A side that belongs to
    a denied finding, or to the name of an organ ("right atrium"), is not taken for another's. Cardiomegaly, Enlarged
    Cardiomediastinum and No Finding have no side.

    Args:
        reports (`Sequence[str]`): N texts.

    Returns:
        `np.ndarray` of shape `[N, 14]`, uint8: 0 no side, 1 left, 2 right, 3 both.
    """
    sides = np.zeros((len(reports), len(LABELS)), dtype=np.uint8)
    # The full stop of "Rt." would end the sentence.
    texts = {row: _STOP.sub(" ", report) for row, report in enumerate(reports) if SIDE_WORDS.search(report)}
    if not texts:
        return sides
    _, evidence = label_reports(list(texts.values()), explain=True)
    for (row, text), mentions in zip(texts.items(), evidence, strict=True):
        found = sorted((m.span, m.label, m.state) for of_label in mentions.values() for m in of_label)
        for start, end in _sentences(text):
            within = tuple(
                (first - start, min(last, end) - start, label, state)
                for (first, last), label, state in found
                if start <= first < end
            )
            for label, side in _sentence_sides(text[start:end], within) if within else ():
                sides[row, LABELS.index(label)] |= side
    return sides


_STOP = re.compile(r"(?<=\b[lr]t)\.(?=\s)|(?<=\b[lr])\.(?=\s+[a-z])", re.IGNORECASE)


def _sentences(report: str) -> list[tuple[int, int]]:
    """The spans of the sentences in the sections that describe the image."""
    return [
        (first + start, first + end)
        for _, first, last in split_sections(report)
        for start, end in split_sentences(report[first:last])
    ]


@lru_cache(maxsize=100_000)
def _sentence_sides(sentence: str, mentions: tuple[tuple[int, int, str, str], ...]) -> tuple[tuple[str, int], ...]:
    """`(label, side)` of the positive mentions, given as `(start, end, label, state)`, that the sentence places."""
    words = find_side_words(sentence)
    if not words:
        return ()
    heads = _heads(sentence, mentions)
    bound: dict[int, list[SideWord]] = {}
    for number, word in enumerate(words):
        at = _owner(sentence, word, words[number + 1 :], heads)
        if at is not None:
            bound.setdefault(at, []).append(word)
    sides = [_union(_not_denied(sentence, bound.get(at, []))) for at in range(len(heads))]
    _share(sentence, heads, bound, sides)
    return tuple(
        (label, side)
        for head, side in zip(heads, sides, strict=True)
        for label, state in head.states
        if side and state == "positive" and label not in _MIDLINE
    )


def _heads(sentence: str, mentions: Iterable[tuple[int, int, str, str]]) -> list[_Head]:
    """The mentions in order, those that overlap or follow each other without a word between as one."""
    heads: list[_Head] = []
    for start, end, label, state in mentions:
        if heads and (start < heads[-1].end or not sentence[heads[-1].end : start].strip()):
            last = heads.pop()
            heads.append(_Head(last.start, max(last.end, end), (*last.states, (label, state))))
        else:
            heads.append(_Head(start, end, ((label, state),)))
    return heads


def _owner(sentence: str, word: SideWord, others: list[SideWord], heads: list[_Head]) -> int | None:
    """The number of the head that a side belongs to; `others` are the sides behind it."""
    for at, head in enumerate(heads):
        if head.start < word.end and word.start < head.end:
            return at
    following = next((at for at, head in enumerate(heads) if head.start >= word.end), None)
    previous = None if following == 0 else (len(heads) if following is None else following) - 1
    ahead = "" if following is None else sentence[word.end : heads[following].start]
    behind = "" if previous is None else sentence[heads[previous].end : word.start]
    preposition = _PREPOSITION.search(behind)
    if preposition and preposition[0].strip() and not behind[: preposition.start()].strip():
        return previous
    if following is not None and _is_adjective(ahead):
        return following
    if previous is not None and _CLAUSE_END.search(behind):
        # "The right effusion is small, while the left is moderate": a side without a finding is the last finding's.
        return previous if following is None or _CLAUSE_END.search(ahead) else following
    if previous is not None and preposition and not _CONJUNCTION.search(behind[: preposition.start()]):
        return previous
    if following is not None and _is_listed(sentence, word, others, heads[following]):
        return following
    if following is None or _CLAUSE_END.search(ahead):
        return previous
    if previous is not None and (_CONJUNCTION.search(ahead) or not _CONJUNCTION.search(behind)):
        return previous
    # "On the left there is a ...": what begins a statement belongs to it, unless another side begins one before.
    begun = any(
        other.end <= heads[following].start
        and _CONJUNCTION.search(sentence[word.end : other.start])
        and _is_adjective(sentence[other.end : heads[following].start])
        for other in others
    )
    return None if begun else following


def _is_listed(sentence: str, word: SideWord, others: list[SideWord], head: _Head) -> bool:
    """Whether a side is one of several adjectives of a head: "right upper and left lower lobe opacities"."""
    ends = [other.end for other in others if other.end <= head.start]
    last = max(ends, default=head.start)
    listed = _LISTED_ADJECTIVES.fullmatch(sentence[word.end : last])
    return bool(listed) and _is_adjective(sentence[last : head.start])


def _is_adjective(between: str) -> bool:
    """Whether a side is an adjective of the finding that this text leads up to."""
    return not _NO_ADJECTIVE.search(between) and not _CLAUSE_END.search(between)


def _not_denied(sentence: str, words: list[SideWord]) -> list[SideWord]:
    """The sides of a head without those that a denial goes with, where others are left: "none left, small right"."""
    if len(words) < 2:
        return words
    cuts = [0, *(match.start() for match in re.finditer(r"[,;]|\b(?:and|but)\b", sentence)), len(sentence)]
    parts = {
        word: next(sentence[a:b] for a, b in pairwise(cuts) if a <= word.start < b or b == cuts[-1]) for word in words
    }
    left = [word for word in words if not _DENIAL.search(parts[word])]
    return left or words


def _union(words: list[SideWord]) -> int:
    side = 0
    for word in words:
        side |= word.side
    return side


def _share(sentence: str, heads: list[_Head], bound: dict[int, list[SideWord]], sides: list[int]) -> None:
    """Give the heads without a side that of the list they are in."""
    for at, following in reversed(list(enumerate(heads[1:]))):
        # "Effusion and atelectasis on the left"
        behind = bool(bound.get(at + 1)) and all(word.start >= following.end for word in bound[at + 1])
        shares = heads[at].shares and following.shares and following.is_asserted
        if not sides[at] and sides[at + 1] and behind and shares:
            if _LIST_LINK.fullmatch(sentence[heads[at].end : following.start]):
                sides[at], bound[at] = sides[at + 1], bound[at + 1]
    for at, head in enumerate(heads[1:], 1):
        before = heads[at - 1]
        between = _SAME_THING.sub("", sentence[before.end : head.start])
        if not sides[at] and sides[at - 1] and before.is_asserted and before.shares and head.shares:
            if not _NEW_STATEMENT.search(between) and not _CLAUSE_END.search(between):
                sides[at] = sides[at - 1]


_LIST_LINK = re.compile(
    r"(?:\s*[,/&]|\s+and/or\b|\s+(?:and|or|with|plus)\b)+\s*(?:[\w-]+\s+){0,3}|\s*/\s*", re.IGNORECASE
)


def laterality_statistics(predicted: np.ndarray, referred: np.ndarray) -> Statistics:
    """
    Statistics of `laterality_agreement`: among the labels that both reports of a pair place on a side, the share
    where the sides are the same. It is NaN where no pair can be compared.

    Args:
        predicted, referred (`np.ndarray` of shape `[N, 14]`): from `finding_sides`.
    """
    comparable = (predicted > 0) & (referred > 0)
    columns = np.stack([(comparable & (predicted == referred)).sum(axis=1), comparable.sum(axis=1)], axis=1)

    def figures(totals: np.ndarray, num_reports: int) -> dict[str, np.ndarray]:
        agreed, compared = totals[..., 0], totals[..., 1]
        share = np.divide(agreed, compared, out=np.full(np.shape(agreed), np.nan), where=compared != 0)
        return {"laterality_agreement": share}

    return Statistics(columns.astype(np.float64), figures)
