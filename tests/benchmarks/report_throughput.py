"""Films reported per second: one by one, in batches, and in batches without reading ahead. A script.

Synthetic phantoms of 512 pixels as PNG files; every run reads, decodes and reports all of them with the same model.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from otdrg_hf.data.phantom import make_phantom
from otdrg_hf.images.finding import find_images
from otdrg_hf.reporting import load_reporter, report_image_files


def write_films(folder: str, count: int, image_size: int) -> None:
    for seed in range(count):
        make_phantom(seed, "benchmark", image_size).images[0].save(Path(folder) / f"{seed:04d}.png")


def seconds(run: Callable[[], list]) -> tuple[float, list]:
    start = time.perf_counter()
    answers = run()
    return time.perf_counter() - start, answers


def measure(report, films: list, batch_sizes: list[int], max_new_tokens: int) -> None:
    def one_by_one() -> list:
        return [report(film.location, max_new_tokens=max_new_tokens) for film in films]

    def batched(batch_size: int) -> list:
        return list(report_image_files(report, films, "benchmark", batch_size, max_new_tokens))

    batched(batch_sizes[-1])  # warm up
    alone, expected = seconds(one_by_one)
    print(f"{'':<26}{'films/s':>10}{'ratio':>8}{'same text':>11}")
    print(f"{'one by one':<26}{len(films) / alone:>10.2f}{1:>8.2f}")
    for batch_size in batch_sizes:
        for name, reading in (("", None), (", not ahead", lambda loader, once: loader)):
            if reading is None:
                spent, answers = seconds(lambda size=batch_size: batched(size))
            else:
                with patch("otdrg_hf.modeling.pipeline_otdrg.Prefetched", reading):
                    spent, answers = seconds(lambda size=batch_size: batched(size))
            same = sum(a["generated_text"] == b["generated_text"] for a, b in zip(answers, expected, strict=True))
            row = f"batches of {batch_size}{name}"
            print(f"{row:<26}{len(films) / spent:>10.2f}{alone / spent:>8.2f}{same:>7} of {len(films)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="Folder or Hub id. Default: the bundled demo model.")
    parser.add_argument("--films", type=int, default=64)
    parser.add_argument("--image_size", type=int, default=512)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--max_new_tokens", type=int, default=256)
    parser.add_argument("--device")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_films(folder, given.films, given.image_size)
        reporter = load_reporter(given.model, given.device)
        measure(reporter, find_images([folder]), given.batch_sizes, given.max_new_tokens)
