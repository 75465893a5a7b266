"""Small changes of training images: the same patient, positioned and exposed a little differently."""

from math import cos, radians, sin
from typing import Any

import numpy as np
from PIL import Image

from otdrg_hf.modeling.image_loading import load_views
from otdrg_hf.training.draws import StudyDraws

ANGLE = 8.0  # degrees, to either side
SCALE = (0.85, 1.1)
SHIFT = 0.05  # of the side
CONTRAST, GAMMA = (0.8, 1.25), (0.8, 1.25)
BRIGHTNESS = 0.1  # of the range


class Augmentation(StudyDraws):
    """
    Rotates, scales and shifts the views of a study, and changes their contrast, brightness and gamma. Images are never
    flipped: left and right mean something.

    Args:
        seed (`int`): Of the draws, see [`StudyDraws`].
    """

    def __init__(self, seed: int = 0):
        super().__init__(seed, stream=1)

    def __call__(self, study: dict[str, Any]) -> list[Image.Image]:
        """The views of a study, RGB and of their own size, changed for this epoch."""
        generator = self.generator(study)
        return [_expose(_position(view, generator), generator) for view in load_views(study["images"])]


def _position(view: Image.Image, generator: np.random.Generator) -> Image.Image:
    angle, scale = radians(generator.uniform(-ANGLE, ANGLE)), generator.uniform(*SCALE)
    width, height = view.size
    x, y = width / 2, height / 2
    to_x, to_y = generator.uniform(-SHIFT, SHIFT, size=2) * view.size + (x, y)
    # From a pixel of the result to where it comes from.
    a, b = cos(angle) / scale, sin(angle) / scale
    coefficients = (a, b, x - a * to_x - b * to_y, -b, a, y + b * to_x - a * to_y)
    return view.transform(view.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)


def _expose(view: Image.Image, generator: np.random.Generator) -> Image.Image:
    contrast, gamma = np.exp(generator.uniform(np.log([CONTRAST[0], GAMMA[0]]), np.log([CONTRAST[1], GAMMA[1]])))
    values = (np.linspace(0, 1, 256) ** gamma - 0.5) * contrast + 0.5 + generator.uniform(-BRIGHTNESS, BRIGHTNESS)
    table = np.rint(255 * values.clip(0, 1)).astype(int).tolist()
    return view.point(table * len(view.getbands()))
