"""Pictures as data: addresses that sit inside the page, so that no film is ever written to disk or served as a file."""

import base64
import io

import numpy as np
from PIL import Image

FILM_SIDE = 1024
HEAT_SIDE = 256


def film_data(film: Image.Image) -> str:
    """A film as a grey JPEG of at most 1024 pixels a side."""
    picture = film.convert("L")
    picture.thumbnail((FILM_SIDE, FILM_SIDE), Image.Resampling.LANCZOS)
    return _data(picture, "JPEG", quality=88)


def heat_data(heat: np.ndarray) -> str:
    """A heat map `[H, W]` from 0 to 1 as a PNG in the colours of the overlay pictures, clear where it is 0."""
    from matplotlib import colormaps

    small = Image.fromarray(heat.astype(np.float32))
    small.thumbnail((HEAT_SIDE, HEAT_SIDE), Image.Resampling.BILINEAR)
    values = np.asarray(small).clip(0, 1)
    colours = colormaps["inferno"](values)  # [h, w, 4]
    colours[..., 3] = values
    return _data(Image.fromarray(np.round(255 * colours).astype(np.uint8)), "PNG", optimize=True)


def _data(picture: Image.Image, kind: str, **options) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
