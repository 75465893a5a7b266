"""Bodies that nobody should send: a status below 500 and one line of JSON, and the server goes on."""

import io
import json

import hypothesis
import pytest
from hypothesis import strategies as st
from PIL import Image

from otdrg_hf.serving.application import make_application
from otdrg_hf.serving.limits import Limits
from tests.serving.conftest import chat, data_url
from tests.support.dicom_files import make_dicom

REPORTS, CHAT = "/v1/reports", "/v1/chat/completions"


def refused(answer, *statuses: int) -> str:
    assert answer.status_code in (statuses or range(400, 500)), answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
    assert "Traceback" not in answer.text
    return error["message"]


def image_file(kind: str, size=(64, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind)
    return file.getvalue()


def files(films, pictures) -> dict[str, bytes]:
    return {
        "not an image": b"%PDF-1.7 no image",
        "empty": b"",
        "cut short": pictures[0][: len(pictures[0]) // 2],
        "too small": image_file("PNG", (4, 4)),
        "a CT slice": make_dicom(films[0], Modality="CT"),
        "a cut DICOM": make_dicom(films[0])[:400],
        "PostScript": image_file("EPS"),
    }


@pytest.mark.parametrize(
    "name", ["not an image", "empty", "cut short", "too small", "a CT slice", "a cut DICOM", "PostScript"]
)
def test_files(client, films, pictures, name):
    content = files(films, pictures)[name]
    said = {
        refused(client.post(REPORTS, files={"images": ("film", content)}), 422),
        refused(client.post(REPORTS, json={"images": [data_url(content)]}), 422),
        refused(client.post(CHAT, json=chat(content)), 422),
    }
    assert len(said) == 1 and said.pop().startswith("image: ")


def test_the_image_at_fault_is_named(client, pictures):
    answer = client.post(REPORTS, json={"images": [data_url(pictures[0]), data_url(b"none")]})
    assert refused(answer, 422).startswith("image 1: ")


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({}, "images"),
        ({"images": []}, "images"),
        ({"images": "film.png"}, "images"),
        ({"images": [None]}, "images.0"),
        ({"images": ["x"] * 9}, "at most 8"),
        ({"images": ["x"], "film": 1}, "film"),
        ({"images": ["x"], "views": ["from above"]}, "views.0"),
        ({"images": ["x"], "views": ["frontal", "lateral"]}, "as many views"),
        ({"images": ["x"], "indication": "a" * 5000}, "indication"),
        ({"images": ["x"], "disease_labels": {"Pneumothorax": "maybe"}}, "disease_labels.Pneumothorax"),
        ({"images": ["x"], "evidence": "jpeg"}, "evidence"),
        ({"images": ["x"], "max_new_tokens": 0}, "max_new_tokens"),
        ({"images": ["x"], "max_new_tokens": 1e300}, "max_new_tokens"),
        ([], "body"),
        ("text", "body"),
    ],
    ids=str,
)
def test_studies(client, body, fault):
    assert fault in refused(client.post(REPORTS, json=body), 422)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"operating_point": "best"}, "'best' is not an operating point"),
        ({"operating_point": ""}, "'' is not an operating point"),
        ({"operating_point": {}}, "empty"),
        ({"operating_point": []}, "operating_point"),
        ({"operating_point": {"recall": 2}}, "a recall of 2 is impossible"),
        ({"operating_point": {"recall": float("nan")}}, "impossible"),
        ({"operating_point": {"recall": True}}, "impossible"),
        ({"operating_point": {"recall": "0.9"}}, "impossible"),
        ({"operating_point": {"recall": 10**400}}, "impossible"),
        ({"operating_point": {"recall": 0.9, "precision": 0.9}}, "not an operating point"),
        ({"operating_point": {"Edema": {"recall": None}}}, "impossible"),
        ({"operating_point": {"Edema": [["\n"]]}}, "not an operating point"),
        ({"operating_point": {"Gout\n": "sensitive"}}, "Gout"),
        ({"operating_point": {"No Finding": "sensitive"}}, "No Finding"),
        ({"operating_point": {"x" * 100_000: "sensitive"}}, "names 'xxx"),
        ({"begins_with": 5}, "begins_with"),
        ({"begins_with": "a" * 20_001}, "begins_with"),
        ({"begins_with": "heart " * 3000}, "leaves no room"),
        ({"impression_of": "heart " * 3000}, "leaves no room"),
        ({"begins_with": "The heart", "impression_of": "Clear."}, "not both"),
        ({"impression_of": "Findings: Clear. Impression: Normal."}, "findings alone"),
        ({"impression_of": "The heart is large.", "operating_point": "sensitive"}, "cannot write an impression"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_points_and_drafts(serve, calibrated, pictures, given, fault):
    client = serve(of=calibrated)
    content = json.dumps({"images": [data_url(pictures[0])], **given})
    said = refused(client.post(REPORTS, content=content, headers={"Content-Type": "application/json"}), 422)
    assert fault in said and len(said) <= 500
    fields = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
    if all(fields.values()) and fields.get("begins_with") != "5":  # a form has text alone, and no empty field
        refused(client.post(REPORTS, files={"images": ("a.png", pictures[0])}, data=fields), 422)


def test_a_point_of_a_model_that_knows_none(client, pictures):
    study = {"images": [data_url(pictures[0])], "operating_point": "sensitive"}
    assert "no operating curves" in refused(client.post(REPORTS, json=study), 422)


@pytest.mark.parametrize("depth", [100, 900, 50_000])
def test_a_deep_point(serve, calibrated, pictures, depth):
    deep = '{"Edema": ' * depth + "1" + "}" * depth
    files = {"images": ("a.png", pictures[0])}
    refused(serve(of=calibrated).post(REPORTS, files=files, data={"operating_point": deep}), 422)


def test_labels_that_the_model_does_not_have(client, pictures):
    study = {"images": [data_url(pictures[0])], "disease_labels": {"Gout": "positive"}}
    assert "Gout" in refused(client.post(REPORTS, json=study), 422)


def test_prompt_beyond_the_context(client, pictures, monkeypatch, report):
    monkeypatch.setattr(type(report.model.config), "context_length", 16)
    study = {"images": [data_url(picture) for picture in pictures]}
    assert "context" in refused(client.post(REPORTS, json=study), 422)
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"images": ' + b"[" * 100_000, b"\xff\xfe\x00", b"null" * 1000, b'{"images": [NaN}'],
    ids=len,
)
@pytest.mark.parametrize("path", [REPORTS, CHAT])
def test_what_is_not_json(client, path, content):
    refused(client.post(path, content=content, headers={"Content-Type": "application/json"}), 400)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("text/plain", 415),
        ("", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ("multipart/form-data; boundary=x", 400),
        ("application/x-www-form-urlencoded", 415),
    ],
)
def test_types_of_body(client, kind, status):
    refused(client.post(REPORTS, content=b"--y\r\n\r\nx", headers={"Content-Type": kind}), status, 422)


