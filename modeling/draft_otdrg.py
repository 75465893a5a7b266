"""A report that is written again, with a label set by hand, keeps the words of the first one where it can."""

import torch
from transformers import LogitsProcessor

PREFERENCE = 2.0
PADDING, _START = -1, -2


class KeepDraft(LogitsProcessor):
    r"""
    Prefers, among the words that a report may go on with, the one that follows in its draft.

    A label that changes, changes its sentence. Which of several wordings the others take is often nearly a tie, which
    any change of the prompt tips. A model that knows what it wants is not held back: the draft's next token gets a few
    nats, no more.

    Args:
        drafts (`torch.LongTensor` of shape `[B, D]`): Token ids of a draft per study, then padding of -1; a row of
            padding alone is a study without a draft.
        prompt_length (`int`): Tokens of the prompts, which come first.
        preference (`float`, *optional*, defaults to 2.0): Nats that the draft's next token gets.
    """

    def __init__(self, drafts: torch.LongTensor, prompt_length: int, preference: float | None = None):
        starts = torch.where(drafts[:, :1] >= 0, _START, PADDING)
        self.drafts = torch.cat([starts, drafts], dim=1)  # [B, 1 + D]
        self.prompt_length = prompt_length
        self.preference = PREFERENCE if preference is None else preference

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """`[rows, T]` and `[rows, vocab]` -> `[rows, vocab]`; the beams of a study are rows one after another."""
        drafts = self.drafts.repeat_interleave(len(input_ids) // len(self.drafts), 0)
        agreed = agreement(input_ids[:, self.prompt_length :], drafts)  # [rows, 1 + D]
        # What comes after the longest part of the draft that ends as the report does so far.
        last = (agreed == agreed.amax(-1, keepdim=True)) & (agreed > 0)
        follows = last[:, :-1] & (drafts[:, 1:] >= 0)  # [rows, D]
        bonus = self.preference * follows.to(scores.dtype)
        return scores + torch.zeros_like(scores).scatter_reduce_(1, drafts[:, 1:].clamp(min=0), bonus, "amax")


def agreement(written: torch.LongTensor, drafts: torch.LongTensor) -> torch.LongTensor:
    """
    By place in the draft, how many tokens up to it are the last ones written, `[rows, T]`, `[rows, D]` -> `[rows, D]`.
    """
    agreed = (drafts == _START).long()  # nothing written: at the start
    for token in written.T:
        before = agreed.roll(1, dims=1)
        before[:, 0] = 0
        agreed = torch.where(drafts == token[:, None], before + 1, 0)
    return agreed


def draft_tokens(written: torch.LongTensor, end_tokens: list[int]) -> torch.LongTensor:
    """What `generate` wrote, `[B, T]`, with -1 after the first end token, which may itself be what it pads with."""
    ends = torch.isin(written, torch.tensor(end_tokens, dtype=torch.long, device=written.device)).long()
    return written.masked_fill(ends.cumsum(-1) - ends > 0, PADDING)


__all__ = ["PADDING", "KeepDraft", "draft_tokens"]
