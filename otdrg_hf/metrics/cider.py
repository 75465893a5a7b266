"""CIDEr as COCO's captioning evaluation computes it: clipped counts and a length penalty (CIDEr-D), times 10."""

from collections.abc import Sequence

import numpy as np

from otdrg_hf.metrics.ngrams import MAX_ORDER, NgramCounts, PairedNgrams, distinct, lookup, pair_ngrams
from otdrg_hf.metrics.pairs import as_pairs

SIGMA = 6.0


def cider_scores(ngrams: PairedNgrams) -> np.ndarray:
    """
    CIDEr of each report, equal to pycocoevalcap's `Cider` (Vedantam et al., CVPR 2015, with its CIDEr-D changes).

    Document frequencies are those of the given references, so a report's score depends on the set it is scored in.

    Args:
        ngrams (`PairedNgrams`): counts of N predictions and their references.

    Returns:
        `np.ndarray` of shape `[N]`, float64, from 0 to 10. The score of a set is its mean.
    """
    owner = ngrams.reference_owner
    num = len(ngrams.prediction_lengths)
    similarity = np.zeros(len(owner))
    for predicted, referred in zip(ngrams.predictions, ngrams.references, strict=True):
        idf = _inverse_document_frequency(referred, owner, num)
        predicted_weight = predicted.count * idf[predicted.ngram]
        referred_weight = referred.count * idf[referred.ngram]
        predicted_norm = np.sqrt(np.bincount(predicted.text, weights=predicted_weight**2, minlength=num))
        referred_norm = np.sqrt(np.bincount(referred.text, weights=referred_weight**2, minlength=len(owner)))
        other = lookup(predicted.keys(np.arange(num)), predicted_weight, referred.keys(owner))
        shared = np.bincount(
            referred.text, weights=np.minimum(other, referred_weight) * referred_weight, minlength=len(owner)
        )
        norm = predicted_norm[owner] * referred_norm
        similarity += np.divide(shared, norm, out=np.zeros(len(owner)), where=norm != 0)
    # The original measures length in bigrams, so texts of no and of one word count as equally long.
    bigrams = np.maximum(0, ngrams.prediction_lengths - 1)[owner] - np.maximum(0, ngrams.reference_lengths - 1)
    similarity *= np.exp(-(bigrams.astype(np.float64) ** 2) / (2 * SIGMA**2))
    sums = np.bincount(owner, weights=similarity, minlength=num)
    return 10 * sums / MAX_ORDER / np.bincount(owner, minlength=num)


def _inverse_document_frequency(referred: NgramCounts, owner: np.ndarray, num: int) -> np.ndarray:
    """log(N / reports whose references hold the n-gram), `[num_ngrams]`; unseen n-grams count as seen once."""
    documents = distinct(referred.keys(owner)) % referred.num_ngrams
    frequency = np.maximum(1, np.bincount(documents, minlength=referred.num_ngrams))
    # log(a / a) must be exactly 0: a residue of 1e-16 would survive the division by the norm as a full score.
    return np.where(frequency == num, 0.0, np.log(float(num)) - np.log(frequency.astype(np.float64)))


def cider(predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]]) -> float:
    """CIDEr of a set, from 0 to 10; see `cider_scores`."""
    return float(np.mean(cider_scores(pair_ngrams(*as_pairs(predictions, references)))))
