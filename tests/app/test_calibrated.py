"""The page of a calibrated model, without a browser: what it says of how far to trust a report."""

import html
import json
import re

import numpy as np
import pytest
from PIL import Image

from otdrg_hf.app import views
from otdrg_hf.app.events import PageEvents
from otdrg_hf.app.study import EXAMPLE_SEEDS

CHOICES = {"states": {}, "views": ["unknown"], "evidence": None}


@pytest.fixture
def events(calibrated):
    return PageEvents(calibrated, "calibrated")


def page_after(updates) -> dict:
    page = {}
    for update in updates:
        page |= update
    return page


def record_of(page: dict) -> dict:
    return json.loads(html.unescape(re.search('data-record="(.*?)"', page["report"], re.DOTALL)[1]))


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
    assert 'role="alert"' in page["unfamiliar"] and "do not rely on this report" in page["unfamiliar"]
    page |= page_after(events.example(EXAMPLE_SEEDS[0]))
    assert page["unfamiliar"] == "" and record_of(page)["input"]["familiar"]


def test_nothing_is_said_where_nothing_is_known():
    assert views.unfamiliar_view(None) == ""
    warning = views.unfamiliar_view({"familiar": False, "distance": 2.5, "view": "frontal", "why": "given as <b>"})
    assert "given as &lt;b&gt;" in warning and "distance 2.5" in warning
