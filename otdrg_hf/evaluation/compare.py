"""Scores files of predictions, compares the systems behind them and writes the results: `otdrg evaluate`."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from otdrg_hf.data.schema import split_name
from otdrg_hf.evaluation.baselines import MAX_CANDIDATES, Baseline, TrainingReports, check_constant, make_baselines
from otdrg_hf.evaluation.plots import plot_format, plot_label_f1
from otdrg_hf.evaluation.report_files import (
    Studies,
    has_training_reports,
    read_studies,
    read_training_reports,
    read_vocabulary_reports,
)
from otdrg_hf.evaluation.tables import CSV_COLUMNS, csv_rows, evaluation_text
from otdrg_hf.evaluation.worst_cases import worst_cases_page
from otdrg_hf.files import atomic_path, write_text
from otdrg_hf.metrics.bootstrap import ResampledFigures
from otdrg_hf.metrics.clinical import Labeler, resolve_labeler
from otdrg_hf.metrics.diversity import sentences_of
from otdrg_hf.metrics.protocols import check_masks_policy, get_protocol, remove_masks
from otdrg_hf.metrics.radeval_adapter import check_radeval, radeval_figures, radeval_version
from otdrg_hf.metrics.report_card import (
    DiseaseHeadCard,
    ReportCard,
    disease_head_card,
    make_report_card,
    meteor_of_systems,
)
from otdrg_hf.reporting.predictions import check_section, generation_settings

LOWER_IS_BETTER = ("hallucinations_per_report", "omissions_per_report")


@dataclass(frozen=True)
class Evaluation:
    """
    Results of one or more systems on the same studies.

    Attributes:
        studies (`Studies`): ids, references, predictions, warnings and what was left out.
        cards (`dict[str, ReportCard]`): by the name of the system.
        paired (`dict[str, dict]`): for every pair of systems "A - B", the tests of `paired_bootstrap` on all figures.
        heads (`dict[str, DiseaseHeadCard]`): of the systems whose files hold the labels that the model predicted.
        baselines (`dict[str, Baseline]`): reports that need no model, by name.
        baseline_cards (`dict[str, ReportCard]`): their figures.
        against_constant (`dict[str, dict[str, dict]]`): for every system and figure, what it has over the constant
            that is best in that figure: its name as `constant`, `difference`, `low`, `high`, `p_value`, and `beats`,
            whether the whole interval is on the better side (without a bootstrap, whether the difference is).
    """

    studies: Studies
    cards: dict[str, ReportCard]
    paired: dict[str, dict]
    heads: dict[str, DiseaseHeadCard] = field(default_factory=dict)
    baselines: dict[str, Baseline] = field(default_factory=dict)
    baseline_cards: dict[str, ReportCard] = field(default_factory=dict)
    against_constant: dict[str, dict[str, dict]] = field(default_factory=dict)

    def text(self) -> str:
        """Tables to read and to paste; systems that collapsed and warnings about the input come first."""
        return evaluation_text(self)

    def to_dict(self) -> dict:
        """Figures, label rows and records of systems and baselines, tests, warnings and what was left out, for JSON."""
        systems = {name: _content(card) for name, card in self.cards.items()}
        for name, tests in self.against_constant.items():
            systems[name]["against_constant"] = tests
        for name, head in self.heads.items():
            systems[name]["disease_head"] = {"figures": head.figures, "labels": head.labels}
        baselines = {
            name: {"origin": self.baselines[name].origin, "peeks": self.baselines[name].peeks, **_content(card)}
            for name, card in self.baseline_cards.items()
        }
        return {
            "systems": systems,
            "baselines": baselines,
            "paired": self.paired,
            "warnings": self.studies.warnings,
            "left_out": self.studies.left_out,
        }

    def json(self) -> str:
        """`to_dict()` as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def write_json(self, path: str | os.PathLike) -> None:
        """Writes `json()`."""
        write_text(path, self.json() + "\n")

    def write_csv(self, path: str | os.PathLike) -> None:
        """Writes one row for each figure and for F1 of each label of every system, or of the baselines alone."""
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, CSV_COLUMNS)
            writer.writeheader()
            writer.writerows(csv_rows(self.cards or self.baseline_cards, self.heads))

    def write_plot(self, path: str | os.PathLike) -> None:
        """Draws F1 of each label with intervals; see `plot_label_f1`."""
        plot_label_f1(self.cards or self.baseline_cards, path)

    def write_html(self, path: str | os.PathLike, limit: int = 50) -> None:
        """Writes the page of the worst cases; see `worst_cases_page`. It holds report texts."""
        write_text(path, worst_cases_page(self.studies, self.cards, limit))

    def write_baselines(self, folder: str | os.PathLike) -> None:
        """Writes each baseline as a file of predictions, `NAME.jsonl`. They hold report texts."""
        Path(folder).mkdir(exist_ok=True)
        for name, baseline in self.baselines.items():
            rows = zip(self.studies.ids, baseline.reports, self.studies.references, strict=True)
            lines = [{"id": key, "generated_text": text, "reference": texts} for key, text, texts in rows]
            write_text(Path(folder, f"{name}.jsonl"), "".join(json.dumps(line) + "\n" for line in lines))


