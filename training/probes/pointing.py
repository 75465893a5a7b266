"""The pointing game: does the peak of a label's map lie in the box of its sign? (Zhang et al., 2016)"""

from collections.abc import Sequence

import numpy as np

Box = Sequence[float]


def places(grid: Sequence[int], offset: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The centres y `[rows]` and x `[columns]` in 0..1 of what patches see; `offset` is `config.patch_offset`."""
    y, x = ((np.arange(patches) + 0.5 + shift) / patches for patches, shift in zip(grid, offset, strict=True))
    return y, x


def peak(maps: np.ndarray, offset: Sequence[float] = (0, 0)) -> tuple[int, float, float]:
    """The view and the place x, y in 0..1 of the highest patch of maps `[V, rows, columns]`."""
    view, row, column = np.unravel_index(int(np.argmax(maps)), maps.shape)
    y, x = places(maps.shape[1:], offset)
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
    y, x = places(grid, offset)
    covered = 0
    for of_view in boxes:
        inside = np.zeros(grid, dtype=bool)
        for x0, y0, x1, y1 in of_view:
            inside |= ((y >= y0) & (y <= y1))[:, None] & ((x >= x0) & (x <= x1))[None]
        covered += int(inside.sum())
    return covered / (len(y) * len(x) * len(boxes))
