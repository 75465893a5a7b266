"""Tests of what DICOM values are shown as: tables, windows, rescaling, padding and shutters, sound or not."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("imagecodecs")

from pydicom import uid  # noqa: E402

from otdrg_hf.modeling.image_loading import load_radiograph  # noqa: E402
from tests.support.dicom_files import change_syntax, lut, make_dicom  # noqa: E402
from tests.support.tiny_models import make_films  # noqa: E402

FILM = make_films(1, (64, 48))[0]  # 0 to 255
DEEP = FILM.astype(np.uint16) * 15 + 7  # 7 to 3832, of 12 bits
SHOWN = DEEP * (255 / 4095)
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
IDENTITY = np.arange(4096)


def grey(content) -> np.ndarray:
    return np.asarray(load_radiograph(content))[..., 0].astype(float)


def assert_shown(content, expected=SHOWN, within=1.0):
    assert abs(grey(content) - expected).max() <= within


def replaced(content: bytes, old: bytes, new: bytes) -> bytes:
    """With a value that pydicom would not write."""
    assert content.count(old) == 1 and len(old) == len(new)
    return content.replace(old, new)


# Tables


@pytest.mark.parametrize("declared", [8, 10, 12, 14, 16])
def test_white_is_the_largest_entry_of_a_voi_table(declared):
    assert_shown(make_dicom(DEEP, bits=12, VOILUTSequence=lut(IDENTITY, declared)))
    dark = lut(IDENTITY // 2, declared)
    assert_shown(make_dicom(DEEP, bits=12, VOILUTSequence=dark, **WINDOW))


@pytest.mark.parametrize("entries", [256, 300, 301, 4096])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_voi_table_of_8_bits_in_words_or_packed(entries, packed, syntax):
    values = np.linspace(0, 255, entries).astype(np.uint8)
    table = lut(values, 8, packed=packed)
    if syntax == uid.ExplicitVRBigEndian:  # in which pydicom writes words as they are
        table[0].LUTData = np.frombuffer(table[0].LUTData, "<u2").astype(">u2").tobytes()
    film = (FILM.astype(np.uint16) * (entries - 1) // 255).astype(np.uint16)
    assert_shown(make_dicom(film, syntax, VOILUTSequence=table), values[film])


def test_voi_table_as_a_list_of_numbers():
    table = lut(IDENTITY, 12)
    table[0].add_new("LUTData", "US", IDENTITY.tolist())
    assert_shown(make_dicom(DEEP, bits=12, VOILUTSequence=table))


@pytest.mark.parametrize("first", [-2048, 0, 1000, 40_000])
def test_first_value_of_a_table(first):
    signed = first < 0
    pixels = (DEEP.astype(np.int64) + first).astype(np.int16 if signed else np.uint16)
    assert_shown(make_dicom(pixels, VOILUTSequence=lut(IDENTITY, 12, first)))


def test_values_outside_of_a_table_get_its_ends():
    table = lut(np.arange(1000, 3000) - 1000, 12, first=1000)
    expected = (DEEP.astype(float) - 1000).clip(0, 1999) * (255 / 1999)
    assert_shown(make_dicom(DEEP, bits=12, VOILUTSequence=table), expected)


def test_table_with_fewer_entries_than_declared():
    table = lut(IDENTITY[:3900], 12, LUTDescriptor=[4096, 0, 12])
    assert_shown(make_dicom(DEEP, bits=12, VOILUTSequence=table), DEEP * (255 / 3899))


UNUSABLE_TABLES = {
    "no data": {"LUTData": None},
    "empty data": {"LUTData": b""},
    "no descriptor": {"LUTDescriptor": None},
    "descriptor of two": {"LUTDescriptor": [4096, 0]},
    "empty descriptor": {"LUTDescriptor": []},
    "all black": {"LUTData": bytes(8192)},
    "all white": {"LUTData": b"\xff\x0f" * 4096},
}


@pytest.mark.parametrize("kind", UNUSABLE_TABLES)
@pytest.mark.parametrize("next_one", ["table", "window", "nothing"])
def test_unusable_voi_table_is_left_out(kind, next_one):
    tables = lut(IDENTITY, 12, **UNUSABLE_TABLES[kind])
    if next_one == "table":
        tables.extend(lut(IDENTITY, 16))
    assert_shown(
        make_dicom(DEEP, bits=12, VOILUTSequence=tables, **({} if next_one == "nothing" else WINDOW)),
    )


def test_empty_sequences_are_left_out():
    nothing = {"VOILUTSequence": pydicom.Sequence([]), "ModalityLUTSequence": pydicom.Sequence([])}
    assert_shown(make_dicom(DEEP, bits=12, **nothing, **WINDOW))
    assert_shown(make_dicom(DEEP, bits=12, **nothing))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_modality_table_of_any_bits(bits):
    table = lut(IDENTITY * (2**bits - 1) // 4095, bits)
    assert_shown(make_dicom(DEEP, bits=12, ModalityLUTSequence=table))
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    assert_shown(make_dicom(DEEP, bits=12, ModalityLUTSequence=table, **window))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [{}, WINDOW], ids=["no window", "window"])
def test_modality_table_that_inverts(photometric, window):
    pixels = DEEP if photometric == "MONOCHROME1" else 4095 - DEEP
    table = lut(4095 - IDENTITY, 12)
    elements = {"ModalityLUTSequence": table, "PhotometricInterpretation": photometric, **window}
    assert_shown(make_dicom(pixels, bits=12, **elements))


@pytest.mark.parametrize("kind", UNUSABLE_TABLES)
def test_unusable_modality_table_is_left_out(kind):
    tables = lut(IDENTITY, 12, **UNUSABLE_TABLES[kind])
    elements = {"RescaleSlope": -1, "RescaleIntercept": 4095}
    assert_shown(make_dicom(4095 - DEEP, bits=12, ModalityLUTSequence=tables, **elements))
    tables.extend(lut(4095 - IDENTITY, 12))
    assert_shown(make_dicom(4095 - DEEP, bits=12, ModalityLUTSequence=tables))


# Windows

CENTERS = [b"2048,0", b"2048,5", b"+2048 ", b" 2048 ", b"2.05e3", b"02048,"]


@pytest.mark.parametrize("center", CENTERS, ids=repr)
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_numbers_as_people_write_them(center, syntax):
    content = make_dicom(DEEP, syntax, bits=12, WindowCenter="777777", WindowWidth="888888")
    content = replaced(replaced(content, b"777777", center), b"888888", b"4096,0")
    assert_shown(content)


NO_NUMBERS = [b"bright", b"NaN   ", b"inf   ", b"      ", b"20 48 ", b"1,0,0 ", b"2\xb2\xb3xyz"]


@pytest.mark.parametrize("text", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize("keyword", ["WindowCenter", "WindowWidth"])
@pytest.mark.parametrize("later", [True, False], ids=["next value", "none"])
def test_window_that_is_no_number_is_left_out(text, keyword, later):
    first = {"WindowCenter": "777777" if keyword == "WindowCenter" else "300"}
    first["WindowWidth"] = "777777" if keyword == "WindowWidth" else "200"
    elements = {word: [value, str(WINDOW[word])] if later else value for word, value in first.items()}
    content = make_dicom(DEEP, bits=12, **elements)
    assert_shown(replaced(content, b"777777", text))


@pytest.mark.parametrize("first", [(100, 0), (100, -50), (30_000, 10), (-9000, 5), ("", 100), (100, "")], ids=str)
def test_window_that_shows_nothing_makes_way_for_the_next(first):
    center, width = ([value, WINDOW[word]] for value, word in zip(first, WINDOW, strict=True))
    assert_shown(make_dicom(DEEP, bits=12, WindowCenter=center, WindowWidth=width))
    assert_shown(make_dicom(DEEP, bits=12, WindowCenter=first[0], WindowWidth=first[1]))


def test_unknown_function_is_linear():
    assert_shown(make_dicom(DEEP, bits=12, VOILUTFunction="BENT", **WINDOW))
    assert_shown(replaced(make_dicom(DEEP, bits=12, VOILUTFunction="LINEARXXXX", **WINDOW), b"XXXX", b"  \0\0"))


# Rescaling


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize(
    "slope, intercept, pedestal",
    [
        (1, 0, 0),
        (1, -32768, 32768),  # what is added to all is taken off
        (2, -2000, 1000),
        (0.1, 0, 0),  # how large a unit is does not matter
        (16, 0, 0),
        (1, 1024, 0),
        (1, -1024, 0),
        (0.5, -512.3, 0),
        (3, 5000, 0),
    ],
)
def test_rescaling_without_window(photometric, slope, intercept, pedestal):
    values = (4095 - DEEP if photometric == "MONOCHROME1" else DEEP) + pedestal
    elements = {"RescaleSlope": slope, "RescaleIntercept": intercept, "PhotometricInterpretation": photometric}
    assert_shown(make_dicom(values.astype(np.uint16), **elements))


@pytest.mark.parametrize("slope", [-1, -10, -0.5])
@pytest.mark.parametrize("intercept", [0, 4095, 2000, -500, 5000])
def test_negative_slope_without_window(slope, intercept):
    elements = {"RescaleSlope": slope, "RescaleIntercept": intercept * abs(slope)}
    # What falls below 0 starts at its lowest value.
    expected = SHOWN if intercept >= 4095 else SHOWN - SHOWN.min()
    assert_shown(make_dicom(4095 - DEEP, bits=12, **elements), expected)
    # A negative of a negative
    assert_shown(make_dicom(DEEP, bits=12, PhotometricInterpretation="MONOCHROME1", **elements))


@pytest.mark.parametrize("slope", [-1, -10])
def test_monochrome1_with_negative_slope_and_pedestal(slope):
    elements = {"RescaleSlope": slope, "RescaleIntercept": 20_000 * -slope}
    assert_shown(make_dicom(DEEP + np.uint16(20_000), PhotometricInterpretation="MONOCHROME1", **elements))


@pytest.mark.parametrize("photometric, sign", [("MONOCHROME2", 1), ("MONOCHROME1", -1)])
def test_negative_slope_with_window(photometric, sign):
    elements = {"RescaleSlope": -1, "RescaleIntercept": 4095, "PhotometricInterpretation": photometric}
    assert_shown(make_dicom(4095 - DEEP if sign == 1 else DEEP, bits=12, **elements, **WINDOW))


@pytest.mark.parametrize("intercept", [2048, 0, -1000])
def test_rescaled_signed_values(intercept):
    signed = DEEP.astype(np.int16) - 2048
    expected = SHOWN if intercept == 2048 else SHOWN - SHOWN.min()
    assert_shown(make_dicom(signed, bits=12, RescaleSlope=1, RescaleIntercept=intercept), expected)
    assert_shown(make_dicom(signed, RescaleSlope=1, RescaleIntercept=intercept), expected)


@pytest.mark.parametrize("text", [b"      ", b"unity ", b"NaN   ", b"1e999 ", b"0     "], ids=repr)
def test_unusable_slope_is_one(text):
    content = make_dicom(DEEP, bits=12, RescaleSlope="777777", RescaleIntercept=0)
    assert_shown(replaced(content, b"777777", text))
    windowed = make_dicom(DEEP, bits=12, RescaleSlope="777777", RescaleIntercept=0, **WINDOW)
    assert_shown(replaced(windowed, b"777777", text))


def test_rescaling_that_is_half_there():
    assert_shown(make_dicom(DEEP, bits=12, RescaleSlope=1, **WINDOW))
    assert_shown(make_dicom(DEEP + np.uint16(500), RescaleIntercept=-500, **WINDOW))
    assert_shown(replaced(make_dicom(DEEP, bits=12, RescaleIntercept="-77777"), b"-77777", b"nought"))


def test_slope_with_decimal_comma():
    content = make_dicom(DEEP // 2, bits=12, RescaleSlope="777777", RescaleIntercept=0, **WINDOW)
    assert_shown(replaced(content, b"777777", b"2,0000"))


# Padding

BORDER = np.ones(FILM.shape, bool)
BORDER[8:-8, 6:-6] = False
FRAMED = np.where(BORDER, 0, SHOWN)


def padded(pixels: np.ndarray, value: int) -> np.ndarray:
    return np.where(BORDER, value, pixels).astype(np.int16 if value < 0 else np.uint16)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("window", [{}, WINDOW, {"VOILUTSequence": lut(IDENTITY, 16)}], ids=["none", "window", "table"])
@pytest.mark.parametrize("value", [65535, 0, 4095, 30_000])
def test_padding_is_black(photometric, window, value):
    pixels = padded(4095 - DEEP if photometric == "MONOCHROME1" else DEEP, value)
    content = make_dicom(pixels, PixelPaddingValue=value, PhotometricInterpretation=photometric, **window)
    assert_shown(content, FRAMED)


@pytest.mark.parametrize("window", [{}, WINDOW], ids=["none", "window"])
@pytest.mark.parametrize("value", [-2000, -32768])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_negative_padding_is_black(window, value, syntax):
    assert_shown(make_dicom(padded(DEEP, value), syntax, PixelPaddingValue=value, **window), FRAMED)


@pytest.mark.parametrize("limits", [(4096, 65535), (65535, 4096), (60_000, 60_001), (5000, 65_000)])
def test_padding_by_range(limits):
    pixels = padded(DEEP, 60_000)
    content = make_dicom(pixels, PixelPaddingValue=limits[0], PixelPaddingRangeLimit=limits[1])
    assert_shown(content, FRAMED)


def test_negative_padding_by_range():
    pixels = padded(DEEP, -1500)
    pixels[0] = -30_000
    for limits in [(-1, -32768), (-32768, -1)]:
        content = make_dicom(pixels, PixelPaddingValue=limits[0], PixelPaddingRangeLimit=limits[1])
        assert_shown(content, FRAMED)


def test_padding_beyond_the_bits_stored():
    assert_shown(make_dicom(padded(DEEP, 65535), bits=12, PixelPaddingValue=65535), FRAMED)


@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.RLELossless])
def test_padding_in_compressed_pixels(syntax):
    assert_shown(make_dicom(padded(DEEP, 65535), syntax, PixelPaddingValue=65535), FRAMED)


def test_padding_of_8_bits():
    assert_shown(
        make_dicom(np.where(BORDER, 255, FILM // 2).astype(np.uint8), PixelPaddingValue=255),
        np.where(BORDER, 0, FILM // 2),
    )


def test_padding_that_cannot_be_is_left_out():
    flat = np.full(FILM.shape, 900, np.uint16)
    assert_shown(make_dicom(flat, PixelPaddingValue=900), 900 * 255 / 1023)
    item = make_dicom(DEEP, bits=12, PixelPaddingValue=7777)
    empty = item.replace(b"\x28\x00\x20\x01US\x02\x00\x61\x1e", b"\x28\x00\x20\x01US\x00\x00")
    assert len(empty) == len(item) - 2
    assert_shown(empty)
    assert_shown(make_dicom(DEEP, bits=12, PixelPaddingRangeLimit=0))


# Shutters

WHITE = np.where(BORDER, 4095, DEEP).astype(np.uint16)
RECTANGLE = {
    "ShutterShape": "RECTANGULAR",
    "ShutterLeftVerticalEdge": 7,
    "ShutterRightVerticalEdge": 42,
    "ShutterUpperHorizontalEdge": 9,
    "ShutterLowerHorizontalEdge": 56,
}
POLYGON = {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [9, 7, 9, 42, 56, 42, 56, 7]}
CIRCLE = {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [32, 24], "RadiusOfCircularShutter": 15}


@pytest.mark.parametrize("shape", [RECTANGLE, POLYGON], ids=["rectangle", "polygon"])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("window", [{}, WINDOW], ids=["none", "window"])
def test_outside_the_shutter_is_black(shape, photometric, window):
    pixels = WHITE if photometric == "MONOCHROME2" else 4095 - WHITE
    assert_shown(make_dicom(pixels, bits=12, PhotometricInterpretation=photometric, **shape, **window), FRAMED)


def test_what_a_shutter_hides_does_not_set_the_scale():
    bright = np.where(BORDER, 65535, DEEP).astype(np.uint16)
    assert_shown(make_dicom(bright, **RECTANGLE), FRAMED)


def test_circular_shutter():
    row, column = np.mgrid[1:65, 1:49]
    distance = np.hypot(row - 32, column - 24)
    shown = grey(make_dicom(DEEP, bits=12, **CIRCLE))
    assert (shown[distance > 15.5] == 0).all()
    inside = distance < 14.5
    assert abs(shown - SHOWN)[inside].max() <= 1


def test_shutters_together():
    both = {**RECTANGLE, **CIRCLE, "ShutterShape": ["RECTANGULAR", "CIRCULAR"], "RadiusOfCircularShutter": 22}
    row, column = np.mgrid[1:65, 1:49]
    hidden = BORDER | (np.hypot(row - 32, column - 24) > 22)
    shown = grey(make_dicom(DEEP, bits=12, **both))
    assert (shown[hidden] == 0).all() and abs(shown - SHOWN)[~hidden].max() <= 1


def test_shutter_and_padding_together():
    pixels = DEEP.copy()
    pixels[:20] = 4000
    shown = grey(make_dicom(pixels, bits=12, PixelPaddingValue=4000, **RECTANGLE))
    expected = FRAMED.copy()
    expected[:20] = 0
    assert abs(shown - expected).max() <= 1


def test_shutter_is_black_whatever_it_asks_for():
    assert_shown(make_dicom(WHITE, bits=12, **RECTANGLE, ShutterPresentationValue=65535), FRAMED)


@pytest.mark.parametrize(
    "elements",
    [
        {**RECTANGLE, "ShutterLeftVerticalEdge": None},
        {**RECTANGLE, "ShutterLeftVerticalEdge": ""},
        {**RECTANGLE, "ShutterLeftVerticalEdge": 43},
        {**RECTANGLE, "ShutterUpperHorizontalEdge": 900},
        {**RECTANGLE, "ShutterShape": "HEXAGONAL"},
        {**RECTANGLE, "ShutterShape": ""},
        {**CIRCLE, "RadiusOfCircularShutter": 0},
        {**CIRCLE, "CenterOfCircularShutter": 9},
        {**POLYGON, "VerticesOfThePolygonalShutter": [1, 2, 3, 4]},
        {**POLYGON, "VerticesOfThePolygonalShutter": [1, 2, 3, 4, 5, 6, 7]},
        {**POLYGON, "VerticesOfThePolygonalShutter": [1, 2, 3, 4, 5, 2**31 - 1]},
    ],
    ids=str,
)
def test_shutter_that_cannot_be_is_left_out(elements):
    elements = {keyword: value for keyword, value in elements.items() if value is not None}
    assert_shown(make_dicom(DEEP, bits=12, **elements))


def test_shutter_over_a_colour_picture():
    colour = np.stack([FILM] * 3, -1)
    assert_shown(make_dicom(colour, Modality="OT", **RECTANGLE), np.where(BORDER, 0, FILM))


def test_everything_under_another_syntax():
    """What is shown does not depend on how values are stored."""
    elements = {**RECTANGLE, "VOILUTSequence": lut(IDENTITY, 16), "PixelPaddingValue": 4095}
    plain = make_dicom(WHITE, bits=12, **elements)
    for syntax in (uid.JPEGLSLossless, uid.RLELossless, uid.ImplicitVRLittleEndian):
        assert (grey(make_dicom(WHITE, syntax, 12, **elements)) == grey(plain)).all()
    assert (grey(change_syntax(plain, uid.JPEGBaseline8Bit)) == grey(plain)).all()
