"""The model's thread: requests run together, are refused when there is no room, and end when nobody waits."""

import json
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from otdrg_hf.serving import batching
from otdrg_hf.serving.application import make_application
from otdrg_hf.serving.limits import Limits, Refusal
from otdrg_hf.serving.service import ReportService
from otdrg_hf.serving.studies import StudyRequest
from tests.serving.conftest import chat, data_url


@pytest.fixture
def service(report):
    services = []

    def start(of=report, **limits) -> ReportService:
        sizes: list[int] = []
        service = ReportService(
            of, "tiny", Limits(**({"max_new_tokens": 12} | limits)), lambda jobs: sizes.append(len(jobs))
        )
        service.sizes = sizes
        services.append(service)
        return service

    yield start
    for service in services:
        service.close()


def study(picture: bytes, **options) -> StudyRequest:
    return StudyRequest(images=[data_url(picture)], **options)


@pytest.fixture
def gate(monkeypatch):
    """Holds the model's thread before a batch until it is set."""
    event, forward = threading.Event(), batching.ModelThread._forward

    def held(self, jobs):
        assert event.wait(30)
        return forward(self, jobs)

    monkeypatch.setattr(batching.ModelThread, "_forward", held)
    yield event
    event.set()


def test_what_waits_runs_together_with_the_texts_of_each_alone(service, report, films, pictures, gate):
    running = service(max_batch=8)
    first = running.start(study(pictures[0]))
    while running.thread.waiting:
        time.sleep(0.01)
    jobs = [running.start(study(picture)) for picture in pictures]
    other = running.start(study(pictures[0], max_new_tokens=3))
    gate.set()
    texts = [running.finish(job, study(pictures[0])).row["generated_text"] for job in [first, *jobs]]
    alone = [answer["generated_text"] for answer in report(films, max_new_tokens=12)]
    assert texts == [alone[0], *alone]
    short = running.finish(other, study(pictures[0])).row["generated_text"]
    assert short == report(films[0], max_new_tokens=3)["generated_text"]
    assert running.sizes[:2] == [1, len(pictures)]


def test_a_batch_in_which_some_reports_are_revised(service, calibrated, films, pictures, gate):
    """At an operating point, the reports whose states change are written twice; a beginning comes with its study."""
    all_of_them = {"recall": 1.0}
    running = service(of=calibrated, max_batch=8)
    drafts = [None, "The heart", None, "Clear."]
    studies = [
        study(picture, operating_point=all_of_them, begins_with=draft)
        for picture, draft in zip(pictures, drafts, strict=True)
    ]
    jobs = [running.start(each) for each in studies]
    gate.set()
    rows = [running.finish(job, each).row for job, each in zip(jobs, studies, strict=True)]
    alone = [
        calibrated({"images": [film], "begins_with": draft}, operating_point=all_of_them, max_new_tokens=12)
        for film, draft in zip(films, drafts, strict=True)
    ]
    assert [row["generated_text"] for row in rows] == [answer["generated_text"] for answer in alone]
    assert sum(running.sizes) == 4
    plain = calibrated(films, max_new_tokens=12)
    changed = [states(row) != states(answer) for row, answer in zip(rows, plain, strict=True)]
    assert any(changed), states(plain[0])


def states(answer: dict) -> list[str]:
    return [finding["state"] for finding in answer["findings"]]


def test_batches_have_a_bound(service, pictures, gate):
    running = service(max_batch=2)
    jobs = [running.start(study(pictures[0])) for _ in range(6)]
    gate.set()
    assert all(job.future.result(60) for job in jobs) and max(running.sizes) == 2


def test_a_full_queue_says_when_to_come_back(serve, pictures, gate):
    client = serve(max_queue=2, max_batch=1)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(client.post, "/v1/chat/completions", json=chat(pictures[0])) for _ in range(8)]
        deadline = time.monotonic() + 30
        while sum(each.done() for each in waiting) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        gate.set()
        answers = [each.result() for each in waiting]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert [answer.status_code for answer in answers].count(200) == 3 and len(refused) == 5
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
    assert client.post("/v1/chat/completions", json=chat(pictures[0])).status_code == 200


def test_a_job_that_nobody_waits_for_is_dropped_from_the_queue(service, pictures, gate):
    running = service(max_batch=1)
    first, second, third = (running.start(study(pictures[0])) for _ in range(3))
    second.abandon()
    gate.set()
    assert third.future.result(60) and first.future.done() and second.future.cancelled()
    assert sum(running.sizes) == 2


