"""CIDEr as an `evaluate.Metric`; load it with `evaluate.load(metric_path("cider"))`."""

import datasets
import evaluate

from otdrg_hf.metrics.cider import cider

_DESCRIPTION = "CIDEr with document frequencies of the given references, equal to pycocoevalcap's Cider."
_INPUTS = """
Args:
    predictions (list of str): one text for each report, scored as it is, split on white space.
    references (list of str, or list of lists of str): one or more texts for each prediction.
Returns:
    dict: cider, from 0 to 10.
"""
_CITATION = "Vedantam et al., CVPR 2015"


class Cider(evaluate.Metric):
    """CIDEr."""

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
        return {"cider": cider(predictions, references)}
