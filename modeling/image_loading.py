"""Any image a user has, as an 8-bit RGB PIL image, or one line that names what is wrong with it."""

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from .dicom_display import BIT_DEPTHS
from .dicom_otdrg import INSTALL, MAX_BYTES, MAX_PIXELS, is_dicom, read_dicom
from .image_fetching import fetch

MIN_SIDE = 16
VIEW = "radiograph_view"
_TIFF_STARTS = (b"II*\0", b"MM\0*")
_WIDTH, _LENGTH, _BITS, _PHOTOMETRIC, _ORIENTATION, _PLANAR = 256, 257, 258, 262, 274, 284  # TIFF tags
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def load_radiograph(image, name: str | None = None) -> Image.Image:
    """
    Loads one view.

    Args:
        image (`PIL.Image.Image`, `str`, `os.PathLike`, `bytes`, `np.ndarray` or `torch.Tensor`):
            A picture, its path, URL, file content, or pixels as `[H, W]`, `[H, W, channels]` or `[channels, H, W]`.
            Integers are read at the smallest of 8, 10, 12, 14 and 16 bits that holds them, floats as 0..1 or 0..255.
            Files are DICOM (see [`read_dicom`]) or anything that Pillow reads, by their content, not by their name.
            A URL may be of any host, also of this machine and its network, where picture archives are.
        name (`str`, *optional*): What to call it in an error. Default: its file name or kind.

    Returns:
        `PIL.Image.Image`: RGB; [`view_in`] tells the view that a DICOM file names.

    Raises:
        ImportError: for DICOM without pydicom, and other files that need a package that is not installed.
        ValueError: if it is missing, unreadable, empty, smaller than 16 pixels a side, too large to be a radiograph
            (over 15,000 x 10,000 pixels or 200 MB), no radiograph, or holds NaN or infinite pixels.
    """
    name = name or _describe(image)
    if isinstance(image, np.ndarray):
        picture = _from_array(image, name)
    elif isinstance(image, torch.Tensor):
        picture = _from_array(_as_array(image, name), name)
    elif isinstance(image, Image.Image):
        picture = _decode(image, name)
    elif isinstance(image, (bytes, bytearray)):
        picture = _from_content(bytes(image), name)
    elif isinstance(image, (str, os.PathLike)):
        picture = _from_location(str(image), name)
    else:
        raise ValueError(f"{name}: expected an image, path, URL, bytes or array, got {type(image).__name__}.")
    if min(picture.size) < MIN_SIDE:
        raise ValueError(f"{name}: {picture.width} x {picture.height} pixels, at least {MIN_SIDE} a side are needed.")
    return picture


def load_views(images: Sequence, study: str | None = None) -> list[Image.Image]:
    """The views of one study; an image without a file name is named in errors by its place in the study."""
    pictures = []
    for index, image in enumerate(images):
        name = _describe(image)
        if "given as" in name and (study or len(images) > 1):
            name = f"{name} (view {index}{f' of {study}' if study else ''})"
        pictures.append(load_radiograph(image, name))
    return pictures


def view_in(picture: Image.Image) -> str:
    """The view of a loaded picture as its DICOM file named it: `"frontal"`, `"lateral"` or `"unknown"`."""
    view = picture.info.get(VIEW)
    return view if view in ("frontal", "lateral") else "unknown"


def _describe(image) -> str:
    if isinstance(image, (str, os.PathLike)):
        return f"image {file_name(str(image))!r}"
    filename = getattr(image, "filename", "")
    return f"image {Path(filename).name!r}" if filename else f"image given as {type(image).__name__}"


def _as_array(tensor: torch.Tensor, name: str) -> np.ndarray:
    try:
        tensor = tensor.detach().cpu()
        # Of the types of floats, numpy has not all.
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except (RuntimeError, TypeError, NotImplementedError):
        kind = f"{tensor.dtype}, {tensor.layout} on {tensor.device}"
        raise ValueError(f"{name}: a tensor of {kind} cannot be read; give one of plain numbers.") from None


def is_url(location: str) -> bool:
    return location.startswith(("http://", "https://"))


def file_name(location: str) -> str:
    """The name alone: folders may name a patient, and the query of an address may hold a key."""
    if is_url(location):
        location = location.partition("://")[2].partition("?")[0].partition("#")[0].partition("/")[2]
    return Path(location).name


def _from_location(location: str, name: str) -> Image.Image:
    if is_url(location):
        return _from_content(fetch(location, name, MAX_BYTES), name)
    if os.path.isdir(location):
        raise ValueError(f"{name}: is a folder, not an image file.")
    if not os.path.exists(location):
        raise ValueError(f"{name}: no such file.")
    if not os.path.isfile(location):
        raise ValueError(f"{name}: is no ordinary file.")
    try:
        with open(location, "rb") as file:
            return _from_content(file.read(MAX_BYTES + 1), name)
    except PermissionError:
        raise ValueError(f"{name}: no permission to read it.") from None
    except OSError as error:
        raise ValueError(f"{name}: could not be read ({error.strerror}).") from None


