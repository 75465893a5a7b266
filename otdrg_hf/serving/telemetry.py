"""Counts for Prometheus: requests, batches, tokens and the queue; nothing of a study."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from otdrg_hf.serving.batching import Job

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_STUDIES = (1, 2, 4, 8, 16, 32, 64, 128)


class Telemetry:
    """The counters of one server."""

    def __init__(self):
        self.registry = CollectorRegistry()
        options = {"registry": self.registry}
        labels = ["route", "method", "status"]
        self._requests = Counter("otdrg_requests", "Requests that were answered.", labels, **options)
        self._seconds = Histogram("otdrg_request_seconds", "Time to an answer.", ["route"], buckets=_SECONDS, **options)
        self._batches = Histogram("otdrg_batch_studies", "Studies that ran together.", buckets=_STUDIES, **options)
        self._tokens = Counter("otdrg_generated_tokens", "Tokens of reports.", **options)
        self._abandoned = Counter("otdrg_abandoned_studies", "Studies whose clients left.", **options)
        self._queue = Gauge("otdrg_queue_studies", "Studies that wait for the model.", **options)

    def watch_queue(self, waiting: Callable[[], int]) -> None:
        self._queue.set_function(waiting)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, jobs: Sequence[Job]) -> None:
        self._batches.observe(len(jobs))
        self._tokens.inc(sum(job.num_tokens for job in jobs))
        self._abandoned.inc(sum(job.abandoned for job in jobs))

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
