"""label_reports: the disease labels of whole reports, with the evidence behind each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from tqdm.auto import tqdm

from .labels import BLANK, LABELS, NEGATIVE, POSITIVE, STATES, UNCERTAIN
from .matcher import Found, match_sentence
from .rules import OTHER, Rules, load_rules
from .sections import split_sections, split_sentences

_NO_FINDING = LABELS.index("No Finding")
_DEVICES = LABELS.index("Support Devices")
# CheXpert's precedence over the mentions of a report (Irvin et al., 2019): positive, then uncertain, then negative.
_RANK = (0, 3, 1, 2)
_CACHED_SENTENCES = 200_000
_CHUNK = 500
_PROGRESS_FROM = 20_000


@dataclass(frozen=True)
class Mention:
    """Where a report speaks of a label.

    Attributes:
        label (`str`): one of `LABELS`.
        state (`str`): one of `STATES`, never "blank".
        span (`tuple[int, int]`): first character in the report and the one after the last.
        text (`str`): the report's text at `span`.
        rule (`str`): which list of the label matched: "positive", "uncertain", "normal" or "still"; "other" where
            an abnormality outside the labels speaks against No Finding.
        trigger (`str`): name of the trigger that decided the state, "" where the phrase itself did.
    """

    label: str
    state: str
    span: tuple[int, int]
    text: str
    rule: str
    trigger: str


def _sentence(text: str, rules: Rules) -> tuple[Found, ...]:
    known = rules.sentences.get(text)
    if known is None:
        if len(rules.sentences) >= _CACHED_SENTENCES:
            rules.sentences.clear()
        known = rules.sentences[text] = match_sentence(text, rules)
    return known


def _report_mentions(report: str, rules: Rules) -> list[tuple[Found, int]]:
    mentions = []
    for _, first, last in split_sections(report):
        for start, end in split_sentences(report[first:last]):
            for found in _sentence(report[first + start : first + end], rules):
                mentions.append((found, first + start))
    return mentions


def _aggregate(mentions: list[tuple[Found, int]]) -> list[int]:
    states = [BLANK] * (len(LABELS) + 1)
    for found, _ in mentions:
        if _RANK[found.state] > _RANK[states[found.label]]:
            states[found.label] = found.state
    ill = any(state in (POSITIVE, UNCERTAIN) for k, state in enumerate(states) if k not in (_NO_FINDING, _DEVICES))
    # A report that speaks of nothing (empty, another language) is blank, not healthy.
    states[_NO_FINDING] = POSITIVE if mentions and not ill else BLANK
    del states[OTHER]
    return states


def _label_chunk(reports: Sequence[str], rules_path: str | None) -> np.ndarray:
    rules = load_rules(rules_path)
    return np.array([_aggregate(_report_mentions(r, rules)) for r in reports], dtype=np.int8).reshape(-1, len(LABELS))


def label_reports(
    reports: Sequence[str],
    *,
    num_proc: int | None = None,
    explain: bool = False,
    rules: str | os.PathLike | None = None,
):
    """Disease labels of radiology reports.

    Args:
        reports (`Sequence[str]`): English chest X-ray reports, whole or findings and impression only.
        num_proc (`int`, *optional*): processes to share the work; one by default.
        explain (`bool`): also return the mentions behind the labels.
        rules (`str` or `os.PathLike`, *optional*): a rules file that adds to the packaged one.

    Returns:
        `np.ndarray`: int8 `[N, 14]`, columns as `LABELS`, codes as `STATES`. With `explain=True` a tuple of it and,
        per report, a `dict[str, list[Mention]]` of every label that is mentioned, impression first. No Finding follows
        from the rest: it is positive where something is said and nothing but devices is positive or uncertain, be it
        of the labels or another abnormality (emphysema, a hernia, scoliosis). Its mentions are the phrases that say
        so ("no acute process") and, negative, such other abnormalities.

    Raises:
        TypeError: if `reports` is a single string or holds something else than text.
        ValueError: if the rules file is not valid.
    """
    if isinstance(reports, str):
        raise TypeError("label_reports takes a list of reports; wrap the one report in a list")
    reports = list(reports)
    for number, report in enumerate(reports):
        if not isinstance(report, str):
            raise TypeError(f"report {number} is {type(report).__name__}, not text; give '' where there is none")
    path = None if rules is None else os.fspath(rules)
    compiled = load_rules(path)
    if explain:
        every = [_report_mentions(report, compiled) for report in reports]
        labels = np.array([_aggregate(m) for m in every], dtype=np.int8).reshape(-1, len(LABELS))
        return labels, [_evidence(r, m) for r, m in zip(reports, every, strict=True)]
    chunks = [reports[at : at + _CHUNK] for at in range(0, len(reports), _CHUNK)]
    progress = tqdm(total=len(reports), desc="labels", unit="report", disable=len(reports) < _PROGRESS_FROM)
    arrays = [np.zeros((0, len(LABELS)), dtype=np.int8)]
    with progress:
        for array in _label_chunks(chunks, path, num_proc or 1):
            arrays.append(array)
            progress.update(len(array))
    return np.concatenate(arrays)


def _label_chunks(chunks: list[list[str]], path: str | None, num_proc: int) -> Iterator[np.ndarray]:
    if num_proc <= 1 or len(chunks) < 2:
        yield from map(_label_chunk, chunks, repeat(path))
        return
    with ProcessPoolExecutor(min(num_proc, len(chunks))) as pool:
        yield from pool.map(_label_chunk, chunks, repeat(path))


def _evidence(report: str, mentions: list[tuple[Found, int]]) -> dict[str, list[Mention]]:
    evidence: dict[str, list[Mention]] = {}
    for found, offset in mentions:
        start, end = offset + found.start, offset + found.end
        label, state, rule = found.label, found.state, found.rule
        if label == OTHER:
            if state == NEGATIVE:
                continue
            label, state, rule = _NO_FINDING, NEGATIVE, "other"
        mention = Mention(LABELS[label], STATES[state], (start, end), report[start:end], rule, found.trigger)
        evidence.setdefault(LABELS[label], []).append(mention)
    return evidence
