"""The folder that a preparation works in: what it was started with, which shards it needs, and how it ends."""

import json
import os
import shutil
from collections import Counter
from typing import Any

from .errors import DataError
from .prepared import SHARD_FOLDER, STATE_FOLDER, SUMMARY_FILE
from .schema import SPLITS
from .shards import Shard, read_record
from .study_index import count_studies, read_rejected
from .tally import describe_counts

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

    def open(self) -> dict[str, Any] | None:
        """Start or take up the preparation; gives the summary of one that was finished already."""
        summary = _read_json(os.path.join(self.path, SUMMARY_FILE))
        started = _read_json(os.path.join(self.state, "options.json"))
        known = (summary or {}).get("options", started)
        if summary is None and not self._has_begun():
            # Nothing came of the first call, such as one with a damaged archive: its inputs do not bind this one.
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
        write_atomically(os.path.join(self.state, "options.json"), json.dumps(self.options))
        return None

    def _has_begun(self) -> bool:
        """Whether more than the options is there: the list of studies, or images that were unpacked."""
        places = (self.index, *(os.path.join(place, "images") for place in (self.path, self.state)))
        return any(map(os.path.exists, places))

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
        Gather rejected.jsonl and summary.json, and remove `.prepare/`. Raises [`DataError`] when no study is left,
        leaving rejected.jsonl alone.
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
        write_atomically(os.path.join(self.path, SUMMARY_FILE), json.dumps(summary, indent=2) + "\n")
        shutil.rmtree(self.state)
        return summary

    def _gather_rejected(self, shards: list[Shard]) -> Counter:
        """Join the lines of all steps, in an order that does not depend on which was written when."""
        reasons: Counter = Counter()
        path = os.path.join(self.path, REJECTED_FILE)
        with open(path + ".tmp", "w", encoding="utf-8") as joined:
            for line in self._rejected_lines(shards):
                reasons[json.loads(line)["reason"]] += 1
                joined.write(line.rstrip("\n") + "\n")
        os.replace(path + ".tmp", path)
        return reasons

    def _rejected_lines(self, shards: list[Shard]):
        if os.path.exists(self.unpacked):
            with open(self.unpacked, encoding="utf-8") as lines:
                yield from lines
        yield from read_rejected(self.index)
        for shard in shards:
            with open(shard.rejected, encoding="utf-8") as lines:
                yield from lines


def write_atomically(path: str, text: str) -> None:
    """Write a text file that is either whole or not there."""
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".tmp", path)


def _read_json(path: str) -> dict[str, Any] | None:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except ValueError:
        raise DataError(f"{os.path.basename(path)} in the output folder is damaged: choose another folder") from None
