"""ROUGE-L as an `evaluate.Metric`; load it with `evaluate.load(metric_path("rouge_l"))`."""

import datasets
import evaluate

from otdrg_hf.metrics.rouge import rouge_l

_DESCRIPTION = "Mean ROUGE-L with beta 1.2, equal to pycocoevalcap's Rouge; not the rouge_score package's ROUGE-L."
_INPUTS = """
Args:
    predictions (list of str): one text for each report, scored as it is, split on white space.
    references (list of str, or list of lists of str): one or more texts for each prediction.
Returns:
    dict: rouge_l, from 0 to 1.
"""
_CITATION = "Lin, ACL 2004"


class RougeL(evaluate.Metric):
    """ROUGE-L."""

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
        return {"rouge_l": rouge_l(predictions, references)}