def _content(card: ReportCard) -> dict:
    return {"figures": card.figures, "labels": card.labels, "diversity": card.diversity, "record": card.record}


def evaluate_files(
    prediction_files: Sequence[str | os.PathLike],
    references: str | os.PathLike | None = None,
    *,
    section: str | None = None,
    published: Sequence[str | os.PathLike] = (),
    split: str = "test",
    vocabulary: str | os.PathLike | None = None,
    training: str | os.PathLike | TrainingReports | None = None,
    baselines: bool = True,
    constant_by: str = "bleu_4",
    constant_candidates: int = MAX_CANDIDATES,
    neighbours: Mapping[str, str] | None = None,
    labeler: str | Labeler = "rules",
    radeval: Sequence[str] = (),
    num_bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    protocol: str = "raw",
    masks: str = "keep",
    meteor: bool = True,
) -> Evaluation:
    """
    Scores one or more files of predictions on the same studies, and the baselines that they have to beat.

    Args:
        prediction_files (`Sequence[str | os.PathLike]`): one file for each system; see `read_studies`. None scores the
            baselines alone.
        references (`str` or `os.PathLike`, *optional*): the references, where the files have none.
        section (`str`, *optional*): `"findings"`, `"impression"` or `"report"`, which is both.
        published (`Sequence[str | os.PathLike]`): reports that others published, CSV or JSON by study id; all systems
            are scored on the studies that they have.
        split (`str`): which split is scored: read from references that are an R2Gen annotation, and kept out of the
            reports that constants are chosen from.
        vocabulary (`str` or `os.PathLike`, *optional*): training reports for the protocol's `<unk>` mapping: JSON
            Lines or an R2Gen annotation file.
        training (`str`, `os.PathLike` or `TrainingReports`, *optional*): reports to choose the constants from; see
            `read_training_reports`. Defaults to the other splits of an annotation that is `references` or `vocabulary`.
        baselines (`bool`): score baselines, and the systems against them.
        constant_by, constant_candidates, neighbours: `by`, `max_candidates` and `neighbours` of `make_baselines`.
        labeler (`str` or `Callable`): `"rules"` or a function such as a `CheXbertLabeler`; a text is labelled
            once for all systems.
        radeval (`Sequence[str]`): scores of `radeval_figures` to add.
        num_bootstrap (`int`): samples for intervals and paired tests; 0 for neither.
        seed (`int`): of the bootstrap and of shuffled references.
        confidence (`float`): coverage of the intervals.
        protocol, masks, meteor: as `make_report_card` takes them.

    Raises:
        ReportFileError: for files that cannot be used; every problem is named with its line.
        ValueError: for unknown options, or a vocabulary for a protocol that has none.
        ImportError: if RadEval is asked for and not installed.
    """
    check_scoring(section, protocol, vocabulary, radeval, masks, constant_by, constant_candidates)
    if not (prediction_files or published or baselines):
        raise ValueError("nothing to score: give files of predictions, or do not leave the baselines out")
    studies = read_studies(prediction_files, references, section, published, split)
    vocabulary_reports = None if vocabulary is None else read_vocabulary_reports(vocabulary)
    if not isinstance(training, TrainingReports):
        training = _find_training_reports(training, vocabulary, references, section)
    if training is not None:
        training = training.without(split_name(split))
    bootstrap = {"num_bootstrap": num_bootstrap, "seed": seed, "confidence": confidence}
    texts = {"protocol": protocol, "masks": masks, "vocabulary_reports": vocabulary_reports}
    seen = None if training is None else sentences_of(training.train)
    scoring = {**texts, "labeler": _label_once(labeler), "training_sentences": seen, **bootstrap}
    made = {}
    if baselines:
        made = make_baselines(
            studies.ids,
            *_without_masks([texts[0] for texts in studies.references], training, masks),
            by=constant_by,
            max_candidates=constant_candidates,
            protocol=protocol,
            vocabulary_reports=vocabulary_reports,
            neighbours=neighbours,
            seed=seed,
        )
    of_meteor = _meteor(studies, made, meteor, texts)
    cards, heads = _score_systems(studies, section, of_meteor, scoring, bootstrap, radeval)
    baseline_cards = {
        name: make_report_card(each.reports, studies.references, meteor=of_meteor["baseline", name], **scoring)
        for name, each in made.items()
    }
    systems, of_baselines = (
        {name: card.resampled for name, card in group.items()} for group in (cards, baseline_cards)
    )
    paired = {
        f"{first} - {second}": {
            name: systems[first].difference(systems[second], name, confidence) for name in systems[first].observed
        }
        for first, second in combinations(cards if num_bootstrap else (), 2)
    }
    constants = {name: figures for name, figures in of_baselines.items() if name.startswith("constant")}
    against = {name: _against(figures, constants, confidence) for name, figures in systems.items() if constants}
    return Evaluation(studies, cards, paired, heads, made, baseline_cards, against)


