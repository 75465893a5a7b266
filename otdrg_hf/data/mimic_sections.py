"""Finds the sections of a MIMIC-CXR report after the conventions of the dataset's own section parser.

The conventions (headers, synonyms, the last-paragraph fallback, the reports with rules of their own) are those of
txt/section_parser.py and txt/create_section_files.py in https://github.com/MIT-LCP/mimic-cxr, with two exceptions, as
both would show the model its answer or train it on the question: "pfi" is not a history, and "ndication" is not an
impression. Provisional readings, which the final report supersedes, are left out, and headers may have typing errors.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from otdrg_hf.labeling.spelling import nearest_term

# Section -> the headers that mean it, lower case. Misspellings of them are recognised by their distance.
_HEADERS_OF = {
    "preamble": "preamble",
    "impression": "conclusion | findings and impression | findings/ impression | findings/impression | impression",
    "comparison": "comparison | comparison exam | comparison film | comparisons | reference exam",
    "indication": (
        "clinical indication | clinical question | indication | reason for exam | reason for examination | "
        "reason for exam/symptom | reason for request | reason for study | reason for the exam | reason for "
        "this exam | reason for this examination | reason for visit | study indication"
    ),
    "findings": "chest, two views | finding | findings | reference findings",
    "examination": "exam | examination | type of examination",
    "technique": "technique",
    "history": (
        "chief complaint | clinical | clinical background | clinical context | clinical data | clinical "
        "details | clinical history | clinical hx | clinical info | clinical information | clinical notes | "
        "clinical presentation | clinical statement | clinical summary | history | hpi | hx | patient history "
        "| presenting complaint | symptoms"
    ),
    "notification": "notification",
    "provisional": "pfi",
    "recommendations": "recommendation | recommendation(s) | recommendations",
    "addendum": "addendum",
    "date": "date",
    "comment": "comment",
    "wet read": "wet read | wetread",
}
SECTION_NAMES = {header: section for section, headers in _HEADERS_OF.items() for header in headers.split(" | ")}
# What a header says of a reading that the final report supersedes: the provisional findings and impression (PFI).
PROVISIONAL_WORDS = ("pfi", "preliminary", "provisional")
# A header that contains one of these, in this order of precedence, is that section.
MAIN_SECTIONS = ("impression", "findings", "history", "comparison", "addendum")
# Any other header that contains one of these names the examination, and findings follow.
FINDINGS_TITLE_PARTS = (
    "chest | portable | pa and lateral | lateral and pa | ap and lateral | lateral and ap | frontal and | "
    "two views | frontal view | pa view | ap view | one view | lateral view | bone window | frontal "
    "upright | frontal semi-upright | ribs | pa and lat"
).split(" | ")
# Reports whose conclusion stands in a section of another name.
REPORTS_READ_FROM_SECTION = {
    study: section
    for section, studies in {
        "indication": "s50058765 s51966317 s54365831 s54654948 s55124749 s57936451",
        "examination": "s50743547 s53356173 s55157853 s59215320 s59363654",
        "technique": "s50808053 s53202765 s59279892",
        "recommendations": "s50913680 s56482935 s58157373 s58375018 s59067458 s59087630 s59768032",
        "history": "s51491012",
        "note": "s56451190",
    }.items()
    for study in studies.split()
}
# Reports whose conclusion is known by its first and last character; (0, 0) are reports without findings.
REPORTS_CUT_BY_POSITION = {
    study: (int(start), int(end))
    for study, start, end in (
        entry.split()
        for entry in (
            "s50196495 59 399, s50525523 201 349, s50798377 0 0, s51410602 47 320, s52035334 0 0, "
            "s52119491 179 454, s52648681 292 631, s52674888 145 296, s53071062 0 0, s53182247 59 412, "
            "s53488209 149 475, s53514462 73 377, s53607029 0 0, s54168089 0 0, s54231141 0 0, s54875119 234 988, "
            "s54986978 59 306, s55258338 192 568, s56412866 522 822, s56579911 59 218, s56724958 0 0, "
            "s56760320 219 457, s57150433 61 394, s57564132 233 554, s58235663 0 0, s59003148 262 505, "
            "s59330497 140 655, s59505494 59 450, s59562049 158 348, s59889364 172 453, s59982525 313 717"
        ).split(", ")
    )
}

# What heads a reading that the final report supersedes, in any case.
_SUPERSEDED = (
    r"(?i:pfi|wet ?read|(?:provisional|preliminary)"
    r"(?: (?:and|findings?|impression|interpretation|read(?:ing)?|report|\(pfi\)))*)"
)
# Every line of a MIMIC-CXR report starts with a space; a header is upper case and ends in a colon and white space,
# which only known headers may lack.
_HEADER = re.compile(rf"\n ([A-Z ()/,-]+|{_SUPERSEDED}):(\s?)")
# Reports typed without that indentation, which the dataset does not have, may start with a header.
_FLUSH_HEADER = re.compile(rf"(?:^|(?<=\n))([A-Z][A-Z ()/,-]*|{_SUPERSEDED}):(\s|$|)")
_PARAGRAPH_BREAK = "\n \n"
# Lines that begin such a reading without a colon, lines that begin the final report, and the rule above either.
_PROVISIONAL_TITLE = re.compile(
    rf"^[ \t]*(?:{_SUPERSEDED}(?i: report)?[ \t]*(?:[-.][ \t].*)?|(?i:wet read version)\b.*)$", re.MULTILINE
)
_FINAL_TITLE = re.compile(r"^[ \t]*(?:final|addended) report\b|^[ \t]*addendum\b", re.IGNORECASE | re.MULTILINE)
_RULE_AT_END = re.compile(r"\n[ \t]*[_=-]{5,}\s*$")
# What stands for nothing where a text was taken out or never given ("___", "-", "None.", "Not provided").
_NOTHING_SAID = re.compile(
    r"(?:none|n/?a|nil|unknown|(?:not|none) (?:given|provided|available|stated))?[\W_]*", re.IGNORECASE
)
MIN_LETTERS = 6  # of a word that is recognised with a typing error in it


class ReportSections(NamedTuple):
    """The texts of a report that the schema knows, white space collapsed; empty where there is none."""

    indication: str
    findings: str
    impression: str


def split_sections(text: str) -> list[tuple[str, str]]:
    """
    Split a report into `(name, text)` in reading order, names normalised (see [`normalize_section_name`]).

    What comes before the first header is "preamble"; a report without headers is one "full report". Empty findings and
    impressions are dropped. Where neither is left, all paragraphs but the first of the last section become
    "last_paragraph".
    """
    spans = _header_spans(text)
    if not spans:
        sections = [("full report", text)]
    else:
        starts = [end for _, _, end in spans]
        ends = [_body_end(text, span) for span in spans[1:]] + [len(text)]
        sections = [("preamble", text[: spans[0][1]])]
        sections += [
            (normalize_section_name(name), text[start:end])
            for (name, _, _), start, end in zip(spans, starts, ends, strict=True)
        ]
    sections = [(name, body) for name, body in sections if body.strip() or name not in ("findings", "impression")]
    if not {"findings", "impression"} & {name for name, _ in sections} and _PARAGRAPH_BREAK in sections[-1][1]:
        name, body = sections.pop()
        first, _, rest = body.partition(_PARAGRAPH_BREAK)
        sections += [(name, first), ("last_paragraph", rest)]
    return sections


def _header_spans(text: str) -> list[tuple[str, int, int]]:
    """`(name, start of the name, start of the body)` of each header."""
    pattern = _HEADER if "\n " in text else _FLUSH_HEADER
    spans, position, blank_line = [], 0, -1
    while match := pattern.search(text, position):
        position = match.end()
        is_known = _corrected(match[1].strip().lower()) in SECTION_NAMES
        if not is_known and (not match[2] or text.rfind("\n", 0, match.start(1)) == blank_line >= 0):
            continue
        spans.append((match[1], match.start(1), match.end()))
        # A header does not follow on the line of another: what looks like one there is text ("FINDINGS: CHEST: ...").
        # Where nothing else is on the line, that goes for the next, unless its header is known.
        blank_line = match.start(2) if match[2] == "\n" else -1
        position = text.find("\n", match.start(2))
        if position < 0:
            break
    return spans


def _body_end(text: str, next_span: tuple[str, int, int]) -> int:
    """Where the section before a header ends: in front of the line break and indentation that belong to the header."""
    start = next_span[1]
    return start - 2 if text[start - 2 : start] == "\n " else start


def normalize_section_name(header: str) -> str:
    """
    The name of the section under a header: a known synonym, also with a typing error in it, a part of it, or the header
    itself.
    """
    name = _corrected(" ".join(header.lower().split()))
    if name in SECTION_NAMES:
        return SECTION_NAMES[name]
    if not set(PROVISIONAL_WORDS).isdisjoint(re.findall(r"[a-z]+", name)):
        return "provisional"
    for main in MAIN_SECTIONS:
        if main in name:
            return main
    # A title of the whole study ("PORTABLE CHEST ON ...") is followed by what was seen.
    return "findings" if any(part in name for part in FINDINGS_TITLE_PARTS) else name


_KNOWN_WORDS = frozenset(re.findall(r"[a-z]+", " ".join((*SECTION_NAMES, *FINDINGS_TITLE_PARTS, *PROVISIONAL_WORDS))))


@lru_cache(maxsize=4096)
def _corrected(name: str) -> str:
    """A header in lower case with the typing errors in its longer words corrected, or as a whole ("im pression")."""
    whole = _nearest(name, SECTION_NAMES)
    if whole in SECTION_NAMES:
        return whole
    by_word = re.sub(r"[a-z]+", lambda word: _nearest(word[0], _KNOWN_WORDS), name)
    return _nearest(by_word, SECTION_NAMES)


def _nearest(text: str, known: Iterable[str]) -> str:
    """The first of the known texts that is one edit away from one that is not known, else the text itself."""
    if text in known or len(text) < MIN_LETTERS - 1:
        return text
    return nearest_term(text, (term for term in sorted(known) if len(term) >= MIN_LETTERS))


def read_sections(text: str, study: str = "") -> ReportSections:
    """
    The indication, findings and impression of a MIMIC-CXR report.

    Of several sections of a name the last counts; of indications the last that says something, and without one the
    history stands in. Where there are neither findings nor an impression, the last paragraph, else the comparison
    section, is taken for the findings, as the official scripts do. The reports for which they keep rules of their own
    follow those rules; what these pick is given as findings. Provisional findings are none of the three.

    Args:
        text (`str`):
            The report as it is in the dataset, line breaks and indentation included.
        study (`str`, *optional*, defaults to `""`):
            Its study, as in "s50414267", by which the reports with rules of their own are known.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for part in (_without_provisional(text), text):
        pairs = split_sections(part)
        # A later section of the same name replaces an earlier one.
        findings, impression = _findings_and_impression(dict(pairs), text, study)
        if findings.strip() or impression.strip():
            break
    return ReportSections(*(" ".join(part.split()) for part in (_indication(pairs), findings, impression)))


