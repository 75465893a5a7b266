"""The scores of the ReXrank leaderboard: its BLEU-2, and RadCliQ-v1 by the package `radeval`."""

import math
from collections import Counter
from collections.abc import Sequence

from otdrg_hf.metrics.pairs import as_pairs
from otdrg_hf.metrics.radeval_adapter import check_radeval, running_radeval

# fast_bleu's and NLTK's "method 1": what a report counts for whose words, but none of whose pairs of words, match.
_EPSILON = 0.1
RADCLIQ_BERTSCORE = "distilroberta-base, layer 5, rescaled, idf off"


def rexrank_words(report: str) -> list[str]:
    """The words of a report as ReXrank counts them: lower case, full stops apart, split at blanks only."""
    return [word for word in report.lower().replace(".", " .").split(" ") if word]


def rexrank_bleu_2(predictions: Sequence[str], references: Sequence[str], smoothed: bool = True) -> list[float]:
    """
    ReXrank's BLEU-2 of each report; the leaderboard has their mean.

    Equal to fast_bleu's `BLEU([reference], {"bigram": (0.5, 0.5)})` on `rexrank_words`, which differs from corpus BLEU
    (`corpus_bleu`) and is lower.

    Args:
        predictions, references (`Sequence[str]`): N reports each.
        smoothed (`bool`): as fast_bleu is called by ReXrank: where words match and no pair of words does, a tenth of a
            match is counted. Otherwise such a report scores 0.

    Returns:
        `list[float]`: N scores from 0 to 1.
    """
    predictions, listed = as_pairs(predictions, references)
    return [
        _bleu_2(rexrank_words(prediction), rexrank_words(texts[0]), smoothed)
        for prediction, texts in zip(predictions, listed, strict=True)
    ]


def _bleu_2(predicted: list[str], referred: list[str], smoothed: bool) -> float:
    logarithm = 0.0
    for order in (1, 2):
        ngrams, known = (
            Counter(zip(*(words[start:] for start in range(order)), strict=False)) for words in (predicted, referred)
        )
        matches: float = sum(min(count, known[ngram]) for ngram, count in ngrams.items())
        if matches == 0 and (order == 1 or not smoothed):
            return 0.0
        logarithm += math.log((matches or _EPSILON) / max(1, sum(ngrams.values()))) / 2
    penalty = min(1.0, math.exp(1 - len(referred) / len(predicted)))
    return penalty * math.exp(logarithm)


def rexrank_radcliq(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """
    RadCliQ-v1 of each report as ReXrank has it: by `radeval`, with BERTScore as in `RADCLIQ_BERTSCORE`.

    `radeval` itself weighs BERTScore by the inverse document frequencies of the references (idf on), which gives other
    values. Lower is better; ReXrank ranks by 1 / their mean.

    Args:
        predictions, references (`Sequence[str]`): N reports each.

    Raises:
        ImportError: if radeval, or a package that it needs for this, is not installed.
        OSError: if its weights (RadGraph, CheXbert, distilroberta-base) cannot be had.
    """
    check_radeval(("radcliq",))
    predictions, listed = as_pairs(predictions, references)
    with running_radeval("radcliq") as radeval:
        scorer = radeval.RadEval(metrics=["radcliq"], show_progress=False).radcliq_scorer
        from radeval.metrics.bertscore._vendor import BERTScorer

        bert_scorer = BERTScorer(
            model_type="distilroberta-base",
            num_layers=5,
            idf=False,
            lang="en",
            rescale_with_baseline=True,
        )
        scorer._get_bert_scorer = lambda refs: bert_scorer
        _, scores = scorer.predict([texts[0] for texts in listed], predictions)
    return [float(score) for score in scores]
