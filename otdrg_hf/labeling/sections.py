"""Cut a report into the sections that describe the image, and those into sentences, with character offsets."""

import re
from collections.abc import Iterator
from functools import lru_cache

from .layout import NEXT_WORD, capitals, line_ends, list_markers
from .spelling import nearest_term

# Words of headers. A section that tells why or how the film was taken, or what to do next, says nothing of the image.
_ASKS = frozenset(
    "clinical history histories hx indication indications reason reasons question questions query request"
    " requested requesting referral referring complaint complaints symptom symptoms statement notes context"
    " background information info details detail condition diagnosis dx presentation presenting admitting"
    " recommendation recommendations notification notifications plan advice problem problems purpose consult"
    " patient pt age sex mrn accession dictated signed attending physician medication medications allergies".split()
)
_TAKEN = frozenset(
    "comparison comparisons compared technique techniques exam exams examination examinations procedure"
    " procedures study studies view views date time type modality prior previous".split()
)
_DESCRIBES = frozenset(
    "finding findings impression impressions conclusion conclusions interpretation report read reading result"
    " results addendum addenda summary opinion observation observations description narrative answer"
    " assessment pfi".split()
)
_FILM = re.compile(r"\b(?:frontal|pa|ap|portable|chest|lateral)\b[a-z ,]{0,40}(?:radiograph|chest|view|film|x-?ray)s?$")
_FILLING = frozenset(
    "and of for the this with chest cxr x ray xray radiographic radiological radiology radiologic imaging medical"
    " relevant pertinent brief past present current underlying surgical social wet final preliminary prelim provisional"
    " main key thorax film films radiograph exam study test to code pa ap lateral portable on in by".split()
)
# No header ends with one of these: "AP chest compared to ___:".
_LINKS = frozenset("to of with for the a and in on by as is was".split())
_SUMS_UP = re.compile(r"impression|conclusion|opinion|summary|assessment", re.IGNORECASE)
_ADDED = re.compile(r"addend|answer", re.IGNORECASE)
_TITLE = re.compile(r"(?:final|radiology|radiological|imaging|chest x-?ray|cxr) report")
_FINAL = "final report"
# A reading that the final report supersedes; "WET READ VERSION #1 ___ 5:00 PM" heads one, too.
_PROVISIONAL_WORDS = frozenset("wet preliminary prelim provisional pfi".split())
_PROVISIONAL_LINE = "wet read version"

# Headers are searched for so far before a colon; longer words of theirs may have a typing error.
_LONGEST_HEADER, _LONGEST_NAME, _LONG_WORD = 200, 60, 6
_MISSPELLED = tuple(word for word in sorted(_ASKS | _TAKEN | _DESCRIBES) if len(word) > _LONG_WORD)
# A header ends with a colon or a dash, or stands alone in its line.
_HEADER_END = re.compile(
    rf":|[ \t][-–—]+(?=[ \t])|^[ \t*_#]*(?:[A-Za-z][A-Za-z /&]{{1,45}}[ \t*_#]*|(?i:{_PROVISIONAL_LINE})\b.{{0,80}})$",
    re.MULTILINE,
)
_BEFORE_HEADER = re.compile(r".*(?:[.;?!:)]\s|[.;?!](?=[A-Z]))", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]+(?:-[Rr]ay)?")
_DRESS = " \t\r\n*_#=->–—"
# What follows the name of a part of the chest where something is stated of it.
_IS_STATED = r"\b[^.\n]{0,40}\b(?:is|are|remains?|appears?|normal|clear|unremarkable|enlarged|unchanged|stable)\b"
# What a paragraph says that describes a film, as against one that says why it was taken.
_DESCRIPTION = re.compile(
    r"\bthere (?:is|are|has|have)\b"
    r"|\bno (?:focal|acute|evidence|pleural|pneumothorax|effusion|infiltrate|consolidation)"
    r"|\b(?:lungs?|heart|silhouette|mediastinum|contours?|angles?|hila|diaphragms?|pleura|bones?|structures|fields?|size)"
    rf"{_IS_STATED}"
    r"|\b(?:seen|identified|visualized)\b",
    re.IGNORECASE,
)
_EMPTY_LINE = re.compile(r"\S[ \t]*\n[ \t]*\n")
_LINE_AFTER_STOP = re.compile(r"[.?!][ \t]*\n(?=[ \t]*[A-Z])")
_LINE_OF_DESCRIPTION = re.compile(
    r"\n(?=[ \t]*(?:There (?:is|are|has|have)\b|No (?!\w+:)"
    r"|(?:(?:The|Both) )?(?:[Ll]ungs?|[Hh]eart|[Cc]ardiac|[Cc]ardiomediastinal|[Mm]ediastinum)\b))"
)
# In the same line it takes more than that: "Indication: Dyspnea. Heart failure."
_SENTENCE_OF_DESCRIPTION = re.compile(
    r"(?<=[.?!])[ \t]+(?=there (?:is|are|has been|have been)\b"
    r"|no (?:focal|acute|active|evidence|pleural|pneumothorax|effusion|infiltrate|consolidation)\b"
    r"|(?:(?:the|both) )?(?:lungs?|heart|cardiac|cardiomediastinal|mediastinum)"
    rf"{_IS_STATED})",
    re.IGNORECASE,
)
_LONGEST_SENTENCE, _LONGEST_ABBREVIATION = 2000, 8
# More full stops than these are the leader of a form: "Effusion ..... none".
_LONGEST_ELLIPSIS = 3

