"""The report card of a set of predicted reports, or of predicted labels: every metric, and the parts behind it."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, resources

import numpy as np

from otdrg_hf.labeling import LABELS
from otdrg_hf.metrics.bleu import bleu_from_totals, bleu_statistics
from otdrg_hf.metrics.bootstrap import (
    ResampledFigures,
    Statistics,
    check_bootstrap,
    interval,
    join_statistics,
    mean_statistics,
    resampled_figures,
)
from otdrg_hf.metrics.cider import cider_scores
from otdrg_hf.metrics.clinical import (
    LEAST_POSITIVES,
    Labeler,
    check_states,
    clinical_statistics,
    frequent_label_statistics,
    is_positive,
    label_scores,
    resolve_labeler,
)
from otdrg_hf.metrics.diversity import diversity
from otdrg_hf.metrics.laterality import finding_sides, laterality_statistics
from otdrg_hf.metrics.meteor import MeteorUnavailableError, meteor_from_totals, meteor_statistics
from otdrg_hf.metrics.ngrams import pair_ngrams
from otdrg_hf.metrics.pairs import as_pairs
from otdrg_hf.metrics.protocols import apply_masks_policy, apply_protocol
from otdrg_hf.metrics.rouge import rouge_l_scores


@dataclass(frozen=True)
class ReportCard:
    """
    What `make_report_card` gives for N reports.

    Attributes:
        figures (`dict[str, float | None]`): named figures, with `NAME_low` and `NAME_high` after a bootstrap.
        labels (`list[dict]`): one row for each of the 14 labels and both mappings of uncertain: `label`,
            `uncertain_positive`, `support` (positive references), counts, precision, recall, f1 and, after a bootstrap,
            `f1_low` and `f1_high`.
        record (`dict`): protocol, versions, labeler, counts, and why a figure was not computed.
        prediction_labels, reference_labels (`np.ndarray` of shape `[N, 14]`, int8): states.
        rouge_l, cider (`np.ndarray` of shape `[N]`): scores of each report under the protocol.
        statistics (`Statistics`): sufficient statistics of all figures, as `paired_bootstrap` takes them.
        diversity (`dict`): How much the reports differ from each other; see [`~metrics.diversity.diversity`].
        resampled (`ResampledFigures`): The figures on the bootstrap samples, for differences to others.
    """

    figures: dict[str, float | None]
    labels: list[dict]
    record: dict
    prediction_labels: np.ndarray
    reference_labels: np.ndarray
    rouge_l: np.ndarray
    cider: np.ndarray
    statistics: Statistics
    diversity: dict[str, int | float | bool | None]
    resampled: ResampledFigures


@dataclass(frozen=True)
class DiseaseHeadCard:
    """
    What `disease_head_card` gives for N studies.

    Attributes:
        figures (`dict[str, float | None]`): `ce14_micro_f1` and so on under both mappings of uncertain, as of reports,
            with `NAME_low` and `NAME_high` after a bootstrap.
        labels (`list[dict]`): a row for each label and mapping, as in a `ReportCard`.
        statistics (`Statistics`): as `paired_bootstrap` takes them.
    """

    figures: dict[str, float | None]
    labels: list[dict]
    statistics: Statistics


def evaluate_reports(
    predictions: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    *,
    protocol: str = "raw",
    masks: str = "keep",
    vocabulary_reports: Sequence[str] | None = None,
    labeler: str | Labeler = "rules",
    prediction_labels: np.ndarray | None = None,
    reference_labels: np.ndarray | None = None,
    meteor: bool = True,
    num_bootstrap: int = 0,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, float | None]:
    """
    Scores predicted reports against reference reports: NLG and clinical efficacy, each figure named exactly.

    Args:
        predictions (`Sequence[str]`): N reports.
        references (`Sequence[str]` or `Sequence[Sequence[str]]`): one or more reference reports for each.
        protocol, masks, vocabulary_reports, labeler, prediction_labels, reference_labels, meteor, num_bootstrap, seed,
            confidence: as `make_report_card` takes them; `meteor=False` saves the seconds that Java takes to start.

    Returns:
        `dict[str, float | None]`: `bleu_1` to `bleu_4`, `rouge_l`, `cider` (0 to 10), `meteor` (`None` without Java),
        `ce14_micro_f1`, `ce13_micro_f1` (without No Finding), `ce5_macro_precision`, `ce14_example_recall` and so on,
        `ce13_macro_min10_f1` (over labels with at least 10 positive references, `None` without any),
        `hallucinations_per_report`, `omissions_per_report`, `laterality_agreement` (`None` where no side can be
        compared). Figures that count
        uncertain as positive end in `_uncertain_positive`. With `num_bootstrap`, also `NAME_low` and `NAME_high`.

    Example:

    ```python
    >>> from otdrg_hf.metrics import evaluate_reports
    >>> figures = evaluate_reports(["No effusion."], ["No pleural effusion."], meteor=False)
    >>> round(figures["bleu_1"], 3)
    0.607
    ```
    """
    card = make_report_card(
        predictions,
        references,
        protocol=protocol,
        masks=masks,
        vocabulary_reports=vocabulary_reports,
        labeler=labeler,
        prediction_labels=prediction_labels,
        reference_labels=reference_labels,
        meteor=meteor,
        num_bootstrap=num_bootstrap,
        seed=seed,
        confidence=confidence,
    )
    return card.figures


def make_report_card(
    predictions: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    *,
    protocol: str = "raw",
    masks: str = "keep",
    vocabulary_reports: Sequence[str] | None = None,
    labeler: str | Labeler = "rules",
    prediction_labels: np.ndarray | None = None,
    reference_labels: np.ndarray | None = None,
    meteor: bool | np.ndarray = True,
    num_bootstrap: int = 0,
    seed: int = 0,
    confidence: float = 0.95,
    training_sentences: frozenset[str] | None = None,
) -> ReportCard:
    """
    Scores predicted reports and keeps what the figures were computed from.

    NLG figures are computed on the texts that the protocol prepares. Clinical efficacy and laterality read the texts
    as given, since cutting a reference would hide findings; with several references they read the first. Intervals
    are percentile bootstrap intervals from sufficient statistics; CIDEr keeps the document frequencies of the full
    set in every sample.

    Args:
        predictions (`Sequence[str]`): N reports.
        references (`Sequence[str]` or `Sequence[Sequence[str]]`): one or more reference reports for each.
        protocol (`str`): `"raw"`, `"r2gen-iu"` or `"r2gen-mimic"`.
        masks (`str`): `"keep"`, or `"remove"` to remove de-identification masks from predictions and references before
            anything reads them; see [`~metrics.protocols.apply_masks_policy`].
        vocabulary_reports (`Sequence[str]`, *optional*): training reports for the protocol's `<unk>` mapping.
        labeler (`str` or `Callable`): `"rules"`, or a function from N reports to states `[N, 14]`, such as a
            `CheXbertLabeler`.
        prediction_labels, reference_labels (`np.ndarray` of shape `[N, 14]`, int, *optional*): states that are
            known already; the labeler is not asked for them.
        meteor (`bool` or `np.ndarray`): compute METEOR where Java is found, which takes seconds to start, or take it
            from these statistics `[N, 23]`, of [`meteor_of_systems`].
        num_bootstrap (`int`): number of bootstrap samples, 0 for no intervals.
        seed (`int`): of the bootstrap.
        confidence (`float`): coverage of the intervals.
        training_sentences (`frozenset[str]`, *optional*): As of [`~metrics.diversity.diversity`].

    Raises:
        ValueError: for lengths that differ, no reports, an unknown protocol, policy of masks or labeler, or label
            arrays of a wrong shape or with unknown states.
        TypeError: for texts that are not strings.
    """
    check_bootstrap(num_bootstrap, confidence)
    predictions, references = as_pairs(predictions, references)
    num, digest = len(predictions), _digest(references)
    predictions, references, masks_record = apply_masks_policy(masks, predictions, references)
    first_references = [texts[0] for texts in references]
    prepared, prepared_references, protocol_record = apply_protocol(
        protocol, predictions, references, vocabulary_reports
    )
    name, label = resolve_labeler(labeler)
    predicted, stated = (
        check_states(label(texts) if given is None else given, num, argument)
        for texts, given, argument in (
            (predictions, prediction_labels, "prediction_labels"),
            (first_references, reference_labels, "reference_labels"),
        )
    )
    ngrams = pair_ngrams(prepared, prepared_references)
    rouge, cider = rouge_l_scores(prepared, prepared_references), cider_scores(ngrams)
    clinical = {flag: clinical_statistics(predicted, stated, uncertain_positive=flag) for flag in (False, True)}
    meteor_part, not_computed = _meteor_part(prepared, prepared_references, meteor)
    statistics = join_statistics(
        [
            Statistics(bleu_statistics(ngrams), _bleu_figures),
            mean_statistics("rouge_l", rouge),
            mean_statistics("cider", cider),
            meteor_part,
            *clinical.values(),
            *(frequent_label_statistics(predicted, stated, uncertain_positive=flag) for flag in (False, True)),
            laterality_statistics(finding_sides(predictions), finding_sides(first_references)),
        ]
    )
    resampled = resampled_figures(statistics, num_bootstrap, seed)
    figures = resampled.with_intervals(confidence)
    if figures["laterality_agreement"] is None:
        not_computed["laterality_agreement"] = "not computed: no label has a side in both reports of a pair"
    record = {
        "protocol": protocol_record,
        "masks": masks_record,
        "clinical": {
            "labeler": name,
            "prediction_labels": "given" if prediction_labels is not None else name,
            "reference_labels": "given" if reference_labels is not None else name,
            "text": "as given, before the protocol; the first reference where there are several",
            "macro_min10_labels": [
                label
                for label, number in zip(LABELS, is_positive(stated).sum(0), strict=True)
                if number >= LEAST_POSITIVES
            ],
        },
        "counts": _counts(predictions, references),
        "references_sha256": digest,
        "bootstrap": {"samples": num_bootstrap, "seed": seed, "confidence": confidence} if num_bootstrap else None,
        "not_computed": not_computed,
        "versions": _versions(name, label),
    }
    labels = [
        row for flag, part in clinical.items() for row in label_table(part, flag, num_bootstrap, seed, confidence)
    ]
    spread = diversity(predictions, references, training_sentences)
    return ReportCard(figures, labels, record, predicted, stated, rouge, cider, statistics, spread, resampled)


def disease_head_card(
    predicted: np.ndarray,
    referred: np.ndarray,
    *,
    num_bootstrap: int = 0,
    seed: int = 0,
    confidence: float = 0.95,
) -> DiseaseHeadCard:
    """
    Scores predicted label states against those of the references.

    Args:
        predicted, referred (`np.ndarray` of shape `[N, 14]`, int): 0 blank, 1 positive, 2 negative, 3 uncertain.
        num_bootstrap (`int`): number of bootstrap samples, 0 for no intervals.
        seed (`int`): of the bootstrap.
        confidence (`float`): coverage of the intervals.

    Raises:
        ValueError: for arrays of a wrong shape or with unknown states.
    """
    predicted = check_states(predicted, len(referred), "the predicted labels")
    clinical = {flag: clinical_statistics(predicted, referred, uncertain_positive=flag) for flag in (False, True)}
    statistics = join_statistics(list(clinical.values()))
    figures = resampled_figures(statistics, num_bootstrap, seed).with_intervals(confidence)
    labels = [
        row for flag, part in clinical.items() for row in label_table(part, flag, num_bootstrap, seed, confidence)
    ]
    return DiseaseHeadCard(figures, labels, statistics)


def label_table(
    clinical: Statistics, uncertain_positive: bool, num_bootstrap: int = 0, seed: int = 0, confidence: float = 0.95
) -> list[dict]:
    """One row for each label from `clinical_statistics`: counts, precision, recall, f1 and its interval."""
    scores = label_scores(clinical.totals())
    samples = label_scores(clinical.resampled_totals(num_bootstrap, seed))["f1"] if num_bootstrap else None
    rows = []
    for index, label in enumerate(LABELS):
        row: dict = {"label": label, "uncertain_positive": uncertain_positive}
        for name, values in scores.items():
            row[name] = int(values[index]) if name.endswith("tives") else float(values[index])
        row["support"] = row["true_positives"] + row["false_negatives"]
        if samples is not None:
            row["f1_low"], row["f1_high"] = interval(samples[:, index], confidence)
        rows.append(row)
    return rows


def _bleu_figures(totals: np.ndarray, num_reports: int) -> dict[str, np.ndarray]:
    scores = bleu_from_totals(totals)
    return {f"bleu_{order}": scores[..., order - 1] for order in range(1, 5)}


def meteor_of_systems(
    systems: Sequence[Sequence[str]],
    references: Sequence[str] | Sequence[Sequence[str]],
    *,
    protocol: str = "raw",
    masks: str = "keep",
    vocabulary_reports: Sequence[str] | None = None,
) -> list[np.ndarray] | None:
    """
    METEOR's statistics of several systems on the same studies by one Java process, for [`make_report_card`].

    Args:
        systems (`Sequence[Sequence[str]]`): N predictions of each.
        references, protocol, masks, vocabulary_reports: As of [`make_report_card`].

    Returns:
        `list[np.ndarray]`, *optional*: `[N, 23]` of each system; `None` where METEOR cannot be computed.
    """
    predictions, repeated = as_pairs(
        [text for system in systems for text in system], [texts for _ in systems for texts in references]
    )
    predictions, repeated, _ = apply_masks_policy(masks, predictions, repeated)
    try:
        columns = meteor_statistics(*apply_protocol(protocol, predictions, repeated, vocabulary_reports)[:2])
    except MeteorUnavailableError:
        return None
    return np.split(columns, len(systems))


def _meteor_part(
    predictions: list[str], references: list[list[str]], wanted: bool | np.ndarray
) -> tuple[Statistics, dict[str, str]]:
    """Statistics of METEOR, and the reason by its name where it is not computed and the figure is NaN."""
    try:
        if isinstance(wanted, np.ndarray):
            columns = wanted
        elif wanted:
            columns = meteor_statistics(predictions, references)
        else:
            raise MeteorUnavailableError("not computed: not asked for")
    except MeteorUnavailableError as error:
        return mean_statistics("meteor", np.full(len(predictions), np.nan)), {"meteor": str(error)}
    return Statistics(columns, lambda totals, num: {"meteor": meteor_from_totals(totals)}), {}


def _counts(predictions: list[str], references: list[list[str]]) -> dict[str, int]:
    return {
        "reports": len(predictions),
        "references": sum(map(len, references)),
        "empty_predictions": sum(not text.strip() for text in predictions),
        "empty_references": sum(not text.strip() for texts in references for text in texts),
    }


def _digest(references: list[list[str]]) -> str:
    """A fingerprint that two report cards share if they had the same references in the same order."""
    return hashlib.sha256(repr(references).encode("utf-8", "surrogatepass")).hexdigest()


def _versions(labeler: str, label: Labeler) -> dict[str, str]:
    try:
        version = metadata.version("otdrg-hf")
    except metadata.PackageNotFoundError:
        version = "not installed"
    versions = {"otdrg_hf": version, "python": platform.python_version(), "numpy": np.__version__}
    if labeler == "rules":
        # The rules change between releases, too; the digest tells which ones gave a figure.
        rules = resources.files("otdrg_hf.labeling").joinpath("rules.yaml").read_bytes()
        versions["labeler"] = f"rules.yaml sha256 {hashlib.sha256(rules).hexdigest()[:16]}"
    else:
        versions["labeler"] = getattr(label, "version", f"{labeler}, version not known")
    return versions