def test_a_running_report_ends_at_the_next_token_and_others_do_not(service, report, films, pictures, monkeypatch):
    running, steps = service(max_new_tokens=200), []
    take = batching._BatchStreamer.put

    def put(self, value):
        take(self, value)
        steps.append(len(value))
        if len(steps) == 4:
            self.jobs[0].abandon()

    monkeypatch.setattr(batching._BatchStreamer, "put", put)
    monkeypatch.setattr(report.model.generation_config, "eos_token_id", None)
    job = running.start(study(pictures[0]))
    job.future.result(60)
    assert len(steps) <= 6 and job.num_tokens <= 4
    assert running.start(study(pictures[0], max_new_tokens=12)).future.result(60)


def test_time_is_bounded(serve, pictures, gate):
    client = serve(request_seconds=0.2)
    answer = client.post("/v1/chat/completions", json=chat(pictures[0]))
    assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
    streamed = client.post("/v1/chat/completions", json=chat(pictures[0], stream=True))
    assert '"code": "timeout"' in streamed.text
    gate.set()


def test_a_batch_that_fails_is_tried_one_by_one(service, pictures, monkeypatch, caplog):
    running, forward = service(), batching.ModelThread._forward
    bad = []

    def faulty(self, jobs):
        if any(job in bad for job in jobs):
            raise RuntimeError("SECRET")
        return forward(self, jobs)

    with monkeypatch.context() as patch:
        patch.setattr(batching.ModelThread, "_forward", faulty)
        jobs = [running.start(study(picture)) for picture in pictures]
        bad.append(jobs[1])
        outcomes = [job.future.exception(60) for job in jobs]
    if outcomes[1] is not None:  # unless it had run before it was marked
        assert [outcome is None for outcome in outcomes] == [True, False, True, True]
    assert "SECRET" not in caplog.text and running.thread.healthy


def test_health_tells_a_broken_model(serve, pictures, monkeypatch):
    client = serve()

    def broken(self, jobs):
        raise RuntimeError("SECRET")

    with monkeypatch.context() as patch:
        patch.setattr(batching.ModelThread, "_forward", broken)
        for _ in range(3):
            answer = client.post("/v1/chat/completions", json=chat(pictures[0]))
            assert answer.status_code == 500 and "SECRET" not in answer.text
        assert client.get("/health").status_code == 503
    assert client.post("/v1/chat/completions", json=chat(pictures[0])).status_code == 200
    assert client.get("/health").json() == {"status": "ok", "model": "tiny"}


def test_closing_refuses_what_waits(service, pictures, gate):
    running = service(max_batch=1)
    first, second = running.start(study(pictures[0])), running.start(study(pictures[0]))
    while running.thread.waiting > 1:
        time.sleep(0.01)
    threading.Timer(0.1, gate.set).start()
    running.close()
    assert first.future.result(60) and isinstance(second.future.exception(60), Refusal)
    with pytest.raises(Refusal, match="shutting down"):
        running.start(study(pictures[0]))


@pytest.mark.parametrize("path", ["/v1/reports", "/v1/chat/completions"])
def test_what_waits_keeps_no_upload(report, pictures, gate, path):
    padded, size = data_url(pictures[0]) + " " * 1_000_000, 1_000_000
    study = {"images": [padded]} if path == "/v1/reports" else chat(pictures[0])
    if path != "/v1/reports":
        study["messages"][0]["content"][0]["image_url"]["url"] = padded
    content = json.dumps(study).encode()
    del padded, study
    application, statuses = make_application(report, "tiny", Limits(max_new_tokens=3)), []
    headers = [(b"content-type", b"application/json"), (b"host", b"x")]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers, "client": None}

    async def client():
        parts = iter([bytes(bytearray(content))])

        async def receive():
            part = next(parts, None)
            if part is None:
                await anyio.sleep_forever()
            return {"type": "http.request", "body": part, "more_body": False}

        async def send(message):
            statuses.extend([message["status"]] if "status" in message else [])

        await application(dict(scope), receive, send)

    async def all_clients():
        async with anyio.create_task_group() as group:
            for count in range(1, 9):
                group.start_soon(client)
                await anyio.sleep(0.1)
                while application.bytes_held:
                    await anyio.sleep(0.01)
                if count == 2:
                    tracemalloc.start()
            kept, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            gate.set()
        return kept

    assert anyio.run(all_clients) < 2 * size and statuses == [200] * 8
