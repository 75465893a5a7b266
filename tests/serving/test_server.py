"""The whole server, `otdrg serve` with the bundled model in a process of its own, and clients of several kinds."""

import base64
import http.client
import io
import json
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

openai = pytest.importorskip("openai")

from otdrg_hf import cli  # noqa: E402
from otdrg_hf.data.phantom import make_phantom  # noqa: E402
from tests.support.served_api import start_server  # noqa: E402


@pytest.fixture(scope="module")
def server():
    server = start_server("--max_queue", "64", "--max_mb", "4")
    yield server
    if server.process.poll() is None:
        assert server.stop() in (0, -15)


@pytest.fixture(scope="module")
def phantoms() -> list[bytes]:
    files = [io.BytesIO() for _ in range(4)]
    for seed, file in enumerate(files):
        make_phantom(seed, "test", 256).images[0].save(file, "PNG")
    return [file.getvalue() for file in files]


def messages(picture: bytes) -> list[dict]:
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def report_of(server, picture: bytes) -> dict:
    answer = httpx.post(f"{server.address}/v1/reports", files={"images": ("film.png", picture)}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_official_client(server, phantoms):
    client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="none")
    [model] = client.models.list()
    for picture in phantoms[:2]:
        whole = client.chat.completions.create(model=model.id, messages=messages(picture))
        stream = list(client.chat.completions.create(model=model.id, messages=messages(picture), stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert whole.choices[0].message.content == text == report_of(server, picture)["generated_text"]
        assert len(stream) > 5 and stream[-1].choices[0].finish_reason == "stop"
        assert stream[-1].otdrg["findings"] == whole.otdrg["findings"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(server, phantoms, tmp_path):
    (tmp_path / "chest.png").write_bytes(phantoms[0])
    command = ["curl", "-sS", "-F", "images=@chest.png", "-F", "evidence=png", f"{server.address}/v1/reports"]
    row = json.loads(subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=60).stdout)
    assert row["image"] == "chest.png" and row["generated_text"] and "evidence" in row


def test_many_clients_each_get_the_answer_to_their_image(server, phantoms):
    alone = [report_of(server, picture) for picture in phantoms]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda index: report_of(server, phantoms[index % 4]), range(48)))
    # Scores of a batch differ from those of one study by rounding.
    for index, answer in enumerate(answers):
        assert answer["generated_text"] == alone[index % 4]["generated_text"]
    batches = httpx.get(f"{server.address}/metrics").text
    studies = float(batches.split("otdrg_batch_studies_sum ")[1].split()[0])
    assert studies > float(batches.split("otdrg_batch_studies_count ")[1].split()[0])


def metric(server, name: str) -> float:
    text = httpx.get(f"{server.address}/metrics").text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def test_clients_that_leave(server, phantoms):
    """In the middle of a stream, while they wait, and in the middle of an upload."""
    before = metric(server, 'otdrg_requests_total{method="POST"')
    request = {"model": "demo", "messages": messages(phantoms[0])}
    with httpx.stream("POST", f"{server.address}/v1/chat/completions", json={**request, "stream": True}) as answer:
        next(answer.iter_lines())
    for content in (json.dumps(request).encode(), b'{"half":'):
        where = urlsplit(server.address)
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        with socket.create_connection((where.hostname, where.port)) as connection:
            length = len(content) + (content == b'{"half":') * 100
            connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + content)
    deadline = time.monotonic() + 30
    while metric(server, 'otdrg_requests_total{method="POST"') < before + 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert report_of(server, phantoms[1])["generated_text"]
    assert metric(server, "otdrg_queue_studies") == 0


MALFORMED = [
    b"\x00\xff\xfe garbage\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/reports HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/reports HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n",
    b"POST /v1/reports HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
]


@pytest.mark.parametrize("content", MALFORMED, ids=lambda content: repr(content[:24]))
def test_what_is_not_http(server, content):
    where = urlsplit(server.address)
    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        connection.sendall(content)
        answer = connection.recv(65536)
    assert not answer or answer.split()[1][:1] == b"4", answer
    assert httpx.get(f"{server.address}/health").status_code == 200


def test_a_body_beyond_the_bound(server):
    where = urlsplit(server.address)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=30)
    connection.putrequest("POST", "/v1/reports")
    connection.putheader("Content-Length", str(5_000_000))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413 and json.loads(answer.read())["error"]["code"] == "too_large"


def test_it_ends_when_asked_and_finishes_what_it_has_begun(server, phantoms):
    """Last: it ends the server of this module."""
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(report_of, server, picture) for picture in phantoms]
        time.sleep(0.5)  # on a busy machine none has begun before
        server.process.terminate()
        outcomes = [answer.exception() for answer in answers]
    assert server.process.wait(timeout=60) in (0, -15)
    assert all(outcome is None or isinstance(outcome, httpx.TransportError) for outcome in outcomes)
    assert any(outcome is None for outcome in outcomes)
    log = "".join(server.lines)
    assert "POST /v1/reports 200" in log and "Traceback" not in log and "film.png" not in log


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--api_key_file", "missing"], "cannot be read"),
        (["--model", "./nowhere"], "no such folder"),
        (["--host", "256.1.1.1"], "cannot be used"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, capsys, options, fault):
    monkeypatch.setattr(sys, "argv", ["otdrg", "serve", "--port", "0", *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert fault in line
