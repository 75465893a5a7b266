"""Any image a user has, as an 8-bit RGB PIL image, or one line that names what is wrong with it."""

import base64
import binascii
import http.client
import io
import os
import struct
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

MIN_SIDE = 16
MAX_BYTES, MAX_PIXELS = 200_000_000, 15_000 * 10_000
TIMEOUT = 30.0  # seconds to fetch an image in
BIT_DEPTHS = (8, 10, 12, 14, 16)
DICOM, VIEW = "DICOM", "radiograph_view"  # the name of the Pillow plugin, and its key in `image.info`
INSTALL = "pip install 'otdrg-hf[dicom]'"
_WIDTH, _LENGTH, _BITS, _PHOTOMETRIC, _ORIENTATION, _PLANAR = 256, 257, 258, 262, 274, 284  # TIFF tags
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_TOO_LARGE = "too many pixels for a radiograph; reduce it below 15,000 x 10,000."
# In words of our own: those of an error can quote the address.
_FETCH_PROBLEMS = {
    "gaierror": "there is no such host",
    "ConnectionRefusedError": "the host refuses the connection",
    "SSLError": "no secure connection",
    "TimeoutError": "the host does not answer",
    "InvalidURL": "the address is not valid",
}


def load_radiograph(image, name: str | None = None) -> Image.Image:
    """
    Loads one view.

    Args:
        image (`PIL.Image.Image`, `str`, `os.PathLike`, `bytes`, `io.BytesIO`, `np.ndarray` or `torch.Tensor`):
            An image, its path, URL (also `data:image/png;base64,...`), file content, an open binary file, or pixels as
            `[H, W]`, `[H, W, channels]` or `[channels, H, W]`.
            Integers are read at the smallest of 8, 10, 12, 14 and 16 bits that holds them, floats as 0..1 or 0..255.
            Files are anything that Pillow reads, by their content, not by their name; also DICOM after
            `import otdrg_hf`. A URL may be of any host, including this machine and its network, where PACS are.
        name (`str`, *optional*): What to call it in an error. Default: its file name or type.

    Returns:
        `PIL.Image.Image`: RGB; [`view_in`] gives the view that a DICOM file names. An RGB image that is in memory and
        upright is returned as it is, not copied.

    Raises:
        ImportError: for DICOM without `import otdrg_hf`, and for files that need a package that is not installed.
        ValueError: if it is missing, unreadable, empty, smaller than 16 pixels a side, too large for a radiograph
            (over 15,000 x 10,000 pixels or 200 MB), not a radiograph, or holds NaN or infinite pixels.
    """
    name = name or _describe(image)
    try:
        return _load(image)
    except (ImportError, ValueError) as error:
        kind = ImportError if isinstance(error, ImportError) else ValueError
        raise kind(f"{name}: {str(error).removeprefix(f'{name}: ')}") from None


def load_views(images: Sequence, study: str | None = None) -> list[Image.Image]:
    """The views of one study; an image without a file name is named in errors by its position in the study."""
    views = []
    for index, image in enumerate(images):
        name = _describe(image)
        if "given as" in name and (study or len(images) > 1):
            name = f"{name} (view {index}{f' of {study}' if study else ''})"
        views.append(load_radiograph(image, name))
    return views


def view_in(image: Image.Image) -> str:
    """The view of a loaded image as its DICOM file named it: `"frontal"`, `"lateral"` or `"unknown"`."""
    view = image.info.get(VIEW)
    return view if view in ("frontal", "lateral") else "unknown"


def view_names(images: Sequence[Image.Image], given: str | Sequence[str] | np.ndarray | None = None) -> list[str]:
    """The views of a study's images as they were given, else as their DICOM files name them."""
    if given is None or len(given) == 0:
        return [view_in(image) for image in images]
    return [given] if isinstance(given, str) else [str(view) for view in given]


def is_url(location: str) -> bool:
    return location.startswith(("http://", "https://"))


def is_data_url(location: str) -> bool:
    return location[:5].lower() == "data:"


def file_name(location: str) -> str:
    """The name alone: folders may name a patient, and the query of an address may hold a key; none of a data URL."""
    if is_data_url(location):
        return ""
    if is_url(location):
        location = location.partition("://")[2].partition("?")[0].partition("#")[0].partition("/")[2]
    return Path(location).name


def is_dicom(head: bytes) -> bool:
    """Whether a file that starts with these bytes (132 are enough) is DICOM, with its preamble or without."""
    # Without preamble a file starts with its first element: group 2 or 8, then a value representation or a length.
    group, element, length = struct.unpack("<HHI", head[:8].ljust(8, b"\xff"))
    sized = length <= 128 or head[4:6] in (b"UL", b"OB", b"UI", b"SH", b"CS", b"DA", b"TM")
    return head[128:132] == b"DICM" or (group in (2, 8) and element <= 0x0070 and sized)


