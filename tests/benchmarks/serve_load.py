"""Requests per second of `otdrg serve` by number of clients, next to the pipeline's batches; memory; lost answers.

A script. Every request is a synthetic phantom as PNG with a name of its own; its answer must bear that name and the
text that the pipeline writes for that phantom. The ratio of CPU time, what the pipeline needs for a film over what the
server needs for a request, says more than that of the clock where other programs run.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import psutil

from otdrg_hf.data.phantom import make_phantom
from tests.support.served_api import start_server

_PIPELINE = """
import json, sys, time
from otdrg_hf.images.finding import find_images
from otdrg_hf.reporting import load_reporter, report_image_files
folder, batch_size, tokens, device = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] or None
report, films = load_reporter(None, device), find_images([folder])
list(report_image_files(report, films[:batch_size], "demo", batch_size, tokens))
start, used = time.perf_counter(), time.process_time()
texts = [row["generated_text"] for row in report_image_files(report, films, "demo", batch_size, tokens)]
took = [(time.perf_counter() - start) / len(films), (time.process_time() - used) / len(films)]
print(json.dumps([*took, texts]))
"""


def pipeline_time(films: list[bytes], batch_size: int, tokens: int, device: str) -> tuple[float, float, list[str]]:
    """Seconds per film of `otdrg report` in a process of its own, by the clock and of the CPU, and the reports."""
    with tempfile.TemporaryDirectory() as folder:
        for index, film in enumerate(films):
            (Path(folder) / f"{index:05d}.png").write_bytes(film)
        command = [sys.executable, "-c", _PIPELINE, folder, str(batch_size), str(tokens), device]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds, used, texts = json.loads(printed.splitlines()[-1])
    return seconds, used, texts


class Load:
    """Clients that each send the next request as soon as they have an answer."""

    def __init__(self, address: str, films: list[bytes], texts: list[str], tokens: int):
        self.address, self.texts, self.tokens, self.sent = address, texts, tokens, 0
        self.bodies = [base64.b64encode(film).decode() for film in films]
        self.seconds: list[float] = []
        self.answered: dict[str, int] = {}
        self.busy = self.wrong = 0

    async def run(self, clients: int, requests: int) -> float:
        """Requests per second."""
        numbers = iter(range(self.sent, self.sent + requests))
        self.sent += requests
        limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
        start = time.perf_counter()
        async with httpx.AsyncClient(limits=limits, timeout=300) as client:
            await asyncio.gather(*(self._client(client, numbers) for _ in range(clients)))
        return requests / (time.perf_counter() - start)

    async def _client(self, client: httpx.AsyncClient, numbers) -> None:
        for number in numbers:
            which, name = number % len(self.bodies), f"request {number}"
            study = {"images": [{"data": self.bodies[which], "name": name}], "max_new_tokens": self.tokens}
            content = json.dumps(study).encode()
            start = time.perf_counter()
            while True:
                answer = await client.post(
                    f"{self.address}/v1/reports", content=content, headers={"Content-Type": "application/json"}
                )
                if answer.status_code != 429:
                    break
                self.busy += 1
                await asyncio.sleep(float(answer.headers["retry-after"]))
            self.seconds.append(time.perf_counter() - start)
            row = answer.json()
            self.answered[row.get("image")] = self.answered.get(row.get("image"), 0) + 1
            self.wrong += row.get("image") != name or row["generated_text"] != self.texts[which]


def films_of(count: int, image_size: int) -> list[bytes]:
    files = [io.BytesIO() for _ in range(count)]
    for seed, file in enumerate(files):
        make_phantom(seed, "benchmark", image_size).images[0].save(file, "PNG")
    return [file.getvalue() for file in files]


def measure(arguments: argparse.Namespace) -> None:
    films = films_of(arguments.films, arguments.image_size)
    device = arguments.device or ""
    of_pipeline = (films, arguments.batch_size, arguments.max_new_tokens, device)
    seconds, used, texts = pipeline_time(*of_pipeline)
    print(
        f"pipeline, batches of {arguments.batch_size}: {1 / seconds:.2f} films/s, {used:.3f} s of CPU a film",
        flush=True,
    )
    start = time.perf_counter()
    server = start_server("--max_batch", str(arguments.batch_size), *(["--device", device] if device else []))
    load = Load(server.address, films, texts, arguments.max_new_tokens)
    try:
        asyncio.run(load.run(1, 1))
        print(f"cold start to first answer: {time.perf_counter() - start:.1f} s", flush=True)
        process = psutil.Process(server.process.pid)
        print(f"{'clients':>8}{'requests':>10}{'req/s':>8}{'ratio':>7}{'of CPU':>8}{'p50, s':>9}{'p99, s':>9}{'MB':>7}")
        for clients in arguments.clients:
            load.seconds.clear()
            requests = arguments.requests or max(clients * 4, 64)
            if not arguments.no_rerun:
                seconds, used, _ = pipeline_time(*of_pipeline)
            before = sum(process.cpu_times()[:2])
            done = asyncio.run(load.run(clients, requests))
            of_cpu = used * requests / (sum(process.cpu_times()[:2]) - before)
            p50, p99 = np.percentile(load.seconds, [50, 99])
            memory = process.memory_info().rss / 1e6
            ratios = f"{done:>8.2f}{done * seconds:>7.2f}{of_cpu:>8.2f}"
            print(f"{clients:>8}{requests:>10}{ratios}{p50:>9.2f}{p99:>9.2f}{memory:>7.0f}", flush=True)
    finally:
        server.stop()
    twice = sum(count > 1 for count in load.answered.values())
    lost = load.sent - len(load.answered)
    print(
        f"{load.sent} requests: {lost} lost, {twice} answered twice, {load.wrong} with another text, {load.busy} x 429"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=64)
    parser.add_argument("--image_size", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--requests", type=int, help="Per number of clients. Default: 4 a client, at least 64.")
    parser.add_argument("--max_new_tokens", type=int, default=256)
    parser.add_argument("--no_rerun", action="store_true", help="Measure the pipeline once, not before each row.")
    parser.add_argument("--device")
    measure(parser.parse_args())
