"""Several reports of a study: first those that state its labels, of these the greedy one, then the consensus."""

import re
from collections.abc import Sequence

import numpy as np

from otdrg_hf.labeling import LABELS, STATES, label_reports
from otdrg_hf.metrics.bleu import bleu_statistics
from otdrg_hf.metrics.ngrams import pair_ngrams
from otdrg_hf.reporting.review import comparable_findings

# On the validation split of IU X-Ray: samples of a colder model are short, and resemble each other more than the truth.
TEMPERATURE, SEED = 1.0, 0
_SMOOTHING = 0.1
_WORDS = re.compile(r"\w+|\.")
_UNSTATED = STATES.index("blank"), STATES.index("negative")


def sampling_options(candidates: int) -> dict:
    """Arguments of `generate` for so many sampled reports of each study."""
    return {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "top_p": 1.0, "num_return_sequences": candidates}


def rank_candidates(texts: Sequence[str], findings: Sequence[dict], greedy: str | None = None) -> list[str]:
    """
    Orders the candidate reports of one study, best first.

    First come those that contradict the fewest of the states that they were written from, as the rules of
    [`~labeling.label_reports`] read them. Among these, the greedy report comes first, whose wording is nearest to the
    references', then the others in the order of minimum Bayes risk decoding (Kumar and Byrne, 2004): a text that shares
    its wording with the other samples, by sentence BLEU, is where the model's probability lies.

    Args:
        texts (`Sequence[str]`): K reports.
        findings (`Sequence[dict]`): `label` and `state` of each label, as the pipeline answers them.
        greedy (`str`, *optional*): The one of them that was not sampled.

    Returns:
        `list[str]`: The same K reports.
    """
    sampled = [text != greedy for text in texts]
    order = np.lexsort((-consensus(texts), sampled, contradictions(texts, findings)))
    return [texts[index] for index in order]


def contradictions(texts: Sequence[str], findings: Sequence[dict]) -> np.ndarray:
    """Of how many labels each report states another of positive, uncertain and absent than `findings`, `[K]` int64."""
    compared = comparable_findings(findings)
    columns = [LABELS.index(finding["label"]) for finding in compared]
    wanted = np.array([STATES.index(finding["state"]) for finding in compared], dtype=np.int64)
    written = label_reports(list(texts))[:, columns].astype(np.int64)  # [K, labels]
    return (_without_blank(written) != _without_blank(wanted)).sum(axis=1)


def consensus(texts: Sequence[str]) -> np.ndarray:
    """The mean smoothed sentence BLEU-4 of each report against the others, `[K]` float64; 1 for a single one."""
    count = len(texts)
    if count < 2:
        return np.ones(count)
    words = [" ".join(_WORDS.findall(text.lower())) for text in texts]
    first, second = np.nonzero(~np.eye(count, dtype=bool))
    pairs = pair_ngrams([words[index] for index in first], [[words[index]] for index in second])
    rows = bleu_statistics(pairs)  # [K (K - 1), 10]
    precisions = (rows[:, :4] + _SMOOTHING) / (rows[:, 4:8] + _SMOOTHING)
    penalty = np.minimum(0.0, 1 - rows[:, 9] / np.maximum(rows[:, 8], 1))
    return np.exp(np.log(precisions).mean(axis=1) + penalty).reshape(count, count - 1).mean(axis=1)


def _without_blank(states: np.ndarray) -> np.ndarray:
    """Blank and negative as one, absent."""
    return np.where(np.isin(states, _UNSTATED), _UNSTATED[0], states)
