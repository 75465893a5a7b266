"""`POST /v1/reports`: JSON and forms get what `otdrg report --json` writes."""

import base64
import io
import json

import jsonschema_rs
import numpy as np
import pytest
from PIL import Image

from otdrg_hf.reporting import REPORT_SCHEMA, review_answer
from otdrg_hf.serving.answers import answer_schema
from tests.serving.conftest import data_url
from tests.support.dicom_files import make_dicom

REPORTS = "/v1/reports"


def expected(report, study, **options) -> dict:
    return review_answer(report(study, max_new_tokens=12, **options))


def without_names(row: dict) -> dict:
    return {key: value for key, value in row.items() if key not in ("image", "model")}


@pytest.mark.parametrize("form", ["data url", "base64", "with a name"])
def test_json(client, report, films, pictures, form):
    source = {
        "data url": data_url(pictures[0]),
        "base64": base64.b64encode(pictures[0]).decode(),
        "with a name": {"data": data_url(pictures[0]), "name": "a.png"},
    }[form]
    answer = client.post(REPORTS, json={"images": [source]})
    assert answer.status_code == 200, answer.text
    row = answer.json()
    jsonschema_rs.validate(REPORT_SCHEMA, row)
    assert row["model"] == "tiny" and row["image"] == ("a.png" if form == "with a name" else "image")
    assert without_names(row) == expected(report, films[0])


def test_all_of_a_study(client, report, films, pictures):
    study = {"views": ["frontal", "lateral"], "indication": "Cough.", "comparison": "The lungs are clear."}
    study["disease_labels"] = {"Pneumothorax": "positive"}
    answer = client.post(REPORTS, json={"images": [data_url(picture) for picture in pictures[:2]], **study})
    assert answer.status_code == 200, answer.text
    assert without_names(answer.json()) == expected(report, {"images": [films[0], films[1]], **study})


def test_operating_points_and_beginnings(serve, calibrated, films, pictures):
    client = serve(of=calibrated)
    point = {"Edema": {"recall": 0.9}}
    for asked in ("sensitive", point):
        row = client.post(REPORTS, json={"images": [data_url(pictures[0])], "operating_point": asked}).json()
        assert without_names(row) == expected(calibrated, films[0], operating_point=asked)
        assert row["operating_point"] == {"asked": asked, "unreached": {}}
    files = {"images": ("a.png", pictures[0])}
    begun = client.post(REPORTS, files=files, data={"begins_with": "The heart", "operating_point": json.dumps(point)})
    study = {"images": [films[0]], "begins_with": "The heart"}
    assert without_names(begun.json()) == expected(calibrated, study, operating_point=point)
    assert begun.json()["generated_text"].startswith("The heart")


@pytest.mark.parametrize("wanted", [True, False])
def test_sentences_are_left_out_and_asked_for(client, report, films, pictures, wanted):
    row = client.post(REPORTS, json={"images": [data_url(pictures[0])], "sentences": wanted}).json()
    assert ("sentences" in row) == wanted
    assert without_names(row) == expected(report, films[0], sentences=wanted)


def test_form(client, report, films, pictures):
    files = [("images", ("pa.png", pictures[0])), ("images", ("lateral.png", pictures[1]))]
    fields = {"views": "frontal, lateral", "indication": "Cough.", "comparison": "", "max_new_tokens": "12"}
    fields["disease_labels"] = json.dumps({"Pneumothorax": "positive"})
    answer = client.post(REPORTS, files=files, data=fields)
    assert answer.status_code == 200, answer.text
    study = {"images": [films[0], films[1]], "views": ["frontal", "lateral"], "indication": "Cough."}
    study["disease_labels"] = {"Pneumothorax": "positive"}
    assert without_names(answer.json()) == expected(report, study) and answer.json()["image"] == "pa.png"


def test_dicom(client, report, films):
    content = make_dicom(np.kron(films[2], np.ones((2, 2), np.uint8)), ViewPosition="LL", PatientName="Doe^Jane")
    by_form = client.post(REPORTS, files={"images": ("film.dcm", content)})
    by_json = client.post(REPORTS, json={"images": [data_url(content, "application/dicom")]})
    assert by_form.status_code == by_json.status_code == 200
    assert without_names(by_form.json()) == without_names(by_json.json()) == expected(report, content)
    assert "Doe" not in by_form.text + by_json.text


def test_evidence_as_images_and_as_numbers(client, report, films, pictures):
    labels = {"Pneumothorax": "positive", "Edema": "uncertain"}
    wide = np.kron(films[0], np.ones((1, 4), np.uint8))
    study = {"images": [data_url(pictures[0]), data_url(_png(wide))], "disease_labels": labels}
    plain = client.post(REPORTS, json=study).json()
    assert "evidence" not in plain
    maps = report({"images": [films[0], wide], "disease_labels": labels}, evidence=True, max_new_tokens=12)["evidence"]
    for form in ("png", "arrays"):
        row = client.post(REPORTS, json=study | {"evidence": form}).json()
        evidence = row.pop("evidence")
        assert without_names(row) == without_names(plain) and set(evidence) == set(maps) >= set(labels)
        for label, views in maps.items():
            for view, sent in zip(views, evidence[label], strict=True):
                got = _opened(sent) if form == "png" else np.array(sent)
                assert got.ndim == 2 and 0 <= got.min() and got.max() <= 1
                if got.shape == view.shape:
                    np.testing.assert_allclose(got, view, atol=0.005)
                else:
                    assert max(got.shape) == 64 and abs(got.mean() - view.mean()) < 0.1
        jsonschema_rs.validate(answer_schema(), {**row, "evidence": evidence})


def _png(film: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(film).save(file, "PNG")
    return file.getvalue()


def _opened(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) / 255


def test_schema_is_that_of_the_command(client):
    schema = client.get("/openapi.json").json()
    described = schema["paths"][REPORTS]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    described["properties"].pop("evidence")
    assert described == {**REPORT_SCHEMA["oneOf"][0]}
