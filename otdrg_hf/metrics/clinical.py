"""Clinical efficacy: precision, recall and F1 of disease labels in predicted against reference reports."""

from collections.abc import Callable, Sequence

import numpy as np

from otdrg_hf.labeling import LABELS, LABELS_5, label_reports
from otdrg_hf.labeling.labels import POSITIVE, UNCERTAIN
from otdrg_hf.metrics.bootstrap import Statistics
from otdrg_hf.metrics.pairs import as_pairs

Labeler = Callable[[Sequence[str]], np.ndarray]

UNCERTAIN_POSITIVE = "_uncertain_positive"
FINDINGS = [index for index, label in enumerate(LABELS) if label != "No Finding"]
LEAST_POSITIVES = 10  # references in which a label is positive, for the averages named `macro_min10`
_SETS = {
    "ce14": list(range(len(LABELS))),
    "ce13": FINDINGS,
    "ce5": [LABELS.index(label) for label in LABELS_5],
}
_MEASURES = ("precision", "recall", "f1")


def resolve_labeler(labeler: str | Labeler) -> tuple[str, Labeler]:
    """The name for the record and the function of a labeler; `ValueError` for an unknown name."""
    if callable(labeler):
        return getattr(labeler, "__name__", type(labeler).__name__), labeler
    if labeler == "rules":
        return "rules", label_reports
    raise ValueError(
        f"unknown labeler {labeler!r}; give 'rules' or a function from reports to states, such as CheXbertLabeler(...)"
    )


def check_states(states: np.ndarray | Sequence[Sequence[int]], num_reports: int, name: str) -> np.ndarray:
    """`states` as an int8 array `[N, 14]`; `ValueError` if its shape or a value other than 0 to 3 is wrong."""
    states = np.asarray(states)
    if states.shape != (num_reports, len(LABELS)):
        raise ValueError(
            f"{name} has shape {states.shape}; it must be [{num_reports}, {len(LABELS)}], one row a report"
        )
    if not np.isin(states, (0, 1, 2, 3)).all():
        raise ValueError(f"{name} holds a value other than 0 blank, 1 positive, 2 negative, 3 uncertain")
    return states.astype(np.int8)


def is_positive(states: np.ndarray, uncertain_positive: bool = False) -> np.ndarray:
    """States `[N, 14]` to booleans: positive only, or positive or uncertain."""
    return np.isin(states, (POSITIVE, UNCERTAIN)) if uncertain_positive else states == POSITIVE