# Abbreviations: after the first a full stop never ends a sentence, after the others only where a capital follows.
_ABBREVIATED = frozenset(
    "vs dr mr mrs ms prof approx e.g i.e eg ie poss prob signif sig evid def susp bilat mod min sm lt rt w fig"
    " incl cf resp st diff".split()
)
_UNITS = frozenset(
    "cm mm ml cc in hr hrs h mins sec yr yrs mo wk wks a.m p.m am pm r l ant post lat sup inf med".split()
)
_STOP = re.compile(r"[.!?\n][.!?]*")
_ANSWER = re.compile(
    r"[ \t;,]*(?:(?:yes|none|nil|not|negative|absent|present|small|tiny|trace|mild|moderate|large|unlikely|possibly)\b"
    r"[^.;\n?]{0,30}|(?:no|n|y)(?:[ \t]+(?:evidence|signs?))?[ \t]*)(?:[.;,\n]|$)|[ \t]*[;,]"
    r"|\s*(?:yes|no|none|nil|negative|absent)\b[ \t]*(?:seen[ \t]*)?(?:[.;,\n]|$)",
    re.IGNORECASE,
)


def split_sections(report: str) -> list[tuple[str, int, int]]:
    """Parts of a report that say what is seen, the impression's first.

    Args:
        report (`str`): a whole report or any part of one; without headers all of it is taken.

    Returns:
        `list[tuple[str, int, int]]`: header in lower case ("" without one) and the character span of its text. Left
        out are sections that tell why and how the film was taken or what to do next, where a header of findings
        follows, what stands before the first header, and provisional readings (a wet read) next to a final one.
    """
    headers = _headers(report) if ":" in report or "\n" in report or " - " in report or "–" in report else []
    if not headers:
        return [("", 0, len(report))]
    kept = [name for kind, name, _, _ in headers if kind == "describes"]
    has_findings = any(not _SUMS_UP.search(name) and not _is_added(name) for name in kept)
    parts = [(name, start, end) for kind, name, start, end in headers if kind == "describes"]
    for kind, _, start, end in headers:
        if kind != "describes" and not has_findings:
            parts.extend(_undescribed(report, start, end, whole=kind == "none", needed=bool(kept)))
    if any(_is_provisional(name) for name in kept):
        parts = _superseding(report, headers, parts)
    parts.sort(key=lambda part: (not _SUMS_UP.search(part[0]), part[1]))
    return parts


def _is_provisional(name: str) -> bool:
    return not _PROVISIONAL_WORDS.isdisjoint(name.split())


def _is_added(name: str) -> bool:
    return _ADDED.match(name) is not None or _is_provisional(name)


