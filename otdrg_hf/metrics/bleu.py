"""Corpus BLEU-1 to BLEU-4 with the constants of COCO's captioning evaluation, from sums over reports."""

from collections.abc import Sequence

import numpy as np

from otdrg_hf.metrics.ngrams import MAX_ORDER, PairedNgrams, lookup, pair_ngrams
from otdrg_hf.metrics.pairs import as_pairs

# Both from COCO's bleu_scorer: an empty match gives a score near 0 and an empty prediction does not divide by 0.
_TINY = 1e-15
_SMALL = 1e-9


def bleu_statistics(ngrams: PairedNgrams) -> np.ndarray:
    """
    What corpus BLEU needs of each report; sums of rows are what it needs of a set.

    Args:
        ngrams (`PairedNgrams`): counts of N predictions and their references.

    Returns:
        `np.ndarray` of shape `[N, 10]`, float64: clipped matches and guesses of orders 1 to 4, the length of the
        prediction and of the reference that is closest in length (the shorter on a tie), in words.
    """
    num = len(ngrams.prediction_lengths)
    columns = []
    for predicted, referred in zip(ngrams.predictions, ngrams.references, strict=True):
        # A match is clipped at the largest count in any one reference of the report.
        keys, row = np.unique(referred.keys(ngrams.reference_owner), return_inverse=True)
        most = np.zeros(len(keys), dtype=np.int64)
        np.maximum.at(most, row, referred.count)
        clipped = np.minimum(predicted.count, lookup(keys, most, predicted.keys(np.arange(num))))
        columns.append(np.bincount(predicted.text, weights=clipped, minlength=num))
    for order in range(1, MAX_ORDER + 1):
        columns.append(np.maximum(0, ngrams.prediction_lengths - order + 1))
    columns += [ngrams.prediction_lengths, _closest_lengths(ngrams)]
    return np.stack(columns, axis=1).astype(np.float64)


def _closest_lengths(ngrams: PairedNgrams) -> np.ndarray:
    distance = np.abs(ngrams.reference_lengths - ngrams.prediction_lengths[ngrams.reference_owner])
    order = np.lexsort((ngrams.reference_lengths, distance, ngrams.reference_owner))
    first = np.searchsorted(ngrams.reference_owner, np.arange(len(ngrams.prediction_lengths)))
    return ngrams.reference_lengths[order][first]


def bleu_from_totals(totals: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4 `[..., 4]` from sums of the rows of `bleu_statistics` `[..., 10]`."""
    matches, guesses = totals[..., :4], totals[..., 4:8]
    precisions = np.cumprod((matches + _TINY) / (guesses + _SMALL), axis=-1)
    ratio = (totals[..., 8] + _TINY) / (totals[..., 9] + _SMALL)
    penalty = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return precisions ** (1 / np.arange(1, MAX_ORDER + 1)) * penalty[..., None]


def corpus_bleu(predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]]) -> list[float]:
    """
    BLEU-1 to BLEU-4 of a set, equal to pycocoevalcap's `Bleu(4)` (closest reference length).

    Args:
        predictions (`Sequence[str]`): N texts, scored as they are, split on white space.
        references (`Sequence[str]` or `Sequence[Sequence[str]]`): one or more texts for each prediction.

    Returns:
        `list[float]`: BLEU-1, BLEU-2, BLEU-3, BLEU-4, from 0 to 1.
    """
    statistics = bleu_statistics(pair_ngrams(*as_pairs(predictions, references)))
    return bleu_from_totals(statistics.sum(axis=0)).tolist()
