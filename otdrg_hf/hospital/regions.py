"""Where a label was seen, as one outline that a structured report can hold."""

import numpy as np
from PIL import Image

LEVEL = 0.5
_GRID = 64


def outline(heat: np.ndarray) -> np.ndarray | None:
    """
    The outline of the largest region of a heat map at half of its maximum and above.

    Args:
        heat (`np.ndarray`): `[H, W]`, as in the pipeline's `evidence`.

    Returns:
        `np.ndarray`: `[N, 2]` columns and rows of a closed polygon in the pixels of the image, whose first point is its
        last; `None` if the map is empty.
    """
    from contourpy import contour_generator

    if not np.isfinite(heat).all() or heat.max() <= 0:
        return None
    height, width = heat.shape
    # A map is interpolated from few patches: a coarse grid loses nothing, and keeps the outline short.
    size = (min(width, _GRID), min(height, _GRID))
    coarse = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BOX))
    coarse = np.pad(coarse / coarse.max(), 1)  # so that regions at the border are closed
    lines = [line for line in contour_generator(z=coarse).lines(LEVEL) if len(line) > 3]
    largest = max(lines, key=_area)
    scale = np.array([width / size[0], height / size[1]])
    points = np.clip((largest - 0.5) * scale, 0, [width, height]).round(1)
    points = points[np.r_[True, (np.diff(points, axis=0) != 0).any(1)]]  # none twice in a row
    return np.concatenate([points[:-1], points[:1]]) if (points[0] == points[-1]).all() else np.r_[points, points[:1]]


def _area(line: np.ndarray) -> float:
    x, y = line.T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