def _superseding(
    report: str, headers: list[tuple[str, str, int, int]], parts: list[tuple[str, int, int]]
) -> list[tuple[str, int, int]]:
    """The parts of the final report; all of them where there is no other than a provisional reading.

    What is provisional ends with its section, or where "FINAL REPORT" follows, there: "PFI REPORT" may have sections.
    """
    finals = [start for _, name, start, _ in headers if name == _FINAL]
    spans = [
        (start, next((at for at in finals if at > start), end))
        for _, name, start, end in headers
        if _is_provisional(name)
    ]
    final = [part for part in parts if not any(start <= part[1] < end for start, end in spans)]
    # What stands before the first header may be why the image was taken.
    replaced = any(
        any(map(str.isalpha, report[start:end])) and (name or start > spans[0][0]) and not _ADDED.match(name)
        for name, start, end in final
    )
    return final if replaced else parts


def _undescribed(report: str, start: int, end: int, whole: bool, needed: bool) -> Iterator[tuple[str, int, int]]:
    """The description that old reports have before any header, or behind "COMPARISON: None." without one of its own.

    Where an impression says what is seen (`needed`), it must read like one; a reason for the film would not.
    """
    if not whole:
        breaks = (_EMPTY_LINE, _LINE_AFTER_STOP, _LINE_OF_DESCRIPTION, _SENTENCE_OF_DESCRIPTION)
        start = min((found.end() for each in breaks if (found := each.search(report, start, end))), default=end)
    if start < end and (not needed or _DESCRIPTION.search(report, start, end)):
        yield "", start, end


def _headers(report: str) -> list[tuple[str, str, int, int]]:
    """Kind ("asks", "describes", "none" before the first), name, and span of the text of each section."""
    found: list[tuple[str, str, int, int]] = []
    for mark in _HEADER_END.finditer(report):
        header = _header_before(report, mark, found[-1][3] if found else 0)
        if header:
            found.append(header)
    sections = []
    if found and report[: found[0][2]].strip():
        sections.append(("none", "", 0, found[0][2]))
    for (kind, name, _, end), following in zip(found, [*found[1:], None] if found else [], strict=True):
        sections.append((kind, name, end, following[2] if following else len(report)))
    return sections


def _header_before(report: str, mark: re.Match, since: int) -> tuple[str, str, int, int] | None:
    """Kind, name, start and end of the header that ends at `mark`, if the words before it are one."""
    by_itself, has_colon = len(mark[0]) > 1 and mark[0].strip(_DRESS) != "", mark[0] == ":"
    if by_itself and not _heads_lines(report, mark):
        return None
    until = mark.end() if by_itself else mark.start()
    line = max(report.rfind("\n", max(since, until - _LONGEST_HEADER), until) + 1, since, until - _LONGEST_HEADER)
    phrase = report[line:until]
    cut = None if by_itself else _BEFORE_HEADER.match(phrase)
    first = cut.end() if cut else 0
    for start in _possible_starts(phrase[first:], only_first=not has_colon):
        words = phrase[first + start :].strip(_DRESS).lower()
        header = read_header(words, alone=not has_colon)
        if header:
            return *header, line + first + start, mark.end()
    return None


def _heads_lines(report: str, line: re.Match) -> bool:
    """Whether a line of words may be a header without a colon: the next line begins anew, not with what it goes on."""
    following = NEXT_WORD.match(report, line.end())
    last = line[0].strip(_DRESS).rpartition(" ")[2]
    return (following is None or not following[1].islower() or line[0].isupper()) and last.lower() not in _LINKS


def _possible_starts(phrase: str, only_first: bool) -> Iterator[int]:
    first = len(phrase) - len(phrase.lstrip(_DRESS))
    yield first
    if not only_first:
        # "cough Findings: clear": a capital may begin a header in the middle of a line.
        yield from (m.start() for m in re.finditer(r"(?<=\s)[A-Z]", phrase) if m.start() > first)


