"""Files of 16 bits a channel, which the tests write themselves since Pillow writes none in colour."""

import struct
import zlib

import numpy as np


def deep_png(channels: np.ndarray) -> bytes:
    """`[H, W, 1 to 4 channels]` as a PNG."""
    height, width, count = channels.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in channels)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[count], 0, 0, 0)
    chunks = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(lines)), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_tiff(channels: np.ndarray, order: str = "<", photometric: int | None = None, planar: bool = False) -> bytes:
    """
    `[H, W, 1 to 4 channels]` as an uncompressed TIFF.

    Args:
        order (`str`, *optional*, defaults to `"<"`): Of bytes, or `">"`.
        photometric (`int`, *optional*): 0 for grey whose white is zero; by default 1 (grey) or 2 (colour).
        planar (`bool`, *optional*, defaults to `False`): Whether channels stand one after the other.
    """
    height, width, count = channels.shape
    data = (channels.transpose(2, 0, 1) if planar else channels).astype(order + "u2").tobytes()
    strips = count if planar else 1
    size = len(data) // strips
    tags = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [16] * count),
        259: ("H", [1]),
        262: ("H", [(2 if count > 2 else 1) if photometric is None else photometric]),
        273: ("I", [8 + strip * size for strip in range(strips)]),
        277: ("H", [count]),
        278: ("I", [height]),
        279: ("I", [size] * strips),
        284: ("H", [2 if planar else 1]),
        338: ("H", [2] * (count % 2 == 0)),
    }
    return _with_directory(data, {tag: entry for tag, entry in tags.items() if entry[1]}, order)


def _with_directory(data: bytes, tags: dict[int, tuple[str, list[int]]], order: str) -> bytes:
    """The directory stands behind the data, and behind it the values that do not fit into its entries."""
    start = 8 + len(data)
    end = start + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, (kind, numbers) in tags.items():
        value = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(value) > 4:
            value, values = struct.pack(order + "I", end + len(values)), values + value
        entries += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[kind], len(numbers)) + value.ljust(4, b"\0")
    header = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, start)
    return header + data + struct.pack(order + "H", len(tags)) + entries + bytes(4) + values
