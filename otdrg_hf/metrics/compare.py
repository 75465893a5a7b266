"""Scores files of predictions, compares the systems behind them and writes the results: `otdrg evaluate`."""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from .atomic import write_atomically
from .bootstrap import paired_bootstrap
from .clinical import Labeler, resolve_labeler
from .label_plot import plot_format, plot_label_f1
from .report_card import ReportCard, make_report_card
from .report_files import Studies, read_studies, read_vocabulary_reports
from .tables import CSV_COLUMNS, csv_rows, text_table
from .worst_cases import worst_cases_page


@dataclass(frozen=True)
class Evaluation:
    """
    Results of one or more systems on the same studies.

    Attributes:
        studies (`Studies`): ids, references, predictions and warnings.
        cards (`dict[str, ReportCard]`): by the name of the system.
        paired (`dict[str, dict]`): for every pair of systems "A - B", the tests of `paired_bootstrap` on all figures.
    """

    studies: Studies
    cards: dict[str, ReportCard]
    paired: dict[str, dict]

    def text(self) -> str:
        """A readable table; warnings about the input come first."""
        warnings = "".join(f"warning: {warning}\n" for warning in self.studies.warnings)
        return warnings + text_table(self.cards, self.paired)

    def to_dict(self) -> dict:
        """Figures, label rows and records of every system, paired tests and warnings, ready for JSON."""
        systems = {
            name: {"figures": card.figures, "labels": card.labels, "record": card.record}
            for name, card in self.cards.items()
        }
        return {"systems": systems, "paired": self.paired, "warnings": self.studies.warnings}

    def write_json(self, path: str | os.PathLike) -> None:
        """Writes `to_dict()` as JSON."""
        with write_atomically(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def write_csv(self, path: str | os.PathLike) -> None:
        """Writes one row for each figure and for F1 of each label of every system."""
        with write_atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, CSV_COLUMNS)
            writer.writeheader()
            writer.writerows(csv_rows(self.cards))

    def write_plot(self, path: str | os.PathLike) -> None:
        """Draws F1 of each label with intervals; see `plot_label_f1`."""
        plot_label_f1(self.cards, path)

    def write_html(self, path: str | os.PathLike, limit: int = 50) -> None:
        """Writes the page of the worst cases; see `worst_cases_page`. It holds report texts."""
        with write_atomically(path) as temporary:
            temporary.write_text(worst_cases_page(self.studies, self.cards, limit), encoding="utf-8")


def evaluate_files(
    prediction_files: Sequence[str | os.PathLike],
    references: str | os.PathLike | None = None,
    *,
    section: str | None = None,
    vocabulary: str | os.PathLike | None = None,
    labeler: str | Labeler = "rules",
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
        section (`str`, *optional*): `"findings"`, `"impression"` or `"both"`.
        vocabulary (`str` or `os.PathLike`, *optional*): training reports for the protocol's `<unk>` mapping: JSON
            Lines or an R2Gen annotation file.
        labeler (`str` or `Callable`): `"rules"` or a function such as a `CheXbertLabeler`; a text is labelled
            once for all systems.
        num_bootstrap (`int`): samples for intervals and paired tests; 0 for neither.
        seed (`int`): of the bootstrap.
        confidence (`float`): coverage of the intervals.
        **options: `protocol` and `meteor`, as `make_report_card` takes them.

    Raises:
        ReportFileError: for files that cannot be used; every problem is named with its line.
        ValueError: for unknown options.
    """
    studies = read_studies(prediction_files, references, section)
    vocabulary_reports = None if vocabulary is None else read_vocabulary_reports(vocabulary)
    cards = {}
    label = _label_once(labeler)
    for system, predictions in studies.predictions.items():
        card = make_report_card(
            predictions,
            studies.references,
            vocabulary_reports=vocabulary_reports,
            labeler=label,
            num_bootstrap=num_bootstrap,
            seed=seed,
            confidence=confidence,
            **options,
        )
        cards[system] = replace(card, record=card.record | {"section": section or "texts as given"})
    paired = {}
    for first, second in combinations(cards if num_bootstrap else (), 2):
        pair = (cards[first].statistics, cards[second].statistics)
        settings = {"num_bootstrap": num_bootstrap, "seed": seed, "confidence": confidence}
        paired[f"{first} - {second}"] = paired_bootstrap(*pair, **settings)
    return Evaluation(studies, cards, paired)


def check_output_paths(*paths: str | os.PathLike | None, plot: str | os.PathLike | None = None) -> None:
    """
    Checks where results are to go before anything is scored.

    Raises:
        FileNotFoundError: if the folder of an output does not exist.
        ValueError: if `plot` ends in none of .png, .pdf and .svg.
    """
    for path in (*paths, plot):
        if path is not None and not Path(path).absolute().parent.is_dir():
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
    return label_unseen
