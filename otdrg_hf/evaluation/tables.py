"""Report cards as a readable text table and as CSV rows."""

from collections.abc import Iterator

from otdrg_hf.metrics.clinical import UNCERTAIN_POSITIVE
from otdrg_hf.metrics.report_card import DiseaseHeadCard, ReportCard

CSV_COLUMNS = ("system", "figure", "label", "uncertain", "value", "low", "high")
_BOUNDS = ("_low", "_high")


def text_table(
    cards: dict[str, ReportCard],
    paired: dict[str, dict] | None = None,
    heads: dict[str, DiseaseHeadCard] | None = None,
) -> str:
    """
    A table of all figures, one column for each system, then F1 of each label, then the labels that models predicted
    from the images (uncertain not positive; JSON and CSV hold the other mapping, too), then the paired tests.

    Args:
        cards (`dict[str, ReportCard]`): by the name of the system; all of the same protocol.
        paired (`dict[str, dict]`, *optional*): for "A - B", what `paired_bootstrap` gives.
        heads (`dict[str, DiseaseHeadCard]`, *optional*): by the name of the system.
    """
    record = next(iter(cards.values())).record
    bootstrap = record["bootstrap"]
    lines = [f"protocol {record['protocol']['name']}, {record['counts']['reports']} reports, labels by "]
    lines[0] += record["clinical"]["labeler"]
    lines += [
        f"{name}: {_generation(card.record['generation'])}"
        for name, card in cards.items()
        if "generation" in card.record
    ]
    if bootstrap:
        lines.append(f"[{bootstrap['confidence']:.0%} intervals of {bootstrap['samples']} bootstrap samples]")
    if "vocabulary" in record["protocol"]:
        lines.append(f"vocabulary: {record['protocol']['vocabulary']}")
    names = figure_names(next(iter(cards.values())))
    plain = [name for name in names if not name.endswith(UNCERTAIN_POSITIVE)]
    other = [name for name in names if name.endswith(UNCERTAIN_POSITIVE)]
    for title, group in (("uncertain counts as not positive", plain), ("uncertain counts as positive", other)):
        rows = [
            [name.removesuffix(UNCERTAIN_POSITIVE), *(_cell(card, name) for card in cards.values())] for name in group
        ]
        lines += ["", *_columns([title, *cards], rows)]
    labels = [row["label"] for row in next(iter(cards.values())).labels if not row["uncertain_positive"]]
    rows = [[label, *(_label_cell(card, label) for card in cards.values())] for label in labels]
    lines += ["", *_columns(["F1 of a label (uncertain not positive), n positive", *cards], rows)]
    if heads:
        names = [name for name in figure_names(next(iter(heads.values()))) if not name.endswith(UNCERTAIN_POSITIVE)]
        rows = [[name, *(_cell(head, name) for head in heads.values())] for name in names]
        rows += [[label, *(_label_cell(head, label) for head in heads.values())] for label in labels]
        lines += ["", *_columns(["labels predicted from the images", *heads], rows)]
    for pair, tests in (paired or {}).items():
        rows = [[name, *_test_cells(test)] for name, test in tests.items() if test["difference"] is not None]
        lines += ["", *_columns([pair, "difference", "interval", "p"], rows)]
    return "\n".join(lines) + "\n"


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
        return card.record["not_computed"].get(name, "not computed")
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
