"""One shard of a prepared dataset: its studies are read, their images checked, labels filled in, Parquet written."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from otdrg_hf.data import iu_xray, mimic_cxr
from otdrg_hf.data.errors import NO_USABLE_IMAGE, Rejected, rejection
from otdrg_hf.data.preparing.images import check_image, resized_jpeg
from otdrg_hf.data.preparing.study_index import read_studies
from otdrg_hf.data.preparing.summary import count_studies, counts_from_json, counts_to_json
from otdrg_hf.data.reports import fill_labels, report_problem
from otdrg_hf.data.schema import make_study, study_features
from otdrg_hf.files import atomic_path, write_json

ROWS_PER_GROUP = 32
EXTRA_COLUMNS = {"iu_xray": iu_xray.EXTRA_COLUMNS, "mimic_cxr": mimic_cxr.EXTRA_COLUMNS}


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


def shard_features(source: str):
    """The schema and the columns that a source adds to it in its shards; `load_study_dataset` leaves those out."""
    from datasets import Features, List, Value

    types = {str: Value("string"), list: List(Value("string"))}
    extra = {name: types[kind] for name, kind in EXTRA_COLUMNS.get(source, {}).items()}
    return Features({**study_features(), **extra})


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
    Writes a shard's Parquet file, its lines of rejected.jsonl and, last of all, the record that says that it is whole.

    Each file appears under its name only when it is complete, and holds the same bytes whenever it is written again.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = shard_features(shard.source).arrow_schema
    kept: Counter = Counter()
    left_out: Counter = Counter()
    with atomic_path(shard.rejected) as rejected, atomic_path(shard.parquet) as parquet:
        with pq.ParquetWriter(parquet, schema) as writer, rejected.open("w", encoding="utf-8") as lines:

            def reject(**entry: Any) -> None:
                left_out[entry["reason"]] += 1
                lines.write(json.dumps(entry, ensure_ascii=False) + "\n")

            studies = fill_labels(_usable_studies(shard, reject, progress), ROWS_PER_GROUP)
            while rows := list(islice(studies, ROWS_PER_GROUP)):
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                kept += count_studies(rows)
    size = os.path.getsize(shard.parquet)
    record = {"bytes": size, "counts": counts_to_json(kept), "rejected": dict(left_out)}
    write_json(shard.record, record, indent=None)


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
    for position, name in enumerate(study["images"]):
        try:
            path = os.path.join(shard.image_root, *name.split("/"))
            if shard.image_size is None:
                check_image(path)
                images.append({"bytes": None, "path": name})
            else:
                content = resized_jpeg(path, shard.image_size)
                images.append({"bytes": content, "path": os.path.splitext(os.path.basename(name))[0] + ".jpg"})
            kept.append(position)
        except Rejected as error:
            reject(**rejection(error.reason, error.detail, id=study["id"], split=shard.split, image=name))
    if not kept:
        raise Rejected(NO_USABLE_IMAGE)
    study["images"] = images
    per_image = [name for name in ("views", "view_positions") if name in study]
    return {**study, **{name: [study[name][position] for position in kept] for name in per_image}}
