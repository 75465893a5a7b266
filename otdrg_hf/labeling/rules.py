"""Read rules.yaml (and a reader's own file of the same form), check it, and compile it for the matcher."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .labels import LABELS, NEGATIVE, POSITIVE, UNCERTAIN
from .phrases import PhraseTrie, expand_phrase
from .spelling import Spelling

RULES_FILE = Path(__file__).with_name("rules.yaml")
# English words one typing error away from a term, found once by comparing the rules with word lists.
ENGLISH_FILE = Path(__file__).with_name("english.txt")

# What the abnormalities outside the labels, and the words that speak of the finding before them, are counted as.
OTHER, AGAIN = len(LABELS), len(LABELS) + 1
_STATES = {"positive": POSITIVE, "uncertain": UNCERTAIN, "normal": NEGATIVE, "unless": None, "still": POSITIVE}
_SPECIAL = {"other": OTHER, "again": AGAIN}
_TRIGGER_STATES = {"negative": NEGATIVE, "uncertain": UNCERTAIN, "ignore": None}
_DIRECTIONS = {
    "forward": (True, False, False),
    "backward": (False, True, False),
    "both": (True, True, False),
    "beside": (True, True, True),
}
_WORD_LISTS = ("gap_stops", "assertive", "course", "verbs", "spelled", "english")
_TOP_KEYS = ("lists", "labels", "other", "again", "triggers", "neutral", "endings", "short_forms", *_WORD_LISTS)


class MentionRule(NamedTuple):
    """A phrase that speaks of a label, or of `OTHER` or `AGAIN`; `state` None hides the mention it covers."""

    label: int
    state: int | None
    name: str


class Trigger(NamedTuple):
    """Words that change the state of mentions near them; `state` None drops the mention."""

    name: str
    state: int | None
    forward: bool
    backward: bool
    nearest: bool
    scope: int
    priority: int


class Ending(NamedTuple):
    """Words at which the reach of triggers ends. With neither direction, a neutral phrase."""

    forward: bool
    backward: bool


@dataclass
class Rules:
    """Compiled rules: one trie over all phrases, how words are written, and the words that make a statement."""

    trie: PhraseTrie
    spelling: Spelling
    assertive: frozenset[str]
    course: frozenset[str]
    verbs: frozenset[str]
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
    for where, _, entry in _mention_entries(content):
        _check_keys(entry, _STATES, source, where)
        for key, phrases in entry.items():
            _phrases(phrases, source, f"{where}.{key}")
    _check(isinstance(content.get("lists", {}), dict), source, "lists", "must be a mapping")
    for name, phrases in content.get("lists", {}).items():
        _phrases(phrases, source, f"lists.{name}")
    _check_short_forms(content.get("short_forms", {}), source)
    triggers = content.get("triggers", [])
    _check(isinstance(triggers, list), source, "triggers", "must be a list")
    for number, entry in enumerate(triggers):
        _check_trigger(entry, source, f"triggers[{number}]")
    _check_keys(content.get("endings", {}), ("forward", "backward"), source, "endings")
    for direction, phrases in content.get("endings", {}).items():
        _phrases(phrases, source, f"endings.{direction}")
    for key in ("neutral", *_WORD_LISTS):
        _phrases(content.get(key, []), source, key)
    return content


def _mention_entries(content: dict[str, Any]) -> list[tuple[str, int, Any]]:
    """Place, label and phrases by state of all that speaks of findings."""
    entries = [(f"labels.{name}", LABELS.index(name), entry) for name, entry in content.get("labels", {}).items()]
    return entries + [(key, number, content[key]) for key, number in _SPECIAL.items() if key in content]


def _check_short_forms(value: Any, source: str) -> None:
    _check(isinstance(value, dict), source, "short_forms", "must be a mapping")
    for form, words in value.items():
        ok = isinstance(form, str) and isinstance(words, str) and bool(words.split())
        _check(ok, source, "short_forms", f"{form!r}: {words!r} is not a word and what it stands for; quote both")


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


@functools.lru_cache(maxsize=8)
def _compile(paths: tuple[tuple[str, int], ...]) -> Rules:
    contents = [(Path(path).name, read_rules(path)) for path, _ in paths]
    words = {key: frozenset(w for _, content in contents for w in content.get(key, [])) for key in _WORD_LISTS}
    lists: dict[str, list[str]] = {}
    for _, content in contents:
        for name, phrases in content.get("lists", {}).items():
            lists[name] = lists.get(name, []) + phrases
    trie = PhraseTrie(words["gap_stops"], lists)
    for source, content in contents:
        for where, phrases, payload in _payloads(content):
            _add(trie, phrases, lists, payload, source, where)
    short_forms = {
        form: tuple(full.split()) for _, content in contents for form, full in content.get("short_forms", {}).items()
    }
    spoken = frozenset().union(*(words[key] for key in ("gap_stops", "assertive", "course", "verbs")))
    spelling = Spelling(
        short_forms,
        known=lambda word: word in spoken or trie.knows(word),
        terms=[*trie.words, *spoken, *words["spelled"]],
        english=words["english"].union(ENGLISH_FILE.read_text(encoding="utf-8").split()),
    )
    return Rules(trie, spelling, words["assertive"], words["course"], words["verbs"])


def _payloads(content: dict[str, Any]) -> Iterator[tuple[str, list[str], Any]]:
    """Place in the file, phrases, and what the trie gives back where one of them is found."""
    for where, label, entry in _mention_entries(content):
        for key, phrases in entry.items():
            yield f"{where}.{key}", phrases, MentionRule(label, _STATES[key], key)
    for entry in content.get("triggers", []):
        reach = _DIRECTIONS[entry["direction"]]
        trigger = Trigger(entry["name"], _TRIGGER_STATES[entry["state"]], *reach, entry["scope"], entry["priority"])
        yield f"triggers.{entry['name']}", entry["phrases"], trigger
    for direction, phrases in content.get("endings", {}).items():
        yield f"endings.{direction}", phrases, Ending(*_DIRECTIONS[direction][:2])
    yield "neutral", content.get("neutral", []), Ending(False, False)


def _add(
    trie: PhraseTrie, phrases: list[str], lists: dict[str, list[str]], payload: Any, source: str, where: str
) -> None:
    for phrase in phrases:
        try:
            spellings = expand_phrase(phrase, lists)
        except ValueError as error:
            raise ValueError(f"{source}: {where}: {error}") from None
        for spelling in spellings:
            trie.add(spelling, payload)


def load_rules(extra: str | os.PathLike | None = None) -> Rules:
    """The packaged rules, with those of `extra` added where it is given; compiled once per file version."""
    paths = [RULES_FILE] if extra is None else [RULES_FILE, Path(extra)]
    return _compile(tuple((str(path), path.stat().st_mtime_ns) for path in paths))
