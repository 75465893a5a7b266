"""Tests of DICOM streams: read by what they are, with the precision that is their own, however they are wrapped."""

import io

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom")
imagecodecs = pytest.importorskip("imagecodecs")

from pydicom import uid  # noqa: E402

from otdrg_hf.images.dicom_decoding import stream_kind  # noqa: E402
from otdrg_hf.modeling.image_loading import load_radiograph  # noqa: E402
from tests.support.dicom_files import change_syntax, compress, even, in_items, make_dicom  # noqa: E402
from tests.support.tiny_models import make_films  # noqa: E402

FILM = make_films(1, (64, 48))[0]  # 0 to 255
DEEP = FILM.astype(np.uint16) * 15 + 7  # 7 to 3832, of 12 bits
SIGNED = DEEP.astype(np.int16) - 2048
SHOWN = DEEP * (255 / 4095)
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
DEEP_SYNTAXES = {
    "jpeg lossless": uid.JPEGLosslessSV1,
    "jpeg lossless 4": uid.JPEGLossless,
    "jpeg-ls": uid.JPEGLSLossless,
    "jpeg 2000": uid.JPEG2000Lossless,
    "jpeg 12": uid.JPEGExtended12Bit,
    "rle": uid.RLELossless,
}
DECLARED = {
    **DEEP_SYNTAXES,
    "jpeg": uid.JPEGBaseline8Bit,
    "jpeg-ls lossy": uid.JPEGLSNearLossless,
    "jpeg 2000 lossy": uid.JPEG2000,
    "htj2k": "1.2.840.10008.1.2.4.201",
    "explicit": uid.ExplicitVRLittleEndian,
    "unknown": "1.2.840.10008.1.2.4.999",
}


def grey(content) -> np.ndarray:
    return np.asarray(load_radiograph(content))[..., 0].astype(float)


def stream_of(pixels: np.ndarray, syntax: str, bits: int) -> bytes:
    """A stream of any compression. JPEG 2000 of the bits that there are, which Pillow does not write."""
    if syntax == uid.JPEG2000Lossless:
        return imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", bitspersample=bits, reversible=True)
    if syntax == uid.RLELossless:
        data = pydicom.dcmread(io.BytesIO(make_dicom(pixels, syntax)))
        return pydicom.encaps.get_frame(data.PixelData, 0, number_of_frames=1)
    return compress(pixels, syntax, bits)


def wrapped(stream: bytes, syntax: str, pixels=DEEP, bits=12, **elements) -> bytes:
    return make_dicom(pixels, syntax, bits, pixel_data=in_items(even(stream)), **elements)


def lossy(name: str) -> float:
    return 3 if name in ("jpeg 12", "jpeg") else 0.6


# By their content


@pytest.mark.parametrize("declared", DECLARED)
@pytest.mark.parametrize("actual", DEEP_SYNTAXES)
def test_stream_is_read_by_what_it_is(actual, declared):
    stream = stream_of(DEEP, DEEP_SYNTAXES[actual], 12)
    assert abs(grey(wrapped(stream, DECLARED[declared])) - SHOWN).max() <= lossy(actual)


@pytest.mark.parametrize("declared", DECLARED)
@pytest.mark.parametrize("actual", ["jpeg", "jpeg 2000 lossy", "jpeg-ls lossy"])
def test_stream_of_8_bits_is_read_by_what_it_is(actual, declared):
    stream = compress(FILM, DECLARED[actual], 8)
    assert abs(grey(wrapped(stream, DECLARED[declared], FILM, 8)) - FILM).max() <= 8


@pytest.mark.parametrize("declared", DECLARED)
def test_pixels_that_are_not_compressed_at_all(declared):
    plain = make_dicom(DEEP, bits=12)
    assert abs(grey(change_syntax(plain, DECLARED[declared])) - SHOWN).max() <= 0.6
    in_an_item = make_dicom(DEEP, DECLARED[declared], 12, pixel_data=in_items(DEEP.tobytes()))
    assert abs(grey(in_an_item) - SHOWN).max() <= 0.6


@pytest.mark.parametrize("declared", ["explicit", "jpeg lossless"])
@pytest.mark.parametrize("actual", ["jpeg lossless", "jpeg-ls", "jpeg 2000"])
def test_stream_that_is_in_no_item(actual, declared):
    stream = even(stream_of(DEEP, DEEP_SYNTAXES[actual], 12))
    content = make_dicom(DEEP, DECLARED[declared], 12, pixel_data=stream)
    assert abs(grey(content) - SHOWN).max() <= 0.6


