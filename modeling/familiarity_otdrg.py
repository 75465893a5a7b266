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

CELLS, OCTAVES, SHARPNESS_CELLS = 8, 3, 4  # of the layout, and of the sharpness
BLANK, COLOURED = 0.02, 0.04  # of pixels from 0 to 1: deviation below, difference of the channels above
MAX_DISTANCE = 1e6
# What makes a known image of one that is not, and what the image then looks like.
ALTERATIONS: tuple[tuple[str, Callable[[torch.Tensor], torch.Tensor]], ...] = (
    ("looks upside down", lambda pixels: pixels.rot90(2, (-2, -1))),
    ("looks turned by 90 degrees", lambda pixels: pixels.rot90(1, (-2, -1))),
    ("looks turned by 90 degrees", lambda pixels: pixels.rot90(3, (-2, -1))),
    ("looks like a negative", lambda pixels: 1 - pixels),
)


class Normal(NamedTuple):
    """
    A normal distribution of descriptors, with a shrunk covariance.

    Attributes:
        mean, scale (`torch.Tensor` of shape `[D]`): Of each entry.
        whitening (`torch.Tensor` of shape `[D, D]`): Makes scaled descriptors uncorrelated, of unit variance.
        typical (`torch.Tensor` of shape `[]`): The largest distance that an image of the kind usually has.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    whitening: torch.Tensor
    typical: torch.Tensor

    def distance(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Mahalanobis distance of descriptors `[N, D]`, per entry, `[N]`."""
        whitened = ((descriptors - self.mean) / self.scale) @ self.whitening
        return whitened.square().mean(-1).sqrt()


class ViewStatistics(NamedTuple):
    """
    The images of a view, as three distributions.

    Attributes:
        content ([`Normal`]): Of what the vision encoder sees.
        layout ([`Normal`]): Of light and dark.
        sharpness ([`Normal`]): Of detail.
        limit (`torch.Tensor` of shape `[]`): The distance up to which an image is familiar.
    """

    content: Normal
    layout: Normal
    sharpness: Normal
    limit: torch.Tensor

    @property
    def parts(self) -> dict[str, Normal]:
        return {name: part for name, part in self._asdict().items() if name != "limit"}


class Distances(NamedTuple):
    """
    How far images are from the training images of each view.

    Attributes:
        total (`torch.Tensor` of shape `[N, views]`): 1 is the limit of what is familiar.
        parts (`torch.Tensor` of shape `[N, views, 3]`): In content, layout and sharpness, in typical distances.
        content (`torch.Tensor` of shape `[N, views]`): In content, by which views are told apart.
    """

    total: torch.Tensor
    parts: torch.Tensor
    content: torch.Tensor


class InputStatistics(NamedTuple):
    """
    What the training images of a model look like, by view (`config.input_statistics`).

    Mahalanobis distances by class (Lee et al., 2018) of what the vision encoder sees, and of light and dark and detail
    in the image as the encoder gets it, which an encoder of photographs says little of.

    Attributes:
        channel_mean (`torch.Tensor` of shape `[c]`), channel_basis (`torch.Tensor` of shape `[c, k]`):
            Principal components of the features of patches.
        views (`dict[str, ViewStatistics]`): By `"frontal"`, `"lateral"` or `"unknown"`.
    """

    channel_mean: torch.Tensor
    channel_basis: torch.Tensor
    views: dict[str, ViewStatistics]

    def distances(self, features: torch.Tensor, pixels: torch.Tensor) -> Distances:
        """
        Args:
            features (`torch.Tensor` of shape `[N, rows, columns, c]`): What the vision encoder gave.
            pixels (`torch.Tensor` of shape `[N, 3, H, W]`): The images, from 0 to 1.
        """
        described = [describe_content(features.cpu().float(), self.channel_mean, self.channel_basis)]
        pixels = pixels.cpu().float()
        described += [describe_layout(pixels), describe_sharpness(pixels)]
        totals, shares, contents = [], [], []
        for view in self.views.values():
            parts = view.parts.values()
            distances = [part.distance(each) for part, each in zip(parts, described, strict=True)]
            # What is not finite is of no training image.
            apart = torch.stack(distances, -1).nan_to_num(nan=MAX_DISTANCE).clamp(max=MAX_DISTANCE)  # [N, 3]
            share = apart / torch.stack([part.typical for part in parts])
            totals.append((share.square().mean(-1).sqrt() / view.limit).clamp(max=MAX_DISTANCE))
            shares.append(share)
            contents.append(apart[:, 0])
        return Distances(torch.stack(totals, 1), torch.stack(shares, 1), torch.stack(contents, 1))

    def pack(self) -> str:
        """As text for a configuration: safetensors in base64, matrices in half precision."""
        tensors = {"channel_mean": self.channel_mean, "channel_basis": self.channel_basis}
        for view, statistics in self.views.items():
            tensors[f"{view}.limit"] = statistics.limit
            for part, normal in statistics.parts.items():
                tensors |= {f"{view}.{part}.{name}": tensor for name, tensor in normal._asdict().items()}
        halved = {name: tensor.half() if tensor.dim() == 2 else tensor for name, tensor in tensors.items()}
        return base64.b64encode(save({name: tensor.contiguous() for name, tensor in halved.items()})).decode()

    @classmethod
    def unpack(cls, packed: str) -> "InputStatistics":
        """
        Of what `pack` gave.

        Raises:
            ValueError: if it is anything else.
        """
        try:
            tensors = {name: tensor.float() for name, tensor in load(base64.b64decode(packed, validate=True)).items()}
            names = sorted(name.removesuffix(".limit") for name in tensors if name.endswith(".limit"))
            views = {}
            for view in names:
                content, layout, sharpness = (
                    Normal(*(tensors[f"{view}.{part}.{name}"] for name in Normal._fields))
                    for part in ("content", "layout", "sharpness")
                )
                views[view] = ViewStatistics(content, layout, sharpness, tensors[f"{view}.limit"])
            return cls(tensors["channel_mean"], tensors["channel_basis"], views)
        except (binascii.Error, SafetensorError, KeyError, TypeError, ValueError):
            raise ValueError(
                "`input_statistics` of the configuration cannot be read: fit them again by `otdrg calibrate`."
            ) from None


