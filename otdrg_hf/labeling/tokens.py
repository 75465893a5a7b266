"""The words and marks of a sentence, with their character spans."""

import re

from .spelling import Spelling

# Signs of "with or without"; masks of de-identification and the "No." of "No. 8 French", which stand for nothing; short
# forms with a slash; words and numbers; signs of forms, (-), (+), (?), = and |; marks. A hyphen parts words like a
# space, a dash is a mark.
_TOKEN = re.compile(
    r"\+/-|±|x{3,}|_+|\[\*\*.*?\*\*\]|<unk>|no\.(?=\s?\d)|and/or|w/out|w/(?!o\b)|[a-z]/[a-z](?![a-z])|2/2|\d+(?:\.\d+)?"
    r"|[a-z0-9]+(?:['’][a-z]+)?|\([-+?]\)|\.{4,}|(?<=\s)[-–—]+(?=\s)|—|[,;:()/?=|]"
)
# Parts of words that are words of the rules, too.
_PREFIXES = frozenset(("cardio", "pneumo", "hydro", "hemo", "haemo", "pleuro"))
# How many words may name the row of a form.
_LONGEST_NAME = 3


def tokenize(sentence: str, spelling: Spelling) -> tuple[list[str], list[tuple[int, int]]]:
    """Words and marks of `sentence`, spelled as the rules have them, with their character spans; without masks."""
    lowered = sentence.lower()
    if len(lowered) != len(sentence):
        lowered = "".join(c.lower() if len(c.lower()) == 1 else c for c in sentence)
    tokens: list[str] = []
    spans: list[tuple[int, int]] = []
    has_hyphen = "-" in lowered
    before, end = "", 0
    for match in _TOKEN.finditer(lowered):
        written, span = match[0], match.span()
        if has_hyphen and tokens and _is_hyphened(lowered, end, span[0], before, written, spelling):
            written, span = before + written, (spans[-1][0], span[1])
            while spans and spans[-1][0] == span[0]:
                tokens.pop()
                spans.pop()
        before, end = written, span[1]
        words = spelling[written]
        tokens += words
        spans += (span,) * len(words)
    if tokens.count("-") == 1 and tokens.index("-") <= _LONGEST_NAME:
        # "Lungs - clear": the row of a form.
        tokens[tokens.index("-")] = ":"
    return tokens, spans


def _is_hyphened(text: str, end: int, start: int, before: str, after: str, spelling: Spelling) -> bool:
    """Whether the hyphen between two words, also at the end of a line, parts a word of the rules: "pneumo-thorax"."""
    if end >= start or text[end] != "-" or text[end + 1 : start].strip():
        return False
    if before in _PREFIXES:
        return spelling.knows(spelling.corrected(before + after))
    return spelling.knows(before + after) and not spelling.knows(before)
