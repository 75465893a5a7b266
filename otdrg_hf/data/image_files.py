"""Checks image files, and resizes them for embedding."""

import io
import os
import warnings

from PIL import Image

from .dicom import register_dicom
from .rejections import IMAGE_MISSING, IMAGE_UNREADABLE, Rejected

JPEG_QUALITY = 95
_PROBE_SIZE = 256


def check_image(path: str) -> None:
    """
    Read an image file, also DICOM, to its end; raises [`Rejected`] for one that is missing, cut short or no image.

    JPEGs are decoded at a reduced size, which reads all of the file. Damage in the middle that the decoder can paint
    over is not seen.
    """
    _open(path, _PROBE_SIZE)


def resized_jpeg(path: str, image_size: int) -> bytes:
    """
    The image as an 8-bit grayscale JPEG of quality 95 whose shorter side is `image_size` pixels, the aspect kept;
    smaller images keep their size. 16-bit images are scaled by their largest value. Raises [`Rejected`].
    """
    image = _grayscale(_open(path, image_size))
    scale = image_size / min(image.size)
    if scale < 1:
        size = tuple(max(1, round(side * scale)) for side in image.size)
        image = image.resize(size, Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=JPEG_QUALITY)
    return content.getvalue()


def _open(path: str, draft_size: int) -> Image.Image:
    if not os.path.isfile(path):
        raise Rejected(IMAGE_MISSING)
    register_dicom()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
            # A JPEG decoder can leave out detail for less than half the time; it never goes below the size asked for.
            image.draft("L", (draft_size, draft_size))
            image.load()
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # Pillow's decoders raise almost anything for damaged files
        raise Rejected(IMAGE_UNREADABLE, _first_line(error, path)) from None
    return image


def _grayscale(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        import numpy as np

        values = np.asarray(image, dtype=np.float64).clip(min=0)
        return Image.fromarray((values * (255 / max(values.max(), 1))).round().astype(np.uint8))
    return image.convert("L")


def _first_line(error: Exception, path: str) -> str:
    text = str(error).replace(path, os.path.basename(path)).splitlines()
    return text[0] if text else type(error).__name__
