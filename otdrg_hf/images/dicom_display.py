"""The grey values that a DICOM file is displayed with: modality and VOI transform, padding and display shutter."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain

import numpy as np
from PIL import Image, ImageDraw

from otdrg_hf.images.dicom_decoding import ImageHeader, StoredPixels
from otdrg_hf.modeling.image_loading import BIT_DEPTHS

_MOST_CORNERS, _FARTHEST = 1000, 1 << 20
_TEXT = ("DS", "IS", "CS", "LO", "SH", "ST", "LT", "UN", None)


# Values of the header


def read_numbers(data, keyword: str) -> list[float | None]:
    """
    The values of an element by which a file is displayed: decimal commas are understood, and what is not a finite
    number is `None`.
    """
    return [_number(value) for value in _values(data, keyword)]


def _number(value) -> float | None:
    try:
        number = float(str(value).strip(" \0").replace(",", "."))
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _codes(data, keyword: str) -> list[str]:
    return [str(value).strip(" \0").upper() for value in _values(data, keyword)]


def _values(data, keyword: str) -> list:
    """The values of an element, which pydicom would refuse where one of them is not as it should be."""
    element = data.get_item(keyword)
    if element is None:
        return []
    values = element.value
    if isinstance(values, bytes) and element.VR in _TEXT:
        return values.decode("latin-1").split("\\")
    try:
        values = data[keyword].value
    except Exception:  # pydicom raises almost anything
        return []
    return list(values) if isinstance(values, (list, tuple)) else [values]


def _words(data, keyword: str) -> np.ndarray:
    """The 16-bit words of an element, whatever signs or characters it declares them to be."""
    element = data.get_item(keyword)
    if not isinstance(element.value, bytes):
        return np.atleast_1d(np.asarray(element.value, np.int64)).astype(np.uint16)
    swapped = not element.is_little_endian and element.VR != "OB"
    content = element.value + b"\0" * (len(element.value) % 2)
    return np.frombuffer(content, ">u2" if swapped else "<u2").astype(np.uint16)


# From words to values


def stored_values(words: np.ndarray, pixels: StoredPixels, header: ImageHeader) -> np.ndarray:
    """
    Converts stored words to the values that they stand for.

    Args:
        words (`np.ndarray`): `[N]`, some of those of `pixels`.
        pixels (`StoredPixels`): How many bits a word has, and whether all count.
        header (`ImageHeader`): Its BitsStored and HighBit say which of them count, if not all do.

    Returns:
        `np.ndarray`: `[N]` int64.
    """
    words = words.astype(np.int64)
    stored = min(header.stored or pixels.bits, pixels.bits)
    shift = _low_bits_unused(words, stored, pixels, header.high_bit)
    words = words >> shift
    if pixels.precise and not (pixels.signed and _is_sign_extended(words, stored, pixels.bits - shift)):
        stored = pixels.bits - shift
    words = words & (2**stored - 1)
    return np.where(words >> (stored - 1) == 1, words - 2**stored, words) if pixels.signed else words


def _low_bits_unused(words: np.ndarray, stored: int, pixels: StoredPixels, high_bit: int | None) -> int:
    """By how many bits words are left-justified, as in ACR-NEMA: what HighBit says, unless they say otherwise."""
    shift = (high_bit or 0) + 1 - stored
    if shift <= 0 or high_bit >= pixels.bits:
        return 0
    used = int(np.bitwise_or.reduce(words))
    if used & (2**shift - 1) == 0:
        return shift
    return 0 if pixels.precise or used < 2**stored else shift


def _is_sign_extended(words: np.ndarray, stored: int, bits: int) -> bool:
    above, negative = words >> stored, (words >> (stored - 1)) & 1 == 1
    return bool(((above == 0) | (negative & (above == 2 ** (bits - stored) - 1))).all())


def is_padding(words: np.ndarray, values: np.ndarray, data, signed: bool) -> np.ndarray:
    """Which of the words, or of their values, are PixelPaddingValue, or between it and PixelPaddingRangeLimit."""
    limits = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        try:
            limits.append(int(_words(data, keyword)[0]))
        except Exception:  # missing, empty or not a number
            break
    padded = np.zeros(words.shape, bool)
    if not limits:
        return padded
    if signed:
        limits = [limit - 2**16 if limit >= 2**15 else limit for limit in limits]
    for numbers in (values,) if signed else (values, words):
        padded |= (numbers >= min(limits)) & (numbers <= max(limits))
    return padded


# From values to grey


def displayed(values: np.ndarray, data, inverted: bool) -> tuple[np.ndarray, bool]:
    """
    Converts stored values to what is displayed: through the modality table or rescaling (PS3.3, C.11.1), then through
    the first VOI table or window that shows anything (C.11.2). Tables and windows that cannot be used are left out.

    Args:
        values (`np.ndarray`): `[N]` stored values, each of which occurs in the image.
        data (`pydicom.Dataset`): The file.
        inverted (`bool`): Whether low values are white.

    Returns:
        `np.ndarray`, `bool`: `[N]`, and whether low values are white. uint8 are grey values. Without table or window
        they are integers from 0 upwards, and the smallest bit depth that holds them is their scale.
    """
    with np.errstate(all="ignore"):
        tables = (entries for entries, _ in _tables(data, "ModalityLUTSequence", values) if np.ptp(entries) > 0)
        from_table = next(tables, None)
        slope, intercept = _rescaling(data, values)
        modality = values * slope + intercept if from_table is None else from_table
        for shown in chain(_voi_tables(data, modality), _windows(data, modality)):
            if np.isfinite(shown).all() and np.ptp(shown) > 1 / 256:
                return np.round(shown * 255).astype(np.uint8), inverted
    if from_table is None:
        modality, inverted = _without_window(values, slope, intercept, inverted)
    return modality.astype(np.uint16 if modality.max() < 2**16 else np.int64), inverted


def _tables(data, keyword: str, values: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """What each usable table of a sequence makes of the values, and its largest entry."""
    try:
        items = list(data.get(keyword) or ())
    except Exception:  # pydicom raises almost anything
        return
    for item in items:
        with suppress(Exception):  # likewise, and the item may not be a dataset
            entries, first = _table(item, values)
            position = np.clip(np.rint(values) - first, 0, len(entries) - 1).astype(np.int64)
            yield entries[position], int(entries.max())


def _table(item, values: np.ndarray) -> tuple[np.ndarray, int]:
    """The entries of a table, and the value that the first of them is for."""
    count, first, bits = _words(item, "LUTDescriptor").tolist()[:3]
    count = count or 2**16
    entries = _words(item, "LUTData")
    if bits <= 8 and len(entries) == (count + 1) // 2:  # two to a word
        entries = entries.astype("<u2").view(np.uint8)
    entries = entries[:count].astype(np.int64)
    # The descriptor does not say whether the first value is signed. A table is for values that there are.
    if first >= 2**15 and values.max() < first:
        first -= 2**16
    return entries, first


def _rescaling(data, values: np.ndarray) -> tuple[float, float]:
    slope, intercept = (next(iter(read_numbers(data, word)), None) for word in ("RescaleSlope", "RescaleIntercept"))
    slope, intercept = slope or 1.0, intercept or 0.0
    ends = np.array([values.min(), values.max()]) * slope + intercept
    return (slope, intercept) if np.isfinite(ends).all() and np.ptp(ends) > 0 else (1.0, 0.0)


def _voi_tables(data, values: np.ndarray) -> Iterator[np.ndarray]:
    """From 0 to 1: white is the largest entry, since the bits that a table declares are often those of its words."""
    return (entries / largest for entries, largest in _tables(data, "VOILUTSequence", values))


def _windows(data, values: np.ndarray) -> Iterator[np.ndarray]:
    function = _codes(data, "VOILUTFunction")[:1]
    for center, width in zip(read_numbers(data, "WindowCenter"), read_numbers(data, "WindowWidth"), strict=False):
        if center is None or width is None or width <= 0:
            continue
        if function == ["SIGMOID"]:
            yield 1 / (1 + np.exp(-4 * (values - center) / width))
        elif function == ["LINEAR_EXACT"]:
            yield np.clip((values - center) / width + 0.5, 0, 1)
        else:
            yield np.clip((values - center + 0.5) / max(width - 1, 1e-6) + 0.5, 0, 1)


def _without_window(values: np.ndarray, slope: float, intercept: float, inverted: bool) -> tuple[np.ndarray, bool]:
    """
    Rescaled values in steps of the stored ones, from 0 upwards: how large a unit is does not matter. Black is 0 where
    they start at it or above, but for what is added to all of them.
    """
    offset, rising = int(np.clip(np.rint(intercept / abs(slope)), -(2**40), 2**40)), slope > 0
    if inverted and not rising:  # inverted twice
        offset, rising, inverted = -offset, True, False
    lowest, highest = _range_of(values)
    rescaled = offset + values if rising else offset - values
    if rescaled.min() >= 0:
        black = max(0, offset + lowest if rising else offset - highest)
    else:
        black = offset + min(int(values.min()), 0) if rising else int(rescaled.min())
    return rescaled - black, inverted


def _range_of(values: np.ndarray) -> tuple[int, int]:
    """The least and greatest value of the smallest bit depth that holds the values."""
    low, high = int(values.min()), int(values.max())
    for bits in BIT_DEPTHS:
        least = -(2 ** (bits - 1)) if low < 0 else 0
        if least <= low and high < least + 2**bits:
            return least, least + 2**bits - 1
    return low, high


# Shutters


def shutter(data, rows: int, columns: int) -> np.ndarray | None:
    """
    Where the display shutter lies (PS3.3, C.7.6.11), which is outside any of its shapes.

    Returns:
        `np.ndarray`: `[H, W]` bool; `None` if nothing is hidden, or if everything would be.
    """
    names = [name for name in _codes(data, "ShutterShape") if name in _SHAPES]
    if not names:
        return None
    hidden = np.zeros((rows, columns), bool)
    for name in names:
        open_part = _SHAPES[name](data, rows, columns)
        if open_part is not None and open_part.any():
            hidden |= ~open_part
    return hidden if hidden.any() and not hidden.all() else None


def _rectangle(data, rows: int, columns: int) -> np.ndarray | None:
    sides = ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal")
    edges = [next(iter(read_numbers(data, f"Shutter{side}Edge")), None) for side in sides]
    if None in edges:
        return None
    left, right, upper, lower = edges
    row, column = np.ogrid[1 : rows + 1, 1 : columns + 1]
    return (left <= column) & (column <= right) & (upper <= row) & (row <= lower)


def _circle(data, rows: int, columns: int) -> np.ndarray | None:
    center, radius = read_numbers(data, "CenterOfCircularShutter"), read_numbers(data, "RadiusOfCircularShutter")
    if len(center) != 2 or len(radius) != 1 or None in (*center, *radius) or radius[0] <= 0:
        return None
    row, column = np.ogrid[1 : rows + 1, 1 : columns + 1]
    with np.errstate(all="ignore"):
        return (column - center[1]) ** 2 <= radius[0] ** 2 - (row - center[0]) ** 2


def _polygon(data, rows: int, columns: int) -> np.ndarray | None:
    corners = read_numbers(data, "VerticesOfThePolygonalShutter")
    if not 6 <= len(corners) <= 2 * _MOST_CORNERS or len(corners) % 2 or None in corners:
        return None
    if max(map(abs, corners)) > _FARTHEST:
        return None
    inside = Image.new("1", (columns, rows))
    points = [(column - 1, row - 1) for row, column in zip(corners[::2], corners[1::2], strict=True)]
    ImageDraw.Draw(inside).polygon(points, fill=1, outline=1)
    return np.asarray(inside)


_SHAPES = {"RECTANGULAR": _rectangle, "CIRCULAR": _circle, "POLYGONAL": _polygon}
