"""Drawing in unit coordinates: fine strokes and outlines by Pillow, soft fields by separable numpy."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

_FINE = 448  # strokes are drawn at this width or more, then averaged down: thin lines stay thin on small radiographs


def stream(split: str, seed: int, concern: int, *more: int) -> np.random.Generator:
    """A generator of its own for each concern, so that dropping one sign moves nothing else on the radiograph."""
    name = split.encode("utf-8")
    return np.random.default_rng(np.random.SeedSequence([concern, seed, *more, len(name), *name]))


@lru_cache(maxsize=8)
def axis(size: int) -> np.ndarray:
    """Pixel centres of a radiograph of `size` pixels in unit coordinates, float32 [size]."""
    return ((np.arange(size, dtype=np.float32) + 0.5) / size).astype(np.float32)


def spline(points: np.ndarray, closed: bool = False, steps: int = 6) -> np.ndarray:
    """Catmull-Rom curve through `points` [n, 2]; `steps` samples between neighbours."""
    points = np.asarray(points, dtype=np.float32)
    padded = (
        np.concatenate([points[-1:], points, points[:2]])
        if closed
        else np.concatenate([points[:1], points, points[-1:]])
    )
    p0, p1, p2, p3 = (padded[k : len(padded) - 3 + k, None] for k in range(4))
    t = np.linspace(0, 1, steps, endpoint=False, dtype=np.float32)[None, :, None]
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def resize_field(field: np.ndarray, size: int) -> np.ndarray:
    """A float field [h, w] brought to [size, size] smoothly."""
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def blob(size: int, x: float, y: float, rx: float, ry: float, power: float = 2.0) -> np.ndarray:
    """exp(-|dx|^power - |dy|^power): a soft patch, boxier with a higher power. float32 [size, size]."""
    u = axis(size)
    return np.exp(-(np.abs((u - y) / ry) ** power))[:, None] * np.exp(-(np.abs((u - x) / rx) ** power))[None, :]


def disc(size: int, x: float, y: float, radius: float, edge: float) -> np.ndarray:
    """A round shadow with the profile of a sphere and an edge of the given softness. float32 [size, size]."""
    u = axis(size)
    distance = np.sqrt(((u - y) ** 2)[:, None] + ((u - x) ** 2)[None, :])
    rim = np.clip((radius - distance) / edge + 0.5, 0, 1)
    return rim * (0.65 + 0.35 * np.sqrt(np.clip(1 - (distance / radius) ** 2, 0, 1)))


def cloud(rng: np.random.Generator, size: int, cells: tuple[int, ...] = (6, 12, 24)) -> np.ndarray:
    """Smooth random texture of unit scale: coarse and fine value noise added up. float32 [size, size]."""
    total = np.zeros((64, 64), dtype=np.float32)
    for level, count in enumerate(cells):
        total += resize_field(rng.standard_normal((count, count)), 64) * 0.6**level
    return resize_field(total, size)


def blur(field: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian-like blur; sigma in unit coordinates. Wide blurs run on a smaller copy."""
    size = field.shape[0]
    if sigma * size < 0.4:
        return field
    small = int(min(size, max(16, round(2.0 / sigma))))
    work = field
    if small < size:
        image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
        work = np.asarray(image.resize((small, small), Image.Resampling.BOX))
    step = sigma * small
    reach = max(1, int(np.ceil(2.5 * step)))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / step) ** 2).astype(np.float32)
    kernel /= kernel.sum()
    padded = np.pad(work, reach, mode="edge")
    rows = sum(w * padded[k : k + small] for k, w in enumerate(kernel))
    work = sum(w * rows[:, k : k + small] for k, w in enumerate(kernel))
    return resize_field(work, size) if small < size else work


class Sheet:
    """One fine layer to stroke on; `field()` gives it as float32 [size, size] in 0..1."""

    def __init__(self, size: int):
        self.reduction = max(2, -(-_FINE // size))
        self.scale = size * self.reduction
        self.image = Image.new("L", (self.scale, self.scale))
        self.pen = ImageDraw.Draw(self.image)

    def _pixels(self, points: np.ndarray) -> list[tuple[float, float]]:
        return [(x, y) for x, y in (np.asarray(points) * self.scale).tolist()]

    def line(self, points: np.ndarray, width: float, value: float = 1.0) -> None:
        pixels = max(1, round(width * self.scale))
        self.pen.line(self._pixels(points), fill=int(255 * value), width=pixels, joint="curve" if pixels > 3 else None)

    def polygon(self, points: np.ndarray, value: float = 1.0) -> None:
        self.pen.polygon(self._pixels(points), fill=int(255 * value))

    def ellipse(self, x: float, y: float, rx: float, ry: float, value: float = 1.0, width: float = 0.0) -> None:
        box = [(x - rx) * self.scale, (y - ry) * self.scale, (x + rx) * self.scale, (y + ry) * self.scale]
        if width:
            self.pen.ellipse(box, outline=int(255 * value), width=max(1, round(width * self.scale)))
        else:
            self.pen.ellipse(box, fill=int(255 * value))

    def field(self) -> np.ndarray:
        return np.asarray(self.image.reduce(self.reduction), dtype=np.float32) / 255.0


def filled(size: int, points: np.ndarray) -> np.ndarray:
    """The inside of an outline, antialiased. float32 [size, size]."""
    sheet = Sheet(size)
    sheet.polygon(points)
    return sheet.field()
