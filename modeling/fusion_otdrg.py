"""What the LLM is shown of a study: visual tokens, its labels in words, and one token per label."""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_otdrg import OTDRGConfig
from .disease_states import POSITIVE
from .vision_otdrg import POSITION_SIZE, grid_positions


class Fusion(nn.Module):
    """Visual tokens and label tokens in the embedding space of the LLM."""

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        hidden_size = config.text_config.hidden_size
        self.pooling = config.image_token_pooling
        self.image_dense = nn.Linear(config.alignment_dim, hidden_size)
        self.image_output = nn.Linear(hidden_size, hidden_size)
        self.act = nn.GELU()
        self.label_words = LabelWords(config) if config.label_words else None
        self.label_tokens = LabelTokens(config)

    def visual_tokens(self, patches: torch.Tensor) -> torch.Tensor:
        """`[B, V, rows, columns, d]` -> `[B, V, tokens, hidden]`, averaging `pooling` x `pooling` patches."""
        batch, views = patches.shape[:2]
        if self.pooling > 1:
            maps = patches.flatten(0, 1).permute(0, 3, 1, 2)
            maps = F.avg_pool2d(maps, self.pooling, ceil_mode=True)
            patches = maps.permute(0, 2, 3, 1).unflatten(0, (batch, views))
        return self.image_output(self.act(self.image_dense(patches.flatten(2, 3))))


class LabelWords(nn.Module):
    """
    The findings in the LLM's own words: "cardiomegaly; possible edema;", or "no finding;".

    What is denied or not mentioned is left out: among the usual denials the one word that matters would be lost. An LLM
    that knows the words need not learn what they mean; one from scratch meets them in the reports.
    """

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        self.config = config
        # Not saved: the configuration holds them, and two copies could differ.
        self.register_buffer("word_ids", self.padded_word_ids(), persistent=False)

    def padded_word_ids(self) -> torch.Tensor:
        """`config.label_word_ids` as `[m, states, tokens]`, padded with -1."""
        table = self.config.label_word_ids
        longest = max(len(ids) for label in table for ids in label)
        return torch.tensor([[list(ids) + [-1] * (longest - len(ids)) for ids in label] for label in table])

    def forward(self, states: torch.Tensor, embed_tokens: nn.Module) -> torch.Tensor:
        """Words of `states` `[B, m]`, `[B, label_words, hidden]`; zeros after the last."""
        positive_first = (states != POSITIVE).to(torch.int8).argsort(dim=1, stable=True)  # [B, m]
        ids = self.word_ids[positive_first, states.gather(1, positive_first)].flatten(1)  # [B, m * tokens]
        filled_first = (ids < 0).to(torch.int8).argsort(dim=1, stable=True)[:, : self.config.label_words]
        ids = ids.gather(1, filled_first)  # [B, label_words]
        return embed_tokens(ids.clamp(min=0)) * (ids >= 0).unsqueeze(-1)


class LabelTokens(nn.Module):
    """
    One token of the LLM per label: what is said of it, and what is seen of it and where, or that it was told.

    What is seen of a label contradicts a state that somebody set by hand. A label that was told shows a learned vector
    in its place, so that the state is to be taken at its word.
    """

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        d, hidden_size = config.alignment_dim, config.text_config.hidden_size
        self.phrase_dense = nn.Linear(d, hidden_size)
        self.seen_dense = nn.Linear(d, hidden_size)
        # On its own: among hundreds of features of unit scale the few that tell left from right would drown.
        self.place_norm = nn.LayerNorm(POSITION_SIZE)
        self.place_dense = nn.Linear(POSITION_SIZE, hidden_size, bias=False)
        self.told = nn.Parameter(torch.empty(hidden_size))
        self.act = nn.GELU()
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, phrases: torch.Tensor, label_patches: torch.Tensor, places: torch.Tensor, told: torch.Tensor
    ) -> torch.Tensor:
        """
        Args:
            phrases (`torch.Tensor` of shape `[B, m, d]`): Features of the (label, state) phrases.
            label_patches (`torch.Tensor` of shape `[B, m, d]`): Label-wise visual features *Z*.
            places (`torch.Tensor` of shape `[B, m, p]`): Of [`label_places`].
            told (`torch.Tensor` of shape `[B, m]`): True where the state is told, and what is seen is not shown.

        Returns:
            `torch.Tensor` of shape `[B, m, hidden]`.
        """
        seen = self.seen_dense(label_patches) + self.place_dense(self.place_norm(places))  # [B, m, hidden]
        seen = torch.where(told.unsqueeze(-1), self.told.to(seen.dtype), seen)
        return self.output(self.act(self.phrase_dense(phrases) + seen))


def label_places(evidence: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """
    Where each label was seen: the mean position code of its evidence in the first view, `[B, N, m]` -> `[B, m, p]`.

    Left and right are read off the first view alone, the frontal one by convention: a lateral view shows neither, and
    a mean over both would hide them.
    """
    positions = grid_positions(rows, columns, POSITION_SIZE, evidence.device, evidence.dtype).flatten(0, 1)  # [n, p]
    first_view = evidence[:, : rows * columns]  # [B, n, m]
    weights = first_view / first_view.sum(1, keepdim=True).clamp(min=1e-12)
    return weights.transpose(1, 2) @ positions