@lru_cache(maxsize=4096)
def read_header(header: str, alone: bool = False) -> tuple[str, str] | None:
    """What the section under `header` (lower case) does, "asks" or "describes", and its name; `None` for no header.

    Args:
        header (`str`): the words before the colon.
        alone (`bool`): whether no colon marks it as a header, so that it must consist of a header's words only.
    """
    if header.startswith(_PROVISIONAL_LINE):
        return "describes", "wet read"
    words = [_header_word(word.lower()) for word in _WORD.findall(header)] if len(header) <= _LONGEST_NAME else []
    if not words or "differential" in words or words[-1] in _LINKS or len(words) > (4 if alone else 7):
        return None
    known = all(word in _ASKS or word in _TAKEN or word in _DESCRIBES or word in _FILLING for word in words)
    if alone and not known:
        return None
    if _TITLE.fullmatch(header):
        return "none", header
    if header == "final" and not alone:
        return "describes", header
    if not _ASKS.isdisjoint(words) and (known or words[0] in _ASKS or words[-1] in _ASKS):
        return "asks", header
    if known and not _DESCRIBES.isdisjoint(words):
        return "describes", _telling(words)
    if not alone and words[0] not in _TAKEN and _FILM.search(header):
        return "describes", header
    return ("asks", header) if known and not _TAKEN.isdisjoint(words) else None


def _header_word(word: str) -> str:
    """The word of headers that `word` is a typing error of ("indicaton"), or `word` itself."""
    if len(word) < _LONG_WORD or any(word in words for words in (_ASKS, _TAKEN, _DESCRIBES, _FILLING)):
        return word
    return nearest_term(word, _MISSPELLED)


def _telling(words: list[str]) -> str:
    """The header from its telling word on: "findings" of "key findings"; a provisional reading stays one."""
    first = next(at for at, word in enumerate(words) if word in _DESCRIBES)
    return " ".join(words[first if _PROVISIONAL_WORDS.isdisjoint(words) else 0 :])


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Character spans of the sentences of `text`, without the marks that end them and white space around them."""
    spans = []
    start = 0
    for stop, after in [*_boundaries(text), (len(text), len(text))]:
        piece = text[start:stop]
        if piece.strip():
            left = start + len(piece) - len(piece.lstrip())
            spans.extend(_pieces(text, left, start + len(piece.rstrip())))
        start = after
    return spans


def _boundaries(text: str) -> list[tuple[int, int]]:
    """Where a sentence stops and where the next may start, in order."""
    found = []
    for match in _STOP.finditer(text):
        start, end = match.span()
        mark = text[start]
        if mark == "\n":
            if line_ends(text, start):
                found.append((start, start + 1))
        elif mark == "?":
            # "Pneumothorax? No." is answered on the spot; "? pneumonia" may be broken after the mark.
            if start and (text[start - 1].isalnum() or text[start - 1] in ")]") and not _ANSWER.match(text, end):
                found.append((end, end))
        elif _is_stop(text, start, end):
            found.append((start, end))
    found += list_markers(text)
    found += [(at, at) for at in capitals(text)]
    return sorted(found)


def _is_stop(text: str, start: int, end: int) -> bool:
    """Whether the full stops or exclamation marks at `start` to `end` end a sentence."""
    following = text[end : end + 1]
    if following and not following.isspace() and following not in "\"')]":
        # "No effusion.Mild edema", "2.Small effusion"
        if end - start > 1 or not text[end : end + 2].isalpha():
            return False
        before = text[max(0, start - 2) : start]
        return before[-1:].isdigit() or before[-1:] == ")" or (len(before) == 2 and before.isalpha())
    return end - start <= _LONGEST_ELLIPSIS and not _is_abbreviation(text, start, end)


def _is_abbreviation(text: str, start: int, end: int) -> bool:
    first = max(0, start - _LONGEST_ABBREVIATION)
    word = re.split(r"[\s(\[\"']", text[first:start])[-1].lower()
    following = text[end : end + 2].strip()
    if word == "no":
        return following.isdigit()
    return word in _ABBREVIATED or (word in _UNITS and following.islower())


def _pieces(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The span itself, or shorter ones of it: no radiologist's sentence is so long, and matching is not linear."""
    spans = []
    while end - start > _LONGEST_SENTENCE:
        cut = text.rfind(" ", start + 1, start + _LONGEST_SENTENCE)
        cut = cut if cut > 0 else start + _LONGEST_SENTENCE
        spans.append((start, cut))
        start = cut
    return [*spans, (start, end)]
