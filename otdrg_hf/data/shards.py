"""Writes one shard of a prepared dataset: reads its studies, checks their images, labels them, writes Parquet."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from . import mimic_cxr
from .image_files import check_image, resized_jpeg
from .label_filling import fill_labels
from .language import report_problem
from .rejections import NO_USABLE_IMAGE, Rejected, rejection
from .schema import make_study, study_features
from .study_index import read_studies
from .tally import count_studies, counts_from_json, counts_to_json

ROWS_PER_GROUP = 32


@dataclass(frozen=True)
class Shard:
    """One shard to write: which studies, from where, to which files. `image_size` embeds the images, resized."""

    source: str
    index: str
    split: str
    start: int
    stop: int
    parquet: str
    record: str
    image_root: str
    image_size: int | None
    reports: str | None

    @property
    def rejected(self) -> str:
        return self.record.removesuffix(".json") + ".rejected.jsonl"


def extra_features(source: str) -> dict[str, Any]:
    """The columns that a source adds to the schema in its Parquet files; `load_study_dataset` leaves them out."""
    from datasets import List, Value

    if source == "iu_xray":
        return {"mesh": List(Value("string"))}
    if source == "mimic_cxr":
        texts = {"patient_id": Value("string"), "study_date": Value("string")}
        return {**texts, "view_positions": List(Value("string"))}
    return {}


def read_record(shard: Shard) -> tuple[Counter, Counter] | None:
    """What a finished shard holds and what it left out, by reason; `None` for one that is not finished."""
    try:
        with open(shard.record, encoding="utf-8") as file:
            record = json.load(file)
        if os.path.getsize(shard.parquet) != record["bytes"] or not os.path.isfile(shard.rejected):
            return None
    except (OSError, ValueError, KeyError):
        return None
    return counts_from_json(record["counts"]), Counter(record["rejected"])


def write_shard(shard: Shard, progress: Callable[[int], Any] = lambda count: None) -> None:
    """
    Write a shard's Parquet file, its lines of rejected.jsonl and, last of all, the record that says that it is whole.

    Each file appears under its name only when it is complete, and holds the same bytes whenever it is written again.
    """
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = datasets.Features({**study_features(), **extra_features(shard.source)}).arrow_schema
    kept: Counter = Counter()
    left_out: Counter = Counter()
    temporary = [path + ".tmp" for path in (shard.parquet, shard.rejected, shard.record)]
    try:
        with pq.ParquetWriter(temporary[0], schema) as writer, open(temporary[1], "w", encoding="utf-8") as rejected:

            def reject(**entry: Any) -> None:
                left_out[entry["reason"]] += 1
                rejected.write(json.dumps(entry, ensure_ascii=False) + "\n")

            studies = fill_labels(_usable_studies(shard, reject, progress), ROWS_PER_GROUP)
            while rows := list(islice(studies, ROWS_PER_GROUP)):
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                kept += count_studies(rows)
        record = {"bytes": os.path.getsize(temporary[0]), "counts": counts_to_json(kept), "rejected": dict(left_out)}
        with open(temporary[2], "w", encoding="utf-8") as file:
            json.dump(record, file)
        for path, final in zip(temporary, (shard.parquet, shard.rejected, shard.record), strict=True):
            os.replace(path, final)
    except BaseException:
        for path in temporary:
            with suppress(OSError):
                os.remove(path)
        raise


def _usable_studies(shard: Shard, reject: Callable[..., None], progress: Callable) -> Iterator[dict[str, Any]]:
    for study_id, content in read_studies(shard.index, shard.split, shard.start, shard.stop):
        try:
            study = make_study(id=study_id, **_read(shard, content))
            if problem := report_problem(study["report"]):
                raise Rejected(problem)
            yield _with_images(study, shard, reject)
        except Rejected as error:
            reject(**rejection(error.reason, error.detail, id=study_id, split=shard.split))
        progress(1)


def _read(shard: Shard, content: dict[str, Any]) -> dict[str, Any]:
    if shard.source != "mimic_cxr":
        return content
    return mimic_cxr.read_study(content, shard.reports, shard.image_root)


def _with_images(study: dict[str, Any], shard: Shard, reject: Callable[..., None]) -> dict[str, Any]:
    """The study with its usable images, by path or embedded; the others are rejected one by one."""
    images, kept = [], []
    for place, name in enumerate(study["images"]):
        try:
            path = os.path.join(shard.image_root, *name.split("/"))
            if shard.image_size is None:
                check_image(path)
                images.append({"bytes": None, "path": name})
            else:
                content = resized_jpeg(path, shard.image_size)
                images.append({"bytes": content, "path": os.path.splitext(os.path.basename(name))[0] + ".jpg"})
            kept.append(place)
        except Rejected as error:
            reject(**rejection(error.reason, error.detail, id=study["id"], split=shard.split, image=name))
    if not kept:
        raise Rejected(NO_USABLE_IMAGE)
    study["images"] = images
    per_image = [name for name in ("views", "view_positions") if name in study]
    return {**study, **{name: [study[name][place] for place in kept] for name in per_image}}
