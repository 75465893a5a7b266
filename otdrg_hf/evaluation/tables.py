"""An evaluation as text to read and to paste, and as CSV rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from otdrg_hf.metrics.clinical import UNCERTAIN_POSITIVE
from otdrg_hf.metrics.report_card import DiseaseHeadCard, ReportCard

if TYPE_CHECKING:
    from otdrg_hf.evaluation.compare import Evaluation

CSV_COLUMNS = ("system", "figure", "label", "uncertain", "value", "low", "high")
NOT_BEATEN = "\N{DAGGER}"
_BOUNDS = ("_low", "_high")
# What papers report, in three digits; all other figures are in the tables below.
_OVERLAP = {
    **{f"bleu_{order}": f"BLEU-{order}" for order in range(1, 5)},
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
}
_SPREAD = {"distinct_reports": "distinct reports", "mean_words": "words"}
_CLINICAL = {
    "ce13_micro_f1": "CE13 micro",
    "ce13_macro_f1": "CE13 macro",
    "ce13_macro_min10_f1": "CE13 macro, n >= 10",
    "ce14_micro_f1": "CE14 micro",
    "ce14_macro_f1": "CE14 macro",
    "ce14_example_f1": "CE14 example",
    "ce5_micro_f1": "CE5 micro",
}


def evaluation_text(evaluation: Evaluation) -> str:
    """
    An evaluation as text: systems that collapsed and warnings; how it was made; Markdown tables of systems and
    baselines with the figures that papers report; then all figures of each system with the difference to the constant,
    F1 of each label, the labels that models predicted from the images (uncertain not positive; JSON and CSV hold the
    other mapping, too), and the paired tests between systems.
    """
    shown = evaluation.cards or evaluation.baseline_cards
    lines = [*collapsed_lines(evaluation.cards), *(f"warning: {warning}" for warning in evaluation.studies.warnings)]
    lines += [*_provenance(evaluation, next(iter(shown.values()))), "", *_summary(evaluation)]
    if not evaluation.cards:
        return "\n".join(lines) + "\n"
    lines += _figures(evaluation)
    labels = [row["label"] for row in next(iter(shown.values())).labels if not row["uncertain_positive"]]
    rows = [[label, *(_label_cell(card, label) for card in evaluation.cards.values())] for label in labels]
    lines += ["", *_columns(["F1 of a label (uncertain not positive), n positive", *evaluation.cards], rows)]
    if heads := evaluation.heads:
        names = [name for name in figure_names(next(iter(heads.values()))) if not name.endswith(UNCERTAIN_POSITIVE)]
        rows = [[name, *(_cell(head, name) for head in heads.values())] for name in names]
        rows += [[label, *(_label_cell(head, label) for head in heads.values())] for label in labels]
        lines += ["", *_columns(["labels predicted from the images", *heads], rows)]
    for pair, tests in evaluation.paired.items():
        rows = [[name, *_test_cells(test)] for name, test in tests.items() if test["difference"] is not None]
        lines += ["", *_columns([pair, "difference", "interval", "p"], rows)]
    return "\n".join(lines) + "\n"


def collapsed_lines(cards: dict[str, ReportCard]) -> list[str]:
    """A line for each system that gives most studies one and the same report."""
    return [
        f"COLLAPSED: {name} gives {card.diversity['commonest_share']:.0%} of the studies one and the same report "
        f"({card.diversity['distinct_reports']} distinct; of the references "
        f"{card.diversity['reference_distinct_reports']})"
        for name, card in cards.items()
        if card.diversity["collapsed"]
    ]


def _provenance(evaluation: Evaluation, first: ReportCard) -> list[str]:
    """How the figures were made."""
    record, masks = first.record, first.record["masks"]
    lines = [f"protocol {record['protocol']['name']}, {record['counts']['reports']} reports, labels by "]
    lines[0] += record["clinical"]["labeler"]
    lines += [
        f"{name}: {_generation(card.record['generation'])}"
        for name, card in evaluation.cards.items()
        if "generation" in card.record
    ]
    if bootstrap := record["bootstrap"]:
        lines.append(f"[{bootstrap['confidence']:.0%} intervals of {bootstrap['samples']} bootstrap samples]")
    if "vocabulary" in record["protocol"]:
        lines.append(f"vocabulary: {record['protocol']['vocabulary']}")
    if number := masks["references_with_masks"]:
        done = "kept" if masks["policy"] == "keep" else "removed from predictions and references"
        lines.append(f"masks of de-identification (XXXX, ___): {done}; {number} references have them")
    return lines


def _summary(evaluation: Evaluation) -> list[str]:
    """Markdown tables of systems and baselines, overlap and clinical efficacy (F1), and notes that explain them."""
    cards = {**evaluation.cards, **{f"*{name}*": card for name, card in evaluation.baseline_cards.items()}}
    lines = []
    for title, columns, spread in (("System", _OVERLAP, _SPREAD), ("F1 of labels", _CLINICAL, {})):
        names = [name for name in columns if any(card.figures[name] is not None for card in cards.values())]
        rows = []
        for name, card in cards.items():
            tests = evaluation.against_constant.get(name, {})
            scores = [_summary_cell(card.figures[key], tests.get(key)) for key in names]
            rows.append([name, *scores, *(_spread_cell(card.diversity[key]) for key in spread)])
        if spread:
            of_references = next(iter(cards.values())).diversity
            cells = [_spread_cell(of_references[f"reference_{key}"]) for key in spread]
            rows.append(["*references*", *[""] * len(names), *cells])
        header = [title, *(columns[name] for name in names), *spread.values()]
        lines += [*markdown_table(header, rows), ""]
    return lines + _notes(evaluation)


def _notes(evaluation: Evaluation) -> list[str]:
    lines = []
    if evaluation.against_constant:
        lines.append(f"{NOT_BEATEN} does not beat the best constant: {_beaten_means(evaluation)}")
    for name, baseline in evaluation.baselines.items():
        warning = " (PEEKS: no training reports were given)" if baseline.peeks and name.startswith("constant") else ""
        lines.append(f"{name}: {baseline.origin}{warning}")
    for name, card in evaluation.cards.items():
        share = card.diversity["training_sentence_share"]
        if share is not None:
            lines.append(f"{name}: {share:.0%} of its sentences are in the training reports")
    return lines


def _beaten_means(evaluation: Evaluation) -> str:
    bootstrap = next(iter(evaluation.cards.values())).record["bootstrap"]
    if not bootstrap:
        return "the difference is not on the better side"
    return f"the {bootstrap['confidence']:.0%} interval of the paired difference reaches 0 or is on the wrong side"


def _summary_cell(value: float | None, test: dict | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (NOT_BEATEN if test is not None and not test["beats"] else "")


def _spread_cell(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def _figures(evaluation: Evaluation) -> list[str]:
    """All figures, a column for each system and one for its difference to the constant; a table for each mapping."""
    cards, against = evaluation.cards, evaluation.against_constant
    first = next(iter(cards.values()))
    names = [name for name in figure_names(first) if any(card.figures[name] is not None for card in cards.values())]
    plain = [name for name in names if not name.endswith(UNCERTAIN_POSITIVE)]
    other = [name for name in names if name.endswith(UNCERTAIN_POSITIVE)]
    lines = []
    for title, group in (("uncertain not positive", plain), ("uncertain positive", other)):
        header, rows = [title], [[name.removesuffix(UNCERTAIN_POSITIVE)] for name in group]
        for system, card in cards.items():
            header.append(system)
            for row, name in zip(rows, group, strict=True):
                row.append(_cell(card, name))
            if system in against:
                header.append("- constant")
                for row, name in zip(rows, group, strict=True):
                    row.append(_against_cell(against[system].get(name)))
        lines += ["", *_columns(header, rows)]
    return lines + _not_computed(cards)


def _not_computed(cards: dict[str, ReportCard]) -> list[str]:
    """Why figures are missing, and of which systems, unless it is all of them."""
    systems: dict[tuple[str, str], list[str]] = {}
    for system, card in cards.items():
        for name, reason in card.record["not_computed"].items():
            systems.setdefault((name, reason), []).append(system)
    return [
        f"{name}: {reason}" + (f" ({', '.join(of)})" if len(of) < len(cards) else "")
        for (name, reason), of in systems.items()
    ]


def _against_cell(test: dict | None) -> str:
    if test is None or test["difference"] is None:
        return ""
    bounds = "" if test["low"] is None else f" [{test['low']:+.4f}, {test['high']:+.4f}]"
    return f"{test['difference']:+.4f}{bounds}{'' if test['beats'] else NOT_BEATEN}"


def figure_names(card: ReportCard | DiseaseHeadCard) -> list[str]:
    """Names of the figures themselves, without those of their bounds."""
    return [name for name in card.figures if not name.endswith(_BOUNDS)]


def csv_rows(cards: dict[str, ReportCard], heads: dict[str, DiseaseHeadCard] | None = None) -> Iterator[dict]:
    """Rows with `CSV_COLUMNS`: every figure of every system, then `label_f1` of each label; an empty value where a
    figure was not computed. Figures of predicted labels follow, with `disease_head_` before their names."""
    for system, card in cards.items():
        yield from _rows_of(system, card, "")
        if system in (heads or {}):
            yield from _rows_of(system, heads[system], "disease_head_")


def _rows_of(system: str, card: ReportCard | DiseaseHeadCard, prefix: str) -> Iterator[dict]:
    for name in figure_names(card):
        low, high = card.figures.get(f"{name}_low"), card.figures.get(f"{name}_high")
        yield _csv_row(system, prefix + name, "", _mapping(card, name), card.figures[name], low, high)
    for row in card.labels:
        uncertain = "positive" if row["uncertain_positive"] else "not positive"
        bounds = row.get("f1_low"), row.get("f1_high")
        yield _csv_row(system, f"{prefix}label_f1", row["label"], uncertain, row["f1"], *bounds)


def _mapping(card: ReportCard | DiseaseHeadCard, name: str) -> str:
    """How a figure counts uncertain; empty for figures that read no labels."""
    if name.endswith(UNCERTAIN_POSITIVE):
        return "positive"
    return "not positive" if name + UNCERTAIN_POSITIVE in card.figures else ""


def _generation(made: dict) -> str:
    section = made.get("section")
    return f"{made.get('model')} on {made.get('dataset')}, split {made.get('split')}, references: {section}"


def _csv_row(*values) -> dict:
    return dict(zip(CSV_COLUMNS, ("" if value is None else value for value in values), strict=True))


def _cell(card: ReportCard | DiseaseHeadCard, name: str) -> str:
    value = card.figures[name]
    if value is None:
        return "-"
    return _with_bounds(value, card.figures.get(f"{name}_low"), card.figures.get(f"{name}_high"))


def _label_cell(card: ReportCard | DiseaseHeadCard, label: str) -> str:
    row = next(row for row in card.labels if row["label"] == label and not row["uncertain_positive"])
    support = row["true_positives"] + row["false_negatives"]
    return f"{_with_bounds(row['f1'], row.get('f1_low'), row.get('f1_high'))}  n={support}"


def _test_cells(test: dict) -> list[str]:
    return [f"{test['difference']:+.4f}", f"[{test['low']:+.4f}, {test['high']:+.4f}]", f"{test['p_value']:.4f}"]


def _with_bounds(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} [{low:.4f}, {high:.4f}]"


def _columns(header: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return [line.rstrip() for line in [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]]


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A table that reads as text, too."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "| "
        + " | ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in [header, *rows]
    ]
    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return [f"{lines[0]} |", f"|{rule}|", *(f"{line} |" for line in lines[1:])]
