"""Read rules.yaml (and a reader's own file of the same form), check it, and compile it for the matcher."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .labels import LABELS, NEGATIVE, POSITIVE, UNCERTAIN
from .phrases import PhraseTrie, expand_phrase

RULES_FILE = Path(__file__).with_name("rules.yaml")

_LABEL_KEYS = {"positive": POSITIVE, "uncertain": UNCERTAIN, "normal": NEGATIVE, "unless": None}
_TRIGGER_STATES = {"negative": NEGATIVE, "uncertain": UNCERTAIN, "ignore": None}
_DIRECTIONS = {"forward": (True, False), "backward": (False, True), "both": (True, True)}
_TOP_KEYS = ("labels", "triggers", "neutral", "endings", "gap_stops", "assertive", "course")


class MentionRule(NamedTuple):
    """A phrase that speaks of a label; `state` None hides the mention it covers."""

    label: int
    state: int | None
    name: str


class Trigger(NamedTuple):
    """Words that change the state of mentions near them; `state` None drops the mention."""

    name: str
    state: int | None
    forward: bool
    backward: bool
    scope: int
    priority: int


class Ending(NamedTuple):
    """Words at which the reach of triggers ends. With neither direction, a neutral phrase."""

    forward: bool
    backward: bool


@dataclass
class Rules:
    """Compiled rules: one trie over all phrases, and the words that begin a new statement or make a mention one."""

    trie: PhraseTrie
    assertive: frozenset[str]
    course: frozenset[str]
    sentences: dict[str, Any] = field(default_factory=dict)


def _check(ok: bool, source: str, where: str, problem: str) -> None:
    if not ok:
        raise ValueError(f"{source}: {where}: {problem}")


def _phrases(value: Any, source: str, where: str) -> list[str]:
    _check(isinstance(value, list), source, where, "must be a list of phrases")
    for item in value:
        _check(isinstance(item, str) and bool(item.strip()), source, where, f"{item!r} is not a phrase; quote it")
    return value


def _check_keys(value: Any, allowed, source: str, where: str) -> None:
    _check(isinstance(value, dict), source, where, "must be a mapping")
    for key in value:
        _check(key in allowed, source, f"{where}.{key}", f"unknown key; known are {', '.join(allowed)}")


def read_rules(path: str | os.PathLike) -> dict[str, Any]:
    """Read and check a rules file.

    Args:
        path (`str` or `os.PathLike`): a YAML file of the form that rules.yaml explains at its top.

    Returns:
        `dict[str, Any]`: its content.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not of that form; the message names the key.
    """
    source = Path(path).name
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{source}: not readable as YAML in line {line}: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: not readable as YAML: {str(error).splitlines()[0]}") from error
    _check_keys(content, _TOP_KEYS, source, "top level")
    _check_keys(content.get("labels", {}), LABELS, source, "labels")
    for label, entry in content.get("labels", {}).items():
        _check_keys(entry, _LABEL_KEYS, source, f"labels.{label}")
        for key, phrases in entry.items():
            _phrases(phrases, source, f"labels.{label}.{key}")
    triggers = content.get("triggers", [])
    _check(isinstance(triggers, list), source, "triggers", "must be a list")
    for number, entry in enumerate(triggers):
        _check_trigger(entry, source, f"triggers[{number}]")
    _check_keys(content.get("endings", {}), ("forward", "backward"), source, "endings")
    for direction, phrases in content.get("endings", {}).items():
        _phrases(phrases, source, f"endings.{direction}")
    for key in ("neutral", "gap_stops", "assertive", "course"):
        _phrases(content.get(key, []), source, key)
    return content


def _check_trigger(entry: Any, source: str, where: str) -> None:
    keys = ("name", "state", "direction", "scope", "priority", "phrases")
    _check_keys(entry, keys, source, where)
    for key in keys:
        _check(key in entry, source, where, f"key {key!r} is missing")
    _check(isinstance(entry["name"], str), source, f"{where}.name", "must be text")
    _check(entry["state"] in _TRIGGER_STATES, source, f"{where}.state", f"must be one of {', '.join(_TRIGGER_STATES)}")
    _check(entry["direction"] in _DIRECTIONS, source, f"{where}.direction", f"must be one of {', '.join(_DIRECTIONS)}")
    for key in ("scope", "priority"):
        value = entry[key]
        _check(type(value) is int and value >= 0, source, f"{where}.{key}", "must be a whole number, 0 or more")
    _phrases(entry["phrases"], source, f"{where}.phrases")


def _add(trie: PhraseTrie, phrases: list[str], payload: Any, source: str, where: str) -> None:
    for phrase in phrases:
        try:
            spellings = expand_phrase(phrase)
        except ValueError as error:
            raise ValueError(f"{source}: {where}: {error}") from None
        for spelling in spellings:
            trie.add(spelling, payload)


@functools.lru_cache(maxsize=8)
def _compile(paths: tuple[tuple[str, int], ...]) -> Rules:
    contents = [(Path(path).name, read_rules(path)) for path, _ in paths]
    trie = PhraseTrie([word for _, content in contents for word in content.get("gap_stops", [])])
    for source, content in contents:
        for label, entry in content.get("labels", {}).items():
            for key, phrases in entry.items():
                where = f"labels.{label}.{key}"
                _add(trie, phrases, MentionRule(LABELS.index(label), _LABEL_KEYS[key], key), source, where)
        for entry in content.get("triggers", []):
            reach = _DIRECTIONS[entry["direction"]]
            trigger = Trigger(entry["name"], _TRIGGER_STATES[entry["state"]], *reach, entry["scope"], entry["priority"])
            _add(trie, entry["phrases"], trigger, source, f"triggers.{entry['name']}")
        for direction, phrases in content.get("endings", {}).items():
            _add(trie, phrases, Ending(*_DIRECTIONS[direction]), source, f"endings.{direction}")
        _add(trie, content.get("neutral", []), Ending(False, False), source, "neutral")
    words = {
        key: frozenset(w for _, content in contents for w in content.get(key, [])) for key in ("assertive", "course")
    }
    return Rules(trie, **words)


def load_rules(extra: str | os.PathLike | None = None) -> Rules:
    """The packaged rules, with those of `extra` added where it is given; compiled once per file version."""
    paths = [RULES_FILE] if extra is None else [RULES_FILE, Path(extra)]
    return _compile(tuple((str(path), path.stat().st_mtime_ns) for path in paths))
