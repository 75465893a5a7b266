"""The thread that owns the model: jobs wait in a bounded queue and run in batches, as they come."""

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer
from transformers.generation.streamers import BaseStreamer

from otdrg_hf.serving.limits import Limits, Refusal

if TYPE_CHECKING:
    from transformers import Pipeline

logger = logging.getLogger(__name__)
# How long a batch waits for requests whose images are being read.
GATHER_SECONDS = 0.05
_BROKEN_AFTER = 3  # batches that fail, one after the other, for no fault of their studies


@dataclass(eq=False)
class Job:
    """
    A study on its way through the model.

    Args:
        inputs (`dict`): What `preprocess` of the pipeline made of the study.
        options (`dict`): Of the pipeline's steps `forward` and `postprocess`, in this order.
        key (`str`): Jobs with the same key run together.
        deadline (`float`): On the monotonic clock.
        on_text (`Callable`, *optional*): Gets the report piece by piece, in the model's thread.
    """

    inputs: dict
    options: tuple[dict, dict]
    key: str
    deadline: float
    on_text: Callable[[str], None] | None = None
    future: Future = field(default_factory=Future)
    abandoned: bool = False
    num_tokens: int = 0
    ended: bool = False
    streamer: "_Pieces | None" = None

    def abandon(self) -> None:
        """Nobody waits for the answer: a waiting job is dropped, a running one ends at the next token."""
        self.abandoned = True
        self.future.cancel()

    @property
    def is_over(self) -> bool:
        return self.abandoned or time.monotonic() > self.deadline


class ModelThread:
    """
    Runs a pipeline in a thread of its own.

    Args:
        report ([`RadiologyReportPipeline`]): As of [`~reporting.load_reporter`].
        limits ([`Limits`]): Bounds of queue and batch.
        on_batch (`Callable`, *optional*): Called with each batch's jobs once it is done.
    """

    def __init__(self, report: "Pipeline", limits: Limits, on_batch: Callable[[Sequence[Job]], None] | None = None):
        self.report, self.limits, self.on_batch = report, limits, on_batch or (lambda jobs: None)
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._admitted = self._being_read = self._failures = 0
        self._seconds_per_study = 0.5
        self._beams = (report.model.generation_config.num_beams or 1) > 1
        ends = report.model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, (list, tuple)) else [ends])
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        return self._thread.is_alive() and not self._closed and self._failures < _BROKEN_AFTER

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Room for one study, from the reading of its images to its answer; [`Refusal`] where there is none."""
        with self._changed:
            if self._admitted >= self.limits.max_queue + self.limits.max_batch:
                seconds = math.ceil(self._admitted * self._seconds_per_study)
                raise Refusal(429, "The server is busy: try again later.", "server_busy", min(max(seconds, 1), 60))
            self._admitted += 1
        try:
            yield
        finally:
            with self._changed:
                self._admitted -= 1

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """While a study's images are read: a batch may wait for it."""
        with self._changed:
            self._being_read += 1
        try:
            yield
        finally:
            with self._changed:
                self._being_read -= 1
                self._changed.notify()

    def submit(self, job: Job) -> Job:
        """Puts a job into the queue; its `future` gets the pipeline's answer."""
        if job.on_text is not None:
            job.streamer = _Pieces(self.report.processor.tokenizer, job.on_text)
        with self._changed:
            if self._closed:
                raise Refusal(503, "The server is shutting down.", "shutting_down", 5)
            self._waiting.append(job)
            self._changed.notify()
        return job

    def close(self) -> None:
        """Ends the thread after its batch; what waits is refused."""
        with self._changed:
            self._closed = True
            left = list(self._waiting)
            self._waiting.clear()
            self._changed.notify()
        for job in left:
            _fail(job, Refusal(503, "The server is shutting down.", "shutting_down", 5))
        self._thread.join(timeout=60)

    def _run(self) -> None:
        while jobs := self._next_batch():
            start = time.monotonic()
            self._answer(jobs)
            rate = (time.monotonic() - start) / len(jobs)
            self._seconds_per_study += 0.2 * (rate - self._seconds_per_study)
            self.on_batch(jobs)
            del jobs  # pixels of a batch are not kept while the next is waited for

    def _next_batch(self) -> list[Job]:
        """The first job that waits and those behind it with the same key; empty once the thread is closed."""
        with self._changed:
            while True:
                self._drop_those_that_are_over()
                if self._closed:
                    return []
                if self._waiting:
                    break
                self._changed.wait()
            until = time.monotonic() + GATHER_SECONDS
            while self._being_read and len(self._waiting) < self.limits.max_batch and time.monotonic() < until:
                self._changed.wait(max(until - time.monotonic(), 0))
            key = self._waiting[0].key if self._waiting else ""
            jobs = [job for job in self._waiting if job.key == key][: self.limits.max_batch]
            for job in jobs:
                self._waiting.remove(job)
        started = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        return started or self._next_batch()

    def _drop_those_that_are_over(self) -> None:
        for job in [job for job in self._waiting if job.is_over]:
            self._waiting.remove(job)
            job.future.cancel()

    def _answer(self, jobs: list[Job]) -> None:
        try:
            answers = self._forward(jobs)
        except Exception as error:
            if len(jobs) > 1:  # one of them, or all together, were too much
                for job in jobs:
                    self._answer_again(job, error)
                return
            study_at_fault = isinstance(error, ValueError)
            self._failures = 0 if study_at_fault else self._failures + 1
            if not study_at_fault:  # only the type: the text of such an error can quote what is in a study
                logger.error("a batch failed: %s", type(error).__name__)
            _fail(jobs[0], error)
        else:
            self._failures = 0
            for job, answer in zip(jobs, answers, strict=True):
                if not job.future.done():
                    job.future.set_result(answer)

    def _answer_again(self, job: Job, error: Exception) -> None:
        if job.streamer is not None and job.num_tokens:  # its client has read the beginning
            _fail(job, error)
        elif not job.is_over:
            self._answer([job])
        else:
            _fail(job, error)

    def _forward(self, jobs: list[Job]) -> list[dict]:
        """The pipeline's answers before `postprocess`, which is left to whoever waits."""
        options = dict(jobs[0].options[0])
        criteria = StoppingCriteriaList([_AbandonedReports(jobs)])
        options["generate_kwargs"] = {**options.get("generate_kwargs", {}), "stopping_criteria": criteria}
        if not self._beams:
            options["generate_kwargs"]["streamer"] = _BatchStreamer(jobs, self._ends)
        inputs = {name: [job.inputs[name] for job in jobs] for name in jobs[0].inputs}
        outputs: Any = self.report.forward(inputs, **options)
        return [{"answers": answer} for answer in outputs["answers"]]


