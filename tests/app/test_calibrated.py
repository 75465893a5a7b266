"""The page of a calibrated model, without a browser: what it says of how far to trust a report."""

import html
import json
import re

import numpy as np
import pytest
from PIL import Image

from otdrg_hf.app import views
from otdrg_hf.app.events import PageEvents
from otdrg_hf.app.study import EXAMPLE_SEEDS, PageStudy
from otdrg_hf.reporting import label_overrides
from tests.app.conftest import page_after, record_of

CHOICES = {"states": {}, "views": ["unknown"], "evidence": None}


@pytest.fixture
def events(calibrated):
    return PageEvents(calibrated, "calibrated")


def points_of(report) -> list[str]:
    from otdrg_hf.app.page import build_page

    parts = build_page(report, "model").config["components"]
    return [part["props"]["value"] for part in parts if part["props"].get("elem_id") == "otdrg-point"]


def test_operating_point_is_there_for_a_calibrated_model_only(calibrated, report):
    pytest.importorskip("gradio")
    [points] = points_of(calibrated)
    assert re.findall('value="(.*?)"', points) == ["specific", "balanced", "sensitive"]
    assert 'value="balanced" checked' in points and not points_of(report)


def test_report_at_another_operating_point(events, calibrated):
    page = page_after(events.example(EXAMPLE_SEEDS[0]))
    study = page["study"]
    balanced = record_of(page)
    assert "operating_point" not in balanced and 'data-point="balanced"' in page["report"]

    def rewrite(point):
        choices = json.dumps({**CHOICES, "views": study.views, "operating_point": point})
        return events.rewrite(study, choices, study.indication, "")

    changed = page_after(rewrite("sensitive"))
    record = record_of(changed)
    expected = calibrated(study.inputs(), operating_point="sensitive")
    assert record["generated_text"] == expected["generated_text"] and record["findings"] == expected["findings"]
    assert record["operating_point"]["asked"] == "sensitive" and 'data-point="sensitive"' in changed["report"]
    assert "Written at the operating point sensitive." in changed["report"]

    back = record_of(page_after(rewrite("balanced")))
    assert back["generated_text"] == balanced["generated_text"] and "operating_point" not in back


def test_next_images_are_reported_at_the_point_on_the_page(events):
    assert record_of(page_after(events.example(EXAMPLE_SEEDS[0], "specific")))["operating_point"]["asked"] == "specific"


