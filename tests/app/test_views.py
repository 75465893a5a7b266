"""The parts of the page as HTML: what they show, what they let choose, and that nothing of a file gets into them."""

import base64
import builtins
import io
import json

import numpy as np
import pytest
from PIL import Image

from otdrg_hf.app.study import MAX_IMAGES, PageStudy, study_of_phantom, study_of_uploads
from otdrg_hf.app.views import (
    answer_record,
    error_view,
    heat_data,
    image_data,
    images_view,
    labels_view,
    report_view,
    writing_view,
)
from otdrg_hf.labeling import LABELS, STATES
from tests.support.tiny_models import make_films

STATE_NAMES = list(STATES)


@pytest.fixture
def uploads(tmp_path):
    """Two images as a browser leaves them."""
    paths = []
    for index, film in enumerate(make_films(2)):
        paths.append(tmp_path / f"film{index}.png")
        Image.fromarray(film).save(paths[-1])
    return [str(path) for path in paths]


@pytest.fixture
def study():
    return PageStudy([Image.fromarray(film) for film in make_films(2)], ["frontal", "unknown"])


def finding(label: str, state: str = "positive", score: float = 0.5) -> dict:
    return {"label": label, "state": state, "score": score}


def answer_for(study: PageStudy, *findings: dict) -> dict:
    sizes = [(image.height, image.width) for image in study.images]
    evidence = {f["label"]: [np.full(size, 0.5) for size in sizes] for f in findings if f["state"] != "negative"}
    return {"generated_text": "Clear <lungs>.", "findings": list(findings), "evidence": evidence}


def picture_in(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2])))


# Uploads


def test_uploads_are_read_and_deleted(uploads, tmp_path):
    study = study_of_uploads(uploads)
    assert len(study.images) == 2 and study.views == ["unknown", "unknown"]
    assert not list(tmp_path.iterdir())


def test_one_bad_upload_refuses_the_study_and_leaves_nothing(uploads, tmp_path):
    (tmp_path / "bad.png").write_text("no film")
    with pytest.raises(ValueError, match="image 'bad.png': not an image file"):
        study_of_uploads([*uploads, str(tmp_path / "bad.png")])
    assert not list(tmp_path.iterdir())


def test_too_many_uploads(tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(MAX_IMAGES + 1)]
    for path in paths:
        path.touch()
    with pytest.raises(ValueError, match="9 files: at most 8 images"):
        study_of_uploads([str(path) for path in paths])
    assert not list(tmp_path.iterdir())


def test_view_of_a_dicom_upload(tmp_path):
    pytest.importorskip("pydicom")
    from tests.support.dicom_files import SECRETS, make_dicom

    paths = []
    for name, position in (("a.dcm", "LL"), ("b.dcm", "PA")):
        (tmp_path / name).write_bytes(make_dicom(make_films(1)[0], ViewPosition=position))
        paths.append(str(tmp_path / name))
    study = study_of_uploads(paths)
    assert study.views == ["lateral", "frontal"]
    html = images_view(study)
    assert html.count("<option") == 6 and html.index("lateral") > 0
    assert not any(secret in html for secret in SECRETS.values())


def test_synthetic_study_is_the_same_each_time():
    first, second = study_of_phantom(1_000_001), study_of_phantom(1_000_001)
    assert first.phantom_report == second.phantom_report
    assert first.images[0].tobytes() == second.images[0].tobytes()
    assert "A synthetic phantom, not a patient." in images_view(first)


# Images


def test_image_becomes_a_small_jpeg():
    wide = Image.fromarray(np.tile(np.repeat(np.arange(256, dtype=np.uint8), 8), (500, 1)))
    shown = picture_in(image_data(wide))
    assert shown.format == "JPEG" and shown.size == (1024, 250)
    assert abs(np.asarray(shown)[100].astype(int) - np.asarray(wide)[100, ::2]).max() <= 3


def test_heat_is_clear_where_it_is_0():
    heat = np.zeros((300, 600))
    heat[:, 300:] = 1
    alpha = np.asarray(picture_in(heat_data(heat)))[..., 3]
    assert alpha.shape == (128, 256)
    assert (alpha[:, :120] == 0).all() and (alpha[:, 136:] == 255).all()


# Images and evidence


