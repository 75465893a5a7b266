"""The small pattern language of rules.yaml and the token trie that finds all of its phrases in one pass."""

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

_PIECE = re.compile(r"[()\[\]|]|<[a-z ]+>|~\d+[,']?|[a-z0-9'/?.]+\*?|[,:;$]|(?<![^\s(|\[])-(?![^\s)|\]])|\s+")
# With a longer ending, a word that begins like a stem may be another word, or one with a typing error.
_SHORT_ENDING = 2
_WORD = re.compile(r"[a-z0-9'/]+\*?")
_LIST = re.compile(r"<([a-z ]+)>")
_CLOSING = {"(": ")", "[": "]"}
_GAP = "~"
# A colon may be run over: "Heart: mildly enlarged."
_MOST_KNOWN = 100_000
_MARKS = frozenset(",;()-?")
# A noun phrase ends at these.
_LINKS = frozenset("and or nor of in at on to with from by for is are was were has have which that than as".split())


def expand_phrase(phrase: str, lists: Mapping[str, Sequence[str]] | None = None) -> list[tuple[str, ...]]:
    """Spell out a phrase of the rules language as token sequences.

    Args:
        phrase (`str`): words with `(a|b c)` alternatives, `[optional]` parts (alternatives allowed), `stem*`
            prefixes, `<name>` for any phrase of a list and `~N`, `~N,` or `~N'` gaps of up to N words, e.g.
            `"(cardiac|heart) ~3 (enlarged|large)"`.
        lists (`Mapping[str, Sequence[str]]`, *optional*): the lists by name.

    Returns:
        `list[tuple[str, ...]]`: every spelling; `"~N"` stays as an element of its own.

    Raises:
        ValueError: if the phrase is empty, has a sign or a bracket that the language lacks, names a list that is
            not there, or begins or ends with a gap.
    """
    phrase = _with_lists(phrase, lists or {})
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


def _with_lists(phrase: str, lists: Mapping[str, Sequence[str]], depth: int = 0) -> str:
    """Put the members of longer than a word in for each list; its single words are looked up as `<name>`."""

    def members(match: re.Match) -> str:
        if match[1] not in lists or depth > 5:
            raise ValueError(f"phrase {phrase!r}: there is no list {match[1]!r}")
        longer = [_with_lists(member, lists, depth + 1) for member in lists[match[1]] if not is_word(member)]
        return "(" + "|".join([*longer, match[0]] if len(longer) < len(lists[match[1]]) else longer) + ")"

    return _LIST.sub(members, phrase)


def is_word(phrase: str) -> bool:
    """Whether a phrase is a single word or stem."""
    return _WORD.fullmatch(phrase) is not None


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
        self.gap: dict[tuple[int, str], _Node] = {}
        self.payloads: list[Hashable] = []


class _KeysOfWord(dict[str, tuple[str, ...]]):
    """Word to the branches of the trie that it takes, found when it is first met."""

    def __init__(self, find: Callable[[str], tuple[str, ...]]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, token: str) -> tuple[str, ...]:
        if len(self) > _MOST_KNOWN:
            self.clear()
        self[token] = keys = self._find(token)
        return keys


class PhraseTrie:
    """All phrases of the rules in one trie over words, so that a sentence costs a few dictionary look-ups per word.

    Args:
        gap_stops (`Sequence[str]`): words that no `~N` gap may run over.
        lists (`Mapping[str, Sequence[str]]`, *optional*): the lists that phrases name; their single words share one
            branch, so that a long list costs no more than a word.
    """

    def __init__(self, gap_stops: Sequence[str] = (), lists: Mapping[str, Sequence[str]] | None = None) -> None:
        self._root = _Node()
        self._literals: set[str] = set()
        self._stems: dict[str, set[str]] = {}
        self._keys = _KeysOfWord(self._find_keys)
        self._gap_stops = frozenset(gap_stops)
        self._lists = {
            f"<{name}>": ({w for w in words if w[-1] != "*"}, tuple(w[:-1] for w in words if w[-1] == "*"))
            for name, members in (lists or {}).items()
            if (words := [member for member in members if is_word(member)])
        }

    def add(self, spelling: Sequence[str], payload: Hashable) -> None:
        """Add one spelling of [`expand_phrase`]; `payload` comes back with each match."""
        node = self._root
        for token in spelling:
            if token.startswith(_GAP):
                most = token[1:].rstrip(",'")
                children, key = node.gap, (int(most), token[1 + len(most) :])
            else:
                children, key = node.children, token
                if token.endswith("*"):
                    self._stems.setdefault(token[:2], set()).add(token)
                elif token not in self._lists:
                    self._literals.add(token)
            after = children.get(key)
            if after is None:
                after = children[key] = _Node()
            node = after
        if payload not in node.payloads:
            node.payloads.append(payload)

    def knows(self, token: str) -> bool:
        """Whether any phrase has `token`, by itself or as a stem with an ending of up to two letters."""
        keys = self._single_keys(token)
        return any(key[-1] != "*" or len(token) < len(key) + _SHORT_ENDING for key in keys)

    @property
    def words(self) -> frozenset[str]:
        """The words of phrases and lists; stems are left out."""
        return frozenset(self._literals).union(*(words for words, _ in self._lists.values()))

    def _single_keys(self, token: str) -> Iterator[str]:
        if token in self._literals:
            yield token
        yield from (stem for stem in self._stems.get(token[:2], ()) if token.startswith(stem[:-1]))
        for words, stems in self._lists.values():
            if token in words:
                yield token
            yield from (stem + "*" for stem in stems if token.startswith(stem))

    def _find_keys(self, token: str) -> tuple[str, ...]:
        keys = [token] if token in self._literals else []
        keys += [s for s in self._stems.get(token[:2], ()) if token.startswith(s[:-1])]
        keys += [name for name, (words, stems) in self._lists.items() if token in words or token.startswith(stems)]
        return tuple(keys)

    def find(self, tokens: Sequence[str]) -> list[tuple[int, int, int, Hashable]]:
        """All matches in `tokens`, overlapping ones too.

        Returns:
            `list[tuple[int, int, int, Hashable]]`: first token, token after the last, words skipped by gaps, payload.
        """
        known = self._keys
        keys = [known[token] for token in tokens]
        keys.append(())
        matches: list[tuple[int, int, int, Hashable]] = []
        roots = self._root.children
        for start, here in enumerate(keys):
            for key in here:
                node = roots.get(key)
                if node is not None:
                    self._walk(node, start, start + 1, 0, keys, tokens, matches)
        return matches

    def _walk(self, node, start, at, skipped, keys, tokens, matches) -> None:
        for payload in node.payloads:
            matches.append((start, at, skipped, payload))
        children = node.children
        if children:
            for key in keys[at]:
                if key in children:
                    self._walk(children[key], start, at + 1, skipped, keys, tokens, matches)
        if node.gap:
            self._walk_gaps(node, start, at, skipped, keys, tokens, matches)

    def _walk_gaps(self, node, start, at, skipped, keys, tokens, matches) -> None:
        stops, last = self._gap_stops, len(tokens)
        for (most, sign), after in node.gap.items():
            children = after.children
            end = at + most + 1
            for place in range(at, end if end < last else last):
                for key in keys[place]:
                    if key in children:
                        self._walk(children[key], start, place + 1, skipped + place - at, keys, tokens, matches)
                word = tokens[place]
                if word in stops or (word in _MARKS and word != sign) or (sign == "'" and word in _LINKS):
                    break
