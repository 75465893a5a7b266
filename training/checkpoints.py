"""Which checkpoint a run resumes from, and whether it is one of this run."""

import json
import re
from pathlib import Path

from trl import SFTConfig

from otdrg_hf.hub.provenance import read_stages

CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def starting_checkpoint(training_args: SFTConfig, resume: bool = True) -> str | None:
    """The checkpoint that a run resumes from, if any: the one it names, or the last complete one of `output_dir`."""
    last = last_complete_checkpoint(training_args.output_dir) if resume else None
    return training_args.resume_from_checkpoint or last


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


def check_same_run(output_dir: str, checkpoint: str, stage: str, use_peft: bool) -> None:
    """
    Makes sure that a checkpoint, as far as it shows, is of a run of the same kind: optimizers of others do not fit.

    Raises:
        ValueError: naming what is different.
    """
    done = read_stages(output_dir)[-1]["stage"]
    adapter = Path(checkpoint, "adapter_config.json").is_file()
    if done not in (stage, "unknown"):
        other = f"of the stage {done!r}"
    elif adapter != use_peft:
        other = f"{'with' if adapter else 'without'} use_peft"
    else:
        return
    raise ValueError(f"{output_dir} holds a run {other}: choose another output_dir, or restart with --resume false.")
