"""Radiograph files that the tests make, and seeded damage to headers, lengths, streams and ends, and splices of two."""

import io
import re
import struct
import zlib
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image
from pydicom import uid

from tests.support.deep_images import deep_png, deep_tiff
from tests.support.dicom_files import LOSSLESS, LOSSY, lut, make_dicom

CASES = Path(__file__).parents[3] / "shared" / "cases" / "films"
NUMBERS = (
    0,
    1,
    2,
    7,
    8,
    15,
    16,
    17,
    64,
    127,
    128,
    255,
    256,
    4095,
    32767,
    32768,
    65535,
    1 << 24,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
PNG_START = b"\x89PNG\r\n\x1a\n"
# Tag, value representation and, behind them, the length of an element of an explicit little-endian file
ELEMENT = re.compile(rb"[\x02\x08\x10\x18\x28\xe0\xfe][\x00\x7f\xff]..[A-Z]{2}", re.DOTALL)
NUMBER = re.compile(rb"[0-9.,-]{2,}")


@lru_cache
def films() -> dict[str, bytes]:
    """Files by name: those of ../shared/cases where they are, and one of every kind that can be made here."""
    made = {path.name: path.read_bytes() for path in sorted(CASES.glob("*.dcm"))}
    film = (np.add.outer(np.arange(48) * 3, np.arange(40) * 2) % 256).astype(np.uint8)
    deep = film.astype(np.uint16) * 16 + 3
    window = {"WindowCenter": [2048, 300], "WindowWidth": [4096, 400], "RescaleSlope": 1, "RescaleIntercept": -5}
    for name, syntax in LOSSLESS.items():
        made[f"{name}, 8 bits"] = make_dicom(film, syntax, WindowCenter=128, WindowWidth=256)
        made[f"{name}, 12 bits"] = make_dicom(deep, syntax, 12, **window)
    for name, syntax in LOSSY.items():
        made[f"lossy {name}"] = make_dicom(film, syntax)
        made[f"lossy {name} in colour"] = make_dicom(np.stack([film] * 3, -1), syntax)
    shutters = {
        **{"ShutterShape": ["RECTANGULAR", "CIRCULAR", "POLYGONAL"], "CenterOfCircularShutter": [24, 20]},
        **{"RadiusOfCircularShutter": 30, "ShutterLeftVerticalEdge": 3, "ShutterRightVerticalEdge": 36},
        **{"ShutterUpperHorizontalEdge": 4, "ShutterLowerHorizontalEdge": 44},
        **{"VerticesOfThePolygonalShutter": [2, 2, 2, 38, 46, 38, 46, 2]},
    }
    made["shutters and padding"] = make_dicom(deep, bits=12, PixelPaddingValue=3, PixelPaddingRangeLimit=40, **shutters)
    tables = {"ModalityLUTSequence": lut(np.arange(4096)[::-1], 12), "VOILUTSequence": lut(np.arange(4096) // 16, 8)}
    made["tables"] = make_dicom(deep, bits=12, PhotometricInterpretation="MONOCHROME1", **tables)
    made["colour"] = make_dicom(np.stack([film, film // 2, film // 3], -1))
    made["12-bit JPEG"] = make_dicom(deep, uid.JPEGExtended12Bit, 12)
    for count in (1, 2, 3, 4):
        made[f"PNG of {count} channels"] = deep_png(np.stack([deep] * count, -1))
        made[f"TIFF of {count} channels"] = deep_tiff(np.stack([deep] * count, -1), "<>"[count % 2])
        made[f"planar TIFF of {count} channels"] = deep_tiff(np.stack([deep] * count, -1), planar=count > 1)
    made["TIFF whose white is zero"] = deep_tiff(deep[..., None], photometric=0)
    picture, exif = Image.fromarray(film), Image.Exif()
    exif[0x0112] = 6
    for kind, options in (
        *[("PNG", {"exif": exif}), ("JPEG", {"exif": exif}), ("TIFF", {"compression": "tiff_lzw"}), ("GIF", {})],
        *[("WEBP", {"lossless": True}), ("BMP", {}), ("JPEG2000", {}), ("PPM", {}), ("TIFF", {"compression": "jpeg"})],
    ):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        made[f"{kind} {options.get('compression', '')}"] = buffer.getvalue()
    return made


def mutated(seed: int) -> bytes:
    """One of the films, damaged once to four times."""
    random = Random(seed)
    contents = list(films().values())
    content = random.choice(contents)
    for _ in range(random.randint(1, 4)):
        damage = random.choice(DAMAGES)
        content = damage(content, random, random.choice(contents))
    return content


def _bytes(content: bytes, random: Random, other: bytes) -> bytes:
    changed = bytearray(content)
    last = random.choice((200, 900, 2000, len(changed)))
    for _ in range(random.choice((1, 1, 2, 8))) if changed else ():
        changed[random.randrange(min(last, len(changed)))] = random.randrange(256)
    return bytes(changed)


def _number(content: bytes, random: Random, other: bytes) -> bytes:
    form = random.choice(("<H", ">H", "<I", ">I"))
    value = random.choice(NUMBERS) % 256 ** struct.calcsize(form)
    return _replaced(content, random.randrange(len(content) + 1), struct.pack(form, value))


def _length(content: bytes, random: Random, other: bytes) -> bytes:
    """Of an element, or of an item."""
    places = [match.end() for match in ELEMENT.finditer(content)]
    places += [match.end() for match in re.finditer(rb"\xfe\xff[\x00\x0d\xdd]\xe0", content)]
    if not places:
        return _number(content, random, other)
    value = struct.pack("<I", random.choice((*NUMBERS, len(content), random.randrange(2000))))
    return _replaced(content, random.choice(places) + random.choice((0, 2)), value[: random.choice((2, 4))])


def _text(content: bytes, random: Random, other: bytes) -> bytes:
    places = [match.span() for match in NUMBER.finditer(content)]
    if not places:
        return _bytes(content, random, other)
    start, end = random.choice(places)
    return _replaced(content, start, bytes(random.choice(b"0123456789.,-+eENa\\ \0") for _ in range(end - start)))


def _mark(content: bytes, random: Random, other: bytes) -> bytes:
    """Of a JPEG stream, or what follows it."""
    places = [match.start() for match in re.finditer(rb"\xff[\x4f-\xff]", content)]
    if not places:
        return _number(content, random, other)
    place = random.choice(places) + random.randrange(1, 14)
    return _replaced(
        content, place, bytes([random.choice((0, 1, 8, 16, 0xC3, 0xD9, 0xDA, 0xF7, 255, random.randrange(256)))])
    )


def _end(content: bytes, random: Random, other: bytes) -> bytes:
    return (
        content[: random.randrange(len(content) + 1)] if random.random() < 0.5 else content[: -random.randrange(1, 40)]
    )


def _cut_out(content: bytes, random: Random, other: bytes) -> bytes:
    start = random.randrange(len(content) + 1)
    return content[:start] + content[start + random.choice((1, 2, 8, 100)) :]


def _put_in(content: bytes, random: Random, other: bytes) -> bytes:
    start, source = random.randrange(len(content) + 1), random.randrange(len(other) + 1)
    return content[:start] + other[source : source + random.choice((1, 2, 16, 400))] + content[start:]


def _spliced(content: bytes, random: Random, other: bytes) -> bytes:
    return content[: random.randrange(len(content) + 1)] + other[random.randrange(len(other) + 1) :]


def _chunk(content: bytes, random: Random, other: bytes) -> bytes:
    """Of a PNG, with its checksum put right; what is compressed is damaged inside."""
    if not content.startswith(PNG_START):
        return _bytes(content, random, other)
    at, chunks = len(PNG_START), []
    while at + 12 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    place = random.randrange(len(chunks) or 1)
    changed = PNG_START
    for number, (kind, data) in enumerate(chunks):
        if number == place and kind == b"IDAT" and random.random() < 0.7:
            try:
                data = zlib.compress(_bytes(zlib.decompress(data), random, other))
            except zlib.error:
                data = _bytes(data, random, other)
        elif number == place:
            data = _bytes(data, random, other)
        changed += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return changed


def _replaced(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value) :]


DAMAGES = (
    _bytes,
    _bytes,
    _number,
    _number,
    _length,
    _length,
    _text,
    _mark,
    _mark,
    _end,
    _cut_out,
    _put_in,
    _spliced,
    _chunk,
)