def _meteor(
    studies: Studies, baselines: dict[str, Baseline], wanted: bool, texts: dict
) -> dict[tuple[str, str], bool | np.ndarray]:
    """What `make_report_card` takes for METEOR of each system and baseline: Java is started once for all of them."""
    reports = {("system", name): predictions for name, predictions in studies.predictions.items()}
    reports |= {("baseline", name): baseline.reports for name, baseline in baselines.items()}
    found = None
    if wanted and len(reports) > 1:
        found = meteor_of_systems(list(reports.values()), studies.references, **texts)
    return dict(zip(reports, found or [wanted] * len(reports), strict=True))


def _score_systems(
    studies: Studies, section: str | None, meteor: dict, scoring: dict, bootstrap: dict, radeval: Sequence[str]
) -> tuple[dict[str, ReportCard], dict[str, DiseaseHeadCard]]:
    cards, heads = {}, {}
    for system, predictions in studies.predictions.items():
        card = make_report_card(predictions, studies.references, meteor=meteor["system", system], **scoring)
        record = card.record | {"section": section or "texts as given"}
        if made := generation_settings(studies.files[system]):
            record["generation"] = made
        figures = card.figures
        if radeval:
            figures = figures | radeval_figures(predictions, studies.references, radeval, **bootstrap)
            record["versions"] = record["versions"] | {"radeval": radeval_version()}
        cards[system] = replace(card, figures=figures, record=record)
        if system in studies.predicted_labels:
            heads[system] = disease_head_card(studies.predicted_labels[system], card.reference_labels, **bootstrap)
    return cards, heads


def _find_training_reports(
    training: str | os.PathLike | None,
    vocabulary: str | os.PathLike | None,
    references: str | os.PathLike | None,
    section: str | None,
) -> TrainingReports | None:
    """The training reports that are given, or those in a file that is given for something else."""
    if training is not None:
        return read_training_reports(training, section)
    if vocabulary is not None:
        return read_training_reports(vocabulary)
    if references is not None and has_training_reports(references):
        return read_training_reports(references)
    return None


