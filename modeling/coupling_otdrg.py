"""How the patches of a study are coupled with its labels: optimal transport, or what it is compared with."""

import torch

from .configuration_otdrg import OTDRGConfig
from .optimal_transport import sinkhorn


def couple(cost: torch.Tensor, a: torch.Tensor, b: torch.Tensor, config: OTDRGConfig) -> torch.Tensor:
    """
    The coupling of patches and labels that `config.coupling` names.

    - `"transport"`: the entropic plan. Both marginals are held, so labels compete for patches.
    - `"unbalanced"`: label masses are held, patch masses only drawn to by a KL term of weight `config.patch_relaxation`
      (Chizat et al., 2018), so that a patch can belong to several labels or to none.
    - `"attention"`: the same cost and temperature, normalised over the patches of each label on its own.
    - `"pooling"`: the independent coupling, in which every label sees the mean of all patches.

    Args:
        cost (`torch.Tensor` of shape `[B, N, m + 1]`): Cosine cost.
        a (`torch.Tensor` of shape `[B, N]`): Patch masses, zero where a view is padding.
        b (`torch.Tensor` of shape `[B, m + 1]`): Label masses, the background last.

    Returns:
        `torch.Tensor` of shape `[B, N, m + 1]`, fp32, with column sums `b`.
    """
    if config.coupling == "transport":
        return sinkhorn(cost, a, b, config.epsilon, config.max_iterations, config.tolerance, solver=config.solver)
    if config.coupling == "unbalanced":
        return _unbalanced(cost, a, b, config)
    if config.coupling == "attention":
        return (a.log().unsqueeze(2) - cost / config.epsilon).softmax(1) * b.unsqueeze(1)
    return a.unsqueeze(2) * b.unsqueeze(1)


def _unbalanced(cost: torch.Tensor, a: torch.Tensor, b: torch.Tensor, config: OTDRGConfig) -> torch.Tensor:
    epsilon = config.epsilon
    damping = config.patch_relaxation / (config.patch_relaxation + epsilon)
    scores, patches, labels = -cost / epsilon, a.log().unsqueeze(2), b.log().unsqueeze(1)
    rows = torch.zeros_like(patches)  # [B, N, 1], the potential of the patches in units of epsilon
    for _ in range(config.max_iterations):
        # Labels last, so that their marginal is the exact one.
        rows = damping * (patches - (scores + labels - (scores + rows).logsumexp(1, keepdim=True)).logsumexp(2, True))
        rows = rows.masked_fill(patches.isinf(), -torch.inf)
    return (scores + rows + labels - (scores + rows).logsumexp(1, keepdim=True)).exp()