def _findings_and_impression(sections: dict[str, str], text: str, study: str) -> tuple[str, str]:
    if study in REPORTS_CUT_BY_POSITION:
        start, end = REPORTS_CUT_BY_POSITION[study]
        return text[start:end], ""
    if REPORTS_READ_FROM_SECTION.get(study) in sections:
        return sections[REPORTS_READ_FROM_SECTION[study]], ""
    findings, impression = sections.get("findings", ""), sections.get("impression", "")
    if not findings and not impression:
        findings = sections.get("last_paragraph", sections.get("comparison", ""))
    return findings, impression


def _indication(sections: list[tuple[str, str]]) -> str:
    """The last indication that says something, else the last history that does, else what stands there for it."""
    given = [body for wanted in ("history", "indication") for name, body in sections if name == wanted]
    said = [body for body in given if not _NOTHING_SAID.fullmatch(body.strip())]
    return (said or [body for body in given if body.strip()] or [""])[-1]


def _without_provisional(text: str) -> str:
    """
    The report without the parts that a line like "PFI REPORT" begins and "FINAL REPORT" or the end closes; the whole
    text where nothing else is in it.
    """
    kept, position = [], 0
    while title := _PROVISIONAL_TITLE.search(text, position):
        kept.append(_RULE_AT_END.sub("\n", text[position : title.start()]))
        final = _FINAL_TITLE.search(text, title.end())
        position = final.start() if final else len(text)
    kept.append(text[position:])
    final = "".join(kept)
    return final if re.search(r"[^\W_]", final) else text
