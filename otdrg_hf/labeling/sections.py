"""Cut a report into the sections that describe the image, and those into sentences, with character offsets."""

import re
from collections.abc import Iterator
from functools import lru_cache

# Words of headers. A section that tells why or how the film was taken, or what to do next, says nothing of the image.
_ASKS = frozenset(
    "clinical history histories hx indication indications ndication reason reasons question questions query request"
    " requested requesting referral referring complaint complaints symptom symptoms statement notes context background"
    " information info details detail condition diagnosis dx presentation presenting admitting recommendation"
    " recommendations notification notifications plan advice problem problems purpose consult patient pt age sex mrn"
    " accession dictated signed attending physician medication medications allergies".split()
)
_TAKEN = frozenset(
    "comparison comparisons compared technique techniques exam exams examination examinations procedure procedures"
    " study studies view views date time type modality prior previous".split()
)
_DESCRIBES = frozenset(
    "finding findings impression impressions conclusion conclusions interpretation report read reading result results"
    " addendum addenda summary opinion observation observations description narrative answer assessment".split()
)
_FILM = re.compile(r"(?:frontal|pa|ap|portable|chest|lateral)[a-z ,]{0,40}(?:radiograph|chest|view|film|x-?ray)s?")
_FILLING = frozenset(
    "and of for the this with chest cxr x ray xray radiographic radiological radiology radiologic imaging medical"
    " relevant pertinent brief past present current underlying surgical social other wet final preliminary prelim main"
    " key thorax film films radiograph exam study test to code pa ap lateral portable on in by".split()
)
_SUMS_UP = re.compile(r"impression|conclusion|opinion|summary|assessment", re.IGNORECASE)
_ADDED = re.compile(r"addend|wet|answer", re.IGNORECASE)
_TITLE = re.compile(r"(?:final|radiology|radiological|preliminary|imaging|chest x-?ray|cxr) report")

_LONGEST_HEADER = 200
# A header ends with a colon or a dash, or stands alone in its line.
_HEADER_END = re.compile(r":|[ \t][-–—]+(?=[ \t])|^[ \t*_#]*[A-Za-z][A-Za-z /&]{1,45}[ \t*_#]*$", re.MULTILINE)
_BEFORE_HEADER = re.compile(r".*(?:[.;?!:)]\s|[.;?!](?=[A-Z]))", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]+(?:-[Rr]ay)?")
_DRESS = " \t\r\n*_#=->–—"
# What a paragraph says that describes a film, as against one that says why it was taken.
_DESCRIPTION = re.compile(
    r"\bthere (?:is|are|has|have)\b|\bno (?:focal|acute|evidence|pleural|pneumothorax|effusion|infiltrate|consolidation)"
    r"|\b(?:lungs?|heart|silhouette|mediastinum|contours?|angles?|hila|diaphragms?|pleura|bones?|structures|fields?|size)"
    r"\b[^.\n]{0,40}\b(?:is|are|remains?|appears?|normal|clear|unremarkable|enlarged|unchanged|stable)\b"
    r"|\b(?:seen|identified|visualized)\b",
    re.IGNORECASE,
)
_EMPTY_LINE = re.compile(r"\S[ \t]*\n[ \t]*\n")
_LINE_AFTER_STOP = re.compile(r"[.?!][ \t]*\n(?=[ \t]*[A-Z])")
_LONGEST_SENTENCE, _LONGEST_WORD, _LONGEST_ABBREVIATION = 2000, 30, 8
# More full stops than these are the leader of a form: "Effusion ..... none".
_LONGEST_ELLIPSIS = 3

