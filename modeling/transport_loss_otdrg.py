"""The transport loss: patches are nearer, by optimal transport, to what their report states than what others do."""

import torch
from torch.nn import functional as F

from .alignment_otdrg import TransportAlignment
from .disease_states import BLANK

FROM_BATCH = 4


def transport_loss(
    alignment: TransportAlignment,
    patches: torch.Tensor,
    patch_mask: torch.Tensor,
    phrases: torch.Tensor,
    states: torch.Tensor,
    other_states: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Cross-entropy of the states of a study against those of other studies by their transport distance, `[B]`.

    With `d(s) = <T_s, C_s>`, the cost of moving the patches of a study to the phrases of the states *s* of all its
    labels, and `S` its own states and those of others: `-log softmax_S(-d / temperature)` at its own. To minimise the
    distance alone is to make all features one direction, and where most labels are blank, one that resembles "not
    mentioned"; against the distance of other states only what tells them apart counts. They are real ones, as states
    that are drawn label by label contradict each other, which tells them apart without an image.

    Args:
        alignment (`TransportAlignment`): Gives the distance.
        patches (`torch.Tensor` of shape `[B, N, d]`), patch_mask (`torch.Tensor` of shape `[B, N]`): As it takes them.
        phrases (`torch.Tensor` of shape `[m, states, d]`): Features of the phrases.
        states (`torch.Tensor` of shape `[B, m]`): State codes, -100 where unknown.
        other_states (`torch.Tensor` of shape `[B, k, m]`, *optional*):
            Of other studies. Default: of the next ones in the batch, up to four; alone, a study has a loss of 0.
    """
    if other_states is None:
        shifts = range(1, min(FROM_BATCH + 1, len(states)))
        other_states = torch.stack([states, *(states.roll(shift, 0) for shift in shifts)], 1)[:, 1:]  # [B, k, m]
    unknown = states.unsqueeze(1) < 0
    own = states.unsqueeze(1).masked_fill(unknown, BLANK)  # [B, 1, m]
    # What is unknown tells nothing apart.
    others = torch.where(unknown | (other_states < 0), own, other_states)  # [B, k, m]
    distances = _distances(alignment, patches, patch_mask, phrases, torch.cat([own, others], 1))  # [B, 1 + k]
    # In units of the mean mass of a label: one temperature for any number of labels and any background.
    config = alignment.config
    unit = (1 - config.background_mass) / config.num_disease_labels
    same = F.pad((others == own).all(-1), (1, 0))  # [B, 1 + k]
    scores = (-distances / (unit * config.contrast_temperature)).masked_fill(same, -torch.inf)
    return -scores.log_softmax(-1)[:, 0]


def _distances(alignment, patches, patch_mask, phrases, states) -> torch.Tensor:
    """Of each study from several states `[B, s, m]` of its labels, `[B, s]`."""
    m, shape = len(phrases), states.shape[:2]
    states = states.flatten(0, 1)  # [B * s, m]
    stated = phrases[torch.arange(m, device=states.device), states]  # [B * s, m, d]
    masses = torch.tensor(alignment.config.state_masses, device=states.device)[states]  # [B * s, m]
    patches, patch_mask = (each.repeat_interleave(shape[1], 0) for each in (patches, patch_mask))
    return alignment(patches, patch_mask, stated, masses).cost.unflatten(0, shape)
