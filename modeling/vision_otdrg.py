"""Patch features of any vision encoder: class and register tokens dropped, feature maps laid out as a grid."""

import inspect
import math

import torch
from torch import nn

POSITION_SIZE = 24  # width of the code of a position, which tells left from right and high from low


def patch_grid(num_tokens: int, height: int, width: int, patch_size: int | None) -> tuple[int, int]:
    """
    Rows and columns of the patches among `num_tokens` tokens of an image of `height` x `width` pixels.

    An encoder covers the image with patches at some stride; whatever it adds to them (class, distillation or register
    tokens) comes first. The grid is thus the finest one that the tokens can fill. With a known `patch_size` the stride
    is that size times a power of two (hierarchical encoders merge patches 2 x 2); otherwise every stride is tried.
    """
    side = max(height, width)
    strides = range(1, side + 1) if patch_size is None else [patch_size * 2**k for k in range(side.bit_length())]
    for stride in strides:
        # Plain encoders cut a rest off at the border, hierarchical ones pad it and add no tokens.
        cut, padded = (height // stride, width // stride), (-(-height // stride), -(-width // stride))
        if math.prod(padded) == num_tokens:
            return padded
        if 0 < math.prod(cut) <= num_tokens:
            return cut
    raise ValueError(f"No grid of patches fits {num_tokens} tokens of a {height} x {width} image.")


def encode_images(vision_tower: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    """Last hidden state of images `[B, 3, H, W]`; at a size that is not its own the encoder interpolates positions."""
    options = {}
    own_size = getattr(vision_tower.config, "image_size", None)
    own_size = (own_size, own_size) if isinstance(own_size, int) else own_size
    if own_size is not None and tuple(own_size) != tuple(pixel_values.shape[-2:]):
        if "interpolate_pos_encoding" in inspect.signature(vision_tower.forward).parameters:
            options["interpolate_pos_encoding"] = True
    return vision_tower(pixel_values=pixel_values, **options).last_hidden_state


def patch_features(hidden: torch.Tensor, pixel_values: torch.Tensor, vision_config, feature_size: int) -> torch.Tensor:
    """
    Arranges the last hidden state of a vision encoder as a grid of patches.

    Args:
        hidden (`torch.Tensor`): `[B, tokens, c]`, `[B, c, rows, columns]` or `[B, rows, columns, c]`.
        pixel_values (`torch.Tensor` of shape `[B, 3, H, W]`): The images that it was computed from.
        vision_config (`PreTrainedConfig`): Read for `patch_size` only.
        feature_size (`int`): The width *c*.

    Returns:
        `torch.Tensor` of shape `[B, rows, columns, c]`.
    """
    if hidden.dim() == 4:
        return hidden if hidden.shape[1] != feature_size else hidden.permute(0, 2, 3, 1)
    patch_size = getattr(vision_config, "patch_size", None)
    if isinstance(patch_size, (tuple, list)):
        patch_size = patch_size[-1]
    rows, columns = patch_grid(hidden.shape[1], *pixel_values.shape[-2:], patch_size)
    return hidden[:, hidden.shape[1] - rows * columns :].unflatten(1, (rows, columns))


def grid_positions(rows: int, columns: int, size: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Sine-cosine code of the patch centres in [0, 1]², `[rows, columns, size]`; resolution-independent."""
    frequencies = math.pi * 2.0 ** torch.arange(size // 4, device=device)  # [size / 4]
    y = (torch.arange(rows, device=device) + 0.5) / rows
    x = (torch.arange(columns, device=device) + 0.5) / columns
    y, x = (torch.outer(axis, frequencies) for axis in (y, x))
    y = torch.cat([y.sin(), y.cos()], dim=-1)[:, None].expand(-1, columns, -1)
    x = torch.cat([x.sin(), x.cos()], dim=-1)[None].expand(rows, -1, -1)
    return torch.cat([y, x], dim=-1).to(dtype)
