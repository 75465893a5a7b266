"""How much the reports of a system differ from each other, and whether they say more than one text would."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from otdrg_hf.labeling.sections import split_sentences
from otdrg_hf.metrics.pairs import as_pairs

COLLAPSED_SHARE = 0.5  # of the studies that get the same text
_LEAST_REPORTS = 10  # fewer say nothing about a collapse
_WORDS = re.compile(r"\w+")


def diversity(
    predictions: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    training_sentences: frozenset[str] | None = None,
) -> dict[str, int | float | bool | None]:
    """
    Counts that show a system which writes the same report for every study, whatever its scores.

    Args:
        predictions (`Sequence[str]`): N reports.
        references (`Sequence[str]` or `Sequence[Sequence[str]]`): reference reports; of several, the first is read.
        training_sentences (`frozenset[str]`, *optional*): what [`sentences_of`] gives of the training reports.

    Returns:
        `dict`: `distinct_reports`; `commonest_share`, the share of the studies that get the commonest text;
        `mean_words`, the mean length; each of them for the references as `reference_...`;
        `training_sentence_share`, the share of sentences that occur in a training report (`None` without them); and
        `collapsed`, whether more than half of the studies (at least 10) get one and the same text.
    """
    predictions, references = as_pairs(predictions, references)
    written, referred = _spread(predictions), _spread([texts[0] for texts in references])
    share = None
    if training_sentences is not None:
        sentences = [sentence for report in predictions for sentence in _sentences(report)]
        share = sum(sentence in training_sentences for sentence in sentences) / max(1, len(sentences))
    return {
        **written,
        **{f"reference_{name}": value for name, value in referred.items()},
        "training_sentence_share": share,
        "collapsed": len(predictions) >= _LEAST_REPORTS and written["commonest_share"] > COLLAPSED_SHARE,
    }


def sentences_of(reports: Iterable[str]) -> frozenset[str]:
    """The sentences of reports, without case and punctuation."""
    return frozenset(sentence for report in dict.fromkeys(reports) for sentence in _sentences(report))


def _spread(reports: list[str]) -> dict[str, int | float]:
    counts = Counter(" ".join(report.split()) for report in reports)
    return {
        "distinct_reports": len(counts),
        "commonest_share": max(counts.values()) / len(reports),
        "mean_words": sum(len(report.split()) for report in reports) / len(reports),
    }


def _sentences(report: str) -> list[str]:
    parts = (" ".join(_WORDS.findall(report[start:end].lower())) for start, end in split_sentences(report))
    return [part for part in parts if part]