# Abbreviations: after the first a full stop never ends a sentence, after the others only where a capital follows.
_ABBREVIATED = frozenset(
    "vs dr mr mrs ms prof approx e.g i.e eg ie poss prob signif sig evid def susp bilat mod min sm lt rt w fig incl cf"
    " resp st diff".split()
)
_UNITS = frozenset("cm mm ml cc in hr hrs h mins sec yr yrs mo wk wks a.m p.m am pm r l ant post lat sup inf med".split())
_STOP = re.compile(r"[.!?\n][.!?]*")
_CAPITAL = re.compile(r"[a-z)] +[A-Z][a-z]")
# Numbers, letters and bullets of lists, also where they are glued to a sentence.
_HAS_MARKERS = re.compile(r"[)#•▪►·*]|\d[./]| \d{1,2} [-–]")
_MARKER = re.compile(
    r"(?<=[\s.])\(?(?:\d{1,2}|[a-h]|i{1,3}|iv|vi{0,3}|ix|x)\)(?=\s?[A-Za-z])|(?<=[a-z])\(\d{1,2}\)(?=\s?[A-Z])"
    r"|(?<=\s)#(?=\d)|(?<=[\s.;])\d{1,2}(?=/\s|\.[A-Za-z]{2}|\s[-–]\s[A-Z])|(?<=[a-z]{3})\d{1,2}(?=\.[A-Z])"
    r"|(?<=\s)\*(?=\s)|[•▪►·]"
)
_LETTERS = re.compile(r"[A-Za-z]+")
_NEXT_WORD = re.compile(r"[\W_]*?([A-Za-z]+)")
_BULLET = re.compile(
    r"[ \t]*(?:[-*•–>+]|\((?:\d{1,2}|[a-hA-H]|[ivxIVX]{1,4})\)|(?:\d{1,2}|[a-hA-H]|[ivxIVX]{1,4})[.):])"
    r"[ \t]?(?=\S)"
)
_GOES_ON_WITH_NO = re.compile(r"[.,;]|[ \t]+longer|\s*$")
_EMPTY = re.compile(r"[ \t\r]*\n")
_FORM_ROW = re.compile(r"[ \t]*[A-Za-z][\w /-]{0,40}?(?:[ \t]*[:=|]|[ \t][-–][ \t])")
_ANSWER = re.compile(
    r"[ \t;,]*(?:(?:yes|none|nil|not|negative|absent|present|small|tiny|trace|mild|moderate|large|unlikely|possibly)\b"
    r"[^.;\n?]{0,30}|(?:no|n|y)(?:[ \t]+(?:evidence|signs?))?[ \t]*)(?:[.;,\n]|$)|[ \t]*[;,]"
    r"|\s*(?:yes|no|none|nil|negative|absent)\b[ \t]*(?:seen[ \t]*)?(?:[.;,\n]|$)",
    re.IGNORECASE,
)
# A line that ends with one of the first goes on, as does one before a line that begins with one of the second.
_OPEN = frozenset(
    "a an the no not without with and or nor of in on at to for from by is are was were be been being has have had there"
    " this that these those which who as than if may might could can would should cannot neither either both all any some"
    " each more less most very left right bilateral bibasilar basilar basal upper lower middle mid small tiny trace mild"
    " moderate large severe minimal slight subtle focal acute chronic new old stable possible probable likely pleural"
    " pulmonary lung lobar cardiac mediastinal hilar central venous interstitial airspace air rib evidence sign signs"
    " suggest suggests consistent compatible concerning suspicious due secondary related interval increased decreased"
    " persistent residual significant definite discrete overt patchy hazy vague between within into over under above below"
    " near through after before since until during per via versus vs show shows demonstrate demonstrates reveal reveals"
    " represent represents reflect reflects mildly moderately severely slightly markedly minimally remain remains appear"
    " appears its their his her our your endotracheal nasogastric et ng chest port subclavian jugular internal external"
    " single dual dr mr mrs ms previous prior last first second third one two three overlying underlying adjacent".split()
)
_GOES_ON = frozenset(
    "of in on at to for from by with without within and or nor but which that who whose is are was were be been being has"
    " have had may might could can would should cannot not than as versus vs then seen noted identified present visualized"
    " demonstrated appreciated suggesting consistent compatible likely possibly probably representing reflecting although"
    " though however while whereas due secondary since following after before until during along projecting overlying"
    " measuring obscuring involving extending except if concerning suspicious worrisome per via between above below".split()
)
# Without a capital or a full stop, a line ends a sentence where it ends with one of the first and the next line begins
# with one of the second.
_ENDS = frozenset(
    "effusion effusions pneumothorax pneumothoraces ptx edema oedema consolidation consolidations pneumonia pna atelectasis"
    " opacity opacities nodule nodules mass masses lesion lesions fracture fractures cardiomegaly infiltrate infiltrates"
    " thickening scarring congestion failure chf emphysema hernia granuloma disease process abnormality abnormalities"
    " change changes finding findings lungs base bases apex apices lobe lobes side sides hemithorax svc ra rv atrium"
    " stomach carina diaphragm place position junction tube line catheter picc pacemaker wires clear normal enlarged"
    " unchanged stable seen identified noted present intact improved resolved persists absent none nil bilaterally size"
    " limits unremarkable widened left right yes no worse better larger smaller expanded inflated ribs clavicle spine".split()
)
_BEGINS = frozenset(
    "no the there heart lungs lung cardiac cardiomediastinal mediastinum mediastinal hila hilar trachea aorta bones ribs"
    " osseous costophrenic small tiny trace mild moderate large severe minimal stable unchanged new old left right"
    " bilateral bibasilar interval increased decreased improved worsening persistent residual ett picc ngt ogt et ng"
    " endotracheal nasogastric enteric feeding tracheostomy trach lines tubes support pacemaker sternotomy median low"
    " possible probable questionable patchy hazy streaky multiple several clear normal".split()
)
_BEGINS_INSIDE = _BEGINS | frozenset(
    "pleural effusion effusions pneumothorax pneumonia edema atelectasis consolidation opacity opacities nodule mass"
    " fracture cardiomegaly it visualized".split()
)
_ORGANS = re.compile(r"\b(?:heart|lungs?|cardiac|silhouette|\w*mediastin\w+|bases?|angles?|bones|vessels)\b", re.IGNORECASE)
_NOUNS_LATER = frozenset("heart lung lungs cardiac cardiomediastinal mediastinum mediastinal hila hilar bones costophrenic".split())
_SIDED = frozenset("lung hilar costophrenic cardiac".split())
_COURSES = frozenset("stable unchanged increased decreased improved worsening clear normal".split())