def test_unfamiliar_image_is_said_until_a_familiar_one_follows(events, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    page = page_after(events.upload([str(tmp_path / "noise.png")]))
    inspected = record_of(page)["input"]
    assert not inspected["familiar"] and html.escape(inspected["why"]) in page["unfamiliar"]
    assert {sentence["confidence"] for sentence in sentences_in(page)} == {"none"}
    assert "Confidence " not in page["report"].partition("</article>")[0].partition(">")[2]
    assert views.NO_CONFIDENCE in page["report"]
    assert 'role="alert"' in page["unfamiliar"] and "do not rely on this report" in page["unfamiliar"]
    page |= page_after(events.example(EXAMPLE_SEEDS[0]))
    assert page["unfamiliar"] == "" and record_of(page)["input"]["familiar"]


def test_nothing_is_said_where_nothing_is_known():
    assert views.unfamiliar_view(None) == ""
    warning = views.unfamiliar_view({"familiar": False, "distance": 2.5, "view": "frontal", "why": "given as <b>"})
    assert "given as &lt;b&gt;" in warning and "distance 2.5" in warning


def sentences_in(page: dict) -> list[dict]:
    """Of each marked sentence its text and data."""
    found = []
    for attributes, text in re.findall(r'<span class="otdrg-sentence"(.*?)>(.*?)</span>', page["report"], re.DOTALL):
        data = {name: html.unescape(value) for name, value in re.findall(r'data-(\w+)="(.*?)"', attributes)}
        found.append({**data, "text": html.unescape(text)})
    return found


def test_sentences_are_marked_by_confidence_and_lead_to_their_maps(events):
    page = page_after(events.example(EXAMPLE_SEEDS[1]))
    record = record_of(page)
    shown = sentences_in(page)
    assert len(shown) == len(record["sentences"]) > 2
    for marked, sentence in zip(shown, record["sentences"], strict=True):
        confidence = sentence["confidence"]
        assert marked["text"] == sentence["text"]
        level = (
            "none" if confidence is None else "high" if confidence >= 0.9 else "low" if confidence < 0.7 else "medium"
        )
        assert marked["confidence"] == level
        maps = json.loads(marked["labels"])
        assert maps == [row["label"] for row in sentence["labels"] if row["has_evidence"]]
        assert all(f'class="otdrg-heat" alt="" data-label="{label}"' in page["images"] for label in maps)
        assert all(f"{row['label']} {row['state']}" in marked["detail"] for row in sentence["labels"])
    assert any(json.loads(marked["labels"]) for marked in shown)
    article = re.search(r"<article.*?>(.*?)</article>", page["report"], re.DOTALL)[1]
    assert html.unescape(re.sub("<.*?>", "", article)) == record["generated_text"]
    assert page["report"].count("otdrg-legend") == 1


def test_text_of_sentences_is_escaped(events):
    text = "Edema & <b>more</b>. Bones."
    row = {"label": "Edema", "state": "positive", "agrees": False, "given": False, "has_evidence": True}
    sentences = [
        {"span": [0, 20], "labels": [row], "confidence": 0.65, "text": text[:20]},
        {"span": [21, 27], "labels": [], "confidence": None, "text": text[21:]},
    ]
    answer = {"generated_text": text, "findings": [], "sentences": sentences}
    first, second = sentences_in({"report": views.report_view(PageStudy([], []), answer, "tiny")})
    assert first["text"] == text[:20] and (first["confidence"], second["confidence"]) == ("low", "none")
    assert first["detail"] == "Confidence 65 %: Edema positive, which the model does not predict."
    assert second["detail"] == "About none of the 14 labels: no confidence." and second["labels"] == "[]"


def test_report_of_a_model_without_calibration_is_plain(report, tmp_path):
    page = page_after(PageEvents(report, "tiny").example(EXAMPLE_SEEDS[0]))
    assert "otdrg-sentence" not in page["report"] and "otdrg-legend" not in page["report"]
    assert page["unfamiliar"] == ""


def draft_choices(study, text: str, cursor: int | None = None, states=()) -> str:
    draft = {"text": text, "cursor": len(text) if cursor is None else cursor}
    return json.dumps({**CHOICES, "states": dict(states), "views": study.views, "draft": draft})


def test_edited_report_is_continued_from_the_cursor(events, calibrated):
    page = page_after(events.example(EXAMPLE_SEEDS[1]))
    study, first, indication = page["study"], record_of(page), page["indication"]
    assert page["offer"] == "" and f"{html.escape(first['generated_text'])}</textarea>" in page["report"]

    draft = "Small right apical pneumothorax. The heart"
    updates = list(events.resume(study, draft_choices(study, f"{draft} is old.", len(draft)), indication, ""))
    written = [re.sub("<.*?>", "", update["report"]) for update in updates if "otdrg-caret" in update.get("report", "")]
    assert len(written) > 2 and all(text.startswith(draft) for text in written)
    changed = page_after(updates)
    text = record_of(changed)["generated_text"]
    assert text.startswith(draft) and len(text) > len(draft) and "is old" not in text
    expected = calibrated({**study.inputs(), "begins_with": draft})
    assert text == expected["generated_text"] and "Continued from your text" in changed["report"]
    assert "Pneumothorax: positive" in changed["offer"] and ": blank" not in changed["offer"]

    # With the offered state given there is nothing left to offer.
    given = page_after(events.resume(study, draft_choices(study, draft, states={"Pneumothorax": "positive"}), "", ""))
    assert record_of(given)["given_labels"] == {"Pneumothorax": "positive"} and "Pneumothorax" not in given["offer"]

    again = json.dumps({**CHOICES, "views": study.views})
    back = page_after(events.rewrite(study, again, indication, ""))
    assert record_of(back)["generated_text"] == first["generated_text"] and back["offer"] == ""


def test_changes_are_read_and_offered(events):
    page = page_after(events.example(EXAMPLE_SEEDS[1]))
    study, text = page["study"], record_of(page)["generated_text"]
    assert events.read_changes(study, draft_choices(study, text)) == {"offer": ""}
    after = f"{text} There is a right rib fracture."
    offer = html.unescape(events.read_changes(study, draft_choices(study, after))["offer"])
    expected = label_overrides(text, after)
    assert expected["Fracture"] == "positive"
    offered = [json.loads(states) for states in re.findall(r'data-states="({.*?})"', offer)]
    assert {label: state for states in offered for label, state in states.items()} == expected
    assert events.read_changes(None, draft_choices(study, after)) == {"offer": ""}


def test_edited_text_survives_an_error(events):
    study = page_after(events.example(EXAMPLE_SEEDS[1]))["study"]
    draft = "The <heart> is large. " * 2000
    page = page_after(events.resume(study, draft_choices(study, draft), "", ""))
    assert "leaves no room to continue it" in page["message"] and page["writing"] is False
    assert f">\n{html.escape(draft)}</textarea>" in page["report"] and " hidden" not in page["report"]
