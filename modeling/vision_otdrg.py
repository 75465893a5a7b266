# Copyright 2026 The otdrg-hf authors. Licensed under the Apache License, Version 2.0.
"""Patches of any vision encoder: what a patch is, where it lies in the image, and evidence as a heat map."""

import inspect
import math
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.compiler import is_compiling
from torch.nn import functional as F
from transformers.utils import ModelOutput

RESIZING = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.ZeroPad2d)
POSITION_SIZE = 24  # width of the code of a position, which tells left from right and high from low


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
    # No compiled graph can hold a look at values.
    if not is_compiling() and not view_mask.any(-1).all():
        # In a batch, a prompt may do without images; its views are padding then, and zero.
        if not view_mask.any() or pixel_values[~view_mask.any(-1)].any():
            raise ValueError("`view_mask` leaves a study without any view.")
    return pixel_values, view_mask


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


def encoder_outputs(vision_tower: nn.Module, pixel_values: torch.Tensor, **options) -> ModelOutput:
    """
    What the encoder gives for images `[B, 3, H, W]`; at a size that is not its own it interpolates positions.

    Args:
        options: Of the encoder, such as `output_hidden_states`.
    """
    own_size = getattr(vision_tower.config, "image_size", None)
    own_size = (own_size, own_size) if isinstance(own_size, int) else own_size
    if own_size is not None and tuple(own_size) != tuple(pixel_values.shape[-2:]):
        if "interpolate_pos_encoding" in inspect.signature(vision_tower.forward).parameters:
            options["interpolate_pos_encoding"] = True
    return vision_tower(pixel_values=pixel_values, **options)


def encode_images(vision_tower: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    """The last hidden state of [`encoder_outputs`]."""
    return encoder_outputs(vision_tower, pixel_values).last_hidden_state


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
    height, width = pixel_values.shape[-2:]
    rows, columns = patch_grid(hidden.shape[1], height, width, patch_size)
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


class Resizing(NamedTuple):
    """What a layer made of the rows or columns of a feature map."""

    size: int
    out_size: int
    kernel: int
    stride: int
    before: int
    after: int


@contextmanager
def recorded_layers(encoder: nn.Module):
    """Records, for rows and for columns, the layers that change the size of a feature map as the encoder runs."""
    layers: tuple[list[Resizing], list[Resizing]] = [], []

    def record(module, inputs, output):
        for axis, of_axis in enumerate(layers):
            size, out_size = inputs[0].shape[2 + axis], output.shape[2 + axis]
            if size != out_size:
                of_axis.append(Resizing(size, out_size, *_geometry(module, axis)))

    hooks = [module.register_forward_hook(record) for module in encoder.modules() if isinstance(module, RESIZING)]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()


def patch_offset(layers: list[Resizing], image_size: int, num_patches: int) -> float:
    """
    By how much the centre of what a patch sees lies after `(i + 0.5) / num_patches` of the image, in patches.

    The arithmetic is that of receptive fields (Araujo et al., 2019): a layer of kernel `k` and padding `p` moves the
    centre of the first position by `(k - 1) / 2 - p` positions of its input. A kernel of 3 at stride 2 with a padding
    of 1, as in a ResNet, sees each pair of positions around its first one: three such layers, and maps lie 3.5 pixels
    of 8 too far down and right. What is left between the last map and the patches is taken to be even, as is the
    merging of patches, and everything where a layer pads in ways that its settings do not tell.
    """
    size, centre, step = image_size, 0.5, 1.0  # of the first place, and from one to the next, in pixels
    for layer in layers:
        if layer.size != size:
            continue  # parallel to one that did it, such as a shortcut
        if (size + layer.before + layer.after - layer.kernel) // layer.stride + 1 != layer.out_size:
            return 0.0
        centre += ((layer.kernel - 1) / 2 - layer.before) * step
        size, step = layer.out_size, step * layer.stride
    merged = image_size / num_patches / step
    centre += (merged - 1) / 2 * step
    return centre / (step * merged) - 0.5


def _geometry(module: nn.Module, axis: int) -> tuple[int, int, int, int]:
    """Kernel, stride, and padding before and after, of the rows or columns."""
    if isinstance(module, nn.ZeroPad2d):
        left, right, top, bottom = module.padding
        return 1, 1, *((top, bottom), (left, right))[axis]

    def of(name: str, default: int = 1) -> int:
        value = getattr(module, name, default)
        return value[axis] if isinstance(value, tuple) else value

    padding = 0 if module.padding == "valid" else of("padding")
    return (of("kernel_size") - 1) * of("dilation") + 1, of("stride"), padding, padding


def evidence_map(evidence: torch.Tensor, size: tuple[int, int], offset: list[float]) -> torch.Tensor:
    """
    Interpolates evidence between the positions of its patches, `[rows, columns]` -> `[H, W]`.

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
    positions = torch.stack([x, y], -1).unsqueeze(0)  # [1, H, W, 2], in -1..1
    evidence = evidence[None, None]  # [1, 1, rows, columns]
    return F.grid_sample(evidence, positions, mode="bilinear", padding_mode="border", align_corners=False)[0, 0]
