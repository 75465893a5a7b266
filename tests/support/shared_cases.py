"""The cases of ../shared/cases as parameters of tests; none where the folder is not there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

CASES = Path(__file__).parents[3] / "shared" / "cases"


def shared_cases(name: str, wanted: Callable[[dict], bool] = bool) -> list:
    """The wanted entries of a file as `pytest.param`s, or one that is skipped where there is no such file."""
    path = CASES / name
    if not path.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"there is no ../shared/cases/{name}"))]
    entries = [entry for entry in json.loads(path.read_text(encoding="utf-8")) if wanted(entry)]
    return [pytest.param(entry, id=f"{number}-{entry['name'][:60]}") for number, entry in enumerate(entries)]