def _describe(image) -> str:
    if isinstance(image, str) and is_data_url(image):
        return "image given as data URL"
    if isinstance(image, (str, os.PathLike)):
        return f"image {file_name(str(image))!r}"
    filename = getattr(image, "filename", "")
    return f"image {Path(filename).name!r}" if filename else f"image given as {type(image).__name__}"


def _load(image) -> Image.Image:
    if isinstance(image, Image.Image):
        loaded = _decode(image)
    elif isinstance(image, np.ndarray):
        loaded = _from_array(image)
    elif hasattr(image, "read"):  # an open file
        loaded = _from_content(_read(image))
    elif hasattr(image, "detach"):  # a tensor; loading images does not import torch
        loaded = _from_array(_as_array(image))
    elif isinstance(image, (bytes, bytearray)):
        loaded = _from_content(bytes(image))
    elif isinstance(image, str) and is_data_url(image):
        loaded = _from_content(_data_of(image))
    elif isinstance(image, (str, os.PathLike)):
        loaded = _from_location(str(image))
    else:
        raise ValueError(f"expected an image, path, URL, bytes or array, got {type(image).__name__}.")
    if min(loaded.size) < MIN_SIDE:
        raise ValueError(f"{loaded.width} x {loaded.height} pixels, at least {MIN_SIDE} a side are needed.")
    return loaded


def _as_array(tensor) -> np.ndarray:
    try:
        tensor = tensor.detach().cpu()
        # numpy lacks some of the floating-point types.
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except (RuntimeError, TypeError, NotImplementedError):
        kind = f"{tensor.dtype}, {tensor.layout} on {tensor.device}"
        raise ValueError(f"a tensor of {kind} cannot be read; give one of plain numbers.") from None


