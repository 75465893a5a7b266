"""Clinical efficacy as an `evaluate.Metric`; load it with `evaluate.load(metric_path("clinical_efficacy"))`."""

import datasets
import evaluate

from otdrg_hf.metrics.clinical import clinical_efficacy

_DESCRIPTION = (
    "Micro, macro and example-based precision, recall and F1 of 14, 13 and 5 disease labels, and false and missed "
    "findings in a report, under both mappings of uncertain."
)
_INPUTS = """
Args:
    predictions (list of str): one report for each study.
    references (list of str, or list of lists of str): reference reports; of several, the first is read.
    labeler (str or function): "rules", or a function from N reports to states [N, 14].
Returns:
    dict: ce14_micro_precision and so on; names of figures that count uncertain as positive end in
        _uncertain_positive.
"""
_CITATION = "Smit et al., EMNLP 2020; Irvin et al., AAAI 2019"


class ClinicalEfficacy(evaluate.Metric):
    """Clinical efficacy."""

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

    def _compute(self, predictions, references, labeler="rules"):
        return clinical_efficacy(predictions, references, labeler=labeler)
