"""The disease prediction module: states of the labels from what each label sees."""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_otdrg import OTDRGConfig
from .disease_states import POSITIVE

PRESENCE_SCALE = 20.0


class DiseaseHead(nn.Module):
    """
    State logits of each label from what it sees.

    Whether a label is positive is read off the cosine between its label-wise visual feature and the phrase of its
    presence, `p = sigmoid(prior log-odds + scale * (cos - offset))`. A classifier of any form could as well learn that
    a sign is present where something normal is missed, and would then look there; similarity to "is present" can only
    rise where the sign is, which is what makes the plan evidence. The other states share the rest by a classifier.
    """

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        m, others, d = config.num_disease_labels, config.num_states - 1, config.alignment_dim
        self.config = config
        self.presence_log_scale = nn.Parameter(torch.empty(m))
        self.presence_offset = nn.Parameter(torch.empty(m))
        self.norm = nn.LayerNorm(d)
        self.dense = nn.Linear(d, d)
        self.act = nn.GELU()
        self.classifier_weight = nn.Parameter(torch.empty(m, others, d))
        self.classifier_bias = nn.Parameter(torch.empty(m, others))

    def forward(self, label_patches: torch.Tensor, names: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """
        Args:
            label_patches (`torch.Tensor` of shape `[B, m, d]`): `Z` of a transport that does not know the states.
            names, present (`torch.Tensor` of shape `[m, d]`): Features of the names, and of the phrases of presence.

        Returns:
            `torch.Tensor` of shape `[B, m, states]`: Log-probabilities, fp32.
        """
        priors = self._priors(label_patches.device)  # [m, states]
        similarity = F.cosine_similarity(label_patches.float(), present.float(), dim=-1)  # [B, m]
        scale = PRESENCE_SCALE * self.presence_log_scale.float().exp()
        presence = priors[:, POSITIVE].logit() + scale * (similarity - self.presence_offset.float())  # [B, m]
        if self.config.score_calibration is not None:
            slope, intercept = torch.tensor(self.config.score_calibration, device=presence.device).T  # [m], [m]
            presence = slope * presence + intercept
        hidden = self.act(self.dense(self.norm(label_patches + names)))  # [B, m, d]
        others = torch.einsum("bmd,msd->bms", hidden, self.classifier_weight.to(hidden.dtype))
        others = others.float() + self.classifier_bias.float()
        # Rare states start where they belong.
        others = others + torch.cat([priors[:, :POSITIVE], priors[:, POSITIVE + 1 :]], dim=-1).log()
        others = others.log_softmax(-1) + F.logsigmoid(-presence).unsqueeze(-1)  # [B, m, states - 1]
        positive = F.logsigmoid(presence).unsqueeze(-1)
        return torch.cat([others[..., :POSITIVE], positive, others[..., POSITIVE:]], dim=-1)

    def _priors(self, device: torch.device) -> torch.Tensor:
        m, states = self.config.num_disease_labels, self.config.num_states
        if self.config.state_priors is None:
            return torch.full((m, states), 1 / states, device=device)
        return torch.tensor(self.config.state_priors, device=device)


def disease_loss(logits: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Cross-entropy over the states, averaged over the known labels (not -100) of each study, `[B]`."""
    losses = F.cross_entropy(logits.transpose(1, 2), states, reduction="none")  # [B, m]
    return losses.sum(-1) / (states >= 0).sum(-1).clamp(min=1)
