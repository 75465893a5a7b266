"""Cut a report into the sections that describe the image, and those into sentences, with character offsets."""

import re

# Sections that tell why and how the film was taken: their words are no findings.
_SKIPPED = (
    r"indications?|(?:clinical |patient )?history|clinical (?:information|indication|data|details|history)"
    r"|reason for (?:the )?(?:exam(?:ination)?|study|test)|comparisons?|(?:prior|previous) (?:studies|study|exams?)"
    r"|techniques?|(?:type of )?exam(?:ination)?|procedure|study|views?|(?:medical )?condition|admitting diagnosis"
    r"|underlying medical condition|hx|dx|diagnosis code|symptoms?|question|notifications?|referring physician"
)
_DESCRIBED = (
    r"findings?|impressions?|conclusions?|interpretation|report|wet read|addendum|summary|opinion|observations?"
    r"|findings? (?:and|/|&) impressions?|(?:frontal|pa|ap|portable|chest|lateral)[a-z ,]{0,40}(?:radiograph|chest"
    r"|view|film|x-?ray)s?"
)
_HEADER = re.compile(rf"(?<![\w/-])(?:(?P<skip>{_SKIPPED})|(?P<keep>{_DESCRIBED}))[ \t]*:", re.IGNORECASE)
_LONGEST_SENTENCE = 2000
_EMPTY_LINE = re.compile(r"\S[ \t]*\n[ \t]*\n")
_IMPRESSION = re.compile(r"impression|conclusion|opinion|summary", re.IGNORECASE)

# A full stop ends a sentence unless it stands in a number, after an abbreviation or after a list number. A question
# mark ends one at the end of a line, unless it stands alone: "? pneumonia" may be broken after the mark.
_BOUNDARY = re.compile(
    r"(?:(?<!\bvs)(?<!\bdr)(?<!\bmr)(?<!\bms)(?<!\bapprox)(?<!\be\.g)(?<!\bi\.e)[.!]{1,3}(?=[\s\"')\]]|$)"
    r"|(?<=[a-z)]{2})\.(?=[a-z]{2})|(?<=\S)\?(?=\s*$|\s*\n)|\n[ \t]*\n|\n[ \t]*(?=(?:[-*•]|\(?\d{1,2}[.)])[ \t]))"
    r"|(?<=\s)(?=\d{1,2}\)\s)",
    re.IGNORECASE,
)


def split_sections(report: str) -> list[tuple[str, int, int]]:
    """Parts of a report that say what is seen, the impression's first.

    Args:
        report (`str`): a whole report or any part of one; without headers all of it is taken.

    Returns:
        `list[tuple[str, int, int]]`: header in lower case ("" before the first header) and the character span of its
        text. Indication, history, comparison and technique are left out.
    """
    headers = list(_HEADER.finditer(report)) if ":" in report else []
    if not headers:
        return [("", 0, len(report))]
    parts = [("", 0, headers[0].start())] if headers[0].start() else []
    described = any(header["keep"] for header in headers)
    for header, following in zip(headers, headers[1:] + [None], strict=True):
        start, end = header.end(), following.start() if following else len(report)
        if header["keep"]:
            parts.append((header["keep"].lower(), start, end))
        elif not described:
            # Old reports go from "COMPARISON: None." to the description with no more than an empty line between.
            paragraph = _EMPTY_LINE.search(report, start, end)
            if paragraph:
                parts.append(("", paragraph.end(), end))
    parts.sort(key=lambda part: not _IMPRESSION.search(part[0]))
    return parts


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Character spans of the sentences of `text`, without the marks that end them and white space around them."""
    spans = []
    start = 0
    for boundary in [*_BOUNDARY.finditer(text), None]:
        end = boundary.start() if boundary else len(text)
        piece = text[start:end]
        if piece.strip():
            left = start + len(piece) - len(piece.lstrip())
            spans.extend(_pieces(text, left, start + len(piece.rstrip())))
        start = boundary.end() if boundary else end
    return spans


def _pieces(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """The span itself, or shorter ones of it: no radiologist's sentence is so long, and matching is not linear."""
    spans = []
    while end - start > _LONGEST_SENTENCE:
        cut = text.rfind(" ", start + 1, start + _LONGEST_SENTENCE)
        cut = cut if cut > 0 else start + _LONGEST_SENTENCE
        spans.append((start, cut))
        start = cut
    return [*spans, (start, end)]
