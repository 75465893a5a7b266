"""
Studies per second and memory of 200,000 synthetic studies read in random order from their shards, beside a plain `map`.

    python tests/benchmarks/study_stream.py [NUMBER]

Both decode every film, resize it to 224 pixels and normalise it, in two workers; `map` does so over a copy of the
shards, and the copy is counted apart. What is printed is the memory of the process that would train.
"""

import io
import os
import sys
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from otdrg_hf.data import load_study_dataset
from otdrg_hf.data.schema import make_study, study_features
from otdrg_hf.modeling.backbones_otdrg import square_image_processor

PER_SHARD, WORKERS, BATCH, DISTINCT = 1000, 2, 32, 64
MAPPED = 2000  # `map` is timed on so many


def resident() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def write_shards(folder: Path, number: int) -> None:
    rng, films = np.random.default_rng(0), []
    for _ in range(DISTINCT):
        buffer = io.BytesIO()
        picture = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).resize((256, 256), Image.BICUBIC)
        picture.save(buffer, "JPEG")
        films.append(buffer.getvalue())
    schema, total = datasets.Features(study_features()).arrow_schema, -(-number // PER_SHARD)
    for shard in range(total):
        rows = [
            make_study(
                id=f"s{index}",
                images=[{"bytes": films[index % DISTINCT], "path": f"{index}.jpg"}],
                views=["frontal"],
                findings=f"Synthetic study number {index}. The lungs are clear.",
                disease_labels=[0] * 14,
            )
            for index in range(shard * PER_SHARD, min(number, (shard + 1) * PER_SHARD))
        ]
        table = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(table, folder / f"train-{shard:05d}-of-{total:05d}.parquet", row_group_size=32)


class Pixels:
    """What a collator does to films, without the texts."""

    def __init__(self):
        self.processor = square_image_processor(224)

    def __call__(self, rows: list[dict]) -> torch.Tensor:
        films = [film.convert("RGB") for row in rows for film in row["images"]]
        return self.processor(films, return_tensors="pt")["pixel_values"]


def mapped(batch: dict) -> dict:
    rows = [{"images": films} for films in batch["images"]]
    return {"pixels": Pixels()(rows).sum((1, 2, 3)).tolist()}


def main(number: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shards, cache = Path(folder, "shards"), Path(folder, "cache")
        shards.mkdir()
        write_shards(shards, number)
        start = time.perf_counter()
        studies = load_study_dataset(shards, in_place=True, cache_dir=cache / "in_place")
        print(f"index of {number:,} studies: {time.perf_counter() - start:.1f} s")
        generator = torch.Generator().manual_seed(0)
        sampler = torch.utils.data.RandomSampler(studies, generator=generator)
        loader = torch.utils.data.DataLoader(studies, BATCH, sampler=sampler, collate_fn=Pixels(), num_workers=WORKERS)
        start, seen = time.perf_counter(), 0
        for step, batch in enumerate(loader, 1):
            seen += len(batch)
            if step % max(1, number // BATCH // 10) == 0:
                rate = seen / (time.perf_counter() - start)
                print(
                    f"in place: {seen:>8,} studies, {rate:6.0f} per second, {resident():6.0f} MiB resident", flush=True
                )
        rate = seen / (time.perf_counter() - start)
        start = time.perf_counter()
        copied = load_study_dataset(shards, cache_dir=cache / "copy")
        copying = time.perf_counter() - start
        copied = copied.select(range(min(number, MAPPED)))
        start = time.perf_counter()
        copied.map(mapped, batched=True, batch_size=BATCH, num_proc=WORKERS, remove_columns=copied.column_names)
        plain = len(copied) / (time.perf_counter() - start)
        print(f"plain map: {plain:.0f} per second of {len(copied):,}, after copying all for {copying:.1f} s")
        print(f"in place / plain map: {rate / plain:.2f}")


if __name__ == "__main__":
    datasets.disable_progress_bars()
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
