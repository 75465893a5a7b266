"""Counts n-grams of many texts at once, with integer codes that predictions and references share."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

MAX_ORDER = 4


@dataclass(frozen=True)
class NgramCounts:
    """
    The n-grams of one order in S texts as a sparse table with E rows, sorted by text, then by n-gram.

    Attributes:
        text (`np.ndarray` of shape `[E]`, int64): which text the row belongs to.
        ngram (`np.ndarray` of shape `[E]`, int64): code of the n-gram, `0 <= code < num_ngrams`.
        count (`np.ndarray` of shape `[E]`, int64): how often the n-gram occurs in the text.
        num_ngrams (`int`): number of distinct n-grams of this order.
    """

    text: np.ndarray
    ngram: np.ndarray
    count: np.ndarray
    num_ngrams: int

    def keys(self, group: np.ndarray) -> np.ndarray:
        """One number for each (group of the text, n-gram), `[E]`; `group` `[S]` maps texts to groups."""
        return group[self.text] * self.num_ngrams + self.ngram

    def select(self, rows: np.ndarray) -> "NgramCounts":
        """The rows where the mask `rows` `[E]` is true."""
        return NgramCounts(self.text[rows], self.ngram[rows], self.count[rows], self.num_ngrams)


@dataclass(frozen=True)
class PairedNgrams:
    """
    N-gram counts of N predictions and of the R references that they are scored against.

    Attributes:
        predictions, references (`list[NgramCounts]`): one table for each order 1 to 4.
        prediction_lengths (`np.ndarray` of shape `[N]`, int64): in words, split on any white space.
        reference_lengths (`np.ndarray` of shape `[R]`, int64): in words.
        reference_owner (`np.ndarray` of shape `[R]`, int64): the prediction that each reference belongs to, ascending.
    """

    predictions: list[NgramCounts]
    references: list[NgramCounts]
    prediction_lengths: np.ndarray
    reference_lengths: np.ndarray
    reference_owner: np.ndarray


def count_ngrams(texts: Sequence[str]) -> tuple[list[NgramCounts], np.ndarray]:
    """Counts the n-grams of orders 1 to 4 in S texts; returns the four tables and the lengths in words `[S]`."""
    words = [text.split() for text in texts]
    lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    codes: dict[str, int] = {}
    word = np.fromiter((codes.setdefault(w, len(codes)) for w in chain.from_iterable(words)), dtype=np.int64)
    owner = np.repeat(np.arange(len(words)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(word))  # words from here to the end of the text
    tables = []
    start = np.arange(len(word))
    code = word
    size = len(codes)
    for order in range(1, MAX_ORDER + 1):
        if order > 1:
            keep = left[start] >= order
            start, code = start[keep], code[keep]
            # An n-gram is the (n-1)-gram at its start and its last word; the codes are made dense again each time.
            distinct, code = np.unique(code * len(codes) + word[start + order - 1], return_inverse=True)
            size = len(distinct)
        keys, count = np.unique(owner[start] * max(size, 1) + code, return_counts=True)
        tables.append(NgramCounts(keys // max(size, 1), keys % max(size, 1), count, max(size, 1)))
    return tables, lengths


def pair_ngrams(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> PairedNgrams:
    """Counts the n-grams of N predictions and of their reference lists with shared codes."""
    num = len(predictions)
    tables, lengths = count_ngrams([*predictions, *chain.from_iterable(references)])
    reference_tables = []
    for table in tables:
        rest = table.select(table.text >= num)
        reference_tables.append(NgramCounts(rest.text - num, rest.ngram, rest.count, rest.num_ngrams))
    return PairedNgrams(
        predictions=[table.select(table.text < num) for table in tables],
        references=reference_tables,
        prediction_lengths=lengths[:num],
        reference_lengths=lengths[num:],
        reference_owner=np.repeat(np.arange(num), [len(texts) for texts in references]),
    )


def distinct(keys: np.ndarray) -> np.ndarray:
    """The distinct values of `keys` `[E]`, ascending; several times faster than np.unique's hash table here."""
    keys = np.sort(keys)
    return keys[np.diff(keys, prepend=keys[:1] - 1) != 0]


def lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """`values` `[E]` at the ascending, distinct `keys` `[E]` for each of `wanted` `[W]`; 0 where a key is missing."""
    if len(keys) == 0:
        return np.zeros(len(wanted), dtype=values.dtype)
    position = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[position] == wanted, values[position], 0)
