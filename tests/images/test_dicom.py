"""Tests of DICOM films: the pixels of the PNG in every lossless syntax, windows, views, and nothing of the header."""

import io
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("imagecodecs")

from pydicom import uid  # noqa: E402

from otdrg_hf.images.views import view_of  # noqa: E402
from otdrg_hf.modeling.image_loading import is_dicom, load_radiograph, view_in  # noqa: E402
from tests.support.dicom_files import LOSSLESS, LOSSY, SECRETS, lut, make_dicom  # noqa: E402
from tests.support.mutations import mutated  # noqa: E402
from tests.support.tiny_models import make_films  # noqa: E402

FILM = make_films(1, (64, 48))[0]  # 0 to 255
DEEP = FILM.astype(np.uint16) * 16 + 7  # 12 bits


def grey(content, **arguments) -> np.ndarray:
    pixels = np.asarray(load_radiograph(content, **arguments))
    assert pixels.dtype == np.uint8 and (pixels == pixels[..., :1]).all()
    return pixels[..., 0].astype(int)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def clear_error(match, kind=ValueError):
    return pytest.raises(kind, match=match)


def assert_private(error, *more):
    text = str(error.value)
    assert "\n" not in text
    for secret in (*SECRETS.values(), *more):
        assert secret not in text


# Pixels


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_syntaxes_give_the_pixels_of_the_png(syntax, bits):
    film = FILM if bits == 8 else (FILM.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    assert (grey(make_dicom(film, LOSSLESS[syntax], bits)) == grey(png(film))).all()


@pytest.mark.parametrize("syntax", LOSSY)
def test_lossy_syntaxes_are_close(syntax):
    assert abs(grey(make_dicom(FILM, LOSSY[syntax])) - FILM).max() <= 8


@pytest.mark.parametrize("syntax", ["explicit", "rle", "jpeg lossless sv1"])
def test_low_values_that_are_white_are_turned_round(syntax):
    film = make_dicom(255 - FILM, LOSSLESS[syntax], PhotometricInterpretation="MONOCHROME1")
    assert (grey(film) == FILM).all()
    deep = make_dicom(4095 - DEEP, LOSSLESS[syntax], 12, PhotometricInterpretation="MONOCHROME1")
    assert abs(grey(deep) - np.round(DEEP / 4095 * 255)).max() <= 1


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows(function):
    elements = {"WindowCenter": [2000, 9], "WindowWidth": [1000, 9]}  # the first of several holds
    if function:
        elements["VOILUTFunction"] = function
    values = DEEP.astype(float)
    expected = {
        "LINEAR_EXACT": (values - 2000) / 1000 + 0.5,
        "SIGMOID": 1 / (1 + np.exp(-4 * (values - 2000) / 1000)),
    }.get(function, (values - 1999.5) / 999 + 0.5)
    shown = grey(make_dicom(DEEP, bits=12, **elements))
    assert abs(shown - 255 * expected.clip(0, 1)).max() <= 0.51
    assert (shown == 0).any() or function == "SIGMOID"


def test_full_window_changes_nothing():
    assert (grey(make_dicom(FILM, WindowCenter=128, WindowWidth=256)) == FILM).all()


def test_rescaled_values_meet_the_window():
    film = make_dicom(FILM, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=155, WindowWidth=511)
    assert abs(grey(film) - FILM).max() <= 1
    assert (grey(make_dicom(FILM, RescaleSlope=2, RescaleIntercept=-100)) == FILM).all()
    assert (grey(make_dicom(FILM, RescaleSlope=-1, RescaleIntercept=255)) == 255 - FILM.astype(int)).all()


def test_tables():
    dark = lut(np.arange(256) ** 2 // 64, 10)  # 0 to 1016
    expected = np.round((FILM.astype(int) ** 2 // 64) * 255 / 1016)
    assert abs(grey(make_dicom(FILM, VOILUTSequence=dark)) - expected).max() <= 1
    both = make_dicom(FILM, VOILUTSequence=dark, WindowCenter=10, WindowWidth=5)
    assert abs(grey(both) - expected).max() <= 1
    modality = lut(255 - np.arange(256), 8)
    modality[0].ModalityLUTType = "US"
    film = make_dicom(FILM, ModalityLUTSequence=modality, WindowCenter=128, WindowWidth=256)
    assert (grey(film) == 255 - FILM.astype(int)).all()


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": 30_000, "WindowWidth": 10},
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": 100},
    ],
    ids=str,
)
def test_window_that_shows_nothing_is_left_out(elements):
    assert (grey(make_dicom(FILM, **elements)) == FILM).all()


def test_signed_values_start_at_0():
    signed = FILM.astype(np.int16) * 16 - 2048
    assert (grey(make_dicom(signed, bits=12)) == grey(signed - signed.min())).all()


def test_overlay_in_the_unused_bits_is_left_out():
    marked = DEEP.copy()
    marked[:8] |= 0x1000
    assert (grey(make_dicom(marked, bits=12)) == grey(make_dicom(DEEP, bits=12))).all()


def test_colour_picture():
    assert (grey(make_dicom(np.stack([FILM] * 3, -1), Modality="OT")) == FILM).all()


def test_12_bit_lossy_jpeg():
    film = make_dicom(DEEP, uid.JPEGExtended12Bit, 12)
    assert abs(grey(film) - grey(DEEP)).max() <= 3


def test_signed_values_in_jpeg_lossless():
    signed = FILM.astype(np.int16) * 16 - 2048
    masked = (signed & 0xFFF).astype(np.int16)
    film = make_dicom(masked, uid.JPEGLosslessSV1, 12)
    assert (grey(film) == grey(signed - signed.min())).all()


# Detection


@pytest.mark.parametrize("name", ["film.dcm", "IM000001", "film.png", "1.2.840.10008"])
def test_dicom_is_known_by_its_content(tmp_path, name):
    (tmp_path / name).write_bytes(make_dicom(FILM))
    assert (grey(tmp_path / name) == FILM).all()


@pytest.mark.parametrize("syntax", ["implicit", "explicit"])
def test_without_preamble(syntax):
    content = make_dicom(FILM, LOSSLESS[syntax])
    bare = content[132:]
    without_meta = content[144 + int.from_bytes(content[140:144], "little") :]
    for film in (bare, without_meta):
        assert is_dicom(film[:132]) and (grey(film) == FILM).all()


def test_other_files_are_no_dicom(tmp_path):
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "TGA", "PPM", "ICO", "JPEG2000"):
        buffer = io.BytesIO()
        Image.fromarray(FILM).save(buffer, kind)
        assert not is_dicom(buffer.getvalue()[:132]), kind
    (tmp_path / "film.dcm").write_bytes(png(FILM))
    assert (grey(tmp_path / "film.dcm") == FILM).all()


# View


@pytest.mark.parametrize(
    "position, view",
    [
        *[("PA", "frontal"), ("AP", "frontal"), ("LL", "lateral"), ("LATERAL", "lateral"), ("RL", "lateral")],
        *[("AP AXIAL", "frontal"), ("LAO", "unknown"), ("", "unknown"), (None, "unknown")],
    ],
)
def test_view_position(position, view):
    assert view_of(position) == view
    content = make_dicom(FILM) if position is None else make_dicom(FILM, ViewPosition=position)
    assert view_in(load_radiograph(content)) == view


@pytest.mark.parametrize(
    "meaning, view",
    [("postero-anterior", "frontal"), ("left lateral", "lateral"), ("postero-anterior oblique", "unknown")],
)
def test_view_code(meaning, view):
    code = pydicom.Dataset()
    code.CodeMeaning = meaning
    assert view_in(load_radiograph(make_dicom(FILM, ViewCodeSequence=pydicom.Sequence([code])))) == view


def test_view_reaches_the_prompt(processor):
    frontal, lateral = make_dicom(FILM, ViewPosition="PA"), make_dicom(FILM, ViewPosition="LL")
    by_file = processor(images=[[frontal, lateral]])
    by_name = processor(images=[[FILM, FILM]], views=[["frontal", "lateral"]])
    assert (by_file["input_ids"] == by_name["input_ids"]).all()
    assert (by_file["pixel_values"] == by_name["pixel_values"]).all()
    given = processor(images=[[frontal, lateral]], views=[["unknown", "frontal"]])
    assert (given["input_ids"] == processor(images=[[FILM] * 2], views=[["unknown", "frontal"]])["input_ids"]).all()


def test_a_picture_cannot_bring_a_view_that_there_is_not(processor):
    picture = Image.fromarray(FILM)
    picture.info["radiograph_view"] = "<image>"
    assert view_in(load_radiograph(picture)) == "unknown"
    assert (processor(images=picture)["input_ids"] == processor(images=FILM)["input_ids"]).all()


# Files that are no film


def report_object() -> bytes:
    return make_dicom(FILM, Modality="SR", PixelData=None, SOPClassUID=uid.BasicTextSRStorage)


@pytest.mark.parametrize(
    "content, match",
    [
        (report_object, "a DICOM file without an image"),
        (lambda: make_dicom(FILM, Modality="CT"), "a CT slice, not a radiograph"),
        (lambda: make_dicom(FILM, Modality="MG"), "a mammogram, not a radiograph"),
        (lambda: make_dicom(FILM, Modality="XYZ"), "a DICOM image of another modality, not a radiograph"),
        (lambda: make_dicom(np.vstack([FILM, FILM]), Rows=64, NumberOfFrames=2), "a DICOM file of several frames"),
        (lambda: make_dicom(FILM, PhotometricInterpretation="PALETTE COLOR"), "palette colours"),
        (lambda: make_dicom(FILM, Rows=20_000, Columns=20_000), "too many pixels for a radiograph"),
        (lambda: make_dicom(FILM)[:200], "a DICOM file without an image: cut short"),
        (lambda: make_dicom(FILM)[:-1000], "the DICOM pixel data is cut short"),
        (lambda: make_dicom(FILM)[:132], "a DICOM file without an image: cut short"),
        (lambda: b"\0" * 128 + b"DICM" + b"\xff" * 300, "DICOM"),
        (lambda: make_dicom(FILM[:4, :4].copy()), "4 x 4 pixels, at least 16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_film(tmp_path, recwarn, content, match):
    path = tmp_path / "film.dcm"
    path.write_bytes(content())
    with clear_error(match) as error:
        load_radiograph(path)
    assert str(error.value).startswith("image 'film.dcm': ")
    assert_private(error, str(tmp_path), "XYZ", "NONSENSE")
    assert not recwarn.list


@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_cut_short(syntax, share):
    content = make_dicom(FILM, LOSSLESS[syntax])
    with clear_error("cut short") as error:
        load_radiograph(content[: int(len(content) * share)])
    assert_private(error)


REQUIRED = ["Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation"]
BITS = ["BitsAllocated", "BitsStored"]


def fault_of(content) -> str:
    with pytest.raises(ValueError) as error:
        load_radiograph(content)
    assert_private(error)
    text = str(error.value)
    assert "damaged" not in text and "cut short" not in text
    return text


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian", "deflated"])
@pytest.mark.parametrize("keyword", [*REQUIRED, *BITS])
@pytest.mark.parametrize("empty", [True, False], ids=["empty", "left out"])
def test_missing_element_is_named(syntax, keyword, empty):
    content = make_dicom(DEEP, LOSSLESS[syntax], 12, **{keyword: "" if empty else None})
    assert f"the DICOM element {keyword} is missing" in fault_of(content)


@pytest.mark.parametrize("syntax", ["rle", "jpeg lossless sv1", "jpeg-ls", "jpeg 2000"])
@pytest.mark.parametrize("keyword", REQUIRED)
def test_missing_element_of_a_compressed_film_is_named(syntax, keyword):
    content = make_dicom(DEEP, LOSSLESS[syntax], 12, **{keyword: None})
    assert f"the DICOM element {keyword} is missing" in fault_of(content)


def test_missing_planar_configuration_is_named():
    content = make_dicom(np.stack([FILM] * 3, -1), PlanarConfiguration=None)
    assert "the DICOM element PlanarConfiguration is missing" in fault_of(content)


@pytest.mark.parametrize("keyword", ["HighBit", "Modality", "NumberOfFrames", "VOILUTFunction", "ViewPosition"])
@pytest.mark.parametrize("value", [None, ""])
def test_film_does_without(keyword, value):
    there = {"NumberOfFrames": 1, "VOILUTFunction": "LINEAR", "ViewPosition": "PA"}
    assert (grey(make_dicom(FILM, **{**there, keyword: value})) == FILM).all()


@pytest.mark.parametrize(
    "keyword, value",
    [
        *[("Rows", 0), ("Columns", 0), ("Rows", [64, 64])],
        *[("SamplesPerPixel", 0), ("SamplesPerPixel", 2), ("SamplesPerPixel", 4)],
        *[("PixelRepresentation", 2), ("PixelRepresentation", 65535)],
        *[("PhotometricInterpretation", word) for word in ("NONSENSE", "ARGB", "MONOCHROME3", "GREY")],
        *[("BitsAllocated", bits) for bits in (0, 1, 12, 24, 64)],
        *[("BitsStored", bits) for bits in (0, 17, 65535)],
    ],
    ids=str,
)
def test_unusable_element_is_named(keyword, value):
    text = fault_of(make_dicom(DEEP, **{keyword: value}))
    assert f"the DICOM element {keyword} is unusable" in text
    assert str(value) not in text or value in (0, 1)


def test_number_of_frames_that_is_no_number():
    content = make_dicom(FILM, NumberOfFrames=7777).replace(b"7777", b"many")
    assert "the DICOM element NumberOfFrames is unusable" in fault_of(content)


@pytest.mark.parametrize(
    "elements", [{"Rows": 100}, {"Columns": 500}, {"BitsAllocated": 16}, {"BitsAllocated": 32}], ids=str
)
def test_fewer_pixels_than_the_header_says(elements):
    text = fault_of(make_dicom(FILM, **elements))
    assert all(word in text for word in ("PixelData is shorter", "Rows", "Columns", "BitsAllocated"))


def test_elements_that_contradict_each_other():
    text = fault_of(make_dicom(FILM, PhotometricInterpretation="RGB"))
    assert "SamplesPerPixel and PhotometricInterpretation contradict each other" in text


def test_colour_model_that_only_jpeg_has():
    content = make_dicom(np.stack([FILM] * 3, -1), PhotometricInterpretation="YBR_ICT")
    assert "PhotometricInterpretation is unusable" in fault_of(content)


@pytest.mark.parametrize("syntax", ["jpeg lossless", "jpeg lossless sv1", "jpeg-ls", "jpeg 2000"])
def test_frame_that_is_cut_or_of_another_size(syntax):
    content = make_dicom(FILM, LOSSLESS[syntax])
    data = pydicom.dcmread(io.BytesIO(content))
    frame = next(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1))
    small = pydicom.dcmread(io.BytesIO(make_dicom(FILM[:32, :32].copy(), LOSSLESS[syntax])))
    cut = pydicom.encaps.encapsulate([frame[: len(frame) // 2]])
    for pixel_data, match in ((cut, "cut short"), (small.PixelData, "Rows and Columns are not the size")):
        data.PixelData = pixel_data
        data["PixelData"].is_undefined_length = True
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, data)
        with clear_error(match):
            load_radiograph(buffer.getvalue())


@pytest.mark.parametrize("before", ["as written", "no group length", "no preamble"])
def test_deflated_bomb(before):
    data = pydicom.dcmread(io.BytesIO(make_dicom(FILM, uid.DeflatedExplicitVRLittleEndian)))
    data.add_new(0x00110010, "LO", "private")
    data.add_new(0x00111001, "OB", bytes(210_000_000))
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data)
    content = buffer.getvalue()
    assert len(content) < 1_000_000 and content[132:138] == b"\x02\x00\x00\x00UL"
    # Files that pydicom reads all the same.
    content = {"no group length": content[:132] + content[144:], "no preamble": content[132:]}.get(before, content)
    with clear_error("unpacks to more than 200 MB"):
        load_radiograph(content)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(LOSSLESS)), st.booleans(), st.data())
def test_damaged_anywhere_it_is_a_picture_or_one_line(syntax, in_header, data):
    content = bytearray(make_dicom(FILM, LOSSLESS[syntax], WindowCenter=128, WindowWidth=256))
    last = 800 if in_header else len(content) - 1
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(132, last))] = data.draw(st.integers(0, 255))
    try:
        load_radiograph(bytes(content))
    except ValueError as error:
        assert "\n" not in str(error) and not any(secret in str(error) for secret in SECRETS.values())


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_mutations_are_a_picture_or_one_line(seed):
    """More of them by tests/benchmarks/fuzz_radiographs.py."""
    try:
        picture = load_radiograph(mutated(seed))
    except ValueError as error:
        assert str(error).startswith("image given as bytes: ") and "\n" not in str(error)
    else:
        assert picture.mode == "RGB" and min(picture.size) >= 16