def _from_location(location: str) -> Image.Image:
    if is_url(location):
        return _from_content(fetch(location, MAX_BYTES, TIMEOUT))
    if os.path.isdir(location):
        raise ValueError("is a folder, not an image file.")
    if not os.path.exists(location):
        raise ValueError("no such file.")
    if not os.path.isfile(location):
        raise ValueError("not a regular file.")
    try:
        with open(location, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except PermissionError:
        raise ValueError("no permission to read it.") from None
    except OSError as error:
        raise ValueError(f"could not be read ({error.strerror}).") from None
    return _from_content(content)


def _data_of(url: str) -> bytes:
    """The content of `data:image/png;base64,...`, with or without the type."""
    head, comma, payload = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ValueError("a data URL must be data:image/...;base64, followed by the content.")
    if len(payload) > 2 * MAX_BYTES:  # before it is decoded; base64 takes four thirds of the bytes
        raise ValueError(f"more than {MAX_BYTES // 10**6} MB, too large for a radiograph.")
    try:
        return base64.b64decode("".join(urllib.parse.unquote(payload).split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the content of the data URL is not base64.") from None


def _read(file) -> bytes:
    """The content of an open file from its start, wherever it was read or written to; it is left there."""
    try:
        position = file.tell() if file.seekable() else None
        if position is not None:
            file.seek(0)
        content = file.read(MAX_BYTES + 1)
        if position is not None:
            file.seek(position)
    except (OSError, ValueError, AttributeError):  # closed, or opened for writing alone
        raise ValueError("the file cannot be read: open it for reading in binary mode.") from None
    if not isinstance(content, bytes):
        raise ValueError("the file is open as text: open it in binary mode.")
    return content


def _from_content(content: bytes) -> Image.Image:
    if len(content) == 0:
        raise ValueError("the file is empty.")
    if len(content) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES // 10**6} MB, too large for a radiograph.")
    dicom = is_dicom(content[:132])
    if dicom and DICOM not in Image.OPEN:
        raise ImportError(f"a DICOM file, which needs {INSTALL} and `import otdrg_hf`.")
    try:
        image = Image.open(io.BytesIO(content), formats=(DICOM,) if dicom else None)
    except UnidentifiedImageError:
        if content.startswith((b"II*\0", b"MM\0*")) and (image := _tiff_by_imagecodecs(content)):
            return image
        raise ValueError("not an image file that can be read (PNG, JPEG, TIFF, DICOM, ...).") from None
    except Image.DecompressionBombError:
        raise ValueError(_TOO_LARGE) from None
    except Exception as error:  # of a damaged header, or of a text in it that unpacks to megabytes
        if dicom and isinstance(error, (ImportError, ValueError)):  # its plugin says what is wrong
            raise
        raise ValueError("the image data is damaged or cut short.") from None
    with image:
        return _decode(image)


def _decode(image: Image.Image) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(_TOO_LARGE)
    if isinstance(image, TiffImageFile) and image.tile:  # Pillow leaves black what no strip or tile covers
        boxes = (box for _, box, *_ in image.tile)
        if sum((right - left) * (lower - upper) for left, upper, right, lower in boxes) < image.width * image.height:
            raise ValueError("the image data is damaged or cut short (strips are missing).")
    try:
        deep = _sixteen_bit_colour(image)
        white_is_zero = isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0
        if deep is None:
            image.load()
            image = _upright(image)
    except Exception as error:  # Pillow's decoders raise almost anything; what the system says may hold a path
        if isinstance(error, ImportError) or (image.format == DICOM and isinstance(error, ValueError)):
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"the image data is damaged or cut short ({reason}).") from None
    if deep is not None:
        return _from_array(_over_black(deep))
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        loaded = _from_array(np.asarray(image))
        return ImageOps.invert(loaded) if white_is_zero else loaded  # Pillow inverts up to 8 bits itself
    return _as_rgb(image)


def _upright(image: Image.Image) -> Image.Image:
    turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    return ImageOps.exif_transpose(image) if turned else image


def _as_rgb(image: Image.Image) -> Image.Image:
    try:
        if "A" in image.getbands() or "transparency" in image.info:
            # Transparent means unexposed here, as in exported radiographs, which is black.
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
        # A file is copied even if it is RGB, so that neither it nor its decoder is looked at again.
        return image if image.mode == "RGB" and type(image) is Image.Image else image.convert("RGB")
    except ValueError:
        raise ValueError(f"an image of mode {image.mode} cannot be converted to RGB.") from None


# 16 bits a channel


def _sixteen_bit_colour(image: Image.Image) -> np.ndarray | None:
    """
    All bits of a PNG or TIFF of 16 bits a channel, of which Pillow keeps the upper eight in colour or with
    transparency: `[H, W, channels]`. They are not in an image that is decoded already, but in its file. `None` for any
    other image, and for one that is no longer what its file holds.
    """
    if not isinstance(image, (PngImageFile, TiffImageFile)) or image.mode not in ("RGB", "RGBA"):
        return None
    try:
        file = image if image.tile else Image.open(image.filename)
    except (AttributeError, OSError):  # it came from memory, or its file is gone
        return None
    tags = getattr(file, "tag_v2", {})
    planar = tags.get(_PLANAR) == 2 and 16 in tags.get(_BITS, ())  # of which Pillow takes bytes for words
    if not planar and ";16" not in _rawmode(file):
        return None
    start = file.fp.tell()
    file.fp.seek(0)
    content = file.fp.read(MAX_BYTES)
    file.fp.seek(start)
    if file is not image and file.tobytes() != image.tobytes():
        return None
    if not planar:
        return _both_bytes(content)
    try:  # transformers' search for what remote code needs leaves out what is tried
        import imagecodecs
    except ImportError:
        raise ImportError(f"channels that are stored one by one need imagecodecs: {INSTALL}") from None
    return np.moveaxis(imagecodecs.tiff_decode(content), 0, -1)


def _rawmode(image: Image.Image) -> str:
    arguments = image.tile[0][3]
    rawmode = arguments if isinstance(arguments, str) else arguments[0]
    return rawmode.replace("a", "A")  # multiplied by alpha already, as black asks for


def _both_bytes(content: bytes) -> np.ndarray:
    rawmode = _rawmode(Image.open(io.BytesIO(content)))
    if rawmode == "LA;16B":  # as many bytes as four channels of 8 bits
        four = _decoded_as("RGBA", content)
        upper, lower = four[..., ::2], four[..., 1::2]
    else:  # in the other byte order, Pillow takes the lower byte of each channel for the upper one
        other = rawmode[:-1] + _OTHER_ORDER[rawmode[-1]]
        upper, lower = (_decoded_as(mode, content) for mode in (rawmode, other))
    return upper.astype(np.uint16) << 8 | lower


def _decoded_as(rawmode: str, content: bytes) -> np.ndarray:
    """The image `[H, W, channels]`, upright, its bytes unpacked as `rawmode`."""
    image = Image.open(io.BytesIO(content))
    image.tile = [(*tile, rawmode if isinstance(last, str) else (rawmode, *last[1:])) for *tile, last in image.tile]
    image.load()
    return np.asarray(_upright(image))


def _tiff_by_imagecodecs(content: bytes) -> Image.Image | None:
    """A TIFF that Pillow cannot read, such as 16-bit grey with transparency; `None` if imagecodecs cannot, either."""
    try:
        import imagecodecs

        directory = ImageFileDirectory_v2(content[:8])
        file = io.BytesIO(content)
        file.seek(directory.next)
        directory.load(file)
        if directory[_WIDTH] * directory[_LENGTH] > MAX_PIXELS:
            return None
        pixels = imagecodecs.tiff_decode(content)
    except Exception:
        return None
    if pixels.ndim != 2 and (pixels.ndim != 3 or pixels.shape[2] > 4):
        return None
    image = _from_array(_over_black(pixels))
    image = ImageOps.invert(image) if directory.get(_PHOTOMETRIC) == 0 else image
    image.getexif()[_ORIENTATION] = directory.get(_ORIENTATION, 1)
    return _upright(image)


def _over_black(pixels: np.ndarray) -> np.ndarray:
    """Integers `[H, W, channels]` without the last channel of two or four, by which they are made darker."""
    if pixels.ndim != 3 or pixels.shape[2] not in (2, 4):
        return pixels
    colour, alpha = pixels[..., :-1], pixels[..., -1:]
    opaque = next(2**bits - 1 for bits in BIT_DEPTHS if alpha.max() < 2**bits)
    return colour if alpha.min() == opaque else np.round(colour * (alpha / np.float32(opaque))).astype(pixels.dtype)


# Arrays


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[2] not in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or pixels.size == 0:
        raise ValueError(f"an array of shape {pixels.shape} is not an image ([H, W] or [H, W, 3]).")
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise ValueError(_TOO_LARGE)
    return Image.fromarray(eight_bit(pixels)).convert("RGB")


def eight_bit(pixels: np.ndarray) -> np.ndarray:
    """Grey values as uint8, read as [`load_radiograph`] says; raises `ValueError` for what are not grey values."""
    if pixels.dtype == bool or not np.issubdtype(pixels.dtype, np.number) or np.iscomplexobj(pixels):
        raise ValueError(f"pixels of type {pixels.dtype} are not grey values.")
    if np.issubdtype(pixels.dtype, np.floating) and not np.isfinite(pixels).all():
        raise ValueError("holds NaN or infinite pixels.")
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0:
        raise ValueError(f"holds negative pixels (down to {low:g}); shift them to start at 0.")
    scale = _full_scale(pixels, high)
    return np.round(pixels.astype(np.float32) * (255.0 / scale)).clip(0, 255).astype(np.uint8)


def _full_scale(pixels: np.ndarray, high: float) -> float:
    """The value that is white."""
    if np.issubdtype(pixels.dtype, np.floating):
        if high <= 1:
            return 1.0
    elif 255 < high < 2**16:
        # A dark 8-bit image that was stored as 16 (each byte doubled, or shifted) must not be read as one of 12.
        for step in (257, 256):
            if not (pixels % step).any():
                return 255.0 * step
    for bits in BIT_DEPTHS:
        if high < 2**bits:
            return 2.0**bits - 1
    raise ValueError(f"pixels up to {high:g} are beyond 16 bits; rescale them to 0..255 or 0..65535.")


# Download


class NotFetched(OSError):
    """Why an address is not fetched, in words that do not quote it."""


def fetch(url: str, max_bytes: int, timeout: float, open_url: Callable = urllib.request.urlopen) -> bytes:
    """
    The content at an address, at most one byte more than `max_bytes` of it, within `timeout` seconds, however slowly it
    trickles in. Raises `ValueError`, which never quotes the address: it may hold a key.
    """
    answer: dict = {}
    # A socket's own timeout starts anew with each byte; only another thread can bound the whole.
    worker = threading.Thread(target=_download, args=(url, max_bytes, timeout, open_url, answer), daemon=True)
    worker.start()
    worker.join(timeout)
    answer["stop"] = True
    if "content" in answer:
        return answer["content"]
    reason = f"({answer['problem']})" if "problem" in answer else f"within {timeout:g} seconds"
    raise ValueError(f"could not be fetched {reason}.")


def _download(url: str, max_bytes: int, timeout: float, open_url: Callable, answer: dict) -> None:
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "otdrg-hf"})
        with open_url(request, timeout=timeout) as response:
            content = bytearray()
            while len(content) <= max_bytes and "stop" not in answer:
                chunk = response.read1(min(1 << 16, max_bytes + 1 - len(content)))
                if not chunk:
                    break
                content += chunk
            if response.length and len(content) <= max_bytes:
                answer["problem"] = "the connection broke off"
            else:
                answer["content"] = bytes(content)
    except urllib.error.HTTPError as error:
        answer["problem"] = f"HTTP {error.code}" + (", which asks for permission" if error.code in (401, 403) else "")
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, NotFetched):
            answer["problem"] = str(reason)
            return
        kind = type(reason if isinstance(reason, Exception) else error)
        known = (_FETCH_PROBLEMS[each.__name__] for each in kind.__mro__ if each.__name__ in _FETCH_PROBLEMS)
        answer["problem"] = next(known, kind.__name__)