def split_sections(report: str) -> list[tuple[str, int, int]]:
    """Parts of a report that say what is seen, the impression's first.

    Args:
        report (`str`): a whole report or any part of one; without headers all of it is taken.

    Returns:
        `list[tuple[str, int, int]]`: header in lower case ("" without one) and the character span of its text. Left
        out are sections that tell why and how the film was taken or what to do next, and, where a header of findings
        follows, what stands before the first header.
    """
    headers = _headers(report) if ":" in report or "\n" in report or " - " in report or "–" in report else []
    if not headers:
        return [("", 0, len(report))]
    kept = [name for kind, name, _, _ in headers if kind == "describes"]
    has_findings = any(not _SUMS_UP.search(name) and not _ADDED.match(name) for name in kept)
    parts = [(name, start, end) for kind, name, start, end in headers if kind == "describes"]
    for kind, _, start, end in headers:
        if kind != "describes" and not has_findings:
            parts.extend(_undescribed(report, start, end, whole=kind == "none", needed=bool(kept)))
    parts.sort(key=lambda part: (not _SUMS_UP.search(part[0]), part[1]))
    return parts


def _undescribed(report: str, start: int, end: int, whole: bool, needed: bool) -> Iterator[tuple[str, int, int]]:
    """The description that old reports have before any header, or behind "COMPARISON: None." without one of its own.

    Where an impression says what is seen (`needed`), it must read like one; a reason for the film would not.
    """
    if not whole:
        paragraph = _EMPTY_LINE.search(report, start, end) or _LINE_AFTER_STOP.search(report, start, end)
        start = paragraph.end() if paragraph else end
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
        kind = header_kind(words, alone=not has_colon)
        if kind:
            return kind, words, line + first + start, mark.end()
    return None


def _heads_lines(report: str, line: re.Match) -> bool:
    """Whether a line of words may be a header without a colon: the next line begins anew, not with what it goes on."""
    following = _NEXT_WORD.match(report, line.end())
    last = line[0].strip(_DRESS).rpartition(" ")[2]
    return (following is None or not following[1].islower() or line[0].isupper()) and last.lower() not in _OPEN


def _possible_starts(phrase: str, only_first: bool) -> Iterator[int]:
    first = len(phrase) - len(phrase.lstrip(_DRESS))
    yield first
    if not only_first:
        # "cough Findings: clear": a capital may begin a header in the middle of a line.
        yield from (m.start() for m in re.finditer(r"(?<=\s)[A-Z]", phrase) if m.start() > first)


