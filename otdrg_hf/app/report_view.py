"""The report on the page: text that is being written, the whole answer with its download, and errors."""

import json
from html import escape

from .film_study import FilmStudy

EMPTY = '<p class="otdrg-hint">The report appears here as it is written.</p>'


def writing_view(text: str) -> str:
    """HTML of a report that is not finished."""
    return f'<article class="otdrg-report" aria-busy="true">{escape(text)}<span class="otdrg-caret"></span></article>'


def report_view(study: FilmStudy, answer: dict, model_name: str) -> str:
    """HTML of a finished report, with what it was told and, of a phantom, the true report."""
    notes = []
    if study.stop.is_set():
        notes.append("Stopped before its end.")
    if study.given:
        given = ", ".join(f"{label} {state}" for label, state in study.given.items())
        notes.append(f"Written with states that were given: {given}.")
    record = json.dumps(answer_record(study, answer, model_name), indent=2)
    text = escape(answer["generated_text"]) or "<em>The model wrote nothing.</em>"
    truth = ""
    if study.phantom_report is not None:
        report = escape(study.phantom_report)
        truth = f"<details><summary>True report of this phantom</summary><p>{report}</p></details>"
    return (
        f'<article class="otdrg-report" aria-busy="false" data-record="{escape(record)}">{text}</article>'
        f"{''.join(f'<p class=otdrg-hint>{escape(note)}</p>' for note in notes)}{truth}"
        '<p><button type="button" class="otdrg-link" data-otdrg="download">Download as JSON</button></p>'
    )


def answer_record(study: FilmStudy, answer: dict, model_name: str) -> dict:
    """What the JSON download holds: the answer without its maps, and what shaped it; nothing of the patient's files."""
    return {
        "notice": "Research software; not for clinical use.",
        "model": model_name,
        "synthetic_film": study.phantom_report is not None,
        "views": study.views,
        "given_labels": study.given,
        "complete": not study.stop.is_set(),
        **{key: value for key, value in answer.items() if key != "evidence"},
    }


def error_view(message: str) -> str:
    """HTML of one line on what went wrong."""
    return f'<p class="otdrg-error" role="alert">{escape(message)}</p>'
