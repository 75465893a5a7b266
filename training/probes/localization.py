"""Where a label is seen: the pointing game (Zhang et al., 2016), and Grad-CAM (Selvaraju et al., 2017) to compare."""

from collections.abc import Sequence

import numpy as np
import torch

from otdrg_hf.modeling.disease_states_otdrg import positive_log_odds
from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration

Box = Sequence[float]


def patch_centres(grid: Sequence[int], offset: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The centres y `[rows]` and x `[columns]` in 0..1 of what patches see; `offset` is `config.patch_offset`."""
    y, x = ((np.arange(patches) + 0.5 + shift) / patches for patches, shift in zip(grid, offset, strict=True))
    return y, x


def peak(maps: np.ndarray, offset: Sequence[float] = (0, 0)) -> tuple[int, float, float]:
    """The view and the position x, y in 0..1 of the highest patch of maps `[V, rows, columns]`."""
    view, row, column = np.unravel_index(int(np.argmax(maps)), maps.shape)
    y, x = patch_centres(maps.shape[1:], offset)
    return int(view), float(x[column]), float(y[row])


def is_hit(maps: np.ndarray, boxes: Sequence[Sequence[Box]], offset: Sequence[float] = (0, 0)) -> bool:
    """
    Whether the peak over all views lies in a box of its view.

    Args:
        maps (`np.ndarray` of shape `[V, rows, columns]`): How much of the label was seen where.
        boxes (`list[list[list[float]]]`): For each view the boxes `[x0, y0, x1, y1]` of the sign, in 0..1.
        offset (`list[float]`, *optional*): `config.patch_offset`.
    """
    view, x, y = peak(maps, offset)
    return any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in boxes[view])


def chance(grid: tuple[int, int], boxes: Sequence[Sequence[Box]], offset: Sequence[float] = (0, 0)) -> float:
    """The share of patches of all views whose centre lies in a box: what a random peak hits."""
    y, x = patch_centres(grid, offset)
    covered = 0
    for of_view in boxes:
        inside = np.zeros(grid, dtype=bool)
        for x0, y0, x1, y1 in of_view:
            inside |= ((y >= y0) & (y <= y1))[:, None] & ((x >= x0) & (x <= x1))[None]
        covered += int(inside.sum())
    return covered / (len(y) * len(x) * len(boxes))


def grad_cam(
    model: OTDRGForConditionalGeneration, pixel_values: torch.Tensor, view_mask: torch.Tensor, labels: list[int]
) -> dict[int, torch.Tensor]:
    """
    Maps of where a change of the patch features would raise the log-odds of each label.

    Args:
        pixel_values (`torch.Tensor` of shape `[1, V, 3, H, W]`), view_mask (`[1, V]`): One study.
        labels (`list[int]`): Whose maps.

    Returns:
        `dict[int, torch.Tensor]`: Per label `[V, rows, columns]`, fp32, 0 or more.
    """
    kept = {}

    def keep(module, inputs, output):
        kept["maps"] = output

    hook = model.model.patch_projection.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = model.get_image_features(pixel_values, view_mask).disease_logits[0].float()  # [m, states]
    finally:
        hook.remove()
    maps = kept["maps"]  # [V, rows, columns, d]
    log_odds = positive_log_odds(logits)  # [m]
    found = {}
    for label in labels:
        (gradient,) = torch.autograd.grad(log_odds[label], maps, retain_graph=True)
        weights = gradient.mean((1, 2), keepdim=True)  # [V, 1, 1, d]
        found[label] = (weights * maps).sum(-1).relu().detach().float()
    return found
