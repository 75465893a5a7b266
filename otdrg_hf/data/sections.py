"""Finds the sections of a MIMIC-CXR report after the conventions of the dataset's own section parser.

The conventions (headers, synonyms, the last-paragraph fallback, the reports with rules of their own) are those of
txt/section_parser.py and txt/create_section_files.py in https://github.com/MIT-LCP/mimic-cxr.
"""

import re
from typing import NamedTuple

from .section_names import (
    FINDINGS_TITLE_PARTS,
    MAIN_SECTIONS,
    REPORTS_CUT_BY_POSITION,
    REPORTS_READ_FROM_SECTION,
    SECTION_NAMES,
)

# Every line of a MIMIC-CXR report starts with a space; a header is upper case and ends in a colon and white space.
_HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s")
# Reports typed without that indentation, which the dataset does not have, may start with a header.
_FLUSH_HEADER = re.compile(r"(?:^|(?<=\n))([A-Z][A-Z ()/,-]*):(?:\s|$)")
_PARAGRAPH_BREAK = "\n \n"


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
    spans = []
    match = pattern.search(text)
    while match:
        spans.append((match[1], match.start(1), match.end()))
        # A header never follows on the line of another: what looks like one there is text ("FINDINGS: CHEST: ...").
        line_end = text.find("\n", match.end())
        match = pattern.search(text, match.end() if line_end < 0 else line_end)
    return spans


def _body_end(text: str, next_span: tuple[str, int, int]) -> int:
    """Where the section before a header ends: in front of the line break and indentation that belong to the header."""
    start = next_span[1]
    return start - 2 if text[start - 2 : start] == "\n " else start


def normalize_section_name(header: str) -> str:
    """The name of the section under a header: a known synonym or misspelling, a part of it, or the header itself."""
    name = header.lower().strip()
    if name in SECTION_NAMES:
        return SECTION_NAMES[name]
    for main in MAIN_SECTIONS:
        if main in name:
            return main
    # A title of the whole study ("PORTABLE CHEST ON ...") is followed by what was seen.
    return "findings" if any(part in name for part in FINDINGS_TITLE_PARTS) else name


def read_sections(text: str, study: str = "") -> ReportSections:
    """
    The indication, findings and impression of a MIMIC-CXR report.

    Of several sections of a name the last counts. The history stands in for a missing indication. Where there are
    neither findings nor an impression, the last paragraph, else the comparison section, is taken for the findings, as
    the official scripts do. The reports for which they keep rules of their own follow those rules; what these pick is
    given as findings.

    Args:
        text (`str`):
            The report as it is in the dataset, line breaks and indentation included.
        study (`str`, *optional*, defaults to `""`):
            Its study, as in "s50414267", by which the reports with rules of their own are known.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # A later section of the same name replaces an earlier one.
    sections = dict(split_sections(text))
    indication = sections.get("indication") or sections.get("history", "")
    if study in REPORTS_CUT_BY_POSITION:
        start, end = REPORTS_CUT_BY_POSITION[study]
        findings, impression = text[start:end], ""
    elif REPORTS_READ_FROM_SECTION.get(study) in sections:
        findings, impression = sections[REPORTS_READ_FROM_SECTION[study]], ""
    else:
        findings, impression = sections.get("findings", ""), sections.get("impression", "")
        if not findings and not impression:
            findings = sections.get("last_paragraph", sections.get("comparison", ""))
    return ReportSections(*(" ".join(part.split()) for part in (indication, findings, impression)))