def test_a_layer_for_each_label_and_image(study):
    findings = (
        finding("Edema", "uncertain", 0.4),
        finding("Fracture", "positive", 0.7),
        finding("Pneumonia", "negative"),
    )
    html = images_view(study, answer_for(study, *findings))
    assert html.count('class="otdrg-heat"') == 4 and html.count(" hidden>") == 2
    for shown in ("positive 0.70", "uncertain 0.40", "image only"):
        assert shown in html
    assert "Pneumonia" not in html


def test_evidence_shown_first(study):
    findings = (finding("No Finding", "positive", 0.9), finding("Edema", "positive", 0.3))
    answer = answer_for(study, *findings)

    def shown(*arguments):
        marked = images_view(study, answer, *arguments).partition("<fieldset")[2].partition(" checked")[0]
        return marked.rpartition('value="')[2].rstrip('"')

    assert shown() == "Edema"  # before the absence of findings, however likely
    assert shown("No Finding") == "No Finding"
    assert shown("") == ""
    assert shown("Pneumonia") == "Edema"  # which has no evidence any more


def test_no_evidence(study):
    assert "no label is positive or uncertain" in images_view(study, answer_for(study, finding("Edema", "negative")))
    assert "Evidence" not in images_view(study)


# Labels


def test_table_of_states():
    findings = [finding(label, STATE_NAMES[index % 4], index / 14) for index, label in enumerate(LABELS)]
    doubt = [{"label": "Edema", "predicted": "blank", "written": "positive"}]
    html = labels_view(findings, {"Fracture": "uncertain"}, STATE_NAMES, doubt)
    assert html.count("<tr data-label=") == 14 and html.count('type="radio"') == 56 and html.count(" checked") == 14
    rows = {row.partition('"')[0]: row for row in html.split('<tr data-label="')[1:]}
    for item in findings:
        row = rows[item["label"]]
        assert f'value="{item["state"]}" checked' in row and f"{item['score']:.2f}" in row
        assert ('data-given="true"' in row) == (item["label"] == "Fracture")
        assert ("but positive in the report" in row) == (item["label"] == "Edema")


def test_labels_of_ones_own_are_escaped():
    html = labels_view([finding("<b>Mass", "a&b")], {}, ["a&b"])
    assert "<b>" not in html and "&lt;b&gt;Mass" in html and 'value="a&amp;b" checked' in html


# Report


def test_text_is_escaped_in_every_view(study):
    answer = answer_for(study, finding("Edema"))
    for html in (writing_view("<b>"), error_view("<b>"), report_view(study, answer, "<b>")):
        assert "<b>" not in html and "<lungs>" not in html


def test_report_says_what_shaped_it(study):
    study.given = {"Edema": "positive"}
    answer = answer_for(study, finding("Edema"))
    html = report_view(study, answer, "tiny")
    assert "Written with states that were given: Edema positive." in html and "Stopped" not in html
    study.stop.set()
    assert "Stopped before its end." in report_view(study, answer, "tiny")
    assert "The model wrote nothing." in report_view(study, {**answer, "generated_text": ""}, "tiny")
    study.phantom_report = "Left effusion."
    assert "Left effusion." in report_view(study, answer, "tiny")


def test_record_to_download(study):
    study.given, study.indication = {"Edema": "positive"}, "Cough of Mr Smith."
    record = answer_record(study, answer_for(study, finding("Edema")), "tiny")
    assert json.loads(json.dumps(record)) == record  # no maps, no arrays
    assert record["given_labels"] == {"Edema": "positive"} and record["views"] == ["frontal", "unknown"]
    assert record["complete"] and not record["synthetic_image"] and "not for clinical use" in record["notice"]
    assert "Smith" not in json.dumps(record)


def test_dicom_without_pydicom_is_one_line_on_the_page(monkeypatch, tmp_path):
    pytest.importorskip("pydicom")
    from otdrg_hf.app.events import PageEvents
    from tests.support.dicom_files import make_dicom

    path = tmp_path / "film.dcm"
    path.write_bytes(make_dicom(make_films(1)[0]))
    importing = builtins.__import__

    def without(name, *arguments, **options):
        if name.partition(".")[0] == "pydicom":
            raise ImportError(name)
        return importing(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    *_, last = PageEvents(None, "tiny").upload([str(path)])
    assert "which needs pydicom: pip install" in last["message"] and not path.exists()
