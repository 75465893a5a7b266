# Copyright 2026 The otdrg-hf authors. Licensed under the Apache License, Version 2.0.
"""Reports as text: how one begins that is to end in an impression, what was written, decoded, and its sections."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import ModelOutput

_HEADER = re.compile(r"(?<!\w)(findings?|impressions?)[ \t]*:", re.IGNORECASE)


@dataclass(frozen=True)
class DecodedReport:
    """
    A report as it was decoded.

    Attributes:
        text (`str`): All of it, with what it begins with.
        draft_length (`int`): Characters of what it begins with.
        tokens (`list[tuple[int, float]]`, *optional*): Of each token that was written, the character of `text` where it
            ends, and its log-probability.
    """

    text: str
    draft_length: int
    tokens: list[tuple[int, float]] | None


def decode_reports(
    tokenizer: PreTrainedTokenizerBase,
    written: torch.Tensor | ModelOutput,
    prompt_length: int,
    drafts: list[str],
    with_tokens: bool = False,
) -> list[DecodedReport]:
    """
    The reports of what `generate` wrote, behind the drafts of their studies.

    Args:
        tokenizer ([`PreTrainedTokenizerBase`]): That of the LLM.
        written (`torch.LongTensor` or [`ModelOutput`]): Token ids, `[rows, T]`, several rows a study where several
            reports of each were asked for; or what holds them as `sequences`.
        prompt_length (`int`): Tokens of the prompts, which come first.
        drafts (`list[str]`): What the report of each study begins with.
        with_tokens (`bool`): Where each token ends, and its log-probability; needs `written.logits`.
    """
    sequences = getattr(written, "sequences", written)
    log_probs = written_log_probs(written, prompt_length).tolist() if with_tokens else None
    per_study, reports = len(sequences) // len(drafts), []
    for index, row in enumerate(sequences.tolist()):
        draft, report = drafts[index // per_study], row[prompt_length:]
        # Tokens of a report need not decode alone as they do behind others: they may lose a space.
        before = row[prompt_length - 1 : prompt_length] if draft else []
        prefixes = range(len(report) + 1) if with_tokens else (0, len(report))
        decoded = tokenizer.batch_decode([before + report[:end] for end in prefixes], skip_special_tokens=True)
        added = decoded[-1][len(decoded[0]) :]
        text = added if draft and not draft[-1].isspace() else added.lstrip()
        offset = len(draft) - len(decoded[0]) - (len(added) - len(text))
        text = draft + text.rstrip()
        tokens = None
        if log_probs is not None:
            ends = [min(max(len(prefix) + offset, len(draft)), len(text)) for prefix in decoded[1:]]
            tokens = list(zip(ends, log_probs[index], strict=True))
        reports.append(DecodedReport(text, len(draft), tokens))
    return reports


def written_log_probs(written: ModelOutput, prompt_length: int) -> torch.Tensor:
    """
    Log-probabilities of what `generate` wrote, `[rows, T]`, by the model itself: before temperature and other changes.

    Args:
        written ([`ModelOutput`]): With `logits`, as of `output_logits=True`.
        prompt_length (`int`): Tokens of the prompts, which come first.
    """
    tokens = written.sequences[:, prompt_length:]  # [rows, T]
    beams = written.get("beam_indices")  # [rows, T]; -1 after the end of a beam
    steps = []
    # One step at a time, `[rows or beams, vocab]`, as they are not small. Beams may have ended before the last.
    for step, logits in zip(range(tokens.shape[1]), written.logits, strict=False):
        rows = torch.arange(len(tokens), device=tokens.device) if beams is None else beams[:, step].clamp(min=0)
        of_step = logits.float().log_softmax(-1)[rows.to(logits.device)]
        steps.append(of_step.gather(-1, tokens[:, step : step + 1].to(logits.device)))
    return torch.cat(steps, dim=-1)


def impression_draft(findings: str) -> str:
    """Findings behind their header, and that of the impression to write; `ValueError` for other sections in them."""
    findings = findings.strip()
    names = _section_names(_HEADER.finditer(findings))
    has_header = bool(_HEADER.match(findings))
    if len(names) > has_header or names[:1] == ["impression"]:
        raise ValueError("`impression_of` takes the findings alone, without other sections.")
    return f"{findings if has_header else f'Findings: {findings}'} Impression:"


def report_sections(report: str) -> dict[str, str] | None:
    """
    The two sections of a report by name.

    Args:
        report (`str`): A report, such as `"Findings: Clear lungs. Impression: Normal."`.

    Returns:
        `{"findings": str, "impression": str}`, or `None` unless it has each header once, in this order, before anything
        else, with text below it.
    """
    headers = list(_HEADER.finditer(report))
    if _section_names(headers) != ["finding", "impression"]:
        return None
    first, second = headers
    findings, impression = report[first.end() : second.start()].strip(), report[second.end() :].strip()
    if report[: first.start()].strip() or not findings or not impression:
        return None
    return {"findings": findings, "impression": impression}


def _section_names(headers: Iterable[re.Match[str]]) -> list[str]:
    """`"finding"` or `"impression"` for each header."""
    return [header[1].lower().rstrip("s") for header in headers]