def _without_masks(
    references: list[str], training: TrainingReports | None, masks: str
) -> tuple[list[str], TrainingReports | None]:
    """What the baselines are made of, as the policy of masks has it."""
    if masks != "remove":
        return references, training
    if training is not None:
        training = TrainingReports(
            list(map(remove_masks, training.train)), list(map(remove_masks, training.validation))
        )
    return list(map(remove_masks, references)), training


def _against(system: ResampledFigures, constants: dict[str, ResampledFigures], confidence: float) -> dict[str, dict]:
    """The difference of every figure to the constant that is best in it."""
    tests = {}
    for name in system.observed:
        sign = -1 if name.startswith(LOWER_IS_BETTER) else 1
        defined = {key: sign * float(other.observed[name]) for key, other in constants.items()}
        defined = {key: value for key, value in defined.items() if not np.isnan(value)}
        if not defined or np.isnan(system.observed[name]):
            continue
        best = max(defined, key=defined.__getitem__)
        test = system.difference(constants[best], name, confidence)
        bound = test["low"] if sign > 0 else test["high"]
        bound = test["difference"] if bound is None else bound
        tests[name] = {"constant": best, **test, "beats": bound is not None and sign * bound > 0}
    return tests


def check_scoring(
    section: str | None = None,
    protocol: str = "raw",
    vocabulary: str | os.PathLike | None = None,
    radeval: Sequence[str] = (),
    masks: str = "keep",
    constant_by: str = "bleu_4",
    constant_candidates: int = MAX_CANDIDATES,
) -> None:
    """
    Checks how reports are to be scored before any is read, or generated.

    Raises:
        ValueError: for an unknown section, protocol, RadEval score, policy of masks or score to choose a constant by,
            or a vocabulary for a protocol that has none.
        FileNotFoundError: if there is no file of the vocabulary.
        ImportError: if RadEval is asked for and not installed.
    """
    if section is not None:
        check_section(section)
    if vocabulary is not None and get_protocol(protocol).min_count is None:
        raise ValueError(f"a vocabulary is for the r2gen protocols; the protocol {protocol} maps no words")
    if vocabulary is not None and not Path(vocabulary).is_file():
        raise FileNotFoundError(f"there is no vocabulary file {Path(vocabulary).name}")
    get_protocol(protocol)
    check_masks_policy(masks)
    check_constant(constant_by, constant_candidates)
    check_radeval(radeval)


def check_output_paths(
    *paths: str | os.PathLike | None,
    plot: str | os.PathLike | None = None,
    made_later: str | os.PathLike | None = None,
) -> None:
    """
    Checks where results are to go before anything is scored; the folder `made_later` need not be there yet.

    Raises:
        FileNotFoundError: if the folder of an output does not exist.
        ValueError: if `plot` ends in none of .png, .pdf and .svg.
    """
    later = None if made_later is None else Path(made_later).absolute()
    for path in (*paths, plot):
        if path is None or Path(path).absolute().parent == later:
            continue
        if not Path(path).absolute().parent.is_dir():
            raise FileNotFoundError(f"the folder for {Path(path).name} does not exist; make it first")
    if plot is not None:
        plot_format(plot)


def _label_once(labeler: str | Labeler) -> Labeler:
    """The labeler under its own name, which labels texts that it has seen before from memory."""
    name, label = resolve_labeler(labeler)
    known: dict[str, np.ndarray] = {}

    def label_unseen(reports: Sequence[str]) -> np.ndarray:
        unseen = list(dict.fromkeys(report for report in reports if report not in known))
        if unseen:
            known.update(zip(unseen, label(unseen), strict=True))
        return np.stack([known[report] for report in reports])

    label_unseen.__name__ = name
    if version := getattr(label, "version", None):
        label_unseen.version = version
    return label_unseen