def test_header_is_not_read():
    picture = load_radiograph(make_dicom(FILM, ViewPosition="PA"))
    assert set(picture.info) == {"radiograph_view"}
    assert not any(secret in repr(vars(picture)) for secret in SECRETS.values())


# Without pydicom


@pytest.mark.parametrize("missing, syntax", [("pydicom", "explicit"), ("imagecodecs", "jpeg lossless sv1")])
def test_missing_extra_is_one_line(tmp_path, missing, syntax, monkeypatch):
    path = tmp_path / "film.dcm"
    path.write_bytes(make_dicom(FILM, LOSSLESS[syntax]))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError) as error:
        load_radiograph(str(path))
    assert len(str(error.value).splitlines()) == 1
    assert "'film.dcm'" in str(error.value) and "pip install 'otdrg-hf[dicom]'" in str(error.value)


# Reports


def test_pipeline_takes_dicom_however_it_is_given(model, processor, tmp_path):
    from transformers import pipeline

    report = pipeline("radiology-report", model=model, processor=processor)
    expected = report({"images": [FILM], "views": ["frontal"]}, max_new_tokens=6)
    content = make_dicom(FILM, LOSSLESS["jpeg-ls"], ViewPosition="AP")
    path = tmp_path / "film.dcm"
    path.write_bytes(content)
    for image in (path, str(path), content, {"images": [path]}, [path][0]):
        answer = report(image, max_new_tokens=6)
        assert answer == expected
        assert not any(secret in json.dumps(answer) for secret in SECRETS.values())
