"""Words as they are written to words as the rules have them: short forms, British spelling and typing errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping

_MASK = re.compile(r"x{3,}|_+|\[\*\*.*\*\*\]|<unk>|no\.")
# A shorter term has too many English words one typing error away.
_SHORTEST_TERM = 6
_MOST_KNOWN = 100_000


def _deletions(word: str) -> set[str]:
    return {word[:at] + word[at + 1 :] for at in range(len(word))}


def is_one_edit(written: str, term: str) -> bool:
    """Whether one letter left out, put in, replaced or swapped with the next makes `term` of `written`."""
    if len(written) < len(term):
        return written in _deletions(term)
    if len(written) > len(term):
        return term in _deletions(written)
    differ = [at for at, (a, b) in enumerate(zip(written, term, strict=True)) if a != b]
    if len(differ) == 2:
        first, second = differ
        swapped = written[first] == term[second] and written[second] == term[first]
        return second == first + 1 and swapped
    return len(differ) == 1


def nearest_term(written: str, terms: Iterable[str]) -> str:
    """The first of `terms` that is one edit away from `written`, else `written` itself."""
    return next((term for term in terms if is_one_edit(written, term)), written)


class Spelling(dict[str, tuple[str, ...]]):
    """Written word (lower case) or sign to the words that it stands for: mostly itself, none for a mask.

    A word that the rules do not know, that is no other English word and that is one edit away from one of their
    terms is taken for it. Terms are found over the words that they share with one letter left out, so that a look-up
    costs a few dictionary accesses; its answer is kept.

    Args:
        short_forms (`Mapping[str, tuple[str, ...]]`): word or sign to the words that it stands for.
        known (`Callable[[str], bool]`): whether the rules have a word.
        terms (`Iterable[str]`): words whose typing errors are understood; those under six letters are left out.
        english (`Collection[str]`): words that look like a typing error and are none.
    """

    def __init__(
        self,
        short_forms: Mapping[str, tuple[str, ...]],
        known: Callable[[str], bool],
        terms: Iterable[str],
        english: Collection[str],
    ) -> None:
        self._short_forms = dict(short_forms)
        self._known = known
        self._english = english
        self._terms: dict[str, list[str]] = {}
        for term in sorted(set(terms)):
            if len(term) >= _SHORTEST_TERM and term.isalpha():
                for key in _deletions(term) | {term}:
                    self._terms.setdefault(key, []).append(term)

    def knows(self, word: str) -> bool:
        """Whether the rules have `word` as it is."""
        return self._known(word) or word in self._terms.get(word, ())

    def __missing__(self, written: str) -> tuple[str, ...]:
        if len(self) >= _MOST_KNOWN:
            self.clear()
        self[written] = words = self._read(written)
        return words

    def _read(self, written: str) -> tuple[str, ...]:
        if _MASK.fullmatch(written):
            return ()
        if written[0] in "-–—":
            return ("-",)
        if written[0] == ".":
            return (":",)
        written = written.replace("’", "'")
        return self._short_forms.get(written) or (self.corrected(written),)

    def corrected(self, written: str) -> str:
        """The term that `written` is a typing error of, or `written` itself."""
        if len(written) < _SHORTEST_TERM - 1 or not written.isalpha():
            return written
        if self.knows(written) or written in self._english:
            return written
        near = {term for key in _deletions(written) | {written} for term in self._terms.get(key, ())}
        near = {term for term in near if is_one_edit(written, term)}
        # Hardly anyone mistypes the first letter; of the rest, letters swapped or replaced are likelier than others.
        return min(near, key=lambda t: (t[0] != written[0], len(t) != len(written), t), default=written)
