# Copyright 2026 The otdrg-hf authors. Licensed under the Apache License, Version 2.0.
"""Whether an image is one that the model knows, and of which view: its distance to the images it was trained on."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch.nn import functional as F

GRID = 4  # cells a side in which patches are averaged, so that a turned image is another one
BLANK, COLOURED = 0.02, 0.04  # of pixels from 0 to 1: deviation below, difference of the channels above
# What makes a known image of one that is not, and what the image then is.
ALTERATIONS: tuple[tuple[str, Callable[[torch.Tensor], torch.Tensor]], ...] = (
    ("looks upside down", lambda pixels: pixels.rot90(2, (-2, -1))),
    ("looks turned by 90 degrees", lambda pixels: pixels.rot90(1, (-2, -1))),
    ("looks turned by 90 degrees", lambda pixels: pixels.rot90(3, (-2, -1))),
    ("looks like a negative", lambda pixels: 1 - pixels),
)
MAX_DISTANCE = 1e6


class ViewStatistics(NamedTuple):
    """
    A normal distribution of image descriptors, its covariance a low-rank factor and an even rest.

    Attributes:
        mean, scale (`torch.Tensor` of shape `[D]`): Of each entry of the descriptors; what follows is in units of them.
        basis (`torch.Tensor` of shape `[D, r]`): Directions of the largest variances.
        variances (`torch.Tensor` of shape `[r]`): Along these directions.
        rest (`torch.Tensor` of shape `[]`): Variance along any other direction.
        limit (`torch.Tensor` of shape `[]`): The distance up to which an image is familiar.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    basis: torch.Tensor
    variances: torch.Tensor
    rest: torch.Tensor
    limit: torch.Tensor

    def distance(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Mahalanobis distance of descriptors `[N, D]`, per entry, `[N]`; `limit` is not applied."""
        scaled = (descriptors - self.mean) / self.scale  # [N, D]
        along = scaled @ self.basis  # [N, r]
        within = (along.square() / self.variances).sum(-1)
        without = (scaled.square().sum(-1) - along.square().sum(-1)).clamp(min=0) / self.rest
        return ((within + without) / len(self.mean)).sqrt()


class InputStatistics(NamedTuple):
    """
    What the training images of a model look like to its vision encoder, by view (`config.input_statistics`).

    Class-conditional Mahalanobis distances (Lee et al., 2018) of patch features that are averaged in a grid of cells:
    the principal components of their channels in each cell, and what these leave of them.

    Attributes:
        channel_mean (`torch.Tensor` of shape `[c]`), channel_basis (`torch.Tensor` of shape `[c, k]`):
            Principal components of the features of cells.
        views (`dict[str, ViewStatistics]`): By `"frontal"`, `"lateral"` or `"unknown"`.
    """

    channel_mean: torch.Tensor
    channel_basis: torch.Tensor
    views: dict[str, ViewStatistics]

    def describe(self, features: torch.Tensor) -> torch.Tensor:
        """Descriptors `[N, D]` of what the vision encoder gave of images, `[N, rows, columns, c]`."""
        return describe_cells(average_cells(features), self.channel_mean, self.channel_basis)

    def distances(self, features: torch.Tensor) -> torch.Tensor:
        """Distances `[N, views]` of images to each view, 1 being the limit of what is familiar."""
        statistics = self.to(features.device)
        descriptors = statistics.describe(features)
        distances = [each.distance(descriptors) / each.limit for each in statistics.views.values()]
        # A feature that is not finite is of no training image.
        return torch.stack(distances, -1).nan_to_num(nan=MAX_DISTANCE).clamp(max=MAX_DISTANCE)

    def to(self, device: torch.device) -> "InputStatistics":
        views = {name: ViewStatistics(*(part.to(device) for part in each)) for name, each in self.views.items()}
        return InputStatistics(self.channel_mean.to(device), self.channel_basis.to(device), views)

    def pack(self) -> str:
        """As text for a configuration: safetensors in base64, the bases in half precision."""
        tensors = {"channel_mean": self.channel_mean, "channel_basis": self.channel_basis.half()}
        for view, statistics in self.views.items():
            tensors |= {f"{view}.{name}": tensor for name, tensor in statistics._asdict().items()}
            tensors[f"{view}.basis"] = statistics.basis.half()
        return base64.b64encode(save({name: tensor.contiguous() for name, tensor in tensors.items()})).decode()

    @classmethod
    def unpack(cls, packed: str) -> "InputStatistics":
        """
        Of what `pack` gave.

        Raises:
            ValueError: if it is anything else.
        """
        try:
            tensors = {name: tensor.float() for name, tensor in load(base64.b64decode(packed, validate=True)).items()}
            names = [name.removesuffix(".mean") for name in tensors if name.endswith(".mean")]
            names.sort(key=lambda name: (name != "frontal", name))
            views = {
                view: ViewStatistics(*(tensors[f"{view}.{name}"] for name in ViewStatistics._fields)) for view in names
            }
            return cls(tensors["channel_mean"], tensors["channel_basis"], views)
        except (binascii.Error, SafetensorError, KeyError, TypeError, ValueError):
            raise ValueError(
                "`input_statistics` of the configuration cannot be read: fit them again by `otdrg calibrate`."
            ) from None


class Inspection(NamedTuple):
    """
    What an image is taken for.

    Attributes:
        familiar (`bool`): Whether it is like the training images of its view.
        distance (`float`): From these; familiar up to 1.
        view (`str`): The view that it looks like most.
        why (`str`): In words.
    """

    familiar: bool
    distance: float
    view: str
    why: str


def average_cells(features: torch.Tensor) -> torch.Tensor:
    """Features `[N, rows, columns, c]` averaged in `GRID` x `GRID` cells, fp32: `[N, cells, c]`."""
    cells = F.adaptive_avg_pool2d(features.float().permute(0, 3, 1, 2), GRID)  # [N, c, GRID, GRID]
    return cells.flatten(2).transpose(1, 2)


def describe_cells(cells: torch.Tensor, channel_mean: torch.Tensor, channel_basis: torch.Tensor) -> torch.Tensor:
    """Principal components of each cell of `[N, cells, c]`, and the norm of what they leave: `[N, cells * (k + 1)]`."""
    centred = cells - channel_mean
    components = centred @ channel_basis  # [N, cells, k]
    left = (centred - components @ channel_basis.T).norm(dim=-1, keepdim=True)
    return torch.cat([components, left], dim=-1).flatten(1)


def inspect_images(
    statistics: InputStatistics,
    features: torch.Tensor,
    pixels: torch.Tensor,
    given: Sequence[str],
    encode: Callable[[torch.Tensor], torch.Tensor],
) -> list[Inspection]:
    """
    Compares images with those that the model was trained on.

    Args:
        statistics ([`InputStatistics`]): Of the model.
        features (`torch.Tensor` of shape `[N, rows, columns, c]`): What the vision encoder gave of the images.
        pixels (`torch.Tensor` of shape `[N, 3, H, W]`): The images, from 0 to 1.
        given (`Sequence[str]`): The view that each was given as, or `"unknown"`.
        encode (`Callable`): The vision encoder, pixels to features; asked why an image is not familiar.
    """
    distances, views = statistics.distances(features).tolist(), list(statistics.views)
    inspections = []
    for index, (row, view) in enumerate(zip(distances, given, strict=True)):
        looks = views[row.index(min(row))]
        distance = row[views.index(view)] if view in views else min(row)
        if distance <= 1:
            why = "like the training images"
        elif min(row) <= 1:
            why = f"given as {view}, looks {looks}"
        else:
            kind = _alteration(statistics, pixels[index], encode)
            why = f"unlike the training images{f': {kind}' if kind else ''}"
        inspections.append(Inspection(distance <= 1, round(distance, 3), looks, why))
    return inspections


def _alteration(statistics: InputStatistics, pixels: torch.Tensor, encode: Callable) -> str:
    """What makes an image `[3, H, W]` unfamiliar, as far as that can be said; `""` where it cannot."""
    if pixels.std(dim=(-2, -1)).max() < BLANK:
        return "blank"
    if (pixels.amax(0) - pixels.amin(0)).mean() > COLOURED:
        return "in colour"
    altered = [(what, alter(pixels)) for what, alter in ALTERATIONS]
    altered = [(what, each) for what, each in altered if each.shape == pixels.shape]  # the encoder takes one shape
    nearest = statistics.distances(encode(torch.stack([each for _, each in altered]))).amin(-1)  # [alterations]
    best = int(nearest.argmin())
    return altered[best][0] if nearest[best] <= 1 else ""


def study_inspection(inspections: Sequence[Inspection]) -> dict:
    """
    What an answer says of the images of a study.

    Returns:
        `dict` with `familiar` (of all images), `distance` (the largest), `view` (of the first image that is frontal,
        else of the first) and `why`; of several images also `images`, the same of each.
    """
    rows = [inspection._asdict() for inspection in inspections]
    if len(rows) == 1:
        return rows[0]
    reasons = [f"image {index}: {row['why']}" for index, row in enumerate(rows, start=1) if not row["familiar"]]
    return {
        "familiar": not reasons,
        "distance": max(row["distance"] for row in rows),
        "view": "frontal" if any(row["view"] == "frontal" for row in rows) else rows[0]["view"],
        "why": "; ".join(reasons) or rows[0]["why"],
        "images": rows,
    }