# Descriptors


def describe_content(features: torch.Tensor, mean: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """
    Mean and deviation over the patches `[N, rows, columns, c]` of their principal components, and of what these leave:
    `[N, 2 * (k + 1)]`.
    """
    centred = features.flatten(1, 2) - mean  # [N, n, c]
    components = centred @ basis  # [N, n, k]
    left = (centred - components @ basis.T).norm(dim=-1, keepdim=True)
    described = torch.cat([components, left], dim=-1)
    return torch.cat([described.mean(1), described.std(1, correction=0)], dim=-1)


def describe_layout(pixels: torch.Tensor) -> torch.Tensor:
    """Grey values of cells of `[N, 3, H, W]`, without brightness and contrast: `[N, CELLS²]`."""
    cells = F.adaptive_avg_pool2d(pixels.mean(1, keepdim=True), CELLS).flatten(1)
    return (cells - cells.mean(1, keepdim=True)) / (cells.std(1, keepdim=True) + BLANK)


def describe_sharpness(pixels: torch.Tensor) -> torch.Tensor:
    """Logarithm of the detail in cells of `[N, 3, H, W]`, an octave after the other: `[N, OCTAVES * cells]`."""
    grey, octaves = pixels.mean(1, keepdim=True), []
    for _ in range(OCTAVES):
        coarse = F.avg_pool2d(grey, 2)
        smooth = F.interpolate(coarse, grey.shape[-2:], mode="bilinear", align_corners=False)
        energy = F.adaptive_avg_pool2d((grey - smooth).square(), SHARPNESS_CELLS)
        octaves.append((energy + 1e-7).log().flatten(1))
        grey = coarse
    return torch.cat(octaves, 1)


# Inspection


class Inspection(NamedTuple):
    """
    What an image is taken for.

    Attributes:
        familiar (`bool`): Whether it is like the training images of its view.
        distance (`float`): From these; familiar up to 1.
        view (`str`): The view that it looks like.
        why (`str`): In words.
    """

    familiar: bool
    distance: float
    view: str
    why: str


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
    distances, views = statistics.distances(features, pixels), list(statistics.views)
    inspections = []
    for index, view in enumerate(given):
        looks = views[int(distances.content[index].argmin())]
        compared = views.index(view if view in views else looks)
        total = distances.total[index].tolist()
        if total[compared] <= 1:
            why = "like the training images"
        elif min(total) <= 1 and view in views:
            looks = views[total.index(min(total))]
            why = f"given as {view}, looks {looks}"
        else:
            part = list(ViewStatistics._fields)[int(distances.parts[index, compared].argmax())]
            kind = _alteration(statistics, pixels[index], encode)
            why = f"unlike the training images, {kind or f'most of all in {part}'}"
        inspections.append(Inspection(total[compared] <= 1, round(total[compared], 3), looks, why))
    return inspections


def _alteration(statistics: InputStatistics, pixels: torch.Tensor, encode: Callable) -> str:
    """What makes an image `[3, H, W]` unfamiliar, as far as that can be said; `""` where it cannot."""
    if pixels.flatten(1).std(1).max() < BLANK:
        return "blank"
    if (pixels.amax(0) - pixels.amin(0)).mean() > COLOURED:
        return "in colour"
    altered = [(what, alter(pixels)) for what, alter in ALTERATIONS]
    altered = [(what, each) for what, each in altered if each.shape == pixels.shape]  # the encoder takes one shape
    images = torch.stack([each for _, each in altered])
    nearest = statistics.distances(encode(images), images).total.amin(-1)  # [alterations]
    best = int(nearest.argmin())
    return altered[best][0] if nearest[best] <= 1 else ""


def study_inspection(inspections: Sequence[Inspection]) -> dict:
    """
    What an answer says of the images of a study.

    Returns:
        `dict` with `familiar` (of all images), `distance` (the largest), `view` (frontal if that of any image is, else
        of the first) and `why`; of several images also `images`, the same of each.
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
