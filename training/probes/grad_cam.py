"""Grad-CAM of the disease head (Selvaraju et al., 2017): what a heat map costs that does not come from transport."""

import torch

from otdrg_hf.modeling.disease_states_otdrg import positive_log_odds
from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration


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
