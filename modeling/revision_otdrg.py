# Copyright 2026 The otdrg-hf authors. Licensed under the Apache License, Version 2.0.
"""Revision: a report written with overridden labels keeps the words of the one written without where it can."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel
from transformers.utils import ModelOutput

PREFERENCE = 2.0
NUM_EXPECTED = 64
PADDING, _START = -1, -2
# Arguments of `generate` that a draft is written without.
OF_THE_REVISION = (
    "streamer",
    "num_return_sequences",
    "past_key_values",
    "return_dict_in_generate",
    "output_logits",
    "output_scores",
)


class KeepDraft(LogitsProcessor):
    r"""
    Prefers, among the next words of a report, the one that follows in its draft, and those that an overridden label
    made likelier than they were there.

    An overridden label changes its own sentence. Which of several wordings the others take is often nearly a tie, which
    any change of the prompt tips. The preference is weak enough not to hold back a model that is certain: the draft's
    next token gains a few nats, and any token as much as it gained on what was expected at that position of the draft,
    up to the same few nats.

    Args:
        drafts (`torch.LongTensor` of shape `[B, D]`): Token ids of a draft per study, then padding of -1; a row of
            padding alone is a study without a draft.
        expected (`ExpectedTokens` of shape `[B, 1 + D, k]`): What was likely at each position of the drafts.
        prompt_length (`int`): Tokens of the prompts, which come first.
        preference (`float`, *optional*, defaults to 2.0): The few nats.
    """

    def __init__(
        self,
        drafts: torch.Tensor,
        expected: "ExpectedTokens",
        prompt_length: int,
        preference: float | None = None,
    ):
        starts = torch.where(drafts[:, :1] >= 0, _START, PADDING)
        self.drafts = torch.cat([starts, drafts], dim=1)  # [B, 1 + D]
        self.expected = expected
        self.prompt_length = prompt_length
        self.preference = PREFERENCE if preference is None else preference

    @classmethod
    def for_some(
        cls,
        rows: torch.Tensor,
        num_studies: int,
        drafts: torch.Tensor,
        expected: "ExpectedTokens",
        prompt_length: int,
    ) -> "KeepDraft":
        """For a batch of `num_studies` of which only `rows` have a draft: `drafts` and `expected` are theirs alone."""
        of_all = drafts.new_full((num_studies, drafts.shape[1]), PADDING).index_copy(0, rows, drafts)
        # A study without a draft is at no position of one, so that what is expected there may be that of any other.
        order = torch.zeros(num_studies, dtype=torch.long, device=rows.device)
        order[rows] = torch.arange(len(rows), device=rows.device)
        return cls(of_all, ExpectedTokens(*(each[order] for each in expected)), prompt_length)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`[rows, T]` and `[rows, vocab]` -> `[rows, vocab]`; the beams of a study are rows one after another."""
        beams = len(input_ids) // len(self.drafts)
        drafts = self.drafts.repeat_interleave(beams, 0)
        agreed = agreement(input_ids[:, self.prompt_length :], drafts)  # [rows, 1 + D]
        # Where the longest part of the draft ends that ends as the report does so far.
        last = (agreed == agreed.amax(-1, keepdim=True)) & (agreed > 0)
        follows = last[:, :-1] & (drafts[:, 1:] >= 0)  # [rows, D]
        bonus = self.preference * follows.to(scores.dtype)
        kept = torch.zeros_like(scores).scatter_reduce_(1, drafts[:, 1:].clamp(min=0), bonus, "amax")
        before = self.expected.at(last, beams, scores.shape[-1])  # [rows, vocab]
        gained = (scores.log_softmax(-1) - before).clamp(0, self.preference).to(scores.dtype)
        return scores + kept + gained


class ExpectedTokens(NamedTuple):
    """
    The likeliest tokens at each position of drafts: a large vocabulary times a report is more than is worth keeping.

    Attributes:
        log_probs (`torch.Tensor`), tokens (`torch.LongTensor`): Of shape `[B, 1 + D, k]`, likeliest first.
    """

    log_probs: torch.Tensor
    tokens: torch.Tensor

    @classmethod
    def from_logits(cls, logits: torch.Tensor) -> "ExpectedTokens":
        """`[B, 1 + D, vocab]`, study by study, as they are not small."""
        tops = [study.float().log_softmax(-1).topk(min(NUM_EXPECTED, logits.shape[-1])) for study in logits]
        return cls(torch.stack([top.values for top in tops]), torch.stack([top.indices for top in tops]))

    def at(self, positions: torch.Tensor, beams: int, vocab_size: int) -> torch.Tensor:
        """
        Log-probabilities where `positions` `[B * beams, 1 + D]` is true, the largest of several, `[B * beams, vocab]`;
        0 for all tokens where it is true nowhere. Of other tokens than the likeliest, an upper bound.
        """
        elsewhere = ~positions.unsqueeze(-1)
        log_probs = self.log_probs.repeat_interleave(beams, 0).masked_fill(elsewhere, -torch.inf)  # [rows, 1 + D, k]
        least = log_probs[..., -1].amax(-1, keepdim=True)  # [rows, 1]
        least = least.masked_fill(~positions.any(-1, keepdim=True), 0)
        tokens = self.tokens.repeat_interleave(beams, 0)
        return least.repeat(1, vocab_size).scatter_reduce_(1, tokens.flatten(1), log_probs.flatten(1), "amax")


