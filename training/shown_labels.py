"""What the LLM is shown of the labels of a training study, and what it then has to write."""

from typing import Any, NamedTuple

import numpy as np

from otdrg_hf.labeling import label_reports
from otdrg_hf.training.changed_reports import ChangedReports
from otdrg_hf.training.draws import StudyDraws

PREDICTED = -100


class Shown(NamedTuple):
    """
    Attributes:
        report (`str`): What the LLM has to write.
        labels (`np.ndarray` of shape `[m]`): State codes that it is shown, -100 where it is the predicted state.
        told (`np.ndarray` of shape `[m]`): Whether a label is shown as one that was set by hand, without the image.
    """

    report: str
    labels: np.ndarray
    told: np.ndarray


class ShownLabels(StudyDraws):
    """
    Draws whether a study shows its own labels, the predicted ones, or others with a report to match.

    Predicted labels are what is shown at test time: an LLM that has only seen true ones trusts wrong ones. Changed ones
    are told against the image, as by a user: an LLM that has never met them need not read them. What is drawn follows
    from the study and the epoch, so that a resumed run, or one of more processes, draws the same.

    Args:
        predicted_rate (`float`): Probability that a study shows its predicted labels.
        changed_rate (`float`): Probability that it shows changed ones.
        told_rate (`float`): Probability, of a study that shows its own labels, that one of them is told.
        changed (`ChangedReports`, *optional*): Needed for `changed_rate`.
        seed (`int`): Another draws otherwise.
    """

    def __init__(
        self,
        predicted_rate: float,
        changed_rate: float,
        told_rate: float,
        changed: ChangedReports | None = None,
        seed: int = 0,
    ):
        super().__init__(seed)
        self.predicted_rate, self.changed_rate, self.told_rate = predicted_rate, changed_rate, told_rate
        self.changed = changed

    def draw(self, study: dict[str, Any], target: str) -> Shown:
        """Of a training study, whose report is its column `target`."""
        generator = self.generator(study)
        report, own = study[target], np.asarray(study["disease_labels"])
        drawn = generator.random()
        if drawn < self.predicted_rate:
            return Shown(report, np.full_like(own, PREDICTED), np.zeros(len(own), dtype=bool))
        if drawn < self.predicted_rate + self.changed_rate:
            report = self.changed.change(report, generator)
            labels = np.asarray(label_reports([report]))[0].astype(own.dtype)
            return Shown(report, labels, labels != own)
        return Shown(report, own, (generator.random(len(own)) < self.told_rate) & (own >= 0))
