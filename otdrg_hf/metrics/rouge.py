"""ROUGE-L as COCO's captioning evaluation computes it (beta 1.2), which is not the `rouge_score` package's."""

from collections.abc import Sequence

import numpy as np

from otdrg_hf.metrics.pairs import as_pairs

BETA = 1.2


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """
    Length of the longest common subsequence of two word lists.

    The bit-parallel form (Crochemore et al., 2001; Hyyrö, 2004): one arbitrary-precision integer holds a whole row of
    the dynamic programme, so a pair costs one addition for each word of `second`.
    """
    positions: dict[str, int] = {}
    for index, word in enumerate(first):
        positions[word] = positions.get(word, 0) | (1 << index)
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        hits = row & positions.get(word, 0)
        row = ((row + hits) | (row - hits)) & full
    return len(first) - row.bit_count()


def rouge_l_scores(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """
    ROUGE-L of each report, equal to pycocoevalcap's `Rouge`.

    Precision and recall are each the best over the references. Texts are split at single blanks, as the original
    does, so that an empty text is one empty word, and two empty texts agree.

    Args:
        predictions (`Sequence[str]`): N texts.
        references (`Sequence[Sequence[str]]`): N lists of texts.

    Returns:
        `np.ndarray` of shape `[N]`, float64, from 0 to 1. The score of a set is its mean.
    """
    scores = np.zeros(len(predictions))
    for index, (prediction, texts) in enumerate(zip(predictions, references, strict=True)):
        words = prediction.split(" ")
        precision = recall = 0.0
        for text in texts:
            reference = text.split(" ")
            common = longest_common_subsequence(words, reference)
            precision = max(precision, common / len(words))
            recall = max(recall, common / len(reference))
        if precision and recall:
            scores[index] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return scores


def rouge_l(predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]]) -> float:
    """Mean ROUGE-L of a set, from 0 to 1; see `rouge_l_scores`."""
    return float(np.mean(rouge_l_scores(*as_pairs(predictions, references))))
