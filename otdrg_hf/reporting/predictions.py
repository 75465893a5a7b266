"""The files of a reported split: predictions.jsonl with its generation.json, and the shares of several processes."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from otdrg_hf.files import write_json, write_text
from otdrg_hf.reporting.results_file import ResultsFile, read_results

PREDICTIONS_FILE, SETTINGS_FILE = "predictions.jsonl", "generation.json"
SHARDS_FOLDER = "shards"
WAY_OUT = "give another --output_dir, or delete this one to start again"
SECTIONS = ("findings", "impression", "report")


def check_section(section: str) -> None:
    """Raises `ValueError` for a section of a report that is not one of `SECTIONS`."""
    if section not in SECTIONS:
        raise ValueError(f"unknown section {section!r}; give one of {', '.join(SECTIONS)}")


def open_predictions(
    folder: str | os.PathLike,
    settings: dict,
    check: Callable[[dict], None] | None = None,
    way_out: str = WAY_OUT,
) -> ResultsFile:
    """
    The `predictions.jsonl` of a folder, created or resumed, with a `generation.json` that says how its lines were made.

    Args:
        folder (`str` or `os.PathLike`): Created if it is not there.
        settings (`dict`): All that the text of a prediction depends on, as JSON values.
        check (`Callable`, *optional*): As of [`ResultsFile`].
        way_out (`str`): What the user can do about a folder of other settings.

    Raises:
        ValueError: if the folder holds predictions made with other settings, or with settings that are not known, and
            as of [`ResultsFile`].
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not _check_settings(folder, settings, way_out):
        write_json(folder / SETTINGS_FILE, settings, indent=2)
    return ResultsFile(folder / PREDICTIONS_FILE, "id", check)


def finished_studies(predictions: Path, settings: dict) -> set[str]:
    """The ids that a `predictions.jsonl` of the same settings holds; the file is only read."""
    if not _check_settings(predictions.parent, settings):
        return set()
    return {row["id"] for row in read_results(predictions, "id")}


def generation_settings(predictions: str | os.PathLike) -> dict | None:
    """How the lines of a `predictions.jsonl` were made; `None` where no `generation.json` next to it says so."""
    path = Path(predictions)
    if path.name != PREDICTIONS_FILE:
        return None
    try:
        settings = json.loads(path.with_name(SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return settings if isinstance(settings, dict) else None


def _check_settings(folder: Path, settings: dict, way_out: str = WAY_OUT) -> bool:
    """Whether a folder holds predictions; raises `ValueError` if they were made with other settings."""
    predictions = folder / PREDICTIONS_FILE
    if not predictions.is_file() or not predictions.stat().st_size:
        return False
    known = generation_settings(predictions)
    if known is None:
        raise ValueError(f"{folder.name} has {PREDICTIONS_FILE} without a readable {SETTINGS_FILE}; {way_out}")
    different = [
        f"{name} {known.get(name)!r}, not {settings.get(name)!r}"
        for name in {**known, **settings}
        if known.get(name) != settings.get(name)
    ]
    if different:
        raise ValueError(f"{folder.name} holds predictions made with {'; '.join(different)}; {way_out}")
    return True


def share_folder(output_dir: str | os.PathLike, process: int) -> Path:
    """The folder that a process writes its share to."""
    return Path(output_dir, SHARDS_FOLDER, f"{process:05d}")


def share_files(output_dir: str | os.PathLike) -> list[Path]:
    """The files that are there already: shares, of however many processes, and what was merged before."""
    files = [Path(output_dir, PREDICTIONS_FILE), *sorted(Path(output_dir, SHARDS_FOLDER).glob(f"*/{PREDICTIONS_FILE}"))]
    return [path for path in files if path.is_file()]


def merge_shares(output_dir: str | os.PathLike, ids: Sequence[str]) -> Path:
    """
    Writes `predictions.jsonl`, in the order of `ids`, and `generation.json` from the shares, and removes those.

    Raises:
        ValueError: if a study has no prediction, or shares were made with different settings.
    """
    output_dir = Path(output_dir)
    rows: dict[str, dict] = {}
    settings = None
    for path in share_files(output_dir):
        of_share = generation_settings(path)
        if settings is not None and of_share != settings:
            raise ValueError(f"{output_dir.name} holds shares of different settings: delete it to start again")
        settings = of_share
        rows |= {row["id"]: row for row in read_results(path, "id")}
    missing = [key for key in ids if key not in rows]
    if missing:
        raise ValueError(f"{len(missing)} studies have no prediction, the first is {missing[0]!r}: run it again")
    write_json(output_dir / SETTINGS_FILE, settings, indent=2)
    write_text(output_dir / PREDICTIONS_FILE, "".join(json.dumps(rows[key]) + "\n" for key in ids))
    shutil.rmtree(output_dir / SHARDS_FOLDER)
    return output_dir / PREDICTIONS_FILE
