"""Reports without a model, that any system has to beat: constant, shuffled and nearest-neighbour."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from otdrg_hf.labeling import label_reports
from otdrg_hf.labeling.labels import POSITIVE
from otdrg_hf.metrics.bleu import bleu_from_totals
from otdrg_hf.metrics.clinical import FINDINGS
from otdrg_hf.metrics.ngrams import MAX_ORDER
from otdrg_hf.metrics.protocols import apply_protocol

BASELINES = ("constant", "shuffled", "nearest")
SCORES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "ce13_micro_f1", "ce14_micro_f1")
# One sentence can win an overlap score and another one a clinical score: a system has to beat the better of them.
CLINICAL_CONSTANTS = {"constant_ce14": "ce14_micro_f1", "constant_ce13": "ce13_micro_f1"}
MAX_CANDIDATES = 5000
_MOST_REFERENCES = 5000  # that a constant is chosen on


@dataclass(frozen=True)
class TrainingReports:
    """
    Reports that a constant may be chosen from and on, none of them of a test study.

    Attributes:
        train, validation (`list[str]`): Their texts; either may be empty.
    """

    train: list[str]
    validation: list[str]

    def without(self, split: str | None) -> "TrainingReports | None":
        """Without the reports of the split that is scored; `None` where nothing is left."""
        train, validation = [] if split == "train" else self.train, [] if split == "validation" else self.validation
        return TrainingReports(train, validation) if train or validation else None

    def candidates(self, limit: int) -> list[str]:
        """The first distinct texts, training reports before validation reports."""
        texts = dict.fromkeys(text for text in [*self.train, *self.validation] if text.strip())
        return list(texts)[:limit]

    def references(self) -> tuple[str, list[str]]:
        """The name of the split that constants are chosen on and its reports: validation, or else training."""
        name, texts = ("validation", self.validation) if self.validation else ("training", self.train)
        return name, texts[:_MOST_REFERENCES]


@dataclass(frozen=True)
class Baseline:
    """
    Attributes:
        reports (`list[str]`): A report of each study.
        origin (`str`): How they were chosen, for readers.
        peeks (`bool`): Whether the references of the test studies were used to choose.
    """

    reports: list[str]
    origin: str
    peeks: bool = False


def make_baselines(
    ids: Sequence[str],
    references: Sequence[str],
    training: TrainingReports | None = None,
    *,
    by: str = "bleu_4",
    max_candidates: int = MAX_CANDIDATES,
    protocol: str = "raw",
    vocabulary_reports: Sequence[str] | None = None,
    neighbours: Mapping[str, str] | None = None,
    seed: int = 0,
) -> dict[str, Baseline]:
    """
    The baselines of a set of studies.

    Args:
        ids (`Sequence[str]`), references (`Sequence[str]`): Of N studies.
        training (`TrainingReports`, *optional*): What the constants are chosen from. Without it they are chosen among
            the references themselves, which peeks.
        by (`str`): One of `SCORES`, by which `"constant"` is chosen; `"constant_ce14"` and `"constant_ce13"` are chosen
            by their own score.
        max_candidates (`int`): Constants are chosen among so many texts, the first ones.
        protocol, vocabulary_reports: As of `make_report_card`, for BLEU.
        neighbours (`Mapping[str, str]`, *optional*): By id, the report of the most similar training study.
        seed (`int`): Of the shuffled references.

    Returns:
        `dict[str, Baseline]`: `"constant"`, `"constant_ce14"`, `"constant_ce13"`; `"shuffled"` where there are two
        studies; `"nearest"` where neighbours are given.
    """
    check_constant(by, max_candidates)
    if training is not None and not training.candidates(1):
        raise ValueError("the training reports are all empty; give others, or none")
    where, chosen_on = training.references() if training else ("test", list(references))
    candidates = training.candidates(max_candidates) if training else list(dict.fromkeys(references))
    kind = "training and validation texts" if training else "references themselves"
    baselines = {}
    for name, score in {"constant": by, **CLINICAL_CONSTANTS}.items():
        text = best_constant(candidates, chosen_on, score, protocol, vocabulary_reports)
        origin = f"of {len(candidates)} {kind} the best by {score} on {len(chosen_on)} {where} reports"
        baselines[name] = Baseline([text] * len(ids), origin, peeks=training is None)
    if len(ids) > 1:
        origin = f"the references, each given to another study (seed {seed})"
        baselines["shuffled"] = Baseline(shuffled(references, seed), origin, peeks=True)
    if neighbours is not None:
        origin = "the report of the training study with the most similar image features"
        baselines["nearest"] = Baseline([neighbours[key] for key in ids], origin)
    return baselines


def check_constant(by: str, max_candidates: int) -> None:
    """Raises `ValueError` for a score that cannot choose a constant, or no candidates."""
    if by not in SCORES:
        raise ValueError(f"a constant cannot be chosen by {by!r}; give one of {', '.join(SCORES)}")
    if max_candidates < 1:
        raise ValueError(f"a constant cannot be chosen among {max_candidates} texts; give at least 1")


def best_constant(
    candidates: Sequence[str],
    references: Sequence[str],
    by: str,
    protocol: str = "raw",
    vocabulary_reports: Sequence[str] | None = None,
) -> str:
    """
    The text that scores best as the report of every study.

    Args:
        candidates (`Sequence[str]`): Texts to choose from; of equally good ones the best by BLEU-4, then the first.
        references (`Sequence[str]`): Of the validation studies: a choice on the test studies would be unfair.
        by (`str`): One of `SCORES`; those of labels take the labels of the rules.
        protocol (`str`), vocabulary_reports (`Sequence[str]`, *optional*): As in `evaluate_reports`, for BLEU.
    """
    candidates = list(dict.fromkeys(candidates))
    overlap = _constant_bleu(candidates, references, protocol, vocabulary_reports)  # [K, 4]
    scores = _ce_scores(candidates, references, by) if by.startswith("ce") else overlap[:, int(by[-1]) - 1]
    order = np.lexsort((np.arange(len(candidates)), -overlap[:, MAX_ORDER - 1], -scores))
    return candidates[int(order[0])]


def _ce_scores(candidates: Sequence[str], references: Sequence[str], by: str) -> np.ndarray:
    """Micro-F1 of each candidate, `[K]`."""
    stated, true = (np.asarray(label_reports(list(texts))) == POSITIVE for texts in (candidates, references))
    if by == "ce13_micro_f1":
        stated, true = stated[:, FINDINGS], true[:, FINDINGS]
    hits = stated @ true.sum(0)  # [K]
    return 2 * hits / np.maximum(len(true) * stated.sum(1) + true.sum(), 1)


def _constant_bleu(
    candidates: Sequence[str], references: Sequence[str], protocol: str, vocabulary_reports: Sequence[str] | None
) -> np.ndarray:
    """
    BLEU-1 to BLEU-4 of each candidate as the report of every study, `[K, 4]`.

    Over R references a count c of an n-gram has min(c, count) matches each, which is the number of references that have
    it at least once, plus those that have it at least twice, and so on up to c: one table of these numbers serves all
    candidates.
    """
    texts, _, _ = apply_protocol(protocol, candidates, [], vocabulary_reports)
    _, prepared, _ = apply_protocol(protocol, [], [[text] for text in references], vocabulary_reports)
    at_least: Counter[tuple[tuple[str, ...], int]] = Counter()
    total_words = 0
    for (text,) in prepared:
        total_words += len(text.split())
        for counts in _ngrams(text.split()):
            at_least.update((ngram, times) for ngram, count in counts.items() for times in range(1, count + 1))
    rows = []
    for text in texts:
        words = text.split()
        matches = [
            sum(at_least[ngram, times] for ngram, count in counts.items() for times in range(1, count + 1))
            for counts in _ngrams(words)
        ]
        guesses = [len(prepared) * max(0, len(words) - order + 1) for order in range(1, MAX_ORDER + 1)]
        rows.append([*matches, *guesses, len(prepared) * len(words), total_words])
    return bleu_from_totals(np.array(rows, dtype=np.float64))


def _ngrams(words: list[str]) -> list[Counter[tuple[str, ...]]]:
    return [
        Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))
        for order in range(1, MAX_ORDER + 1)
    ]


def shuffled(reports: Sequence[str], seed: int) -> list[str]:
    """To each study the report of another one, each report once."""
    order = np.random.default_rng(seed).permutation(len(reports))
    given = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    return [reports[given[index]] for index in range(len(reports))]


def nearest(features: np.ndarray, others: np.ndarray, reports: Sequence[str]) -> list[str]:
    """
    To each study the report of the most similar other study.

    Args:
        features (`np.ndarray` of shape `[N, c]`): Of the studies.
        others (`np.ndarray` of shape `[M, c]`), reports (`Sequence[str]`): Of those whose reports are given.
    """
    mean = others.mean(0)  # shared by all radiographs, and larger than what tells them apart
    centred = [each - mean for each in (features, others)]
    unit, of_others = (each / np.maximum(np.linalg.norm(each, axis=-1, keepdims=True), 1e-12) for each in centred)
    return [reports[index] for index in (unit @ of_others.T).argmax(-1)]