def test_forms(client, pictures):
    film = {"images": ("film.png", pictures[0])}
    for data in (
        {"disease_labels": "{"},
        {"disease_labels": "[]"},
        {"views": "a"},
        {"indication": ["a", "b"]},
        {"x": "1"},
    ):
        refused(client.post(REPORTS, files=film, data=data), 422)
    refused(client.post(REPORTS, files={"film": ("film.png", pictures[0])}), 422)
    refused(client.post(REPORTS, files=[("images", ("film.png", pictures[0]))] * 9), 422)
    refused(client.post(REPORTS, files=[("images", ("film.png", b""))] * 100), 400)


def test_methods_and_paths(client):
    for method, path, status in (
        ("GET", REPORTS, 405),
        ("DELETE", CHAT, 405),
        ("POST", "/v1/completions", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/docs", 404),
    ):
        refused(client.request(method, path), status)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


def mutated(valid: dict):
    """A valid body with a value replaced somewhere."""

    def replaced(draw_from):
        path, value = draw_from
        body = json.loads(json.dumps(valid))
        part = body
        for _ in range(path[0] % 4):
            keys = list(part) if isinstance(part, dict) else list(range(len(part))) if isinstance(part, list) else []
            if not keys:
                break
            key = keys[path[1] % len(keys)]
            if path[2] or not isinstance(part[key], (dict, list)):
                part[key] = value
                break
            part = part[key]
        return body

    return st.tuples(st.tuples(st.integers(0, 3), st.integers(0, 20), st.booleans()), JSON).map(replaced)


@pytest.fixture(scope="module")
def one_server(calibrated):
    from starlette.testclient import TestClient

    application = make_application(calibrated, "tiny", Limits(max_new_tokens=2))
    with TestClient(application, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def fuzz(one_server, pictures, examples: int) -> None:
    url = data_url(pictures[0])
    study = {"images": [url], "views": ["frontal"], "indication": "a", "comparison": "b", "evidence": "arrays"}
    study |= {"disease_labels": {"Edema": "positive"}, "max_new_tokens": 2, "begins_with": "The heart"}
    study |= {"operating_point": {"Edema": {"recall": 0.9}, "Fracture": "sensitive"}}
    talk = chat(pictures[0], "Cough.", stream=False, temperature=0, max_tokens=2, seed=1)

    @hypothesis.settings(max_examples=examples, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(st.tuples(st.just(REPORTS), mutated(study)) | st.tuples(st.just(CHAT), mutated(talk)))
    def check(sent):
        path, body = sent
        content = json.dumps(body).encode("utf-8", "surrogatepass")
        answer = one_server.post(path, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, *range(400, 500)), answer.text
        assert "Traceback" not in answer.text

    @hypothesis.settings(max_examples=examples, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(
        st.sampled_from([REPORTS, CHAT]),
        st.binary(max_size=200),
        st.sampled_from(["application/json", "multipart/form-data; boundary=x", "text/plain", "image/png"]),
        st.booleans(),
    )
    def check_bytes(path, content, kind, framed):
        if framed:
            head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
            content = head + content + b"\r\n--x--\r\n"
        answer = one_server.post(path, content=content, headers={"Content-Type": kind})
        refused(answer)

    check()
    check_bytes()


def test_mutated_bodies(one_server, pictures):
    fuzz(one_server, pictures, 150)


@pytest.mark.slow
def test_many_mutated_bodies(one_server, pictures):
    fuzz(one_server, pictures, 5000)
    assert one_server.get("/health").json()["status"] == "ok"


@pytest.mark.slow
def test_requests_made_from_the_schema(calibrated):
    """schemathesis reads the server's OpenAPI, and sends what follows it and what does not."""
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_asgi(
        "/openapi.json", make_application(calibrated, "tiny", Limits(max_new_tokens=2))
    )
    from schemathesis import GenerationMode, checks

    conformance = [checks.content_type_conformance, checks.response_schema_conformance, checks.status_code_conformance]
    settings = hypothesis.settings(max_examples=200, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    for operation in schema.get_all_operations():
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if operation.ok().method.upper() == "GET" and mode is GenerationMode.NEGATIVE:
                continue  # there is nothing in such a request to be wrong

            @settings
            @hypothesis.given(operation.ok().as_strategy(generation_mode=mode))
            def check(case):
                answer = case.call()
                assert answer.status_code < 500 and "Traceback" not in answer.text, answer.text
                case.validate_response(answer, checks=[checks.not_a_server_error, *conformance])

            check()
