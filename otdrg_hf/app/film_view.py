"""The films on the page, each with its view to choose, and the evidence of each label to lay over them."""

from html import escape

from otdrg_hf.modeling.processing_otdrg import VIEW_NAMES

from .film_study import FilmStudy
from .picture_data import film_data, heat_data

EMPTY = '<p class="otdrg-hint">No film yet: drop one above, or draw a synthetic example.</p>'


def film_view(study: FilmStudy, answer: dict | None = None, shown: str | None = None) -> str:
    """
    HTML of the films.

    Args:
        study ([`FilmStudy`]): The films.
        answer (`dict`, *optional*): What the pipeline gave for them with `evidence=True`.
        shown (`str`, *optional*): The label whose evidence to show first, `""` for none; by default the most likely.
    """
    evidence = answer["evidence"] if answer else {}
    findings = [finding for finding in (answer["findings"] if answer else []) if finding["label"] in evidence]
    if shown is None or (shown and shown not in evidence):
        shown = max(findings, key=_weight)["label"] if findings else ""
    figures = [
        _figure(index, study, {label: maps[index] for label, maps in evidence.items()}, shown)
        for index in range(len(study.films))
    ]
    note = "" if study.phantom_report is None else '<p class="otdrg-hint">A synthetic phantom, not a patient.</p>'
    chooser = _chooser(findings, shown) if answer else ""
    return f'<div class="otdrg-films" data-count="{len(figures)}">{"".join(figures)}</div>{note}{chooser}'


def _weight(finding: dict) -> tuple[bool, float]:
    """A finding comes before the absence of any, whose evidence is nowhere in particular."""
    return finding["label"] != "No Finding", finding["score"]


def _figure(index: int, study: FilmStudy, heats: dict, shown: str) -> str:
    layers = "".join(
        f'<img class="otdrg-heat" alt="" data-label="{escape(label)}" src="{heat_data(heat)}"'
        f"{'' if label == shown else ' hidden'}>"
        for label, heat in heats.items()
    )
    views = "".join(
        f'<option value="{view}"{" selected" if view == study.views[index] else ""}>{view}</option>'
        for view in VIEW_NAMES
    )
    name, used = f"Film {index + 1}", escape(study.views[index])
    return (
        f'<figure><div class="otdrg-stack"><img alt="{name}" src="{film_data(study.films[index])}">{layers}</div>'
        f'<figcaption><label>{name}, view <select class="otdrg-view" data-used="{used}">{views}</select></label>'
        "</figcaption></figure>"
    )


def _chooser(findings: list[dict], shown: str) -> str:
    if not findings:
        return '<p class="otdrg-hint">No evidence to show: no label is positive or uncertain.</p>'
    options = [("", "film only", "")]
    options += [(f["label"], f["label"], f"{f['state']} {f['score']:.2f}") for f in findings]
    buttons = "".join(
        f'<label><input type="radio" name="otdrg-evidence" value="{escape(label)}"'
        f"{' checked' if label == shown else ''}><span>{escape(name)}"
        f"{f'<small>{detail}</small>' if detail else ''}</span></label>"
        for label, name, detail in options
    )
    return f'<fieldset class="otdrg-evidence"><legend>Evidence of</legend>{buttons}</fieldset>'
