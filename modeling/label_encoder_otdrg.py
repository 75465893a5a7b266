"""Label phrases in the alignment space."""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_otdrg import OTDRGConfig


class LabelEncoder(nn.Module):
    """
    Label phrases in the alignment space: from the mean of the LLM's embeddings of their tokens, or, with
    `config.label_feature_size`, from what a text encoder gave for them.
    """

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        if config.label_phrase_ids is None:
            raise ValueError(
                "`label_phrase_ids` is not set: tokenize `label_phrases` with OTDRGProcessor.label_phrase_ids(config), "
                "or build the model with OTDRGForConditionalGeneration.from_backbones(vision, text)."
            )
        feature_size = config.label_feature_size or config.text_config.hidden_size
        self.config = config
        # Not saved: the configuration holds them, and two copies could differ.
        self.register_buffer("phrase_ids", self.padded_phrase_ids(), persistent=False)
        if config.label_feature_size:
            shape = (config.num_disease_labels, 1 + config.num_states, feature_size)
            self.register_buffer("phrase_features", torch.zeros(shape))  # of encode_label_phrases
        self.dense = nn.Linear(feature_size, config.alignment_dim)
        self.act = nn.GELU()
        self.output = nn.Linear(config.alignment_dim, config.alignment_dim)
        self.norm = nn.LayerNorm(config.alignment_dim)

    def padded_phrase_ids(self) -> torch.Tensor:
        """`config.label_phrase_ids` as `[m, 1 + states, tokens]`, padded with -1."""
        table = self.config.label_phrase_ids
        longest = max(len(ids) for label in table for ids in label)
        return torch.tensor([[list(ids) + [-1] * (longest - len(ids)) for ids in label] for label in table])

    def forward(self, embed_tokens: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the names `[m, d]` and the (label, state) phrases `[m, states, d]`."""
        given = self.phrase_features if self.config.label_feature_size else self._mean_embeddings(embed_tokens)
        # Features of different models differ in scale by orders of magnitude.
        given = F.layer_norm(given.to(self.norm.weight.dtype), given.shape[-1:])
        phrases = self.norm(self.output(self.act(self.dense(given))))  # [m, 1 + states, d]
        return phrases[:, 0], phrases[:, 1:]

    def _mean_embeddings(self, embed_tokens: nn.Module) -> torch.Tensor:
        mask = (self.phrase_ids >= 0).unsqueeze(-1)
        tokens = embed_tokens(self.phrase_ids.clamp(min=0)) * mask  # [m, 1 + states, tokens, hidden]
        return tokens.to(self.norm.weight.dtype).sum(-2) / mask.sum(-2)