def agreement(written: torch.Tensor, drafts: torch.Tensor) -> torch.Tensor:
    """
    How many tokens up to each position of the draft are the last ones written, `[rows, T]`, `[rows, D]` -> `[rows, D]`.
    """
    agreed = (drafts == _START).long()  # nothing written: at the start
    for token in written.T:
        before = agreed.roll(1, dims=1)
        before[:, 0] = 0
        agreed = torch.where(drafts == token[:, None], before + 1, 0)
    return agreed


def draft_tokens(written: torch.Tensor, end_tokens: list[int]) -> torch.Tensor:
    """What `generate` wrote, `[B, T]`, with -1 after the first end token, which may itself be the padding token."""
    ends = torch.isin(written, torch.tensor(end_tokens, dtype=torch.long, device=written.device)).long()
    return written.masked_fill(ends.cumsum(-1) - ends > 0, PADDING)


def draws_samples(model: PreTrainedModel, options: dict) -> bool:
    """Whether `generate` samples with these arguments: it then has no draft to keep to."""
    return bool(_resolved(model, options).do_sample)


def draft_options(options: dict) -> dict:
    """The arguments of `generate` by which a draft is written: one report a study, as tokens."""
    kept = {name: value for name, value in options.items() if name not in OF_THE_REVISION}
    return {**kept, "num_return_sequences": 1, "return_dict_in_generate": False}


def _resolved(model: PreTrainedModel, options: dict) -> GenerationConfig:
    """The configuration that `generate` arrives at: of these arguments, a `generation_config` and the model's."""
    options = dict(options)
    return model._prepare_generation_config(options.pop("generation_config", None), **options)[0]


def keep_drafts(
    model: PreTrainedModel, write: Callable, input_ids: torch.Tensor, features: ModelOutput, options: dict
) -> KeepDraft | None:
    """
    Writes the reports of a batch without their overrides, for those that revise them to keep to.

    Args:
        model ([`OTDRGForConditionalGeneration`]): Gives what it expects at each position of a draft.
        write (`Callable`): Its `generate`, without revision.
        input_ids (`torch.LongTensor` of shape `[B, T]`): Prompts.
        features ([`OTDRGStudyFeatures`]): Of the studies, with `is_revision` and `predicted_finding_embeds`.
        options (`dict`): Further arguments of `generate`.

    Returns:
        [`KeepDraft`] or `None` where nothing is revised, or samples are drawn.
    """
    rows, settings = features.is_revision.nonzero()[:, 0], _resolved(model, options)
    if len(rows) == 0 or settings.do_sample:
        return None
    options = draft_options(options)
    mask, ends = options.pop("attention_mask", None), _end_tokens(settings.eos_token_id)
    if mask is None:  # as transformers would infer it
        pad = settings.pad_token_id
        mask = torch.ones_like(input_ids) if pad is None or pad in ends else (input_ids != pad).long()
    prompts, mask = input_ids[rows], mask[rows]
    of_rows = features.of_studies(rows)
    plain, written = of_rows.as_predicted(), of_rows.drafts
    if written is None:
        encoded = {**(options.get("mm_encoder_outputs") or {}), "image": plain}
        options |= {"mm_encoder_outputs": encoded}
        written = write(prompts, attention_mask=mask, **options)[:, prompts.shape[1] :]
    drafts = draft_tokens(written, ends)  # [rows, D]
    expected = _expected_tokens(model, prompts, mask, plain, drafts)
    return KeepDraft.for_some(rows, len(input_ids), drafts, expected, prompts.shape[1])


def _expected_tokens(model, prompts, mask, features, drafts: torch.Tensor) -> ExpectedTokens:
    """What the model thought likely where it wrote `drafts` `[rows, D]`."""
    mask = torch.cat([mask, torch.ones_like(drafts)], dim=1)
    logits = model(
        input_ids=torch.cat([prompts, drafts.clamp(min=0)], dim=1),
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        mm_encoder_outputs={"image": features},
        logits_to_keep=drafts.shape[1] + 1,
    ).logits
    return ExpectedTokens.from_logits(logits)


def _end_tokens(tokens: int | list[int] | None) -> list[int]:
    return list(tokens) if isinstance(tokens, (list, tuple)) else [] if tokens is None else [int(tokens)]


__all__ = ["ExpectedTokens", "KeepDraft", "draft_options", "draft_tokens", "draws_samples", "keep_drafts"]