def _from_content(content: bytes, name: str) -> Image.Image:
    if len(content) == 0:
        raise ValueError(f"{name}: the file is empty.")
    if len(content) > MAX_BYTES:
        raise ValueError(f"{name}: more than {MAX_BYTES // 10**6} MB, too large for a radiograph.")
    return _from_dicom(content, name) if is_dicom(content[:132]) else _open(content, name)


def _from_dicom(content: bytes, name: str) -> Image.Image:
    radiograph = read_dicom(content, name)
    picture = _from_array(radiograph.pixels, name)
    picture = ImageOps.invert(picture) if radiograph.inverted else picture
    if radiograph.hidden is not None:
        picture.paste((0, 0, 0), mask=Image.fromarray(radiograph.hidden))
    picture.info = {VIEW: radiograph.view}
    return picture


def _open(content: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        if content.startswith(_TIFF_STARTS) and (picture := _tiff_by_imagecodecs(content, name)):
            return picture
        raise ValueError(f"{name}: not an image file that can be read (PNG, JPEG, TIFF, DICOM, ...).") from None
    except Image.DecompressionBombError:
        raise ValueError(_too_large(name)) from None
    except Exception:  # of a damaged header, or of a text in it that unpacks to megabytes
        raise ValueError(f"{name}: the image data is damaged or cut short.") from None
    with image:
        return _decode(image, name)


def _decode(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(_too_large(name))
    if isinstance(image, TiffImageFile) and image.tile and _covered(image) < image.width * image.height:
        raise ValueError(f"{name}: the image data is damaged or cut short (strips are missing).")
    try:
        deep = _sixteen_bit_colour(image)
        white_is_zero = isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0
        if deep is None:
            image.load()
            image = ImageOps.exif_transpose(image)
    except ImportError as error:
        raise ImportError(f"{name}: {error}") from None
    except Exception as error:  # Pillow's decoders raise almost anything; what the system says may hold a path
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name}: the image data is damaged or cut short ({reason}).") from None
    if deep is not None:
        return _from_array(_over_black(deep), name)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        picture = _from_array(np.asarray(image), name)
        return ImageOps.invert(picture) if white_is_zero else picture  # Pillow inverts up to 8 bits itself
    try:
        if "A" in image.getbands() or "transparency" in image.info:
            # Transparent means unexposed here, as in exported films, which is black.
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
        return image.convert("RGB")
    except ValueError:
        raise ValueError(f"{name}: an image of mode {image.mode} cannot be converted to RGB.") from None


def _covered(image: TiffImageFile) -> int:
    """How many pixels there are strips or tiles for; Pillow leaves the others black."""
    return sum((right - left) * (lower - upper) for _, (left, upper, right, lower), *_ in image.tile)


# 16 bits a channel


def _sixteen_bit_colour(image: Image.Image) -> np.ndarray | None:
    """
    All bits of a PNG or TIFF of 16 bits a channel, of which Pillow keeps the upper eight in colour or with
    transparency: `[H, W, channels]`. They are not in a picture that is decoded already, but in its file.

    `None` for any other picture, and for one that is no longer what its file holds.
    """
    if not isinstance(image, (PngImageFile, TiffImageFile)) or image.mode not in ("RGB", "RGBA"):
        return None
    file = image if image.tile else _reopened(image)
    if file is None or not (planar := _is_planar(file)) and ";16" not in _rawmode(file):
        return None
    start = file.fp.tell()
    file.fp.seek(0)
    content = file.fp.read(MAX_BYTES)
    file.fp.seek(start)
    if file is not image and file.tobytes() != image.tobytes():
        return None
    if planar:
        return _planes_by_imagecodecs(content)
    return _both_bytes(content)


def _planes_by_imagecodecs(content: bytes) -> np.ndarray:
    try:  # a search for what code that travels needs leaves out what is tried
        import imagecodecs
    except ImportError:
        raise ImportError(f"channels that are stored one by one need imagecodecs: {INSTALL}") from None
    return np.moveaxis(imagecodecs.tiff_decode(content), 0, -1)


def _reopened(image: Image.Image) -> Image.Image | None:
    try:
        return Image.open(image.filename)
    except (AttributeError, OSError):  # it came from memory, or its file is gone
        return None


def _is_planar(image: Image.Image) -> bool:
    """Whether 16-bit channels are stored one after the other, in which Pillow takes bytes for words."""
    if not isinstance(image, TiffImageFile):
        return False
    return image.tag_v2.get(_PLANAR) == 2 and 16 in image.tag_v2.get(_BITS, ())


def _rawmode(image: Image.Image) -> str:
    arguments = image.tile[0][3]
    rawmode = arguments if isinstance(arguments, str) else arguments[0]
    return rawmode.replace("a", "A")  # multiplied by alpha already, as black asks for


def _both_bytes(content: bytes) -> np.ndarray:
    rawmode = _rawmode(Image.open(io.BytesIO(content)))
    if rawmode == "LA;16B":  # as many bytes as of four channels of 8 bits
        four = _decoded_as("RGBA", content)
        upper, lower = four[..., ::2], four[..., 1::2]
    else:  # in the other byte order, Pillow takes the lower byte of each channel for the upper one
        other = rawmode[:-1] + _OTHER_ORDER[rawmode[-1]]
        upper, lower = (_decoded_as(mode, content) for mode in (rawmode, other))
    return upper.astype(np.uint16) << 8 | lower


def _decoded_as(rawmode: str, content: bytes) -> np.ndarray:
    """The picture `[H, W, channels]` upright, its bytes unpacked as told."""
    image = Image.open(io.BytesIO(content))
    tiles = []
    for tile in image.tile:
        arguments = rawmode if isinstance(tile[3], str) else (rawmode, *tile[3][1:])
        tiles.append(tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments))
    image.tile = tiles
    image.load()
    return np.asarray(ImageOps.exif_transpose(image))