def finding_errors(
    predicted: np.ndarray, referred: np.ndarray, uncertain_positive: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """
    Numbers of hallucinated findings (positive in the prediction only) and of omitted ones (positive in the reference
    only) in each report, both `[N]`, from states `[N, 14]`. No Finding is not counted.
    """
    found, true = (is_positive(states, uncertain_positive)[:, FINDINGS] for states in (predicted, referred))
    return (found & ~true).sum(axis=1), (~found & true).sum(axis=1)


def clinical_statistics(predicted: np.ndarray, referred: np.ndarray, uncertain_positive: bool = False) -> Statistics:
    """
    Sufficient statistics of clinical efficacy under one mapping of uncertain.

    The figures are `ce14_*`, `ce13_*` (without No Finding) and `ce5_*` with `micro`, `macro` and `example` averages of
    precision, recall and F1 (0/0 counts as 0 everywhere), and the mean numbers of hallucinated and omitted findings in
    a report, which leave No Finding out. With `uncertain_positive` all names end in `_uncertain_positive`.

    Args:
        predicted, referred (`np.ndarray` of shape `[N, 14]`, int): 0 blank, 1 positive, 2 negative, 3 uncertain.
        uncertain_positive (`bool`): count uncertain as positive, too, as f1chexbert's "rrg" mode does.

    Returns:
        `Statistics`: 14 columns each of true positives, false positives and false negatives, 3 + 3 + 3 of
        example-based scores, 2 of counts of false and missed findings.
    """
    found, true = is_positive(predicted, uncertain_positive), is_positive(referred, uncertain_positive)
    counts = np.stack([found & true, found & ~true, ~found & true]).astype(np.float64)  # [3, N, 14]
    examples = [np.stack(count_scores(*counts[..., chosen].sum(axis=-1)), axis=1) for chosen in _SETS.values()]
    errors = np.stack(finding_errors(predicted, referred, uncertain_positive), axis=1)  # [N, 2]
    suffix = UNCERTAIN_POSITIVE if uncertain_positive else ""
    return Statistics(
        np.concatenate([*counts, *examples, errors], axis=1),
        lambda totals, num: {name + suffix: value for name, value in _figures(totals, num).items()},
    )


def frequent_label_statistics(
    predicted: np.ndarray, referred: np.ndarray, uncertain_positive: bool = False
) -> Statistics:
    """
    Sufficient statistics of the macro averages over labels that are positive in at least 10 references:
    `ce14_macro_min10_*` and `ce13_macro_min10_*`, NaN where there is no such label.

    A label with two positives moves an average of 14 by 7 points when one of them is found, so macro averages of small
    test sets are noise without this bound. The same labels count in every bootstrap sample.

    Args:
        predicted, referred, uncertain_positive: As of [`clinical_statistics`].
    """
    support = is_positive(referred, uncertain_positive).sum(axis=0)
    suffix = UNCERTAIN_POSITIVE if uncertain_positive else ""
    sets = {name: [index for index in _SETS[name] if support[index] >= LEAST_POSITIVES] for name in ("ce14", "ce13")}

    def figures(totals: np.ndarray, num: int) -> dict[str, np.ndarray]:
        scores = label_scores(totals)
        undefined = np.full(totals.shape[:-1], np.nan)
        return {
            f"{name}_macro_min10_{measure}{suffix}": scores[measure][..., chosen].mean(-1) if chosen else undefined
            for name, chosen in sets.items()
            for measure in _MEASURES
        }

    counts = clinical_statistics(predicted, referred, uncertain_positive).columns[:, : 3 * len(LABELS)]
    return Statistics(counts, figures)


def _figures(totals: np.ndarray, num: int) -> dict[str, np.ndarray]:
    counts = _label_counts(totals)
    width = 3 * len(LABELS)
    named = {}
    for position, (prefix, chosen) in enumerate(_SETS.items()):
        micro = count_scores(*(part[..., chosen].sum(axis=-1) for part in counts))
        macro = [score.mean(axis=-1) for score in count_scores(*(part[..., chosen] for part in counts))]
        example = [totals[..., width + 3 * position + column] / num for column in range(3)]
        for average, scores in (("micro", micro), ("macro", macro), ("example", example)):
            named.update({f"{prefix}_{average}_{name}": s for name, s in zip(_MEASURES, scores, strict=True)})
    named["hallucinations_per_report"] = totals[..., -2] / num
    named["omissions_per_report"] = totals[..., -1] / num
    return named


def _label_counts(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives, false positives and false negatives, each `[..., 14]`."""
    width = len(LABELS)
    return totals[..., :width], totals[..., width : 2 * width], totals[..., 2 * width : 3 * width]


def count_scores(hits: np.ndarray, false: np.ndarray, missed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of counts of any shape, 0 where nothing is counted."""
    return _ratio(hits, hits + false), _ratio(hits, hits + missed), _ratio(2 * hits, 2 * hits + false + missed)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.asarray(part), np.asarray(whole)
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole != 0)


def label_scores(totals: np.ndarray) -> dict[str, np.ndarray]:
    """Counts, precision, recall and F1 of each label, all `[..., 14]`, from sums of `clinical_statistics` columns."""
    hits, false, missed = _label_counts(totals)
    scores = dict(zip(_MEASURES, count_scores(hits, false, missed), strict=True))
    return {"true_positives": hits, "false_positives": false, "false_negatives": missed, **scores}


def clinical_efficacy(
    predictions: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    labeler: str | Labeler = "rules",
) -> dict[str, float]:
    """
    All clinical efficacy figures of a set under both mappings of uncertain; see `clinical_statistics`.

    Args:
        predictions (`Sequence[str]`): N reports.
        references (`Sequence[str]` or `Sequence[Sequence[str]]`): reference reports; of several, the first is read.
        labeler (`str` or `Callable`): `"rules"`, or a function from N reports to states `[N, 14]`, such as a
            `CheXbertLabeler`.
    """
    predictions, references = as_pairs(predictions, references)
    _, label = resolve_labeler(labeler)
    predicted = check_states(label(predictions), len(predictions), "the labels of the predictions")
    referred = check_states(label([texts[0] for texts in references]), len(predictions), "the labels of the references")
    figures = {}
    for uncertain_positive in (False, True):
        part = clinical_statistics(predicted, referred, uncertain_positive)
        named = part.figures(part.totals(), part.num_reports)
        figures.update({name: float(value) for name, value in named.items()})
    return figures
