"""The parts of the page as HTML: images with their evidence, the table of labels, the report, and errors."""

import base64
import io
import json
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from otdrg_hf.app.study import BALANCED, PageStudy
from otdrg_hf.modeling.disease_states_otdrg import NAMED_POINTS
from otdrg_hf.modeling.prompt_otdrg import VIEW_NAMES

NO_IMAGES = '<p class="otdrg-hint">No image yet: drop one above, or draw a synthetic example.</p>'
NO_LABELS = '<p class="otdrg-hint">The 14 labels appear with the report.</p>'
NO_REPORT = '<p class="otdrg-hint">The report appears here as it is written.</p>'
POINTS = (
    '<fieldset class="otdrg-evidence"><legend>Operating point: specific has fewer false findings, sensitive fewer '
    "missed ones</legend>"
    + "".join(
        f'<label><input type="radio" name="otdrg-point" value="{point}"{" checked" if point == BALANCED else ""}>'
        f"<span>{point}</span></label>"
        for point in NAMED_POINTS
    )
    + "</fieldset>"
)
# Confidence in a sentence: its name, from which on, and how the legend puts it.
LEVELS = (("high", 0.9, "90 % or more"), ("medium", 0.7, "70 to 90 %"), ("low", 0.0, "below 70 %"))
NO_CONFIDENCE = "No confidence in sentences: it holds for images that the model knows."
IMAGE_SIDE = 1024
HEAT_SIDE = 256


# Images


def images_view(study: PageStudy, answer: dict | None = None, shown: str | None = None) -> str:
    """
    HTML of the images, each with its view to choose, and the evidence of each label to overlay.

    Args:
        study ([`PageStudy`]): The images.
        answer (`dict`, *optional*): What the pipeline returned for them with `evidence=True`.
        shown (`str`, *optional*): The label whose evidence to show first, `""` for none; by default the most likely.
    """
    evidence = answer["evidence"] if answer else {}
    findings = [finding for finding in (answer["findings"] if answer else []) if finding["label"] in evidence]
    if shown is None or (shown and shown not in evidence):
        shown = max(findings, key=_weight)["label"] if findings else ""
    figures = [
        _figure(index, study, {label: maps[index] for label, maps in evidence.items()}, shown)
        for index in range(len(study.images))
    ]
    note = "" if study.phantom_report is None else '<p class="otdrg-hint">A synthetic phantom, not a patient.</p>'
    chooser = _chooser(findings, shown) if answer else ""
    return f'<div class="otdrg-images" data-count="{len(figures)}">{"".join(figures)}</div>{note}{chooser}'


def _weight(finding: dict) -> tuple[bool, float]:
    """A finding comes before the absence of any, whose evidence is nowhere in particular."""
    return finding["label"] != "No Finding", finding["score"]


def _figure(index: int, study: PageStudy, heats: dict, shown: str) -> str:
    layers = "".join(
        f'<img class="otdrg-heat" alt="" data-label="{escape(label)}" src="{heat_data(heat)}"'
        f"{'' if label == shown else ' hidden'}>"
        for label, heat in heats.items()
    )
    views = "".join(
        f'<option value="{view}"{" selected" if view == study.views[index] else ""}>{view}</option>'
        for view in VIEW_NAMES
    )
    name, used = f"Image {index + 1}", escape(study.views[index])
    return (
        f'<figure><div class="otdrg-stack"><img alt="{name}" src="{image_data(study.images[index])}">{layers}</div>'
        f'<figcaption><label>{name}, view <select class="otdrg-view" data-used="{used}">{views}</select></label>'
        "</figcaption></figure>"
    )


def _chooser(findings: list[dict], shown: str) -> str:
    if not findings:
        return '<p class="otdrg-hint">No evidence to show: no label is positive or uncertain.</p>'
    options = [("", "image only", "")]
    options += [(f["label"], f["label"], f"{f['state']} {f['score']:.2f}") for f in findings]
    buttons = "".join(
        f'<label><input type="radio" name="otdrg-evidence" value="{escape(label)}"'
        f"{' checked' if label == shown else ''}><span>{escape(name)}"
        f"{f'<small>{detail}</small>' if detail else ''}</span></label>"
        for label, name, detail in options
    )
    return f'<fieldset class="otdrg-evidence"><legend>Evidence of</legend>{buttons}</fieldset>'


