# Copyright 2026 The otdrg-hf authors. Licensed under the Apache License, Version 2.0.
"""
Checks of what a study is given to the model as, each with an error that names what is wrong, and placeholders.

What looks at values is left out where the model is compiled: no graph can hold it.
"""

import torch
from torch.compiler import is_compiling

from .configuration_otdrg import NUM_STATES, OTDRGConfig


def check_views(pixel_values: torch.Tensor | None, view_mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """`[B, V, 3, H, W]` or `[B, 3, H, W]` and a mask or none -> `[B, V, 3, H, W]` and a mask `[B, V]` (bool)."""
    if pixel_values is None:
        raise ValueError("You must specify `pixel_values` or `vision_features`.")
    if pixel_values.dim() == 4:
        pixel_values = pixel_values.unsqueeze(1)
    if pixel_values.dim() != 5:
        raise ValueError(f"`pixel_values` must be [B, V, 3, H, W] or [B, 3, H, W], got {list(pixel_values.shape)}.")
    if view_mask is None:
        view_mask = torch.ones(pixel_values.shape[:2], device=pixel_values.device)
    if view_mask.shape != pixel_values.shape[:2]:
        raise ValueError(
            f"`view_mask` must be {tuple(pixel_values.shape[:2])} to match `pixel_values`, "
            f"got {tuple(view_mask.shape)}."
        )
    view_mask = view_mask.to(pixel_values.device).bool()
    if not is_compiling() and not view_mask.any(-1).all():
        # In a batch, a prompt may do without images; its views are padding then, and zero.
        if not view_mask.any() or pixel_values[~view_mask.any(-1)].any():
            raise ValueError("`view_mask` leaves a study without any view.")
    return pixel_values, view_mask


def check_labels(
    disease_labels: torch.Tensor | None, pixel_values: torch.Tensor, config: OTDRGConfig
) -> torch.Tensor | None:
    """State codes `[B, m]` as int64 on the device of the pixels; -100 where the state is to be predicted."""
    if disease_labels is None:
        return None
    expected, states = (pixel_values.shape[0], config.num_disease_labels), NUM_STATES
    if tuple(disease_labels.shape) != expected or disease_labels.is_floating_point():
        raise ValueError(
            f"`disease_labels` must be integers of shape {expected}, "
            f"got {disease_labels.dtype} of shape {tuple(disease_labels.shape)}."
        )
    if is_compiling():
        return disease_labels.to(pixel_values.device, torch.long)
    wrong = (disease_labels != -100) & ((disease_labels < 0) | (disease_labels >= states))
    if wrong.any():
        code = int(disease_labels[wrong][0])
        raise ValueError(f"`disease_labels` holds {code}: states are 0 to {states - 1}, or -100 to predict.")
    return disease_labels.to(pixel_values.device, torch.long)


def check_other_labels(
    other_labels: torch.Tensor | None, pixel_values: torch.Tensor, config: OTDRGConfig
) -> torch.Tensor | None:
    """State codes `[B, k, m]` of other studies as int64 on the device of the pixels."""
    if other_labels is None:
        return None
    batch, m, states = pixel_values.shape[0], config.num_disease_labels, NUM_STATES
    shape = tuple(other_labels.shape)
    if len(shape) != 3 or shape[::2] != (batch, m) or other_labels.is_floating_point():
        raise ValueError(
            f"`other_labels` must be integers of shape ({batch}, k, {m}), got {other_labels.dtype} of shape {shape}."
        )
    if not is_compiling() and (other_labels >= states).any():
        raise ValueError(f"`other_labels` holds {int(other_labels.max())}: states are 0 to {states - 1}.")
    return other_labels.to(pixel_values.device, torch.long)


def check_counts(name: str, places: torch.Tensor, expected: torch.Tensor):
    """`ValueError` unless each row of `places` `[B, T]` has as many placeholders as there are features for it `[B]`."""
    if is_compiling():
        return
    tokens = places.sum(-1)  # [B]
    if not torch.equal(tokens, expected.to(tokens)):
        study = int((tokens != expected.to(tokens)).nonzero()[0])
        raise ValueError(
            f"{name} features and {name.lower()} tokens do not match, "
            f"tokens: {int(tokens[study])}, features: {int(expected[study])} (study {study})"
        )


def fill_placeholders(inputs_embeds: torch.Tensor, places: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
    """
    Writes the first of `embeds` `[B, K, hidden]` of each row, in order, into its `places` `[B, T]` of `inputs_embeds`
    `[B, T, hidden]`. No shape depends on a value, so that no accelerator is waited for and a graph can hold it.
    """
    embeds = embeds.to(inputs_embeds.device, inputs_embeds.dtype)
    rank = (places.cumsum(1) - 1).clamp(0, embeds.shape[1] - 1)  # [B, T]
    gathered = embeds.gather(1, rank.unsqueeze(-1).expand(-1, -1, embeds.shape[-1]))  # [B, T, hidden]
    return torch.where(places.unsqueeze(-1), gathered, inputs_embeds)


def real_views_first(embeds: torch.Tensor, view_mask: torch.Tensor) -> torch.Tensor:
    """Tokens of views `[B, V, tokens, hidden]` in one row per study, padded views last: `[B, V * tokens, hidden]`."""
    order = (~view_mask).to(torch.int8).argsort(dim=1, stable=True)  # [B, V]
    return embeds.gather(1, order[..., None, None].expand_as(embeds)).flatten(1, 2)
