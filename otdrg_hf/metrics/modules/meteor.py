"""METEOR 1.5 as an `evaluate.Metric`; load it with `evaluate.load(metric_path("meteor"))`."""

import datasets
import evaluate

from otdrg_hf.metrics.meteor import MeteorUnavailableError, meteor

_DESCRIPTION = "METEOR 1.5 through pycocoevalcap's jar, one Java process for a whole set; never another METEOR."
_INPUTS = """
Args:
    predictions (list of str): one text for each report.
    references (list of str, or list of lists of str): one or more texts for each prediction.
Returns:
    dict: meteor, from 0 to 1; where it cannot be computed, meteor is None and meteor_reason says why.
"""
_CITATION = "Denkowski and Lavie, WMT 2014"


class Meteor(evaluate.Metric):
    """METEOR 1.5."""

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
        try:
            return {"meteor": meteor(predictions, references)}
        except MeteorUnavailableError as error:
            return {"meteor": None, "meteor_reason": str(error)}
