"""Corpus BLEU-1 to BLEU-4 as an `evaluate.Metric`; load it with `evaluate.load(metric_path("bleu"))`."""

import datasets
import evaluate

from otdrg_hf.metrics.bleu import corpus_bleu

_DESCRIPTION = "BLEU-1 to BLEU-4 of a set, equal to pycocoevalcap's Bleu(4)."
_INPUTS = """
Args:
    predictions (list of str): one text for each report, scored as it is, split on white space.
    references (list of str, or list of lists of str): one or more texts for each prediction.
Returns:
    dict: bleu_1 to bleu_4, from 0 to 1.
"""
_CITATION = "Papineni et al., ACL 2002"


class Bleu(evaluate.Metric):
    """Corpus BLEU-1 to BLEU-4."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=[
                datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
                datasets.Features({"predictions": text, "references": text}),
            ],
        )

    def _compute(self, predictions, references):
        return {f"bleu_{n}": score for n, score in enumerate(corpus_bleu(predictions, references), start=1)}
