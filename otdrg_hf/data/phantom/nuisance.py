"""What differs between two radiographs of one chest: pose, elastic warp, exposure, noise, markers and collimation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from otdrg_hf.data.phantom.canvas import Sheet, axis, stream


@dataclass(frozen=True)
class Nuisance:
    angle: float  # radians
    zoom: float
    shift: tuple[float, float]
    waves: np.ndarray  # [4, 4]: amplitude, x and y frequency, phase; two for each direction
    exposure: float
    contrast: float
    curve: float
    tilt: tuple[float, float]  # uneven exposure across the radiograph
    grain: float
    marker: str
    marker_place: tuple[float, float]
    border: tuple[float, float, float, float]  # left, top, right, bottom
    view: int


def sample_nuisance(split: str, seed: int, view: int) -> Nuisance:
    rng = stream(split, seed, 4, view)
    waves = np.stack(
        [rng.normal(0, 0.0035, 4), rng.uniform(0.6, 2.2, 4), rng.uniform(0.6, 2.2, 4), rng.uniform(0, 6.28, 4)], axis=1
    )
    side = rng.choice(["L", "R"])
    right_hand = (side == "L") == (view == 0)
    cut = rng.random(4) < 0.16
    return Nuisance(
        angle=rng.normal(0, 0.028),
        zoom=rng.uniform(0.93, 1.05),
        shift=tuple(rng.normal(0, 0.013, 2)),
        waves=waves,
        exposure=rng.normal(0, 0.035),
        contrast=rng.uniform(0.85, 1.12),
        curve=rng.uniform(2.2, 4.0),
        tilt=tuple(rng.normal(0, 0.03, 2)),
        grain=rng.uniform(0.008, 0.028),
        marker=str(side) if rng.random() < 0.75 else "",
        marker_place=(rng.uniform(0.9, 0.95) if right_hand else rng.uniform(0.05, 0.1), rng.uniform(0.05, 0.3)),
        border=tuple(float(v) for v in cut * rng.uniform(0.01, 0.045, 4)),
        view=view,
    )


def warp_map(n: Nuisance, size: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel of the final radiograph, the position on the ideal one, in unit coordinates [S, S] each."""
    u = axis(size) - 0.5
    cos, sin = np.float32(np.cos(n.angle) / n.zoom), np.float32(np.sin(n.angle) / n.zoom)
    x = cos * u[None, :] - sin * u[:, None] + np.float32(0.5 - n.shift[0])
    y = sin * u[None, :] + cos * u[:, None] + np.float32(0.5 - n.shift[1])
    for k, (amplitude, fx, fy, phase) in enumerate(n.waves):
        along_x = np.exp(1j * (6.2832 * fx * u + phase)).astype(np.complex64)
        along_y = np.exp(1j * (6.2832 * fy * u)).astype(np.complex64)
        wave = along_y.imag[:, None] * along_x.real[None, :] + along_y.real[:, None] * along_x.imag[None, :]
        if k < 2:
            x += np.float32(amplitude) * wave
        else:
            y += np.float32(amplitude) * wave
    return x, y


def sample_at(field: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear look-up of `field` [S, S] at unit coordinates, the border repeated."""
    size = field.shape[0]
    px, py = np.clip(x * size - 0.5, 0, size - 1.001), np.clip(y * size - 0.5, 0, size - 1.001)
    column, row = px.astype(np.int32), py.astype(np.int32)
    px -= column
    py -= row
    flat, start = field.ravel(), row * size + column
    top = flat[start] * (1 - px) + flat[start + 1] * px
    below = flat[start + size] * (1 - px) + flat[start + size + 1] * px
    return top + (below - top) * py


def expose(density: np.ndarray, n: Nuisance, rng: np.random.Generator) -> Image.Image:
    """Warped attenuation [S, S] to an 8-bit radiograph: characteristic curve, quantum noise, border and marker."""
    size = density.shape[0]
    u = axis(size) - 0.5
    level = (density - 0.42) * n.contrast + n.exposure
    level += n.tilt[0] * u[None, :] + n.tilt[1] * u[:, None]
    noise = rng.standard_normal((size, size), dtype=np.float32) * np.float32(n.grain * min(1.4, (size / 224) ** 0.5))
    shade = 1 / (1 + np.exp(-n.curve * 1.55 * level))
    shade += noise * (0.55 + 0.9 * shade)
    low, high = (1 / (1 + np.exp(-n.curve * 1.55 * v)) for v in (-0.37, 0.53))
    shade = (shade - low) / (high - low)
    draw_marker(shade, n)
    edges = [round(v * size) for v in n.border]
    for rows, columns in (
        (slice(None), slice(0, edges[0])),
        (slice(0, edges[1]), slice(None)),
        (slice(None), slice(size - edges[2], None)),
        (slice(size - edges[3], None), slice(None)),
    ):
        shade[rows, columns] = 0.0
    return Image.fromarray((np.clip(shade, 0, 1) * 255).astype(np.uint8))


def draw_marker(shade: np.ndarray, n: Nuisance) -> None:
    """A lead letter on the proper side of the radiograph, drawn in place."""
    if not n.marker:
        return
    strokes = {
        "L": [[(0, 0), (0, 1), (0.6, 1)]],
        "R": [[(0, 1), (0, 0), (0.45, 0), (0.6, 0.13), (0.6, 0.37), (0.45, 0.5), (0, 0.5)], [(0.3, 0.5), (0.62, 1)]],
    }[n.marker]
    sheet = Sheet(shade.shape[0])
    for stroke in strokes:
        sheet.line(np.array(stroke) * 0.042 + np.array(n.marker_place) - 0.02, 0.009)
    np.maximum(shade, sheet.field() * 0.97, out=shade)
