"""The endpoints as an ASGI application."""

import functools
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

import otdrg_hf
from otdrg_hf.serving.answers import answer_schema
from otdrg_hf.serving.batching import Job
from otdrg_hf.serving.chat import completion, completion_chunks
from otdrg_hf.serving.gate import Gate
from otdrg_hf.serving.limits import UNANSWERED, ClientGone, Limits, Refusal
from otdrg_hf.serving.page import page
from otdrg_hf.serving.service import ReportService
from otdrg_hf.serving.studies import ChatRequest, StudyRequest, parse, study_of_fields
from otdrg_hf.serving.telemetry import Telemetry

if TYPE_CHECKING:
    from transformers import Pipeline

NOTICE = "Reports of chest X-rays. Research software: not a medical device, not for clinical use."
CHAT, REPORTS, HEALTH, MODELS, METRICS = "/v1/chat/completions", "/v1/reports", "/health", "/v1/models", "/metrics"
_MULTIPART = {"type": "string", "contentMediaType": "application/octet-stream", "format": "binary"}


def make_application(
    report: "Pipeline", model: str, limits: Limits | None = None, keys: list[str] | None = None, local: bool = False
):
    """
    The server of one model.

    Args:
        report ([`RadiologyReportPipeline`]): As of [`~reporting.load_reporter`].
        model (`str`): Its name; not a path.
        limits ([`Limits`], *optional*): Bounds.
        keys (`list[str]`, *optional*): As of [`Gate`].
        local (`bool`, *optional*, defaults to `False`): As of [`Gate`].

    Returns:
        An ASGI application, whose lifespan ends the model's thread.
    """
    limits, telemetry = limits or Limits(), Telemetry()
    service = ReportService(report, model, limits, telemetry.batch)
    telemetry.watch_queue(lambda: service.thread.waiting)

    @asynccontextmanager
    async def lifespan(web):
        yield
        service.close()

    web = FastAPI(
        title="otdrg serve",
        version=otdrg_hf.__version__,
        description=NOTICE,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    _add_information(web, service, telemetry)
    _add_reports(web, service)
    _add_chat(web, service)
    _add_errors(web)
    routes = frozenset({CHAT, REPORTS, HEALTH, MODELS, METRICS, "/", "/openapi.json"})
    return Gate(web, limits, telemetry, routes, keys, local)


def _add_information(web: FastAPI, service: ReportService, telemetry: Telemetry) -> None:
    started = int(time.time())

    @web.get(HEALTH, summary="Whether the model answers.", responses={503: {"description": "It has failed."}})
    async def health() -> JSONResponse:
        healthy = service.thread.healthy
        content = {"status": "ok" if healthy else "failing", "model": service.model}
        return JSONResponse(content, 200 if healthy else 503)

    @web.get(MODELS, summary="The model, in OpenAI's form.")
    async def models() -> dict[str, Any]:
        entry = {"id": service.model, "object": "model", "created": started, "owned_by": "otdrg-hf"}
        return {"object": "list", "data": [entry]}

    @web.get(METRICS, summary="Counts for Prometheus.", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(telemetry.text(), media_type="text/plain; version=0.0.4")

    @web.get("/", include_in_schema=False)
    async def start_page() -> HTMLResponse:
        return HTMLResponse(page(web.openapi(), service.model, NOTICE))


def _add_reports(web: FastAPI, service: ReportService) -> None:
    fields = StudyRequest.model_json_schema()["properties"]
    form = {name: {"type": "string"} for name in fields if name != "images"}
    form["images"] = {"type": "array", "items": _MULTIPART, "minItems": 1}
    bodies = {
        "application/json": {"schema": _inlined(StudyRequest)},
        "multipart/form-data": {"schema": {"type": "object", "properties": form, "required": ["images"]}},
    }

    @web.post(
        REPORTS,
        summary="The report of a study, as `otdrg report --json` writes it.",
        openapi_extra={"requestBody": {"required": True, "content": bodies}},
        responses=_responses(answer_schema()),
    )
    async def reports(request: Request) -> JSONResponse:
        deadline = time.monotonic() + service.limits.request_seconds
        with service.thread.admit():
            study, files = await _read_study(request, service)
            job = await service.in_reader(service.start, study, files, None, deadline)
            files.clear()
            request.scope["otdrg.body"].release()
            written = await service.answer(job, study, _gone(request))
        return JSONResponse(written.row)


def _add_chat(web: FastAPI, service: ReportService) -> None:
    @web.post(
        CHAT,
        summary="The report as a chat completion in OpenAI's form.",
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(ChatRequest)}}}
        },
        responses=_responses({"type": "object"}, {"text/event-stream": {"schema": {"type": "string"}}}),
    )
    async def chat(request: Request) -> Response:
        deadline = time.monotonic() + service.limits.request_seconds
        admitted = service.thread.admit()
        admitted.__enter__()
        try:
            asked, study = await service.in_reader(_read_chat, await _body_of(request), service.model)
            start = functools.partial(service.start, study, None, asked.sampling(), deadline)
            stream, usage = asked.stream, asked.stream_options is not None and asked.stream_options.include_usage
            del asked  # whose images would be kept while the study waits
            if stream:
                pieces = await service.pieces(start, study)
                request.scope["otdrg.body"].release()
                chunks = completion_chunks(pieces, service.model, usage)
                answer = _Stream(chunks, pieces.job, admitted)
                admitted = None
                return answer
            job = await service.in_reader(start)
            request.scope["otdrg.body"].release()
            written = await service.answer(job, study, _gone(request))
            return JSONResponse(completion(written, service.model))
        finally:
            if admitted is not None:
                admitted.__exit__(None, None, None)