def test_jpeg_2000_file_in_an_item():
    stream = io.BytesIO()
    Image.fromarray(FILM).save(stream, "JPEG2000")
    assert stream.getvalue()[4:8] == b"jP  "
    assert (grey(wrapped(stream.getvalue(), uid.JPEG2000Lossless, FILM, 8)) == FILM).all()


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_in_colour_under_a_grey_header(progressive):
    stream = io.BytesIO()
    Image.fromarray(np.stack([FILM] * 3, -1)).save(stream, "JPEG", quality=95, progressive=progressive)
    assert abs(grey(wrapped(stream.getvalue(), uid.JPEGBaseline8Bit, FILM, 8)) - FILM).max() <= 8


def test_colours_of_jpeg():
    ramp = np.linspace(0, 255, 64 * 48).reshape(64, 48)
    colour = np.stack([ramp, ramp[::-1], np.full_like(ramp, 90)], -1).astype(np.uint8)
    transformed = io.BytesIO()
    Image.fromarray(colour).save(transformed, "JPEG", quality=95)
    as_it_is = imagecodecs.jpeg8_encode(colour, level=95, colorspace="rgb", outcolorspace="rgb")
    for stream, photometric in ((transformed.getvalue(), "YBR_FULL_422"), (as_it_is, "RGB")):
        content = wrapped(stream, uid.JPEGBaseline8Bit, colour, 8, PhotometricInterpretation=photometric)
        assert abs(np.asarray(load_radiograph(content)).astype(int) - colour).mean() <= 2


