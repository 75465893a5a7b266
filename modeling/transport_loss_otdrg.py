"""The transport loss: patches are nearer, by optimal transport, to what their report states than what others do."""

import torch
from torch.nn import functional as F

from .alignment_otdrg import marginals
from .configuration_otdrg import OTDRGConfig
from .coupling_otdrg import couple
from .disease_states import BLANK
from .optimal_transport import cosine_cost, transport_cost

FROM_BATCH = 4


def transport_loss(
    patches: torch.Tensor,
    patch_mask: torch.Tensor,
    phrases: torch.Tensor,
    background_cost: torch.Tensor,
    states: torch.Tensor,
    other_states: torch.Tensor | None,
    config: OTDRGConfig,
) -> torch.Tensor:
    """
    Cross-entropy of the states of a study against those of other studies by their transport distance, `[B]`.

    With `d(s) = <T_s, C_s>`, the cost of moving the patches of a study to the phrases of the states *s* of all its
    labels, and `S` its own states and those of others: `-log softmax_S(-d / temperature)` at its own. To minimise the
    distance alone is to make all features one direction, and where most labels are blank, one that resembles "not
    mentioned"; against the distance of other states only what tells them apart counts. They are real ones, as states
    that are drawn label by label contradict each other, which tells them apart without an image.

    Args:
        patches (`torch.Tensor` of shape `[B, N, d]`): Patches of all views.
        patch_mask (`torch.Tensor` of shape `[B, N]`): 1 where the view is real, 0 where it is padding.
        phrases (`torch.Tensor` of shape `[m, states, d]`): Features of the phrases.
        background_cost (`torch.Tensor` of shape `[B, N]`): Cost of moving a patch to the background.
        states (`torch.Tensor` of shape `[B, m]`): State codes, -100 where unknown.
        other_states (`torch.Tensor` of shape `[B, k, m]`, *optional*):
            Of other studies. `None`: of the next ones in the batch, up to four; alone, a study has a loss of 0.
        config ([`OTDRGConfig`]): Of the transport.
    """
    if other_states is None:
        shifts = range(1, min(FROM_BATCH + 1, len(states)))
        other_states = torch.stack([states, *(states.roll(shift, 0) for shift in shifts)], 1)[:, 1:]  # [B, k, m]
    unknown = states.unsqueeze(1) < 0
    own = states.unsqueeze(1).masked_fill(unknown, BLANK)  # [B, 1, m]
    # What is unknown tells nothing apart.
    others = torch.where(unknown | (other_states < 0), own, other_states)  # [B, k, m]
    cost = cosine_cost(patches, phrases.flatten(0, 1).expand(len(patches), -1, -1))  # [B, N, m * states]
    cost = torch.cat([cost, background_cost.unsqueeze(-1)], -1)
    distances = _distances(cost, patch_mask, torch.cat([own, others], 1), config)  # [B, 1 + k]
    # In units of the mean mass of a label: one temperature for any number of labels and any background.
    unit = (1 - config.background_mass) / config.num_disease_labels
    same = F.pad((others == own).all(-1), (1, 0))  # [B, 1 + k]
    scores = (-distances / (unit * config.contrast_temperature)).masked_fill(same, -torch.inf)
    return -scores.log_softmax(-1)[:, 0]


def _distances(cost, patch_mask, states, config: OTDRGConfig) -> torch.Tensor:
    """Of each study from several states `[B, s, m]` of its labels, `[B, s]`, by `cost` `[B, N, m * states + 1]`."""
    batch, several, m = states.shape
    columns = torch.arange(m, device=states.device) * config.num_states + states  # [B, s, m]
    columns = F.pad(columns, (0, 1), value=cost.shape[-1] - 1).flatten(1)  # [B, s * (m + 1)]
    cost = cost.gather(2, columns.unsqueeze(1).expand(-1, cost.shape[1], -1))  # [B, N, s * (m + 1)]
    cost = cost.unflatten(2, (several, m + 1)).transpose(1, 2).flatten(0, 1)  # [B * s, N, m + 1]
    masses = torch.tensor(config.state_masses, device=states.device)[states].flatten(0, 1)  # [B * s, m]
    a, b = marginals(patch_mask.repeat_interleave(several, 0), masses, config.background_mass)
    return transport_cost(couple(cost, a, b, config), cost).unflatten(0, (batch, several))
