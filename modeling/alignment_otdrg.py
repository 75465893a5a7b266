"""Patches and labels in one space, and optimal transport between them."""

from typing import NamedTuple

import torch
from torch import nn

from .configuration_otdrg import OTDRGConfig
from .coupling_otdrg import couple
from .optimal_transport import cosine_cost, transport_cost
from .vision_otdrg import POSITION_SIZE, grid_positions


class Aligned(NamedTuple):
    """
    What a coupling of patches and labels gives.

    Attributes:
        plan (`torch.Tensor` of shape `[B, N, m + 1]`): fp32; the background comes last.
        label_patches (`torch.Tensor` of shape `[B, m, d]`): Label-wise visual features *Z*.
        cost (`torch.Tensor` of shape `[B]`): Cross-modal distance `<T, C>`, fp32.
        evidence (`torch.Tensor` of shape `[B, N, m]`): The mass that a patch moved to a label times how well it fits
            it, `T max(cos, 0)`, fp32. A patch cannot give more than it has, so that the plan alone is flat where a
            label takes all of several patches.
    """

    plan: torch.Tensor
    label_patches: torch.Tensor
    cost: torch.Tensor
    evidence: torch.Tensor
    background_cost: torch.Tensor


class PatchProjection(nn.Module):
    """Patch features of the encoder, and where they are, in the alignment space: `[B, h, w, c]` -> `[B, h, w, d]`."""

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.vision_feature_size)
        self.features = nn.Linear(config.vision_feature_size, config.alignment_dim)
        self.position = nn.Linear(POSITION_SIZE, config.alignment_dim, bias=False)
        self.output_norm = nn.LayerNorm(config.alignment_dim)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        rows, columns = patches.shape[1:3]
        # The bridges may be trained in fp32 between frozen half-precision backbones.
        patches = patches.to(self.norm.weight.dtype)
        positions = grid_positions(rows, columns, POSITION_SIZE, patches.device, patches.dtype)
        return self.output_norm(self.features(self.norm(patches)) + self.position(positions))


class TransportAlignment(nn.Module):
    """
    Optimal transport between the patches of a study and a set of label features.

    Patches carry equal mass (padded views none). The background, a learned feature, takes `background_mass` of it, and
    the labels share the rest in proportion to `label_masses`. With the plan *T* of cost `1 - cos` (or another coupling,
    see [`couple`]), label *j* sees the label-wise visual feature `Z_j = sum_i T_ij X_i / sum_i T_ij`.
    """

    def __init__(self, config: OTDRGConfig):
        super().__init__()
        self.config = config
        self.background = nn.Parameter(torch.empty(config.alignment_dim))

    def forward(
        self, patches: torch.Tensor, patch_mask: torch.Tensor, labels: torch.Tensor, label_masses: torch.Tensor
    ) -> Aligned:
        """
        Args:
            patches (`torch.Tensor` of shape `[B, N, d]`): Patches of all views.
            patch_mask (`torch.Tensor` of shape `[B, N]`): 1 where the view is real, 0 where it is padding.
            labels (`torch.Tensor` of shape `[B, m, d]`): Label features.
            label_masses (`torch.Tensor` of shape `[B, m]`): Relative masses, > 0.
        """
        config, batch = self.config, patches.shape[0]
        background = self.background.to(labels.dtype).expand(batch, 1, -1)
        cost = cosine_cost(patches, torch.cat([labels, background], dim=1))  # [B, N, m + 1]
        plan = couple(cost, *marginals(patch_mask, label_masses, config.background_mass), config)
        of_labels = plan[..., :-1]
        weights = of_labels / of_labels.sum(1, keepdim=True).clamp(min=1e-12)  # [B, N, m]
        label_patches = weights.transpose(1, 2).to(patches.dtype) @ patches  # [B, m, d]
        evidence = of_labels * (1 - cost[..., :-1]).clamp(min=0)  # [B, N, m]
        return Aligned(plan, label_patches, transport_cost(plan, cost), evidence, cost[..., -1])


def marginals(
    patch_mask: torch.Tensor, label_masses: torch.Tensor, background_mass: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The masses `[B, N]` of patches, and `[B, m + 1]` of labels and background, of relative ones `[B, m]`; fp32."""
    a = patch_mask.float() / patch_mask.float().sum(-1, keepdim=True)  # [B, N]
    b = label_masses.float() / label_masses.float().sum(-1, keepdim=True) * (1 - background_mass)
    return a, nn.functional.pad(b, (0, 1), value=background_mass)