def test_uncompressed_colour():
    colour = np.stack([FILM, FILM // 2, 255 - FILM], -1)
    planes = make_dicom(
        np.ascontiguousarray(colour), PlanarConfiguration=1, PixelData=colour.transpose(2, 0, 1).tobytes()
    )
    for content in (make_dicom(colour), planes, make_dicom(colour, uid.RLELossless)):
        assert (np.asarray(load_radiograph(content)) == colour).all()


def test_what_no_decoder_knows():
    with pytest.raises(ValueError, match="its compression cannot be read; export it uncompressed"):
        load_radiograph(wrapped(b"\0\0\0\1\x67\x42" * 100, "1.2.840.10008.1.2.4.100"))  # MPEG


@pytest.mark.parametrize("content", [b"", b"\xff", b"\xff\xd8", b"\x01\0\0\0", bytes(64), b"\xff\x4f\xff\x52"])
def test_bytes_that_are_no_stream(content):
    assert stream_kind(content) is None


# Precision


@pytest.mark.parametrize("stored", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("actual", ["jpeg lossless", "jpeg-ls", "jpeg 2000", "jpeg 12"])
@pytest.mark.parametrize("window", [{}, WINDOW], ids=["none", "window"])
def test_stream_knows_its_precision(actual, stored, window):
    content = wrapped(stream_of(DEEP, DEEP_SYNTAXES[actual], 12), DEEP_SYNTAXES[actual], bits=stored, **window)
    assert abs(grey(content) - SHOWN).max() <= lossy(actual)


@pytest.mark.parametrize("actual", ["jpeg", "jpeg-ls", "jpeg 2000", "jpeg lossless", "rle"])
@pytest.mark.parametrize("stored", [8, 12, 16])
def test_stream_of_8_bits_in_16_allocated(actual, stored):
    syntax = {**DEEP_SYNTAXES, "jpeg": uid.JPEGBaseline8Bit}[actual]
    content = wrapped(stream_of(FILM, syntax, 8), syntax, FILM.astype(np.uint16), stored)
    assert abs(grey(content) - FILM).max() <= (8 if actual == "jpeg" else 0)


@pytest.mark.parametrize("actual", ["jpeg lossless", "jpeg-ls", "jpeg 2000"])
def test_elements_that_a_stream_does_without(actual):
    syntax = DEEP_SYNTAXES[actual]
    content = wrapped(stream_of(DEEP, syntax, 12), syntax, BitsAllocated=None, BitsStored=None, HighBit=None)
    assert abs(grey(content) - SHOWN).max() <= 0.6


def test_overlay_bits_are_masked_where_words_are_stored_whole():
    marked = DEEP.copy()
    marked[:8] |= 0x5000
    for syntax in (uid.ExplicitVRLittleEndian, uid.RLELossless):
        assert abs(grey(make_dicom(marked, syntax, 12)) - SHOWN).max() <= 0.6


@pytest.mark.parametrize("precision", [12, 16])
@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("actual", ["jpeg lossless", "jpeg-ls"])
@pytest.mark.parametrize("stored", [12, 16])
def test_signed_values_in_a_stream(actual, precision, extended, stored):
    written = 16 if actual == "jpeg-ls" else precision  # this encoder knows 8 and 16
    if precision == 12 and extended or stored == 16 and written == 16 and not extended:
        pytest.skip("the sign is nowhere")
    words = SIGNED.astype(np.uint16) if extended else SIGNED.astype(np.uint16) & 0xFFF
    if precision == 16:
        words[0, 0] |= 0xF000 if words[0, 0] & 0x800 else 0  # lest the encoder write fewer bits
    stream = stream_of(words, DEEP_SYNTAXES[actual], precision)
    content = wrapped(stream, DEEP_SYNTAXES[actual], SIGNED, stored, WindowCenter=0, WindowWidth=4096)
    assert abs(grey(content) - SHOWN).max() <= 0.6


@pytest.mark.parametrize("stored", [8, 12, 16])
def test_signed_values_in_jpeg_2000(stored):
    stream = stream_of(SIGNED, uid.JPEG2000Lossless, 12)
    for pixels in (SIGNED, DEEP):  # the header may have it otherwise
        content = wrapped(stream, uid.JPEG2000Lossless, pixels, stored, WindowCenter=0, WindowWidth=4096)
        assert abs(grey(content) - SHOWN).max() <= 0.6


# Uncompressed words


@pytest.mark.parametrize("stored", [8, 10, 12, 14])
@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("junk", [False, True], ids=["clean", "overlay below"])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless])
def test_left_justified_words(stored, window, junk, syntax):
    values = (FILM.astype(np.uint32) * (2**stored - 1) // 255).astype(np.uint16)
    words = values << (16 - stored)
    if junk:
        words[:5] |= 1
    elements = {"WindowCenter": 2 ** (stored - 1), "WindowWidth": 2**stored} if window else {}
    assert abs(grey(make_dicom(words, syntax, BitsStored=stored, HighBit=15, **elements)) - FILM).max() <= 1


def test_left_justified_signed_words():
    content = make_dicom((SIGNED << 4).astype(np.int16), bits=12, HighBit=15, WindowCenter=0, WindowWidth=4096)
    assert abs(grey(content) - SHOWN).max() <= 0.6


@pytest.mark.parametrize("actual", ["jpeg lossless", "jpeg-ls", "jpeg 2000"])
def test_left_justified_words_in_a_stream(actual):
    stream = stream_of(DEEP << 4, DEEP_SYNTAXES[actual], 16)
    content = wrapped(stream, DEEP_SYNTAXES[actual], bits=12, HighBit=15, **WINDOW)
    assert abs(grey(content) - SHOWN).max() <= 0.6


@pytest.mark.parametrize("high_bit", [11, 15, 13, 7, 40, None])
def test_high_bit_that_words_contradict(high_bit):
    assert abs(grey(make_dicom(DEEP, bits=12, HighBit=high_bit)) - SHOWN).max() <= 0.6
    assert abs(grey(make_dicom(DEEP, bits=16, HighBit=high_bit)) - SHOWN).max() <= 0.6


def test_32_bits():
    wide = DEEP.astype(np.uint32)
    assert abs(grey(make_dicom(wide, bits=32)) - SHOWN).max() <= 0.6
    wide = wide * 1000
    content = make_dicom(wide, bits=32, WindowCenter=2_048_000, WindowWidth=4_096_000)
    assert abs(grey(content) - SHOWN).max() <= 0.6
    with pytest.raises(ValueError, match="beyond 16 bits"):
        load_radiograph(make_dicom(wide, bits=32))


@pytest.mark.parametrize("representation", ["OB", "OW"])
def test_8_bits_in_big_endian(representation):
    content = make_dicom(FILM, uid.ExplicitVRBigEndian)
    words = np.frombuffer(FILM.tobytes(), "<u2").astype(">u2").tobytes()
    if representation == "OW":
        content = content.replace(
            b"OB\0\0" + len(words).to_bytes(4, "big") + FILM.tobytes(),
            b"OW\0\0" + len(words).to_bytes(4, "big") + words,
        )
    assert (grey(content) == FILM).all()


# How streams are wrapped


@pytest.mark.parametrize(
    "behind", [b"\xff", b"\0", b"\0" * 20, b"\xff" * 7, b"junk behind the end", b"\xff\xd9\xff\xd9"]
)
@pytest.mark.parametrize("actual", [*DEEP_SYNTAXES, "jpeg"])
def test_bytes_behind_the_end(actual, behind):
    pixels, bits = (FILM, 8) if actual == "jpeg" else (DEEP, 12)
    expected = FILM if actual == "jpeg" else SHOWN
    stream = stream_of(pixels, DECLARED[actual], bits) + behind
    assert abs(grey(wrapped(stream, DECLARED[actual], pixels, bits)) - expected).max() <= max(lossy(actual), 3)


TABLES = [
    b"",
    bytes(4),
    b"\x08\0\0\0",
    b"\xff\xff\xff\x7f",
    bytes(8),
    b"\0\0\0\0\x10\0\0\0",
    b"\0\0",
    b"\x01\0\0\0\0\0",
]


@pytest.mark.parametrize("table", [*TABLES, None], ids=repr)
@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize("actual", ["jpeg lossless", "jpeg-ls", "rle", "jpeg 2000"])
def test_offset_table_has_nothing_to_say(actual, table, pieces):
    stream = even(stream_of(DEEP, DEEP_SYNTAXES[actual], 12))
    step = -(-len(stream) // pieces // 2) * 2
    fragments = [stream[at : at + step] for at in range(0, len(stream), step)]
    content = make_dicom(DEEP, DEEP_SYNTAXES[actual], 12, pixel_data=in_items(*fragments, table=table))
    assert abs(grey(content) - SHOWN).max() <= 0.6


def test_extended_offset_table_has_nothing_to_say():
    stream = stream_of(DEEP, uid.JPEGLSLossless, 12)
    elements = {"ExtendedOffsetTable": b"\xff" * 8, "ExtendedOffsetTableLengths": b"\x01" + bytes(7)}
    assert abs(grey(wrapped(stream, uid.JPEGLSLossless, **elements)) - SHOWN).max() <= 0.6


@pytest.mark.parametrize("actual", ["jpeg lossless", "jpeg-ls", "rle", "jpeg 2000"])
def test_fragments_of_unknown_representation(actual):
    content = make_dicom(DEEP, DEEP_SYNTAXES[actual], 12)
    pixels = b"\xe0\x7f\x10\0"
    assert content.count(pixels + b"OW") + content.count(pixels + b"OB") == 1
    content = content.replace(pixels + b"OW", pixels + b"UN").replace(pixels + b"OB", pixels + b"UN")
    assert (grey(content) == grey(make_dicom(DEEP, bits=12))).all()


# Ends that are missing


@pytest.mark.parametrize("actual", ["jpeg lossless", "jpeg lossless 4", "jpeg-ls"])
@pytest.mark.parametrize("left", [-2, -1, -40, 0.5, 0.05])
def test_stream_without_its_end_is_refused(actual, left):
    stream = stream_of(DEEP, DEEP_SYNTAXES[actual], 12)
    cut = stream[: int(left if left < 0 else left * len(stream))]
    for content in (cut, cut + b"\xff" * 3, cut + bytes(5)):
        with pytest.raises(ValueError, match="its end is missing") as error:
            load_radiograph(wrapped(content, DEEP_SYNTAXES[actual]))
        assert "damaged" not in str(error.value)


def test_baseline_without_its_end_mark_is_read():
    stream = compress(FILM, uid.JPEGBaseline8Bit, 8)
    assert stream.endswith(b"\xff\xd9")
    for content in (stream[:-2], stream[:-1], stream[:-2] + b"\xff\xff"):
        assert abs(grey(wrapped(content, uid.JPEGBaseline8Bit, FILM, 8)) - FILM).max() <= 8


@pytest.mark.parametrize("actual", ["jpeg", "jpeg 2000", "rle"])
@pytest.mark.parametrize("left", [0.05, 0.3, 0.6])
def test_half_a_stream_is_refused(actual, left):
    pixels, bits = (FILM, 8) if actual == "jpeg" else (DEEP, 12)
    stream = stream_of(pixels, DECLARED[actual], bits)
    with pytest.raises(ValueError, match="cut short|damaged"):
        load_radiograph(wrapped(stream[: int(left * len(stream))], DECLARED[actual], pixels, bits))


@pytest.mark.parametrize("actual", [*DEEP_SYNTAXES, "jpeg"])
@pytest.mark.parametrize("size", [{"Rows": 63}, {"Columns": 300}, {"Rows": 9000, "Columns": 9000}], ids=str)
def test_stream_of_another_size(actual, size):
    pixels, bits = (FILM, 8) if actual == "jpeg" else (DEEP, 12)
    content = wrapped(stream_of(pixels, DECLARED[actual], bits), DECLARED[actual], pixels, bits, **size)
    if actual == "rle" and "Rows" in size and len(size) == 1:
        return  # which does not know how long its rows are
    with pytest.raises(ValueError, match="Rows and Columns|damaged") as error:
        load_radiograph(content)
    assert actual == "rle" or "damaged" not in str(error.value)
