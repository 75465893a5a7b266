"""Whether alignment has kept features apart: a loss that only pulls would bring all of them to one direction."""

import torch
from torch.nn import functional as F


def effective_rank(features: torch.Tensor) -> float:
    """
    Exponential of the entropy of the normalised singular values of centred features (Roy and Vetterli, 2007).

    Args:
        features (`torch.Tensor` of shape `[N, d]`): From 1, all on one line, to d, spread alike in all directions.
    """
    values = torch.linalg.svdvals((features - features.mean(0)).double())
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def mean_cosine(features: torch.Tensor) -> float:
    """Mean cosine between different rows of `[m, d]`: 1 where they are one direction."""
    unit = F.normalize(features.double(), dim=-1)
    cosines = unit @ unit.T
    count = len(features)
    return float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)))
