"""Training reports with a finding put in or taken out, for an LLM that has to follow labels set against the image."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from otdrg_hf.labeling import LABELS, label_reports
from otdrg_hf.labeling.labels import NEGATIVE, POSITIVE, UNCERTAIN
from otdrg_hf.labeling.sections import split_sentences

MOST_CHANGES = 2
TAKEN_OUT = 0.4  # share of changes, of reports that state a finding
DENIED = 0.7  # share of findings taken out that are denied, and not only left out
NO_FINDING = LABELS.index("No Finding")
# What contradicts one of these contradicts clear lungs.
OPACITY = LABELS.index("Lung Opacity")
OPACITIES = {
    LABELS.index(name) for name in ("Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis", "Lung Opacity")
}


class ChangedReports:
    """
    Changes reports by sentences of others.

    Of some thousand reports few state any one label: an LLM learns them by heart before it learns to read labels. A
    sentence that states a finding, put into another report in the place of what denies it, makes a report that no study
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
        """A report with one or two findings put in or taken out."""
        changed = sentences(report)
        for _ in range(generator.integers(1, MOST_CHANGES + 1)):
            found = sorted({label for sentence in changed for label in self._stated(sentence)[0]})
            if found and generator.random() < TAKEN_OUT:
                self._take_out(changed, int(generator.choice(found)), generator)
            elif self.stating:
                self._put_in(changed, generator)
        return " ".join(f"{sentence.rstrip('.')}." for sentence in changed)

    def _stated(self, sentence: str) -> tuple[frozenset[int], frozenset[int]]:
        """Labels that a sentence states, and those that it denies."""
        return self.stated.get(sentence, (frozenset(), frozenset()))

    def _take_out(self, report: list[str], label: int, generator: np.random.Generator) -> None:
        places = [at for at, sentence in enumerate(report) if label in self._stated(sentence)[0]]
        for at in reversed(places):
            del report[at]
        if label in self.denying and generator.random() < DENIED:
            report.insert(places[0], self._draw(self.denying[label], generator))

    def _put_in(self, report: list[str], generator: np.random.Generator) -> None:
        # Rare labels more often than they are met, to be learned at all.
        rates = np.sqrt([len(sentences) for sentences in self.stating.values()])
        label = generator.choice(list(self.stating), p=rates / rates.sum())
        finding = self.sentences[generator.choice(self.stating[label])]
        stated = self.stated[finding][0]
        contradicted = stated | {OPACITY} if stated & OPACITIES else stated
        places = [
            at
            for at, (found, denied) in enumerate(map(self._stated, report))
            if denied & contradicted or found & stated
        ]
        at = places[0] if places else int(generator.integers(len(report) + 1))
        for place in reversed(places):
            del report[place]
        report.insert(at, finding)

    def _draw(self, places: np.ndarray, generator: np.random.Generator) -> str:
        weights = self.counts[places]
        return self.sentences[generator.choice(places, p=weights / weights.sum())]


def sentences(report: str) -> list[str]:
    """The sentences of a report, without the marks that end them."""
    return [report[start:end] for start, end in split_sentences(report)]