def image_data(image: Image.Image) -> str:
    """A grey JPEG of at most 1024 pixels a side as an address inside the page: no image is ever served as a file."""
    small = image.convert("L")
    small.thumbnail((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.LANCZOS)
    return _data(small, "JPEG", quality=88)


def heat_data(heat: np.ndarray) -> str:
    """A heat map `[H, W]` from 0 to 1 as the address of a PNG in the colours of the overlays, clear where it is 0."""
    from matplotlib import colormaps

    small = Image.fromarray(heat.astype(np.float32))
    small.thumbnail((HEAT_SIDE, HEAT_SIDE), Image.Resampling.BILINEAR)
    values = np.asarray(small).clip(0, 1)
    colours = colormaps["inferno"](values)  # [h, w, 4]
    colours[..., 3] = values
    return _data(Image.fromarray(np.round(255 * colours).astype(np.uint8)), "PNG", optimize=True)


def _data(image: Image.Image, kind: str, **options) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


# Labels


def labels_view(findings: list[dict], given: dict[str, str], states: list[str], disagreements: Sequence = ()) -> str:
    """
    HTML of the table of labels: state, score, and buttons by which the user gives a state.

    Args:
        findings (`list[dict]`): `label`, `state` and `score` of each label, as the pipeline returns them.
        given (`dict[str, str]`): States by label that the user gave; these rows are marked.
        states (`list[str]`): The states to choose from.
        disagreements (`list[dict]`, *optional*): Labels of which the report states something else; these rows say so.
    """
    written = {row["label"]: row["written"] for row in disagreements}
    rows = "".join(
        _row(index, finding, finding["label"] in given, states, written.get(finding["label"]))
        for index, finding in enumerate(findings)
    )
    return (
        '<table class="otdrg-labels"><thead><tr><th scope="col">Label</th><th scope="col">State</th>'
        f'<th scope="col">Score</th></tr></thead><tbody>{rows}</tbody></table>'
        '<p class="otdrg-hint">Score: the probability of positive that the model predicts. Blank: not mentioned. '
        "A state that you choose overrides the prediction when the report is written again.</p>"
    )


def _row(index: int, finding: dict, is_given: bool, states: list[str], written: str | None) -> str:
    label, state, score = escape(finding["label"]), escape(finding["state"]), finding["score"]
    choices = "".join(
        f'<label><input type="radio" name="otdrg-state-{index}" value="{choice}"'
        f"{' checked' if choice == state else ''}><span>{choice}</span></label>"
        for choice in map(escape, states)
    )
    withdraw = '<button type="button" class="otdrg-given" title="Let the model predict it again">given ×</button>'
    doubt = f"<small>but {escape(written)} in the report</small>" if written else ""
    return (
        f'<tr data-label="{label}" data-state="{state}" data-given="{str(is_given).lower()}">'
        f'<th scope="row">{label}{withdraw}{doubt}</th>'
        f'<td><fieldset class="otdrg-states"><legend>State of {label}</legend>{choices}</fieldset></td>'
        f'<td class="otdrg-score"><span aria-hidden="true"><i style="width:{100 * score:.0f}%"></i></span>'
        f"{score:.2f}</td></tr>"
    )


# Report


def writing_view(text: str) -> str:
    """HTML of a report that is not finished."""
    return f'<article class="otdrg-report" aria-busy="true">{escape(text)}<span class="otdrg-caret"></span></article>'


def unfamiliar_view(inspected: dict | None) -> str:
    """HTML of a warning where an image is not one that the model knows; empty where it is, or that is not known."""
    if inspected is None or inspected["familiar"]:
        return ""
    return (
        '<p class="otdrg-unfamiliar" role="alert"><strong>Not an image that the model knows: do not rely on this '
        f"report.</strong> {escape(inspected['why'])} (distance {inspected['distance']:g}, familiar up to 1)</p>"
    )


def report_view(study: PageStudy, answer: dict, model_name: str) -> str:
    """HTML of a finished report, with the states that were given and, of a phantom, the true report."""
    notes = []
    if study.stop.is_set():
        notes.append("Stopped before its end.")
    if study.begins_with:
        notes.append("Continued from your text, which is kept as it is.")
    if study.given:
        given = ", ".join(f"{label} {state}" for label, state in study.given.items())
        notes.append(f"Written with states that were given: {given}.")
    if point := answer.get("operating_point"):
        kept = "".join(f" {label} stays balanced." for label in point["unreached"])
        notes.append(f"Written at the operating point {point['asked']}.{kept}")
    record = json.dumps(answer_record(study, answer, model_name), indent=2)
    sentences, is_familiar = answer.get("sentences") or [], answer.get("input", {}).get("familiar", True)
    if not is_familiar:  # the confidence was measured on images that the model knows
        sentences = [{**sentence, "confidence": None} for sentence in sentences]
    text = _marked_text(answer["generated_text"], sentences) or "<em>The model wrote nothing.</em>"
    truth = ""
    if study.phantom_report is not None:
        report = escape(study.phantom_report)
        truth = f"<details><summary>True report of this phantom</summary><p>{report}</p></details>"
    draft = editor_view(answer["generated_text"], hidden=True)
    return (
        f'<article class="otdrg-report" aria-busy="false" data-point="{escape(study.operating_point)}" '
        f'data-record="{escape(record)}">{text}</article>{draft}{_legend(sentences, is_familiar)}'
        f"{''.join(f'<p class=otdrg-hint>{escape(note)}</p>' for note in notes)}{truth}"
        '<p class="otdrg-actions"><button type="button" class="otdrg-link" data-otdrg="edit">Edit</button> '
        '<button type="button" class="otdrg-link" data-otdrg="download">Download as JSON</button></p>'
    )


def editor_view(text: str, hidden: bool = False) -> str:
    """HTML of a report to edit."""
    # HTML drops a line break at the beginning.
    return (
        '<textarea class="otdrg-draft" aria-label="The report, to edit" rows="8" spellcheck="false"'
        f"{' hidden' if hidden else ''}>\n{escape(text)}</textarea>"
    )


def offer_view(overrides: dict[str, str]) -> str:
    """HTML of the states that an edited report states, each to be given by one button, or all; empty for none."""
    if not overrides:
        return ""

    def button(name: str, states: dict) -> str:
        return f'<button type="button" data-states="{escape(json.dumps(states))}">{escape(name)}</button> '

    buttons = "".join(button(f"{label}: {state}", {label: state}) for label, state in overrides.items())
    every = button("All", overrides) if len(overrides) > 1 else ""
    return f'<p class="otdrg-offer" role="status">Your text says otherwise. Give as a label: {buttons}{every}</p>'


def _marked_text(text: str, sentences: list[dict]) -> str:
    """A report, each sentence of which is marked with its confidence and leads to the maps of its labels."""
    marked, before = "", 0
    for sentence in sentences:
        start, end = sentence["span"]
        with_map = [row["label"] for row in sentence["labels"] if row.get("has_evidence")]
        marked += (
            f'{escape(text[before:start])}<span class="otdrg-sentence" tabindex="0" '
            f'data-confidence="{_level(sentence["confidence"])}" data-labels="{escape(json.dumps(with_map))}" '
            f'data-detail="{escape(_detail(sentence))}">{escape(text[start:end])}</span>'
        )
        before = end
    return marked + escape(text[before:])


def _level(confidence: float | None) -> str:
    return "none" if confidence is None else next(name for name, least, _ in LEVELS if confidence >= least)


def _detail(sentence: dict) -> str:
    if not sentence["labels"]:
        return "About none of the 14 labels: no confidence."
    stated = []
    for row in sentence["labels"]:
        doubt = ", which the model does not predict" if row["agrees"] is False else ""
        source = " (given)" if row["given"] else doubt
        stated.append(f"{row['label']} {row['state']}{source}")
    confidence = sentence["confidence"]
    sure = "" if confidence is None else f"Confidence {100 * confidence:.0f} %: "
    no_map = "" if any(row.get("has_evidence") for row in sentence["labels"]) else "; no evidence to show"
    return f"{sure}{'; '.join(stated)}{no_map}."


def _legend(sentences: list[dict], is_familiar: bool) -> str:
    """What the colours mean, and a line that tells of the sentence under the pointer or in focus."""
    if not sentences:
        return ""
    keys = "".join(f'<span data-confidence="{name}">{range_}</span> ' for name, _, range_ in LEVELS)
    meaning = f"Confidence that a sentence is right: {keys}" if is_familiar else NO_CONFIDENCE
    return (
        f'<p class="otdrg-legend">{meaning}</p>'
        '<p class="otdrg-detail" aria-live="polite">Point at a sentence, or tab to it, to see where it comes from.</p>'
    )


def answer_record(study: PageStudy, answer: dict, model_name: str) -> dict:
    """What the JSON download holds: the answer without its maps, and what shaped it; nothing of the patient's files."""
    return {
        "notice": "Research software; not for clinical use.",
        "model": model_name,
        "synthetic_image": study.phantom_report is not None,
        "views": study.views,
        "given_labels": study.given,
        "complete": not study.stop.is_set(),
        **{key: value for key, value in answer.items() if key != "evidence"},
    }


def error_view(message: str) -> str:
    """HTML of one line on what went wrong."""
    return f'<p class="otdrg-error" role="alert">{escape(message)}</p>'
