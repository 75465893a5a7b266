"""Reports of requests: images are read in a few threads, the model runs in one, and clients that leave are noticed."""

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from otdrg_hf.serving.answers import answer_row, reduced
from otdrg_hf.serving.batching import Job, ModelThread
from otdrg_hf.serving.images import content_of, read_image
from otdrg_hf.serving.limits import ClientGone, Limits, Refusal
from otdrg_hf.serving.studies import ImageFile, StudyRequest

if TYPE_CHECKING:
    from transformers import Pipeline

Result = TypeVar("Result")
SLOW = "The report was not written in time: ask for a shorter one, or try again later."


@dataclass
class Written:
    """A report: its line, the tokens of prompt and report, and why it ended."""

    row: dict[str, Any]
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


class ReportService:
    """
    A model and the threads around it.

    Args:
        report ([`RadiologyReportPipeline`]): As of [`~reporting.load_reporter`].
        model (`str`): Its name in answers.
        limits ([`Limits`], *optional*): Bounds.
        on_batch (`Callable`, *optional*): As of [`ModelThread`].
    """

    def __init__(
        self,
        report: "Pipeline",
        model: str,
        limits: Limits | None = None,
        on_batch: Callable[[Sequence[Job]], None] | None = None,
    ):
        self.report, self.model, self.limits = report, model, limits or Limits()
        self.thread = ModelThread(report, self.limits, on_batch)
        self.readers = ThreadPoolExecutor(self.limits.readers, thread_name_prefix="reader")

    def close(self) -> None:
        self.thread.close()
        self.readers.shutdown(wait=False, cancel_futures=True)

    def start(
        self,
        study: StudyRequest,
        files: Mapping[int, bytes | Image.Image] | None = None,
        sampling: dict | None = None,
        deadline: float | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Job:
        """
        Reads the images of a study, takes them out of the request, which may wait for long, and puts it into the queue.

        Args:
            study ([`StudyRequest`]): The request.
            files (`Mapping`, *optional*): Images that came as files, or opened already, by their position.
            sampling (`dict`, *optional*): Options of the pipeline.
            deadline (`float`, *optional*): On the monotonic clock.
            on_text (`Callable`, *optional*): As of [`Job`].

        Raises:
            Refusal: for an image that cannot be read, and what the pipeline does not take.
        """
        if deadline is None:
            deadline = time.monotonic() + self.limits.request_seconds
        if len(study.images) > self.limits.max_views:
            raise Refusal(422, f"images: {len(study.images)} views, at most {self.limits.max_views}.", "too_many_views")
        options = self._options(study) | (sampling or {})
        try:
            preprocess, forward, postprocess = self.report._sanitize_parameters(**options)
        except RecursionError:
            raise Refusal(422, "operating_point: too deep.", "invalid_request") from None
        except (ValueError, TypeError) as error:
            raise Refusal(422, _one_line(error), "invalid_request") from None
        try:
            inputs = self.report.preprocess(self._study(study, files or {}), **preprocess)
        except ValueError as error:
            raise Refusal(422, _one_line(error), "invalid_study") from None
        study.images = [ImageFile(data="", name=_name_of(image)) for image in study.images]
        if study.evidence is not None:
            inputs["study"]["sizes"] = reduced(inputs["study"]["sizes"], study.evidence)
        # Samples of one seed depend on what else is in their batch: such a study runs alone.
        alone = time.monotonic_ns() if "seed" in options else None
        key = json.dumps([options, alone], sort_keys=True)
        return self.thread.submit(Job(inputs, (forward, postprocess), key, deadline, on_text))

    def finish(self, job: Job, study: StudyRequest) -> Written:
        """The answer of a job that is done."""
        answer = self.report.postprocess(job.future.result(), **job.options[1])
        row = answer_row(answer, _name(study), self.model, study.evidence)
        tokens = job.num_tokens or len(self.report.processor.tokenizer(row["generated_text"])["input_ids"])
        prompt = len(job.inputs["study"]["input_ids"])
        return Written(row, prompt, tokens, "stop" if job.ended or not job.num_tokens else "length")

    def _options(self, study: StudyRequest) -> dict[str, Any]:
        tokens = min(study.max_new_tokens or self.limits.max_new_tokens, self.limits.max_new_tokens)
        options: dict[str, Any] = {"max_new_tokens": tokens}
        if study.evidence is not None:
            options["evidence"] = True
        for name in ("operating_point", "sentences"):
            if (value := getattr(study, name)) is not None:
                options[name] = value
        return options

    def _study(self, study: StudyRequest, files: Mapping[int, bytes | Image.Image]) -> dict[str, Any]:
        """What the pipeline takes, with its images read."""
        images = []
        for index, image in enumerate(study.images):
            name = "image" if len(study.images) == 1 else f"image {index}"
            content = files.get(index)
            if content is None:
                content = content_of(image if isinstance(image, str) else image.data, name, self.limits)
            images.append(read_image(content, name, self.limits))
        given = {"images": images, "views": study.views, "indication": study.indication}
        given |= {"comparison": study.comparison, "disease_labels": study.disease_labels}
        given |= {"begins_with": study.begins_with, "impression_of": study.impression_of}
        return {key: value for key, value in given.items() if value is not None}

    # Within the event loop

    async def in_reader(self, read: Callable[..., Result], *arguments) -> Result:
        """Runs something in a thread for reading, while which a batch may wait for it."""
        with self.thread.reading():
            return await asyncio.get_running_loop().run_in_executor(self.readers, read, *arguments)

    async def answer(self, job: Job, study: StudyRequest, gone: Awaitable) -> Written:
        """
        Waits for a job.

        Args:
            job ([`Job`]), study ([`StudyRequest`]): As of `start`.
            gone (`Awaitable`): Done as soon as the client leaves.

        Raises:
            Refusal: if the model refuses the study, or the time is up.
            ClientGone: if the client has left.
        """
        waiting = asyncio.ensure_future(gone)
        done = asyncio.wrap_future(job.future)
        try:
            timeout = max(job.deadline - time.monotonic(), 0)
            finished, _ = await asyncio.wait({done, waiting}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if done not in finished or done.cancelled():
                if waiting in finished:
                    raise ClientGone
                raise Refusal(504, SLOW, "timeout", 10)
            if (error := done.exception()) is not None:
                raise _refusal_of(error)
            return await asyncio.get_running_loop().run_in_executor(self.readers, self.finish, job, study)
        finally:
            waiting.cancel()
            if not job.future.done():
                job.abandon()

    async def pieces(self, start: Callable[..., Job], study: StudyRequest) -> "Pieces":
        """Starts a job whose text is read as it is written: `start` as of this class, without `on_text`."""
        loop, texts = asyncio.get_running_loop(), asyncio.Queue()
        push = functools.partial(loop.call_soon_threadsafe, texts.put_nowait)
        job = await self.in_reader(functools.partial(start, on_text=push))
        job.future.add_done_callback(lambda future: push(None))
        return Pieces(self, job, study, texts)


class Pieces:
    """A report as it is written: iterate over its text, then take `written`."""

    def __init__(self, service: ReportService, job: Job, study: StudyRequest, texts: asyncio.Queue):
        self.service, self.job, self.study, self.texts = service, job, study, texts
        self.written: Written | None = None

    async def __aiter__(self) -> AsyncIterator[str]:
        sent = ""
        try:
            while (piece := await self._next()) is not None:
                sent += piece
                yield piece
            self.written = await self.service.answer(self.job, self.study, asyncio.Event().wait())
            text = self.written.row["generated_text"]
            if text.startswith(sent) and len(text) > len(sent):  # beams, whose text comes at once
                yield text[len(sent) :]
        finally:
            if not self.job.future.done():
                self.job.abandon()

    async def _next(self) -> str | None:
        try:
            return await asyncio.wait_for(self.texts.get(), max(self.job.deadline - time.monotonic(), 0.001))
        except asyncio.TimeoutError:
            raise Refusal(504, SLOW, "timeout", 10) from None


def _refusal_of(error: BaseException) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ValueError):
        return Refusal(422, _one_line(error), "invalid_study")
    if "OutOfMemory" in type(error).__name__ or isinstance(error, MemoryError):
        return Refusal(503, "The model ran out of memory: try fewer or smaller images.", "out_of_memory", 10)
    return Refusal(500, "The report could not be written.", "internal_error")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _name(study: StudyRequest) -> str:
    return next(filter(None, map(_name_of, study.images)), "image")


def _name_of(image: str | ImageFile) -> str | None:
    return None if isinstance(image, str) else image.name
