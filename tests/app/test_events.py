"""What each event does to the parts of the page, without a browser."""

import json
import logging

import pytest
from PIL import Image

from otdrg_hf.app import views
from otdrg_hf.app.events import PageEvents
from otdrg_hf.app.study import PageStudy
from tests.app.conftest import page_after, record_of
from tests.support.tiny_models import make_films


@pytest.fixture
def events(report):
    return PageEvents(report, "tiny")


@pytest.fixture
def upload(tmp_path):
    path = tmp_path / "patient_smith" / "film.png"
    path.parent.mkdir()
    Image.fromarray(make_films(1)[0]).save(path)
    return str(path)


def choices(states=(), views=("unknown",), evidence=None) -> str:
    return json.dumps({"states": dict(states), "views": list(views), "evidence": evidence})


def test_upload_then_label_then_back(events, upload):
    updates = list(events.upload([upload]))
    assert [update["writing"] for update in updates if "writing" in update] == [True, False]
    # How many depends on how fast the machine writes and shows.
    assert sum("otdrg-caret" in update.get("report", "") for update in updates) >= 2
    page = page_after(updates)
    assert page["message"] == "" and page["drop"] is None
    assert page["images"].count("<figure>") == 1 and page["labels"].count("<tr data-label") == 14
    first = record_of(page)
    assert first["complete"] and first["model"] == "tiny" and len(first["disagreements"]) <= 13
    assert "patient_smith" not in json.dumps([{**update, "study": None} for update in updates])

    predicted = first["findings"][1]["state"]
    other = "negative" if predicted != "negative" else "positive"
    given = {"Cardiomegaly": other}
    changed = page_after(events.rewrite(page["study"], choices(given, ["lateral"], ""), "Cough.", ""))
    second = record_of(changed)
    assert second["generated_text"] != first["generated_text"]
    assert second["given_labels"] == given and second["views"] == ["lateral"]
    assert second["findings"][1]["state"] == other and 'data-given="true"' in changed["labels"]
    assert page["study"].indication == "Cough."

    back = record_of(page_after(events.rewrite(page["study"], choices(), "", "")))
    assert back["generated_text"] == first["generated_text"] and back["given_labels"] == {}


def test_evidence_that_is_looked_at_stays(events, upload):
    page = page_after(events.upload([upload]))
    label = [f["label"] for f in record_of(page)["findings"] if f["state"] == "positive"][-1]
    changed = page_after(events.rewrite(page["study"], choices(evidence=label), "", ""))
    assert f'value="{label}" checked' in changed["images"]


@pytest.mark.parametrize("content, match", [(b"", "the file is empty"), (b"text", "not an image file")], ids=str)
def test_bad_upload_clears_the_page(events, upload, tmp_path, content, match):
    (tmp_path / "bad.png").write_bytes(content)
    page = page_after(events.upload([upload])) | page_after(events.upload([str(tmp_path / "bad.png")]))
    assert f"image &#x27;bad.png&#x27;: {match}" in page["message"]
    assert str(tmp_path) not in page["message"]
    assert page["study"] is None and page["ready"] is False
    assert (page["images"], page["report"], page["labels"]) == (views.NO_IMAGES, views.NO_REPORT, views.NO_LABELS)


def test_example(events):
    page = page_after(events.example(1_000_002))
    assert record_of(page)["synthetic_image"] and "True report of this phantom" in page["report"]
    assert page["indication"] == page["study"].indication


def test_nothing_to_rewrite(events):
    [update] = events.rewrite(None, choices(), "", "")
    assert "There is no image yet" in update["message"]


def test_wrong_state_is_one_line(events):
    study = PageStudy([Image.fromarray(make_films(1)[0])], ["unknown"])
    page = page_after(events.rewrite(study, choices({"Edema": "perhaps"}), "", ""))
    assert "is not a state of" in page["message"] and page["writing"] is False


@pytest.mark.parametrize(
    "error, shown",
    [
        (MemoryError("/home/smith"), "Out of memory: use fewer or smaller images"),
        (RuntimeError("/home/smith"), "The report could not be written (RuntimeError)."),
    ],
    ids=["memory", "other"],
)
def test_what_nobody_foresaw_tells_no_path(events, upload, monkeypatch, caplog, error, shown):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(events.report, "postprocess", fail)
    with caplog.at_level(logging.WARNING):
        page = page_after(events.upload([upload]))
    assert shown in page["message"] and page["writing"] is False and page["report"] == views.NO_REPORT
    assert "smith" not in page["message"] + caplog.text


def test_stop(events):
    study = PageStudy([], [])
    events.stop(study)
    events.stop(None)
    assert study.stop.is_set()
