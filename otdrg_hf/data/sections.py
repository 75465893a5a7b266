"""Finds the sections of a MIMIC-CXR report after the conventions of the dataset's own section parser.

The conventions (headers, synonyms, the last-paragraph fallback, the reports with rules of their own) are those of
txt/section_parser.py and txt/create_section_files.py in https://github.com/MIT-LCP/mimic-cxr. Provisional readings,
which the final report supersedes, are left out, and headers may have typing errors.
"""

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from .section_names import (
    FINDINGS_TITLE_PARTS,
    MAIN_SECTIONS,
    PROVISIONAL_WORDS,
    REPORTS_CUT_BY_POSITION,
    REPORTS_READ_FROM_SECTION,
    SECTION_NAMES,
)

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
    near = (term for term in sorted(known) if len(term) >= MIN_LETTERS and _is_one_edit(text, term))
    return next(near, text)


def _is_one_edit(text: str, term: str) -> bool:
    """Whether one letter added, left out or changed, or two neighbours exchanged, make `term` of `text`."""
    shorter, longer = sorted((text, term), key=len)
    start = len(os.path.commonprefix((shorter, longer)))
    rest, other = shorter[start:], longer[start:]
    if len(rest) < len(other):
        return rest == other[1:]
    return rest[1:] == other[1:] or rest[1::-1] + rest[2:] == other


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
