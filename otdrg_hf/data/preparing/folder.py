"""The output folder of a preparation: the options it was started with, the shards it needs, and its end."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

from otdrg_hf.data.errors import DataError
from otdrg_hf.data.prepared import SHARD_FOLDER, STATE_FOLDER, SUMMARY_FILE
from otdrg_hf.data.preparing.shards import Shard, read_record
from otdrg_hf.data.preparing.study_index import count_studies, read_rejected
from otdrg_hf.data.preparing.summary import describe_counts
from otdrg_hf.data.schema import SPLITS
from otdrg_hf.files import atomic_path, remove_unfinished, write_json

REJECTED_FILE = "rejected.jsonl"
FORMAT = 2  # 1 had other grey values


class PreparationFolder:
    """
    An output folder, unfinished or finished. Everything temporary is in `.prepare/`, which is there for as long as the
    preparation is not finished.
    """

    def __init__(self, path: str, options: dict[str, Any]):
        self.path = path
        self.options = {"format": FORMAT, **options}
        self.state = os.path.join(path, STATE_FOLDER)
        self.index = os.path.join(self.state, "index.sqlite")
        self.unpacked = os.path.join(self.state, "unpacked.jsonl")
        self.image_folders = tuple(os.path.join(parent, "images") for parent in (self.path, self.state))

    def open(self) -> dict[str, Any] | None:
        """Starts or resumes the preparation; returns the summary of one that was finished already."""
        summary = _read_json(os.path.join(self.path, SUMMARY_FILE))
        started = _read_json(os.path.join(self.state, "options.json"))
        known = (summary or {}).get("options", started)
        if summary is None and not self._has_begun():
            # The first call came to nothing, as with a damaged archive: this one may have other inputs.
            known = None
        if known is not None and known != self.options:
            changed = sorted(key for key in {*known, *self.options} if known.get(key) != self.options.get(key))
            raise DataError(
                f"The output folder holds a preparation with other {', '.join(changed)}: choose another folder, or "
                "delete this one"
            )
        if summary is not None:
            shutil.rmtree(self.state, ignore_errors=True)
            return summary
        if started is None and os.path.isdir(os.path.join(self.path, SHARD_FOLDER)):
            raise DataError("The output folder holds a data folder of something else: choose another folder")
        os.makedirs(self.state, exist_ok=True)
        os.makedirs(os.path.join(self.path, SHARD_FOLDER), exist_ok=True)
        for folder in (self.path, self.state, os.path.join(self.path, SHARD_FOLDER), *self.image_folders):
            remove_unfinished(folder)
        write_json(os.path.join(self.state, "options.json"), self.options, indent=None)
        return None

    def _has_begun(self) -> bool:
        """Whether there is more than the options: the list of studies, or images that were unpacked."""
        return any(map(os.path.exists, (self.index, *self.image_folders)))

    def shards(self, size: int, **common: Any) -> list[Shard]:
        """All shards of the dataset, in order; `common` are the fields that they share."""
        counts = count_studies(self.index)
        shards = []
        for split in SPLITS:
            total = -(-counts.get(split, 0) // size)
            for number in range(total):
                name = f"{split}-{number:05d}-of-{total:05d}"
                shard = Shard(
                    index=self.index,
                    split=split,
                    start=number * size,
                    stop=min((number + 1) * size, counts[split]),
                    parquet=os.path.join(self.path, SHARD_FOLDER, f"{name}.parquet"),
                    record=os.path.join(self.state, f"{name}.json"),
                    **common,
                )
                shards.append(shard)
        return shards

    def finish(self, shards: list[Shard], image_root: str | None) -> dict[str, Any]:
        """
        Gathers rejected.jsonl and summary.json, and removes `.prepare/`.

        Raises:
            [`DataError`]: when no study is left, and only rejected.jsonl with it.
        """
        rejected = self._gather_rejected(shards)
        by_split: dict[str, Counter] = {}
        for shard in shards:
            kept, _ = read_record(shard)
            by_split[shard.split] = by_split.get(shard.split, Counter()) + kept
        total = sum(by_split.values(), Counter())
        if not total["studies",]:
            shutil.rmtree(os.path.join(self.path, SHARD_FOLDER))
            shutil.rmtree(self.state)
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in rejected.most_common(3)) or "nothing found"
            raise DataError(f"No study could be prepared ({reasons}): see {REJECTED_FILE} in the output folder")
        summary = {
            "source": self.options["source"],
            "image_root": image_root,
            "options": self.options,
            **describe_counts(total),
            "splits": {split: describe_counts(counts) for split, counts in by_split.items()},
            "rejected": dict(sorted(rejected.items())),
        }
        write_json(os.path.join(self.path, SUMMARY_FILE), summary, indent=2)
        shutil.rmtree(self.state)
        return summary

    def _gather_rejected(self, shards: list[Shard]) -> Counter:
        """Joins the lines of all steps, in an order that does not depend on which was written when."""
        reasons: Counter = Counter()
        path = os.path.join(self.path, REJECTED_FILE)
        with atomic_path(path) as unfinished, unfinished.open("w", encoding="utf-8") as joined:
            for line in self._rejected_lines(shards):
                reasons[json.loads(line)["reason"]] += 1
                joined.write(line.rstrip("\n") + "\n")
        return reasons

    def _rejected_lines(self, shards: list[Shard]) -> Iterator[str]:
        if os.path.exists(self.unpacked):
            with open(self.unpacked, encoding="utf-8") as lines:
                yield from lines
        yield from read_rejected(self.index)
        for shard in shards:
            with open(shard.rejected, encoding="utf-8") as lines:
                yield from lines


def _read_json(path: str) -> dict[str, Any] | None:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except ValueError:
        raise DataError(f"{os.path.basename(path)} in the output folder is damaged: choose another folder") from None