class _Stream(StreamingResponse):
    """Events of a report; its room is given back also where the client leaves before the first of them."""

    def __init__(self, chunks, job: Job, admitted):
        super().__init__(chunks, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self.job, self.admitted = job, admitted

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self.job.future.done():
                self.job.abandon()
            self.admitted.__exit__(None, None, None)


def _read_chat(content: bytes, model: str) -> tuple[ChatRequest, StudyRequest]:
    asked = parse(ChatRequest, content)
    if asked.model != model:
        raise Refusal(404, f"This server has no such model; its model is {model!r}.", "model_not_found")
    return asked, asked.study()


async def _read_study(request: Request, service: ReportService) -> tuple[StudyRequest, dict[int, bytes]]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return await service.in_reader(parse, StudyRequest, await _body_of(request)), {}
    if kind == "multipart/form-data":
        return await _read_form(request)
    raise Refusal(415, "The body must be application/json or multipart/form-data.", "unsupported_media_type")


async def _body_of(request: Request) -> bytes:
    """Not `request.body()`, which keeps it."""
    return b"".join([chunk async for chunk in request.stream()])


class _InMemory(MultiPartParser):
    """Images are of patients: none is spooled to a disk."""

    spool_max_size = 2**40


async def _read_form(request: Request) -> tuple[StudyRequest, dict[int, bytes]]:
    parser = _InMemory(request.headers, request.stream(), max_files=64, max_fields=64, max_part_size=2**20)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, UnicodeError):
        raise Refusal(400, "The body is not multipart/form-data.", "invalid_form") from None
    fields: dict[str, list[str]] = {}
    images: list[Any] = []
    files: dict[int, bytes] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "images":
                raise Refusal(422, f"{name[:60]}: files are taken under 'images' only.", "invalid_request")
            files[len(images)] = await value.read()
            images.append({"data": "", "name": (value.filename or "image")[-200:]})
            await value.close()
        elif name == "images":
            images.append(value)
        else:
            fields.setdefault(name, []).append(value)
    return parse(StudyRequest, study_of_fields(fields, images)), files


async def _gone(request: Request) -> None:
    """Returns when the client leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _add_errors(web: FastAPI) -> None:
    @web.exception_handler(Refusal)
    async def refuse(request: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body, refusal.status, headers=refusal.headers)

    @web.exception_handler(HTTPException)
    async def refuse_path(request: Request, error: HTTPException) -> JSONResponse:
        refusal = Refusal(error.status_code, str(error.detail), str(error.detail).lower().replace(" ", "_"))
        return JSONResponse(refusal.body, error.status_code, headers=error.headers)

    @web.exception_handler(ClientGone)
    async def nothing(request: Request, error: ClientGone) -> Response:
        return Response(status_code=499)

    @web.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(UNANSWERED.body, 500)


def _inlined(kind) -> dict:
    """The JSON Schema of a request, its definitions within."""
    return _resolved(schema := kind.model_json_schema(), schema.pop("$defs", {}))


def _resolved(part: Any, definitions: dict) -> Any:
    if isinstance(part, dict):
        if "$ref" in part:
            return _resolved(definitions[part["$ref"].rpartition("/")[2]], definitions)
        return {key: _resolved(value, definitions) for key, value in part.items()}
    return [_resolved(each, definitions) for each in part] if isinstance(part, list) else part


def _responses(schema: dict, more: dict | None = None) -> dict[int | str, dict[str, Any]]:
    error = {"type": "object", "properties": {"error": {"type": "object"}}, "required": ["error"]}
    refusals = {
        400: "The body is not what its type says.",
        401: "A key is needed.",
        403: "A page of another site.",
        404: "Another model.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        415: "Another type of body.",
        422: "A study, image or key that is not taken.",
        429: "Busy: see Retry-After.",
        503: "Shutting down, or out of memory.",
        504: "Not written in time.",
    }
    described = {
        status: {"description": text, "content": {"application/json": {"schema": error}}}
        for status, text in refusals.items()
    }
    return {
        200: {"description": "The report.", "content": {"application/json": {"schema": schema}, **(more or {})}},
        **described,
    }
