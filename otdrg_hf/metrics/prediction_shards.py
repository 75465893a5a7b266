"""Predictions that several processes write, each to a file of its own, and the one file that they become."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from .atomic import write_atomically
from .prediction_file import PREDICTIONS_FILE, SETTINGS_FILE, generation_settings
from .report_files import read_rows

SHARDS_FOLDER = "shards"


def shard_folder(output_dir: str | os.PathLike, process: int) -> Path:
    """Where a process writes its share."""
    return Path(output_dir, SHARDS_FOLDER, f"{process:05d}")


def share_files(output_dir: str | os.PathLike) -> list[Path]:
    """What is there already: shares, of however many processes, and what was merged before."""
    files = [Path(output_dir, PREDICTIONS_FILE), *sorted(Path(output_dir, SHARDS_FOLDER).glob(f"*/{PREDICTIONS_FILE}"))]
    return [path for path in files if path.is_file()]


def merge_shares(output_dir: str | os.PathLike, ids: Sequence[str]) -> Path:
    """
    Writes `predictions.jsonl`, in the order of `ids`, and `generation.json` from the shares, and removes those.

    Raises:
        ValueError: if a study has no prediction, or shares were made with different settings.
    """
    output_dir = Path(output_dir)
    lines, settings = {}, None
    for path in share_files(output_dir):
        of_share = generation_settings(path)
        if settings is not None and of_share != settings:
            raise ValueError(f"{output_dir.name} holds shares of different settings: delete it to start anew")
        settings = of_share
        if path.stat().st_size:
            lines |= {key: row.value for key, row in read_rows(path).items()}
    missing = [key for key in ids if key not in lines]
    if missing:
        raise ValueError(f"{len(missing)} studies have no prediction, the first is {missing[0]!r}: run it again")
    for name, text in (
        (SETTINGS_FILE, json.dumps(settings, indent=2) + "\n"),
        (PREDICTIONS_FILE, "".join(json.dumps(lines[key]) + "\n" for key in ids)),
    ):
        with write_atomically(output_dir / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    shutil.rmtree(output_dir / SHARDS_FOLDER)
    return output_dir / PREDICTIONS_FILE
