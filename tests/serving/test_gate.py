"""Keys, origins, bounds and logs: what every request passes before a model sees it."""

import logging

import anyio
import pytest

from otdrg_hf.serving.gate import Gate, read_keys
from otdrg_hf.serving.limits import Limits
from otdrg_hf.serving.telemetry import Telemetry
from tests.serving.conftest import chat, data_url
from tests.support.dicom_files import make_dicom

REPORTS, CHAT = "/v1/reports", "/v1/chat/completions"
KEY = "0123456789abcdef0123"


def code(answer) -> str:
    return answer.json()["error"]["code"]


def test_keys(serve, pictures):
    client = serve(keys=["another-key-0123456789", KEY])
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}, {"Authorization": KEY}):
        for path in ("/v1/models", "/metrics", "/", "/openapi.json", "/nowhere"):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert client.post(CHAT, json=chat(pictures[0]), headers=headers).status_code == 401
    assert client.get("/health").status_code == 200
    headers = {"Authorization": f"Bearer {KEY}"}
    assert client.get("/v1/models", headers=headers).status_code == 200
    assert client.post(CHAT, json=chat(pictures[0]), headers=headers).status_code == 200


def test_file_of_keys(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# of the clinic\n\n{KEY}\n")
    assert read_keys(file) == [KEY]
    for content, fault in (("", "empty"), ("# nothing\n", "empty"), ("short\n", "16 characters")):
        file.write_text(content)
        with pytest.raises(ValueError, match=fault) as error:
            read_keys(file)
        assert "short" not in str(error.value) and str(tmp_path) not in str(error.value)
    with pytest.raises(ValueError, match="cannot be read"):
        read_keys(tmp_path / "missing")


def test_pages_of_other_sites_are_refused(serve, pictures):
    client = serve(local=True)
    study = {"images": [data_url(pictures[0])]}
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 403
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert client.post(REPORTS, json=study, headers=headers).status_code == 403
    own = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    assert client.post(REPORTS, json=study, headers=own).status_code == 200


def test_body_that_is_too_large(serve, pictures):
    client = serve(max_bytes=1000)
    announced = client.post(REPORTS, content=b" " * 1001, headers={"Content-Type": "application/json"})
    assert announced.status_code == 413 and code(announced) == "too_large"

    def chunks():
        for _ in range(30):
            yield b" " * 100

    assert client.post(REPORTS, content=chunks()).status_code == 413


def test_image_of_too_many_pixels(serve, pictures, films):
    client = serve(max_pixels=films[0].shape[0] * films[0].shape[1] - 1)
    answer = client.post(REPORTS, json={"images": [data_url(pictures[0])]})
    assert answer.status_code == 422 and code(answer) == "too_large"
    answer = client.post(REPORTS, files={"images": ("a.dcm", make_dicom(films[0]))})
    assert answer.status_code == 422 and code(answer) == "too_large"


def test_a_client_that_hangs_in_its_upload_is_let_go():
    async def never(scope, receive, send):
        raise AssertionError("the application must not see half a body")

    sent, gate = [], Gate(never, Limits(upload_seconds=0.05), Telemetry(), frozenset())
    messages = [{"type": "http.request", "body": b"half", "more_body": True}]

    async def receive():
        if messages:
            return messages.pop()
        await anyio.sleep_forever()

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": REPORTS, "headers": []}
    anyio.run(gate, scope, receive, send)
    assert sent[0]["status"] == 408 and gate.bytes_held == 0


def test_bodies_have_a_bound_together():
    """Two clients send at once; what both hold is bounded, and given back."""

    async def app(scope, receive, send):
        await anyio.sleep(0.05)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    gate, statuses = Gate(app, Limits(max_bytes=100, max_body_bytes=150), Telemetry(), frozenset()), []

    async def client():
        async def receive():
            return {"type": "http.request", "body": b"x" * 100}

        async def send(message):
            if "status" in message:
                statuses.append((message["status"], dict(message["headers"]).get(b"retry-after")))

        await gate({"type": "http", "method": "POST", "path": REPORTS, "headers": []}, receive, send)

    async def all_clients():
        async with anyio.create_task_group() as group:
            group.start_soon(client)
            group.start_soon(client)

    anyio.run(all_clients)
    assert sorted(statuses, key=lambda each: each[0]) == [(200, None), (429, b"5")] and gate.bytes_held == 0


def test_nothing_of_a_patient_reaches_a_log(client, films, pictures, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    film = make_dicom(films[0], PatientName="Secret^Jane", PatientID="SECRET7", StudyDescription="SECRETSTUDY")
    damaged = film[: len(film) // 2]
    for content in (film, damaged, b"SECRET"):
        client.post(f"{REPORTS}?name=SECRET", files={"images": ("SECRET.dcm", content)}, data={"indication": "SECRET"})
    client.post(CHAT, json=chat(pictures[0], "SECRET cough."), headers={"X-Patient": "SECRET"})
    client.post(CHAT, json={"model": "SECRET", "messages": [], "SECRET": "SECRET"})
    client.post(REPORTS, json={"images": ["SECRET"], "SECRET": 1, "disease_labels": {"SECRET": "positive"}})
    client.get("/SECRET/path?SECRET")
    logged = "\n".join(
        record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "asyncio"))
    )
    assert "POST /v1/reports 200" in logged and "GET other 404" in logged
    out = capfd.readouterr()
    metrics = client.get("/metrics").text
    for text in (logged, out.out, out.err, metrics):
        assert "secret" not in text.lower() and "Traceback" not in text


def test_every_answer_forbids_caching_and_sniffing(client, pictures):
    for answer in (client.get("/"), client.get("/nowhere"), client.post(CHAT, json=chat(pictures[0]))):
        assert answer.headers["cache-control"] == "no-store" and answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