def _tiff_by_imagecodecs(content: bytes, name: str) -> Image.Image | None:
    """A TIFF that Pillow cannot read, such as 16-bit grey with transparency; `None` if imagecodecs cannot, either."""
    try:
        import imagecodecs

        directory = ImageFileDirectory_v2(content[:8])
        file = io.BytesIO(content)
        file.seek(directory.next)
        directory.load(file)
        if directory[_WIDTH] * directory[_LENGTH] > MAX_PIXELS:
            raise ValueError(_too_large(name))
        pixels = imagecodecs.tiff_decode(content)
    except Exception:
        return None
    if pixels.ndim != 2 and (pixels.ndim != 3 or pixels.shape[2] > 4):
        return None
    picture = _from_array(_over_black(pixels), name)
    picture = ImageOps.invert(picture) if directory.get(_PHOTOMETRIC) == 0 else picture
    picture.getexif()[_ORIENTATION] = directory.get(_ORIENTATION, 1)
    return ImageOps.exif_transpose(picture)


def _over_black(pixels: np.ndarray) -> np.ndarray:
    """Integers `[H, W, channels]` without the last channel of two or four, by which they are made darker."""
    if pixels.ndim != 3 or pixels.shape[2] not in (2, 4):
        return pixels
    colour, alpha = pixels[..., :-1], pixels[..., -1:]
    opaque = next(2**bits - 1 for bits in BIT_DEPTHS if alpha.max() < 2**bits)
    return colour if alpha.min() == opaque else np.round(colour * (alpha / np.float32(opaque))).astype(pixels.dtype)


def _too_large(name: str) -> str:
    return f"{name}: too many pixels for a radiograph; reduce it below 15,000 x 10,000."


def _from_array(pixels: np.ndarray, name: str) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[2] not in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or pixels.size == 0:
        raise ValueError(f"{name}: an array of shape {pixels.shape} is not an image ([H, W] or [H, W, 3]).")
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise ValueError(_too_large(name))
    if pixels.dtype == bool or not np.issubdtype(pixels.dtype, np.number) or np.iscomplexobj(pixels):
        raise ValueError(f"{name}: pixels of type {pixels.dtype} are not grey values.")
    if np.issubdtype(pixels.dtype, np.floating) and not np.isfinite(pixels).all():
        raise ValueError(f"{name}: holds NaN or infinite pixels.")
    if pixels.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0:
        raise ValueError(f"{name}: holds negative pixels (down to {low:g}); shift them to start at 0.")
    scale = _full_scale(pixels, high, name)
    grey = np.round(pixels.astype(np.float32) * (255.0 / scale)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _full_scale(pixels: np.ndarray, high: float, name: str) -> float:
    """The value that is white."""
    if np.issubdtype(pixels.dtype, np.floating):
        if high <= 1:
            return 1.0
    elif 255 < high < 2**16:
        # A dark film of 8 bits that was stored as 16 (each byte doubled, or shifted) must not be read as one of 12.
        for step in (257, 256):
            if not (pixels % step).any():
                return 255.0 * step
    for bits in BIT_DEPTHS:
        if high < 2**bits:
            return 2.0**bits - 1
    raise ValueError(f"{name}: pixels up to {high:g} are beyond 16 bits; rescale them to 0..255 or 0..65535.")
