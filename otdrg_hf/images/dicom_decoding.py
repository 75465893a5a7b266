"""Decoding of DICOM pixel data, by what the data is rather than by what the transfer syntax says it is."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

JPEG, JPEG_12, JPEG_LOSSLESS, JPEG_LS = "jpeg", "jpeg 12", "jpeg lossless", "jpeg-ls"
JPEG_2000, RLE = "jpeg 2000", "rle"
# Pillow has no decoder for these. GDCM, which pydicom would take, ends the whole process on damaged data.
BY_IMAGECODECS = {JPEG_12: "jpeg8_decode", JPEG_LOSSLESS: "jpeg8_decode", JPEG_LS: "jpegls_decode"}
EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
UNCOMPRESSED = ("1.2.840.10008.1.2", EXPLICIT, BIG_ENDIAN, "1.2.840.10008.1.2.1.99")
_RLE_SYNTAX = "1.2.840.10008.1.2.5"
_ITEM, _UNDEFINED_LENGTH = b"\xfe\xff\x00\xe0", 0xFFFFFFFF
_END_OF_IMAGE = b"\xff\xd9"
_CODESTREAM, _JP2 = b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_LOSSLESS_FRAMES = (0xC3, 0xC7, 0xCB, 0xCF)
_OTHER_SIZE = "the DICOM elements Rows and Columns are not the size of the compressed image"
_END_MISSING = "the compressed image is cut short: its end is missing"


class MissingDecoder(Exception):
    """What kind of file it is, and which package it needs that is not installed."""


class DicomFault(Exception):
    """What is wrong with a DICOM file, in words that do not quote it."""


class ImageHeader(NamedTuple):
    """
    The header elements that say how pixels are stored.

    Attributes:
        allocated, stored, high_bit (`int`, *optional*): In bits; `None` where missing, which compressed pixels allow.
        planar (`int`, *optional*): PlanarConfiguration, of colour images.
    """

    rows: int
    columns: int
    samples: int
    photometric: str
    signed: bool
    allocated: int | None
    stored: int | None
    high_bit: int | None
    planar: int | None


class StoredPixels(NamedTuple):
    """
    Pixels as stored, before any transform.

    Attributes:
        words (`np.ndarray`): `[H, W]` unsigned integers, negative values as their two's complement; `[H, W, 3]` RGB.
        bits (`int`): Size of a word.
        precise (`bool`): Whether all bits count, as in a stream with its own precision; else the header says which do.
        signed (`bool`): Whether words are two's complements.
    """

    words: np.ndarray
    bits: int
    precise: bool
    signed: bool


class _JpegFrame(NamedTuple):
    marker: int
    precision: int
    rows: int
    columns: int
    scan: int  # where the first scan starts


def decode_pixels(element, header: ImageHeader, syntax: str) -> StoredPixels:
    """
    Decodes the single frame of a file.

    Args:
        element (`pydicom.dataelem.RawDataElement`): Its PixelData.
        header (`ImageHeader`): How the pixels are stored.
        syntax (`str`): UID of its transfer syntax, of which only the byte order is trusted.

    Raises:
        MissingDecoder: if imagecodecs is needed and not installed.
        DicomFault: for faults that can be named.
        ValueError, RuntimeError and others: for damaged data.
    """
    content = bytes(element.value or b"")
    if len(content) < element.length != _UNDEFINED_LENGTH:
        raise DicomFault("the DICOM pixel data is cut short")
    plain, in_items = _plain_size(header), content.startswith(_ITEM)
    # As many values as the image has are its values, even if the first of them look like the start of something else.
    if len(content) in (plain, plain + plain % 2) and (syntax in UNCOMPRESSED or not in_items):
        return _uncompressed(element, content, header, syntax)
    stream = _joined_fragments(content) if in_items else content
    kind = stream_kind(stream)
    if kind is None and in_items and len(stream) not in (plain, plain + 1):
        raise DicomFault("its compression cannot be read; export it uncompressed")
    if kind is None:
        return _uncompressed(element, stream, header, syntax)
    if kind == RLE:
        return _run_lengths(stream, header)
    return _decompressed(stream, kind, header)


def stream_kind(stream: bytes) -> str | None:
    """The compression of a stream; `None` for one that is not known."""
    if stream.startswith((_CODESTREAM, _JP2)):
        return JPEG_2000
    if stream.startswith(b"\xff\xd8\xff"):
        frame = _jpeg_frame(stream)
        if frame.marker == 0xF7:
            return JPEG_LS
        if frame.marker in _LOSSLESS_FRAMES:
            return JPEG_LOSSLESS
        return JPEG if frame.precision == 8 else JPEG_12
    segments, first = (int.from_bytes(stream[at : at + 4], "little") for at in (0, 4))
    return RLE if 1 <= segments <= 15 and first == 64 else None


def _pydicom():
    import pydicom.encaps
    import pydicom.pixels

    return pydicom


def _joined_fragments(content: bytes) -> bytes:
    """All fragments but the offset table, which a single frame does not need. Some writers leave it out."""
    table, *fragments = _pydicom().encaps.generate_fragments(content)
    has_table = len(table) <= 64 or stream_kind(table) is None
    return b"".join(fragments if has_table else (table, *fragments))


def _jpeg_frame(stream: bytes) -> _JpegFrame:
    """What a JPEG or JPEG-LS stream states; a decoder would trust it and allocate gigabytes."""
    at, found = 2, None
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker in _START_OF_FRAME:
            rows, columns = (int.from_bytes(stream[at + skip : at + skip + 2], "big") for skip in (5, 7))
            found = _JpegFrame(marker, stream[at + 4], rows, columns, 0)
        elif marker == 0xDA and found:
            return found._replace(scan=at)
        at += 1 if marker == 0xFF else 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    raise DicomFault(_END_MISSING)


def _plain_size(header: ImageHeader) -> int:
    samples = 2 if header.photometric == "YBR_FULL_422" else header.samples
    return header.rows * header.columns * samples * max(1, (header.allocated or 0) // 8)


# Uncompressed


def _uncompressed(element, content: bytes, header: ImageHeader, syntax: str) -> StoredPixels:
    _require_bits(header)
    if len(content) < _plain_size(header):
        raise DicomFault("PixelData is shorter than the DICOM elements Rows, Columns and BitsAllocated say")
    if header.samples != 1:
        if header.planar is None:
            raise DicomFault("the DICOM element PlanarConfiguration is missing")
        syntax = syntax if syntax == BIG_ENDIAN else EXPLICIT
        return _by_pydicom(content, header, syntax, pixel_vr=element.VR, planar_configuration=header.planar)
    order = ">" if syntax == BIG_ENDIAN else "<"
    if syntax == BIG_ENDIAN and header.allocated == 8 and element.VR == "OW":
        content = np.frombuffer(content, "<u2", len(content) // 2).astype(">u2").tobytes()
    count = header.rows * header.columns
    words = np.frombuffer(content, f"{order}u{header.allocated // 8}", count).reshape(header.rows, header.columns)
    return StoredPixels(words.astype(words.dtype.newbyteorder("="), copy=False), header.allocated, False, header.signed)


def _require_bits(header: ImageHeader) -> None:
    for keyword, value in (("BitsAllocated", header.allocated), ("BitsStored", header.stored)):
        if value is None:
            raise DicomFault(f"the DICOM element {keyword} is missing")
    if header.allocated not in (8, 16, 32):
        raise DicomFault("the DICOM element BitsAllocated is unusable: pixels of 8 or 16 bits are read")
    if not 1 <= header.stored <= header.allocated:
        raise DicomFault("the DICOM element BitsStored is unusable: it is not within BitsAllocated")


def _by_pydicom(content: bytes, header: ImageHeader, syntax: str, **options) -> StoredPixels:
    if header.samples != 1 and header.photometric not in ("RGB", "YBR_FULL", "YBR_FULL_422"):
        raise DicomFault("the DICOM element PhotometricInterpretation is unusable for pixels that are not JPEG")
    decoder = _pydicom().pixels.get_decoder(syntax)
    words, _ = decoder.as_array(
        content,
        index=0,
        rows=header.rows,
        columns=header.columns,
        samples_per_pixel=header.samples,
        photometric_interpretation=header.photometric,
        pixel_representation=0,
        bits_allocated=header.allocated,
        bits_stored=header.allocated,
        number_of_frames=1,
        pixel_keyword="PixelData",
        **options,
    )
    return StoredPixels(words, header.allocated, False, header.signed)


def _run_lengths(stream: bytes, header: ImageHeader) -> StoredPixels:
    each, rest = divmod(int.from_bytes(stream[:4], "little"), header.samples)
    if rest or each not in (1, 2, 4):
        raise DicomFault("the DICOM element SamplesPerPixel does not fit the compressed image")
    header = header._replace(allocated=8 * each)
    if _plain_size(header) > 64 * len(stream):  # two bytes make 128 at most
        raise DicomFault("the compressed image is cut short, or smaller than the DICOM elements Rows and Columns say")
    options = {"decoding_plugin": "pydicom", "planar_configuration": 0}
    return _by_pydicom(_pydicom().encaps.encapsulate([stream]), header, _RLE_SYNTAX, **options)


# Compressed


def _decompressed(stream: bytes, kind: str, header: ImageHeader) -> StoredPixels:
    if kind == JPEG_2000:
        return _jpeg_2000(stream, header)
    frame = _jpeg_frame(stream)
    if (frame.rows, frame.columns) != (header.rows, header.columns):
        raise DicomFault(_OTHER_SIZE)
    end = stream.find(_END_OF_IMAGE, frame.scan)
    if end >= 0 and kind != JPEG:  # of which progressive ones may have that between two scans
        stream = stream[: end + 2]
    words = _jpeg(stream, kind, header) if end >= 0 else _jpeg_without_end(stream, kind, header)
    return StoredPixels(words, frame.precision, True, header.signed)


def _jpeg_without_end(stream: bytes, kind: str, header: ImageHeader) -> np.ndarray:
    """A lossy JPEG that lacks only its last marker, so that whatever follows makes no difference."""
    if kind in (JPEG_LOSSLESS, JPEG_LS):
        raise DicomFault(_END_MISSING)
    try:
        stream = stream.rstrip(b"\xff")
        first, second = (_jpeg(stream + more + _END_OF_IMAGE, kind, header) for more in (b"", b"\x5a\xa5" * 64))
    except (OSError, ValueError, RuntimeError):
        raise DicomFault(_END_MISSING) from None
    if not np.array_equal(first, second):
        raise DicomFault(_END_MISSING)
    return first


def _jpeg(stream: bytes, kind: str, header: ImageHeader) -> np.ndarray:
    if kind == JPEG:
        return _jpeg_by_pillow(stream, header)
    try:
        import imagecodecs
    except ImportError:
        raise MissingDecoder("compressed DICOM, which needs imagecodecs") from None
    words = getattr(imagecodecs, BY_IMAGECODECS[kind])(stream)
    if words.ndim == 3 and header.photometric.startswith("YBR_FULL"):
        words = _pydicom().pixels.convert_color_space(words, "YBR_FULL", "RGB")
    return words


def _jpeg_by_pillow(stream: bytes, header: ImageHeader) -> np.ndarray:
    image = Image.open(io.BytesIO(stream), formats=("JPEG",))
    if image.size != (header.columns, header.rows):
        raise DicomFault(_OTHER_SIZE)
    if header.photometric == "RGB" and image.mode == "RGB" and not {"jfif", "adobe"} & image.info.keys():
        image.draft("YCbCr", image.size)  # Pillow would take the three channels for YCbCr, and turn them into RGB
        return np.asarray(image)
    return np.asarray(image if image.mode == "L" else image.convert("RGB"))


def _jpeg_2000(stream: bytes, header: ImageHeader) -> StoredPixels:
    image = Image.open(io.BytesIO(stream), formats=("JPEG2000",))
    if image.size != (header.columns, header.rows):
        raise DicomFault(_OTHER_SIZE)
    if image.mode != "L" and not image.mode.startswith("I;16"):
        return StoredPixels(np.asarray(image.convert("RGB")), 8, True, False)
    size = stream[stream.find(_CODESTREAM) + 42]
    signed, precision = bool(size & 0x80), min((size & 0x7F) + 1, 16)
    # Pillow moves values up to the top of 8 or 16 bits, and signed ones to above 0.
    words = np.asarray(image)
    words = words >> (8 * words.dtype.itemsize - precision)
    if signed:
        words = (words ^ words.dtype.type(1 << (precision - 1))).astype(words.dtype)
    return StoredPixels(words, precision, True, signed or header.signed)
