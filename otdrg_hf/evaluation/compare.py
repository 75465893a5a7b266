"""Scores files of predictions, compares the systems behind them and writes the results: `otdrg evaluate`."""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from otdrg_hf.evaluation.plots import plot_format, plot_label_f1
from otdrg_hf.evaluation.report_files import Studies, read_studies, read_vocabulary_reports
from otdrg_hf.evaluation.tables import CSV_COLUMNS, csv_rows, text_table
from otdrg_hf.evaluation.worst_cases import worst_cases_page
from otdrg_hf.files import atomic_path, write_text
from otdrg_hf.metrics.bootstrap import paired_bootstrap
from otdrg_hf.metrics.clinical import Labeler, resolve_labeler
from otdrg_hf.metrics.protocols import get_protocol
from otdrg_hf.metrics.radeval_adapter import check_radeval, radeval_figures, radeval_version
from otdrg_hf.metrics.report_card import DiseaseHeadCard, ReportCard, disease_head_card, make_report_card
from otdrg_hf.reporting.predictions import check_section, generation_settings


@dataclass(frozen=True)
class Evaluation:
    """
    Results of one or more systems on the same studies.

    Attributes:
        studies (`Studies`): ids, references, predictions and warnings.
        cards (`dict[str, ReportCard]`): by the name of the system.
        paired (`dict[str, dict]`): for every pair of systems "A - B", the tests of `paired_bootstrap` on all figures.
        heads (`dict[str, DiseaseHeadCard]`): of the systems whose files hold the labels that the model predicted.
    """

    studies: Studies
    cards: dict[str, ReportCard]
    paired: dict[str, dict]
    heads: dict[str, DiseaseHeadCard] = field(default_factory=dict)

    def text(self) -> str:
        """A readable table; warnings about the input come first."""
        warnings = "".join(f"warning: {warning}\n" for warning in self.studies.warnings)
        return warnings + text_table(self.cards, self.paired, self.heads)

    def to_dict(self) -> dict:
        """Figures, label rows and records of every system, paired tests and warnings, ready for JSON."""
        systems = {
            name: {"figures": card.figures, "labels": card.labels, "record": card.record}
            for name, card in self.cards.items()
        }
        for name, head in self.heads.items():
            systems[name]["disease_head"] = {"figures": head.figures, "labels": head.labels}
        return {"systems": systems, "paired": self.paired, "warnings": self.studies.warnings}

    def json(self) -> str:
        """`to_dict()` as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def write_json(self, path: str | os.PathLike) -> None:
        """Writes `json()`."""
        write_text(path, self.json() + "\n")

    def write_csv(self, path: str | os.PathLike) -> None:
        """Writes one row for each figure and for F1 of each label of every system."""
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, CSV_COLUMNS)
            writer.writeheader()
            writer.writerows(csv_rows(self.cards, self.heads))

    def write_plot(self, path: str | os.PathLike) -> None:
        """Draws F1 of each label with intervals; see `plot_label_f1`."""
        plot_label_f1(self.cards, path)

    def write_html(self, path: str | os.PathLike, limit: int = 50) -> None:
        """Writes the page of the worst cases; see `worst_cases_page`. It holds report texts."""
        write_text(path, worst_cases_page(self.studies, self.cards, limit))


def evaluate_files(
    prediction_files: Sequence[str | os.PathLike],
    references: str | os.PathLike | None = None,
    *,
    section: str | None = None,
    vocabulary: str | os.PathLike | None = None,
    labeler: str | Labeler = "rules",
    radeval: Sequence[str] = (),
    num_bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    **options,
) -> Evaluation:
    """
    Scores one or more files of predictions on the same studies.

    Args:
        prediction_files (`Sequence[str | os.PathLike]`): JSON Lines, one file for each system; see `read_studies`.
        references (`str` or `os.PathLike`, *optional*): JSON Lines with the references, where the files have none.
        section (`str`, *optional*): `"findings"`, `"impression"` or `"report"`, which is both.
        vocabulary (`str` or `os.PathLike`, *optional*): training reports for the protocol's `<unk>` mapping: JSON
            Lines or an R2Gen annotation file.
        labeler (`str` or `Callable`): `"rules"` or a function such as a `CheXbertLabeler`; a text is labelled
            once for all systems.
        radeval (`Sequence[str]`): scores of `radeval_figures` to add.
        num_bootstrap (`int`): samples for intervals and paired tests; 0 for neither.
        seed (`int`): of the bootstrap.
        confidence (`float`): coverage of the intervals.
        **options: `protocol` and `meteor`, as `make_report_card` takes them.

    Raises:
        ReportFileError: for files that cannot be used; every problem is named with its line.
        ValueError: for unknown options, or a vocabulary for a protocol that has none.
        ImportError: if RadEval is asked for and not installed.
    """
    check_scoring(section, options.get("protocol", "raw"), vocabulary, radeval)
    studies = read_studies(prediction_files, references, section)
    vocabulary_reports = None if vocabulary is None else read_vocabulary_reports(vocabulary)
    cards, heads = {}, {}
    settings = {"num_bootstrap": num_bootstrap, "seed": seed, "confidence": confidence}
    label = _label_once(labeler)
    for system, predictions in studies.predictions.items():
        card = make_report_card(
            predictions,
            studies.references,
            vocabulary_reports=vocabulary_reports,
            labeler=label,
            **settings,
            **options,
        )
        record = card.record | {"section": section or "texts as given"}
        if made := generation_settings(studies.files[system]):
            record["generation"] = made
        figures = card.figures
        if radeval:
            figures = figures | radeval_figures(
                predictions, studies.references, radeval, num_bootstrap, seed, confidence
            )
            record["versions"] = record["versions"] | {"radeval": radeval_version()}
        cards[system] = replace(card, figures=figures, record=record)
        if system in studies.predicted_labels:
            heads[system] = disease_head_card(studies.predicted_labels[system], card.reference_labels, **settings)
    paired = {}
    for first, second in combinations(cards if num_bootstrap else (), 2):
        pair = (cards[first].statistics, cards[second].statistics)
        paired[f"{first} - {second}"] = paired_bootstrap(*pair, **settings)
    return Evaluation(studies, cards, paired, heads)


def check_scoring(
    section: str | None, protocol: str, vocabulary: str | os.PathLike | None, radeval: Sequence[str] = ()
) -> None:
    """
    Checks how reports are to be scored before any is read, or generated.

    Raises:
        ValueError: for an unknown section, protocol or RadEval score, or a vocabulary for a protocol that has none.
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
