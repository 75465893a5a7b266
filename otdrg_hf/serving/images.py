"""Images of a request: what is sent is read in bounds of bytes and pixels, and never from a path."""

import binascii
import io
from base64 import b64decode

from PIL import Image

from otdrg_hf.modeling.image_loading import DICOM, is_data_url, is_dicom, is_url, load_radiograph
from otdrg_hf.serving.limits import Limits, Refusal
from otdrg_hf.serving.remote import fetch_public

# Pillow reads more, some of it by starting other programs.
FORMATS = frozenset({"PNG", "JPEG", "MPO", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM", DICOM})


def read_image(content: bytes | Image.Image, name: str, limits: Limits) -> Image.Image:
    """
    The image in a file.

    Args:
        content (`bytes` or `PIL.Image.Image`): The file, or an image that was opened already.
        name (`str`): What to call it in an error.
        limits ([`Limits`]): Whose `max_pixels` is checked before anything is decoded.

    Raises:
        Refusal: for what is not a radiograph in a file of `FORMATS`, damaged or too large.
    """
    if isinstance(content, Image.Image):
        _check_kind(content, name, limits)
    else:
        _check_header(content, name, limits)
    try:
        return load_radiograph(content, name)
    except (ValueError, ImportError) as error:
        raise Refusal(422, str(error), "invalid_image") from None


def _check_header(content: bytes, name: str, limits: Limits) -> None:
    try:
        with Image.open(io.BytesIO(content), formats=(DICOM,) if is_dicom(content[:132]) else None) as image:
            _check_kind(image, name, limits)
    except Refusal:
        raise
    except Exception:  # `load_radiograph` says what is wrong
        return


def _check_kind(image: Image.Image, name: str, limits: Limits) -> None:
    pixels = image.width * image.height
    if image.format is not None and image.format not in FORMATS:
        raise Refusal(
            422, f"{name}: not an image file that can be read (PNG, JPEG, TIFF, DICOM, ...).", "invalid_image"
        )
    if pixels > limits.max_pixels:
        raise Refusal(
            422,
            f"{name}: {pixels / 1e6:.0f} million pixels, at most {limits.max_pixels / 1e6:g} are taken.",
            "too_large",
        )


def content_of(source: str, name: str, limits: Limits) -> bytes:
    """The file in a data URL or plain base64, or at an address where addresses are allowed."""
    if is_url(source.lower()):
        if not limits.allow_urls:
            raise Refusal(
                422, f"{name}: this server fetches nothing: send the image itself, as a data URL.", "urls_not_allowed"
            )
        try:
            return fetch_public(source, limits.max_bytes)
        except ValueError as error:
            raise Refusal(422, f"{name}: {error}", "fetch_failed") from None
    payload = source
    if is_data_url(source):
        head, comma, payload = source.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise Refusal(
                422, f"{name}: a data URL must be data:image/...;base64, followed by the content.", "invalid_image"
            )
    try:
        return b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(
            422, f"{name}: neither a data URL nor base64; paths and other addresses are not read.", "invalid_image"
        ) from None
