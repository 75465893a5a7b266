"""What the LLM is shown of the labels of a training study, the report that it then has to write, and its weights."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from otdrg_hf.labeling import LABELS, label_reports
from otdrg_hf.labeling.labels import NEGATIVE, POSITIVE, UNCERTAIN
from otdrg_hf.labeling.sections import split_sentences
from otdrg_hf.training.draws import StudyDraws

PREDICTED = -100
NO_FINDING = LABELS.index("No Finding")
MOST_CHANGES = 2
TAKEN_OUT = 0.4  # share of changes, of reports that state a finding
DENIED = 0.7  # share of findings taken out that are denied, and not only left out
# What contradicts one of these contradicts clear lungs.
OPACITY = LABELS.index("Lung Opacity")
OPACITIES = {
    LABELS.index(name) for name in ("Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Lung Opacity")
}


class ChangedReports:
    """
    Changes reports by sentences of others.

    Of some thousand reports few state any one label: an LLM memorises them before it learns to read labels. A
    sentence that states a finding, put into another report instead of what denies it, makes a report that no study
    has, which can only be written by reading the labels.

    Args:
        reports (`Sequence[str]`): Training reports, English.
    """

    def __init__(self, reports: Sequence[str]):
        counts = Counter(sentence for report in reports for sentence in sentences(report))
        self.sentences, self.counts = list(counts), np.array(list(counts.values()), dtype=float)
        states = np.asarray(label_reports(self.sentences))  # [sentences, 14]
        states[:, NO_FINDING] = 0
        self.stated = {
            sentence: (
                frozenset(np.flatnonzero((row == POSITIVE) | (row == UNCERTAIN))),
                frozenset(np.flatnonzero(row == NEGATIVE)),
            )
            for sentence, row in zip(self.sentences, states, strict=True)
        }
        present = (states == POSITIVE) | (states == UNCERTAIN)
        denied = (states == NEGATIVE) & ~present.any(1, keepdims=True)
        self.stating = {label: np.flatnonzero(present[:, label]) for label in np.flatnonzero(present.any(0))}
        self.denying = {label: np.flatnonzero(denied[:, label]) for label in np.flatnonzero(denied.any(0))}

    def change(self, report: str, generator: np.random.Generator) -> str:
        """A report with one or two findings put in or taken out; as it is, where nothing would be left of it."""
        changed = sentences(report)
        for _ in range(generator.integers(1, MOST_CHANGES + 1)):
            found = sorted({label for sentence in changed for label in self._stated(sentence)[0]})
            if found and generator.random() < TAKEN_OUT:
                self._take_out(changed, int(generator.choice(found)), generator)
            elif self.stating:
                self._put_in(changed, generator)
        return " ".join(f"{sentence.rstrip('.')}." for sentence in changed) or report

    def _stated(self, sentence: str) -> tuple[frozenset[int], frozenset[int]]:
        """Labels that a sentence states, and those that it denies."""
        return self.stated.get(sentence, (frozenset(), frozenset()))

    def _take_out(self, report: list[str], label: int, generator: np.random.Generator) -> None:
        positions = [at for at, sentence in enumerate(report) if label in self._stated(sentence)[0]]
        for at in reversed(positions):
            del report[at]
        if label in self.denying and generator.random() < DENIED:
            report.insert(positions[0], self._draw(self.denying[label], generator))

    def _put_in(self, report: list[str], generator: np.random.Generator) -> None:
        # Rare labels more often than they are met, to be learned at all.
        rates = np.sqrt([len(sentences) for sentences in self.stating.values()])
        label = generator.choice(list(self.stating), p=rates / rates.sum())
        finding = self.sentences[generator.choice(self.stating[label])]
        stated = self.stated[finding][0]
        contradicted = stated | {OPACITY} if stated & OPACITIES else stated
        positions = [
            at
            for at, (found, denied) in enumerate(map(self._stated, report))
            if denied & contradicted or found & stated
        ]
        at = positions[0] if positions else int(generator.integers(len(report) + 1))
        for position in reversed(positions):
            del report[position]
        report.insert(at, finding)

    def _draw(self, chosen: np.ndarray, generator: np.random.Generator) -> str:
        weights = self.counts[chosen]
        return self.sentences[generator.choice(chosen, p=weights / weights.sum())]


class Shown(NamedTuple):
    """
    Attributes:
        report (`str`): What the LLM has to write.
        labels (`np.ndarray` of shape `[m]`): State codes that it is shown, -100 where it is the predicted state.
        overridden (`np.ndarray` of shape `[m]`): Whether a label is shown as an override, without what is seen of it.
    """

    report: str
    labels: np.ndarray
    overridden: np.ndarray

    @classmethod
    def unchanged(cls, study: dict[str, Any], target: str) -> "Shown":
        """A study with its own labels and report, its column `target`."""
        own = np.asarray(study["disease_labels"])
        return cls(study[target], own, np.zeros(len(own), dtype=bool))


class ShownLabels(StudyDraws):
    """
    Draws whether a study shows its own labels, the predicted ones, or others with a report to match.

    Predicted labels are what is shown at test time: an LLM that has only seen true ones trusts wrong ones. Changed ones
    are overrides against the image, as of a user: an LLM that has never met any need not read them.

    Args:
        predicted_rate (`float`): Probability that a study shows its predicted labels.
        changed_rate (`float`): Probability that it shows changed ones.
        overridden_rate (`float`): Probability, of a study that shows its own labels, that one of them is an override.
        changed (`ChangedReports`, *optional*): Needed for `changed_rate`.
        seed (`int`): Of all draws.
    """

    def __init__(
        self,
        predicted_rate: float,
        changed_rate: float,
        overridden_rate: float,
        changed: ChangedReports | None = None,
        seed: int = 0,
    ):
        super().__init__(seed)
        self.predicted_rate, self.changed_rate, self.overridden_rate = predicted_rate, changed_rate, overridden_rate
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
        return Shown(report, own, (generator.random(len(own)) < self.overridden_rate) & (own >= 0))


def sentences(report: str) -> list[str]:
    """The sentences of a report, without the marks that end them."""
    return [report[start:end] for start, end in split_sentences(report)]


def finding_weights(completion: str, tokenizer, weight: float) -> torch.Tensor:
    """
    The weight of each token of a completion, `[T]`: `weight` in sentences that state a finding, 1 elsewhere.

    Most sentences of most reports say that all is well. To an LLM that learns from few reports, the words by which a
    report differs from the usual one are a few in a hundred.

    Args:
        completion (`str`): As of [`OTDRGProcessor.build_completion`].
        tokenizer ([`PreTrainedTokenizerFast`]): That the completion is encoded by, without special tokens added.
        weight (`float`): Of the tokens of a finding.
    """
    offsets = tokenizer(completion, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    weights = torch.ones(len(offsets))
    text = completion.removesuffix(tokenizer.eos_token)
    for start, end in split_sentences(text):
        if states_a_finding(text[start:end]):
            # The blank before a word belongs to its token.
            inside = [start <= last - 1 < end for _, last in offsets]
            weights[torch.tensor(inside)] = weight
    return weights


@lru_cache(maxsize=100_000)
def states_a_finding(sentence: str) -> bool:
    """Whether the labeler finds a disease or device in it, for certain or not."""
    states = np.delete(np.asarray(label_reports([sentence]))[0], NO_FINDING)
    return bool(np.isin(states, (POSITIVE, UNCERTAIN)).any())
