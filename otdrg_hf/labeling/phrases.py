"""The small pattern language of rules.yaml and the token trie that finds all of its phrases in one pass."""

import re
from collections.abc import Hashable, Sequence

_PIECE = re.compile(r"[()\[\]|]|~\d+,?|[a-z0-9'/?.]+\*?|[,:$]|\s+")
_CLOSING = {"(": ")", "[": "]"}
_GAP = "~"
# A colon may be run over: "Heart: mildly enlarged."
_MARKS = frozenset(",;()-?")

# Words between which a hyphen or a slash makes one term are kept whole; masks of de-identification are skipped.
TOKEN = re.compile(
    r"(?P<mask>x{3,}|_+|\[\*\*.*?\*\*\]|<unk>)"
    r"|and/or|[whrc]/[aow](?![a-z])|s/p(?![a-z])|\d+(?:\.\d+)?|[a-z0-9]+(?:['’][a-z]+)?|(?<=\s)-+(?=\s)|[,;:()/?]"
)


def expand_phrase(phrase: str) -> list[tuple[str, ...]]:
    """Spell out a phrase of the rules language as token sequences.

    Args:
        phrase (`str`): words with `(a|b c)` alternatives, `[optional]` parts (alternatives allowed), `stem*`
            prefixes and `~N` or `~N,` gaps of up to N words, e.g. `"(cardiac|heart) ~3 (enlarged|large)"`.

    Returns:
        `list[tuple[str, ...]]`: every spelling; `"~N"` stays as an element of its own.

    Raises:
        ValueError: if the phrase is empty, has a sign or a bracket that the language lacks, or begins or ends
            with a gap.
    """
    pieces = []
    position = 0
    while position < len(phrase):
        piece = _PIECE.match(phrase, position)
        if piece is None:
            raise ValueError(f"phrase {phrase!r}: cannot read {phrase[position:]!r} (words are lower-case)")
        position = piece.end()
        if not piece.group().isspace():
            pieces.append(piece.group())
    spellings, _ = _alternatives(pieces, 0, "", phrase)
    for spelling in spellings:
        if not spelling or spelling[0].startswith(_GAP) or spelling[-1].startswith(_GAP):
            raise ValueError(f"phrase {phrase!r}: must begin and end with a word that is always there")
    return spellings


def _alternatives(pieces: list[str], at: int, closing: str, phrase: str) -> tuple[list[tuple[str, ...]], int]:
    """Spellings of `pieces[at:]` up to `closing`, and the place after it."""
    done: list[tuple[str, ...]] = []
    current: list[tuple[str, ...]] = [()]
    while at < len(pieces):
        piece = pieces[at]
        at += 1
        if piece == closing:
            return done + current, at
        if piece == "|" and closing:
            done, current = done + current, [()]
        elif piece in _CLOSING:
            inner, at = _alternatives(pieces, at, _CLOSING[piece], phrase)
            inner = inner if piece == "(" else [*inner, ()]
            current = [left + right for left in current for right in inner]
        elif piece in "|)]":
            raise ValueError(f"phrase {phrase!r}: {piece!r} outside of brackets")
        else:
            current = [left + (piece,) for left in current]
    if closing:
        raise ValueError(f"phrase {phrase!r}: {closing!r} is missing")
    return current, at


class _Node:
    __slots__ = ("children", "gap", "payloads")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.gap: dict[tuple[int, bool], _Node] = {}
        self.payloads: list[Hashable] = []


class PhraseTrie:
    """All phrases of the rules in one trie over words, so that a sentence costs a few dictionary look-ups per word.

    Args:
        gap_stops (`Sequence[str]`): words that no `~N` gap may run over.
    """

    def __init__(self, gap_stops: Sequence[str] = ()) -> None:
        self._root = _Node()
        self._literals: set[str] = set()
        self._stems: dict[str, set[str]] = {}
        self._keys: dict[str, tuple[str, ...]] = {}
        self._gap_stops = frozenset(gap_stops)

    def add(self, spelling: Sequence[str], payload: Hashable) -> None:
        """Add one spelling of [`expand_phrase`]; `payload` comes back with each match."""
        node = self._root
        for token in spelling:
            if token.startswith(_GAP):
                node = node.gap.setdefault((int(token[1:].rstrip(",")), token.endswith(",")), _Node())
                continue
            if token.endswith("*"):
                self._stems.setdefault(token[:2], set()).add(token)
            else:
                self._literals.add(token)
            node = node.children.setdefault(token, _Node())
        if payload not in node.payloads:
            node.payloads.append(payload)

    def _keys_of(self, token: str) -> tuple[str, ...]:
        keys = [token] if token in self._literals else []
        keys += [s for s in self._stems.get(token[:2], ()) if token.startswith(s[:-1])]
        if len(self._keys) > 100_000:
            self._keys.clear()
        self._keys[token] = found = tuple(keys)
        return found

    def find(self, tokens: Sequence[str]) -> list[tuple[int, int, int, Hashable]]:
        """All matches in `tokens`, overlapping ones too.

        Returns:
            `list[tuple[int, int, int, Hashable]]`: first token, token after the last, words skipped by gaps, payload.
        """
        known = self._keys
        keys = [known[t] if t in known else self._keys_of(t) for t in tokens]
        matches: list[tuple[int, int, int, Hashable]] = []
        roots = self._root.children
        for start, here in enumerate(keys):
            for key in here:
                if key in roots:
                    self._walk(roots[key], start, start + 1, 0, keys, tokens, matches)
        return matches

    def _walk(self, node, start, at, skipped, keys, tokens, matches) -> None:
        for payload in node.payloads:
            matches.append((start, at, skipped, payload))
        if node.children and at < len(keys):
            for key in keys[at]:
                if key in node.children:
                    self._walk(node.children[key], start, at + 1, skipped, keys, tokens, matches)
        for (most, over_commas), after in node.gap.items():
            for jump in range(most + 1):
                if at + jump >= len(keys):
                    break
                for key in keys[at + jump]:
                    if key in after.children:
                        self._walk(after.children[key], start, at + jump + 1, skipped + jump, keys, tokens, matches)
                word = tokens[at + jump]
                if word in self._gap_stops or (word in _MARKS and not (over_commas and word == ",")):
                    break