@lru_cache(maxsize=4096)
def header_kind(header: str, alone: bool = False) -> str | None:
    """What the section under `header` (lower case) does: "asks", "describes", or `None` where it is no header.

    Args:
        header (`str`): the words before the colon.
        alone (`bool`): whether no colon marks it as a header, so that it must consist of a header's words only.
    """
    if not header or len(header) > 60:
        return None
    words = [word.lower() for word in _WORD.findall(header)]
    known = [word for word in words if word in _ASKS or word in _TAKEN or word in _DESCRIBES or word in _FILLING]
    if "differential" in words or not words or len(words) > (4 if alone else 7) or (alone and len(known) < len(words)):
        return None
    if _TITLE.fullmatch(header):
        return "none"
    asks = any(word in _ASKS for word in words)
    if asks and (words[0] in _ASKS or words[-1] in _ASKS or len(known) == len(words)):
        return "asks"
    if len(known) == len(words) and any(word in _DESCRIBES for word in words):
        return "describes"
    if not alone and _FILM.fullmatch(header):
        return "describes"
    if len(known) == len(words) and any(word in _TAKEN for word in words):
        return "asks"
    return None


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
            if _line_ends(text, start):
                found.append((start, start + 1))
        elif mark == "?":
            # "Pneumothorax? No." is answered on the spot; "? pneumonia" may be broken after the mark.
            if start and (text[start - 1].isalnum() or text[start - 1] in ")]") and not _ANSWER.match(text, end):
                found.append((end, end))
        elif _is_stop(text, start, end):
            found.append((start, end))
    found += [(m.end() - 2, m.end() - 2) for m in _CAPITAL.finditer(text) if _begins_inside(text, m.start(), m.end() - 2)]
    if _HAS_MARKERS.search(text):
        found += [(m.start(), m.start() if m[0][-1].isalnum() or m[0][-1] in ")#" else m.end()) for m in _MARKER.finditer(text)]
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


def _line_ends(text: str, at: int) -> bool:
    """Whether a sentence ends with the line that ends at `at`."""
    if _EMPTY.match(text, at + 1) or _BULLET.match(text, at + 1) or _FORM_ROW.match(text, at + 1):
        return True
    line = text[max(text.rfind(mark, 0, at) for mark in ".,;\n") + 1 : at].rstrip()
    after = _NEXT_WORD.match(text, at + 1)
    words = _LETTERS.findall(line)
    if not words or after is None or line[-1] in ":-/(?":
        return False
    last, following = words[-1].lower(), after[1].lower()
    if following in _GOES_ON or (last in _OPEN and not _is_place(words)):
        return False
    if following == "no" and _GOES_ON_WITH_NO.match(text, after.end()):
        return False
    if after[1].istitle() and len(following) > 1 and not words[-1].istitle():
        return not last.endswith("ing") or following in _BEGINS
    return last in _ENDS and following in _BEGINS and _is_complete(words, following, text, after.end())


def _is_place(words: list[str]) -> bool:
    """ "On the left" ends a line, "the small left" does not."""
    return words[-1].lower() in ("left", "right", "size") and [w.lower() for w in words[-2:-1]] in (["the"], ["on"], ["in"])


def _is_complete(words: list[str], following: str, text: str, end: int) -> bool:
    """Whether the next line does not bring the noun ("normal", "heart") or what is said of it ("edema", "improved")."""
    last = words[-1].lower()
    if last in ("left", "right") and following in _SIDED:
        return False
    if following in _NOUNS_LATER and last in ("clear", "normal", "enlarged", "widened", "unremarkable"):
        return _ORGANS.search(" ".join(words)) is not None
    if last in ("lungs", "bases", "size") and following in _COURSES:
        return False
    if following in _COURSES:
        after = _LETTERS.match(text[end:].lstrip(" ") if text[end : end + 1] == " " else "")
        return after is not None and after[0].lower() not in _GOES_ON
    return True


def _begins_inside(text: str, end: int, start: int) -> bool:
    """Whether a capital in the middle of a line, at `start`, begins a sentence: "No effusion Heart enlarged"."""
    following = _NEXT_WORD.match(text, start)[1]
    if following.lower() not in _BEGINS_INSIDE or not following.istitle():
        return False
    before = text[max(0, end - _LONGEST_WORD) : end + 1].rpartition(" ")[2]
    return before.islower() and before not in _OPEN


def _pieces(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The span itself, or shorter ones of it: no radiologist's sentence is so long, and matching is not linear."""
    spans = []
    while end - start > _LONGEST_SENTENCE:
        cut = text.rfind(" ", start + 1, start + _LONGEST_SENTENCE)
        cut = cut if cut > 0 else start + _LONGEST_SENTENCE
        spans.append((start, cut))
        start = cut
    return [*spans, (start, end)]