def _fail(job: Job, error: Exception) -> None:
    if not job.future.done():
        job.future.set_exception(error)


class _AbandonedReports(StoppingCriteria):
    """Ends the reports whose clients are gone, or whose time is up, at the next token."""

    def __init__(self, jobs: Sequence[Job]):
        self.jobs = jobs

    def __call__(self, input_ids: torch.Tensor, scores, **kwargs) -> torch.Tensor:
        over = [job.is_over for job in self.jobs]
        if len(over) != len(input_ids):  # the drafts of some, or beams
            over = [all(over)] * len(input_ids)
        stopped = torch.zeros(len(over), dtype=torch.bool, device=input_ids.device)
        return torch.tensor(over, device=input_ids.device) if any(over) else stopped


class _BatchStreamer(BaseStreamer):
    """Hands each row's tokens to its job; transformers' own streamers take one row only."""

    def __init__(self, jobs: Sequence[Job], ends: set[int]):
        self.jobs, self.ends, self.is_prompt = jobs, ends, True

    def put(self, value: torch.Tensor) -> None:
        if self.is_prompt:
            self.is_prompt = False
            return
        for job, row in zip(self.jobs, value.reshape(len(self.jobs), -1).tolist(), strict=True):
            for token in row:
                self._take(job, token)

    def end(self) -> None:
        for job in self.jobs:
            if job.streamer is not None:
                job.streamer.end()

    def _take(self, job: Job, token: int) -> None:
        if job.ended or job.is_over:
            return
        job.num_tokens += 1
        job.ended = token in self.ends
        if job.streamer is not None and not job.ended:
            job.streamer.put(torch.tensor([token]))


class _Pieces(TextStreamer):
    """The words of one report as they are complete; joined, they are the stripped report."""

    def __init__(self, tokenizer, on_text: Callable[[str], None]):
        super().__init__(tokenizer, skip_special_tokens=True)
        self.on_text, self.spaces, self.begun = on_text, "", False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        text = self.spaces + text
        text = text if self.begun else text.lstrip()
        kept = text.rstrip()
        self.spaces = text[len(kept) :]
        if kept:
            self.begun = True
            self.on_text(kept)
