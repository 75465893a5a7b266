"""Evidence of patches as heat maps at the resolution of the image."""

import torch
from torch.nn import functional as F


def evidence_map(evidence: torch.Tensor, size: tuple[int, int], offset: list[float]) -> torch.Tensor:
    """
    Interpolates evidence between the places of its patches, `[rows, columns]` -> `[H, W]`.

    Args:
        evidence (`torch.Tensor` of shape `[rows, columns]`): Of each patch.
        size (`tuple[int, int]`): Height and width in pixels.
        offset (`list[float]`): `config.patch_offset`, down and right in patches.
    """
    axes = [
        2 * ((torch.arange(pixels) + 0.5) / pixels - shift / patches) - 1
        for pixels, patches, shift in zip(size, evidence.shape, offset, strict=True)
    ]
    y, x = torch.meshgrid(*axes, indexing="ij")  # [H, W] twice
    places = torch.stack([x, y], -1).unsqueeze(0)  # [1, H, W, 2], in -1..1
    options = {"mode": "bilinear", "padding_mode": "border", "align_corners": False}
    return F.grid_sample(evidence[None, None], places, **options)[0, 0]
