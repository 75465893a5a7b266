"""Which checkpoint to go on from."""

import json
import re
from pathlib import Path

CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def last_complete_checkpoint(output_dir: str) -> str | None:
    """The newest checkpoint that was written to its end: the trainer writes its state last."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)]
    complete = [path for path in folders if is_complete(path)]
    newest = max(complete, key=lambda path: int(CHECKPOINT.fullmatch(path.name)[1]), default=None)
    return str(newest) if newest else None


def is_complete(checkpoint: str | Path) -> bool:
    """Whether a folder holds a checkpoint that was written to its end."""
    try:
        json.loads(Path(checkpoint, "trainer_state.json").read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return False
    return True
