"""The training record of a model folder: the settings, data and results of each stage of its training."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otdrg_hf.data.schema import Source
from otdrg_hf.data.sources import SOURCES

RECORD_FILE = "training_record.json"
FORMAT = 1
# The field of config.json with the names of all sources that a model has learned from.
CONFIG_KEY = "training_data"
# A model that went through training without a record, or was not trained by this package.
UNRECORDED = {"stage": "unknown", "dataset": "unknown"}


def read_stages(model: str | os.PathLike) -> list[dict[str, Any]]:
    """
    The stages of a model's training, the first one first.

    Args:
        model (`str` or `os.PathLike`): A model folder or a Hub id.

    Returns:
        `list[dict]`: As `training_record.json` has them, after one of stage `"unknown"` for each source that only
        config.json names: a model that was saved anew leaves the record behind, but not its configuration. Where
        neither says anything, a single [`UNRECORDED`] one.

    Raises:
        ValueError: for a record that is damaged.
    """
    record = _read_json(model, RECORD_FILE)
    try:
        stages = [] if record is None else record["stages"]
        recorded = {stage["dataset"] for stage in stages}
        if record is not None and not (record["format"] == FORMAT and recorded and recorded <= set(SOURCES)):
            raise ValueError(f"format {record['format']} with data {recorded}")
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{RECORD_FILE} is damaged or of another version of otdrg-hf: restore it, or train the model again."
        ) from None
    config = _read_json(model, "config.json")
    named = config.get(CONFIG_KEY) if isinstance(config, dict) else None
    named = [name if name in SOURCES else "unknown" for name in named or []]
    others = [{"stage": "unknown", "dataset": name} for name in dict.fromkeys(named) if name not in recorded]
    return others + stages or [UNRECORDED]


def read_file(model: str | os.PathLike, name: str) -> str | None:
    """The text of a file of a model, in a folder or on the Hub; `None` where it has none."""
    from transformers.utils import cached_file

    if os.path.isdir(model):
        path = os.path.join(model, name)
        path = path if os.path.isfile(path) else None
    else:
        quiet = dict.fromkeys(("missing_entries", "connection_errors", "gated_repo"), False)
        path = cached_file(str(model), name, **{f"_raise_exceptions_for_{what}": no for what, no in quiet.items()})
    return None if path is None else Path(path).read_text(encoding="utf-8")


def _read_json(model: str | os.PathLike, name: str) -> Any:
    """A file of a model; `None` where it has none, and `ValueError` where it cannot be read."""
    try:
        text = read_file(model, name)
        return None if text is None else json.loads(text)
    except ValueError:
        raise ValueError(f"{name} is damaged: it is not JSON. Restore it, or train the model again.") from None


def sources_of(stages: list[dict[str, Any]]) -> list[Source]:
    """Where the studies of all stages come from, each source once."""
    return [SOURCES[name] for name in dict.fromkeys(stage["dataset"] for stage in stages)]


def is_credentialed(stages: list[dict[str, Any]]) -> bool:
    """Whether a stage has seen studies that only credentialed people may have."""
    return any(source.credentialed for source in sources_of(stages))


def transfer_line(compared: Sequence[dict[str, Any]]) -> str:
    """
    One line of where a clinical reward gained and where it lost, in CE13 micro-F1, with 95 % intervals.

    Args:
        compared (`Sequence[dict]`): The `transfer` of a stage.
    """
    groups: dict[str, list[str]] = {"gained": [], "lost": [], "no clear difference": []}
    for each in compared:
        change = each["difference"]["ce13_micro_f1"]
        if change["difference"] is None or change["low"] is None:
            groups["no clear difference"].append(f"{each['name']} (not defined)")
            continue
        verdict = "gained" if change["low"] > 0 else "lost" if change["high"] < 0 else "no clear difference"
        difference, low, high = (100 * change[name] for name in ("difference", "low", "high"))
        groups[verdict].append(f"{each['name']} {difference:+.1f} ({low:+.1f} to {high:+.1f})")
    listed = "; ".join(f"{verdict}: {', '.join(found)}" for verdict, found in groups.items() if found)
    return f"CE13 micro-F1 of reports after the reward minus before, in points: {listed}."
