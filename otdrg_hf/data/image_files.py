"""Checks image files, and resizes them for embedding, with the pixels that the pipeline shows a model."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from otdrg_hf.modeling.image_loading import MAX_PIXELS, MIN_SIDE, load_radiograph

from .rejections import IMAGE_MISSING, IMAGE_UNREADABLE, Rejected

JPEG_QUALITY = 95
_PROBE_SIZE = 256


def check_image(path: str) -> None:
    """
    Read an image file, also DICOM, to its end; raises [`Rejected`] for one that is missing, or that [`load_radiograph`]
    refuses.

    JPEGs are decoded at a reduced size, which reads all of the file. Damage in the middle that the decoder can paint
    over is not seen.
    """
    _load(path, _PROBE_SIZE)


def resized_jpeg(path: str, image_size: int) -> bytes:
    """
    The grey values that [`load_radiograph`] gives, as a JPEG of quality 95 whose shorter side is `image_size` pixels,
    the aspect kept; smaller images keep their size. Raises [`Rejected`].
    """
    image = _load(path, image_size).convert("L")
    scale = image_size / min(image.size)
    if scale < 1:
        size = tuple(max(1, round(side * scale)) for side in image.size)
        image = image.resize(size, Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=JPEG_QUALITY)
    return content.getvalue()


def _load(path: str, draft_size: int) -> Image.Image:
    if not os.path.isfile(path):
        raise Rejected(IMAGE_MISSING)
    try:
        with _reduced_jpeg(path, draft_size) as image:
            return load_radiograph(image or path)
    except ValueError as error:
        raise Rejected(IMAGE_UNREADABLE, str(error)) from None


@contextmanager
def _reduced_jpeg(path: str, draft_size: int) -> Iterator[Image.Image | None]:
    """
    A JPEG without the detail that its decoder can leave out, for less than half the time. It never goes below the size
    asked for. `None` for any other file, and for one too large or damaged to begin with.
    """
    try:
        image = Image.open(path, formats=("JPEG",))
    except Exception:  # Pillow's decoders raise almost anything; the loader will say what is wrong
        yield None
        return
    with image:
        if image.width * image.height > MAX_PIXELS:
            yield None
            return
        size = max(draft_size, MIN_SIDE)
        image.draft("L", (size, size))
        yield image
