"""An HTML page that shows the reports with the most wrong labels, next to their references."""

from collections.abc import Sequence
from html import escape

import numpy as np

from otdrg_hf.evaluation.report_files import Studies
from otdrg_hf.evaluation.tables import collapsed_lines
from otdrg_hf.labeling import LABELS, STATES, label_reports
from otdrg_hf.labeling.labels import POSITIVE
from otdrg_hf.metrics.clinical import finding_errors
from otdrg_hf.metrics.report_card import ReportCard

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; color: #1b1f24; }
article { border-top: 1px solid #c9d1d9; padding: .5rem 0 1rem; }
.row { display: flex; gap: 1.5rem; flex-wrap: wrap; } .row section { flex: 1 1 20rem; }
h2, h3 { font-size: 1rem; margin: .5rem 0; } p.text { white-space: pre-wrap; margin: .3rem 0; }
.empty { color: #6e7781; font-style: italic; }
ul { list-style: none; padding: 0; margin: .3rem 0; display: flex; flex-wrap: wrap; gap: .3rem; }
li { border: 1px solid #c9d1d9; border-radius: .3rem; padding: 0 .4rem; }
li.hallucinated, mark.hallucinated { background: #ffd8d3; } li.omitted, mark.omitted { background: #ffe8a3; }
li.differs, mark.differs { background: #dbe6f6; } mark { color: inherit; }
"""


def worst_studies(cards: dict[str, ReportCard], limit: int) -> list[int]:
    """
    Indices of at most `limit` studies with wrong findings, most wrong findings over all systems first, then the
    lowest ROUGE-L. A finding is wrong where it is positive in one report only; No Finding is not counted.
    """
    errors = sum(sum(finding_errors(card.prediction_labels, card.reference_labels)) for card in cards.values())
    overlap = sum(card.rouge_l for card in cards.values())
    order = np.lexsort((np.arange(len(errors)), overlap, -errors))
    return [int(index) for index in order[:limit] if errors[index]]


def worst_cases_page(studies: Studies, cards: dict[str, ReportCard], limit: int = 50) -> str:
    """
    A page without scripts or outside files: each case shows the reference and the report of every system side by
    side, with the labels of each and, where the rule labeler gave them, the words behind a wrong label marked.

    Args:
        studies (`Studies`): texts and ids.
        cards (`dict[str, ReportCard]`): by the name of the system.
        limit (`int`): most cases to show.
    """
    chosen = worst_studies(cards, limit)
    record = next(iter(cards.values())).record
    cases = "\n".join(_case(studies, cards, index) for index in chosen)
    summary = (
        f"{len(chosen)} of {len(studies.ids)} studies, most wrong findings first; labels by "
        f"{record['clinical']['labeler']}. "
        '<mark class="hallucinated">Red</mark>: positive in the prediction only. '
        '<mark class="omitted">Yellow</mark>: positive in the reference only. '
        '<mark class="differs">Blue</mark>: another difference in state. '
        "This page holds report texts: the terms of your data set apply to it. For research; no clinical use."
    )
    collapsed = "".join(f"<p><strong>{escape(line)}</strong></p>\n" for line in collapsed_lines(cards))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Worst cases</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>Worst cases</h1>\n{collapsed}<p>{summary}</p>\n"
        f"{cases}\n</body>\n</html>\n"
    )


def _mistaken(card: ReportCard) -> np.ndarray:
    """Where exactly one of the two reports has the label positive, `[N, 14]`."""
    return (card.prediction_labels == POSITIVE) != (card.reference_labels == POSITIVE)


def _case(studies: Studies, cards: dict[str, ReportCard], index: int) -> str:
    first = next(iter(cards.values()))
    referred = first.reference_labels[index]
    missed = set().union(*({*np.flatnonzero(_mistaken(card)[index])} for card in cards.values()))
    marked = first.record["clinical"]["labeler"] == "rules"
    parts = [_text("Reference", studies.references[index][0], missed if marked else set(), "omitted")]
    parts[0] += _labels(referred, referred)
    for system, card in cards.items():
        predicted = card.prediction_labels[index]
        wrong = {*np.flatnonzero(_mistaken(card)[index])} if marked else set()
        title = f"{system} (ROUGE-L {card.rouge_l[index]:.3f})"
        text = _text(title, studies.predictions[system][index], wrong, "hallucinated")
        parts.append(text + _labels(predicted, referred))
    sections = "\n".join(f"<section>{part}</section>" for part in parts)
    return f'<article>\n<h2>{escape(studies.ids[index])}</h2>\n<div class="row">\n{sections}\n</div>\n</article>'


def _text(title: str, report: str, labels: set[int], kind: str) -> str:
    if not report.strip():
        return f'<h3>{escape(title)}</h3><p class="empty">empty</p>'
    return f'<h3>{escape(title)}</h3><p class="text">{_with_marks(report, labels, kind)}</p>'


def _with_marks(report: str, labels: set[int], kind: str) -> str:
    """The escaped report, with the words that made one of `labels` positive marked."""
    if not labels:
        return escape(report)
    _, (evidence,) = label_reports([report], explain=True)
    spans = sorted(
        (mention.span, mention.label)
        for index in labels
        for mention in evidence.get(LABELS[index], [])
        if mention.state == STATES[POSITIVE]
    )
    pieces, done = [], 0
    for (start, end), label in spans:
        if start < done:
            continue
        pieces.append(escape(report[done:start]))
        pieces.append(f'<mark class="{kind}" title="{escape(label)}">{escape(report[start:end])}</mark>')
        done = end
    return "".join(pieces) + escape(report[done:])


def _labels(states: Sequence[int], referred: Sequence[int]) -> str:
    items = []
    for label, state, true in zip(LABELS, states, referred, strict=True):
        if not state and not true:
            continue
        kind = ""
        if state != true:
            kind = "hallucinated" if state == POSITIVE else "omitted" if true == POSITIVE else "differs"
        items.append(f'<li class="{kind}">' if kind else "<li>")
        items.append(f"{escape(label)}: {STATES[state]}</li>")
    return f"<ul>{''.join(items)}</ul>"
