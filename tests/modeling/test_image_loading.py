"""Tests of image loading: every kind of picture gives the right grey values, or one line that names the culprit."""

import base64
import io
import struct
import sys
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageOps
from transformers import pipeline

from otdrg_hf.modeling.image_loading import load_radiograph, load_views
from tests.support.deep_images import deep_png, deep_tiff, png_chunk

FILM = np.add.outer(np.arange(40) * 4, np.arange(50)).astype(np.uint8)  # 0 to 205
few = settings(max_examples=60, deadline=None)


def grey(image, name=None):
    """The loaded picture as `[H, W]`, all three channels of which are equal."""
    picture = load_radiograph(image, name)
    assert picture.mode == "RGB"
    pixels = np.asarray(picture)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0].astype(int)


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def clear_error(match):
    return pytest.raises(ValueError, match=match)


@pytest.mark.parametrize(
    "form",
    ["path", "str", "bytes", "bytearray", "BytesIO", "written BytesIO", "file", "data URL", "escaped data URL", "pil"]
    + ["array", "tensor", "channel", "rgb", "chw"],
)
def test_every_way_to_give_a_film(form, tmp_path):
    path = tmp_path / "film.png"
    Image.fromarray(FILM).save(path)
    written = io.BytesIO()
    Image.fromarray(FILM).save(written, "PNG")  # which leaves it at its end
    encoded = base64.b64encode(path.read_bytes()).decode()
    image = {
        "BytesIO": io.BytesIO(path.read_bytes()),
        "written BytesIO": written,
        "file": path.open("rb"),
        "data URL": f"data:image/png;base64,{encoded}",
        "escaped data URL": f"DATA:image/png;base64,{urllib.parse.quote(encoded)}",
        "path": path,
        "str": str(path),
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "pil": Image.fromarray(FILM),
        "array": FILM,
        "tensor": torch.from_numpy(FILM),
        "channel": FILM[:, :, None],
        "rgb": np.stack([FILM] * 3, -1),
        "chw": np.stack([FILM] * 3),
    }[form]
    assert (grey(image) == FILM).all()
    assert (grey(image) == FILM).all()  # a file is left where it was


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_modes_keep_the_grey_values(mode):
    image = Image.fromarray(FILM).convert("RGB" if mode in ("CMYK", "YCbCr", "HSV") else "L").convert(mode)
    pixels = np.asarray(load_radiograph(image)).astype(int)
    assert abs(pixels - FILM[..., None].astype(int)).max() <= 2


def test_palette_is_looked_up():
    image = Image.fromarray(np.tile(np.arange(4, dtype=np.uint8), (40, 10)), "P")
    image.putpalette([v for shade in (200, 10, 90, 255) for v in (shade,) * 3])
    assert (grey(image)[0, :4] == [200, 10, 90, 255]).all()
    assert (grey(file_of(image))[0, :4] == [200, 10, 90, 255]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_is_black(mode):
    image = Image.fromarray(FILM).convert(mode)
    alpha = np.full(FILM.shape, 255, np.uint8)
    alpha[:, :10] = 0
    image.putalpha(Image.fromarray(alpha))
    pixels = grey(file_of(image))
    assert (pixels[:, :10] == 0).all() and (pixels[:, 10:] == FILM[:, 10:]).all()


def test_one_bit_image():
    image = Image.fromarray(((FILM > 100) * 255).astype(np.uint8)).convert("1", dither=0)
    assert (grey(image) == (FILM > 100) * 255).all()


@few
@given(arrays.arrays(np.uint8, (16, 16)), st.sampled_from([257, 256]))
def test_16_bit_version_of_a_film_is_the_same_picture(film, step):
    assert abs(grey(film.astype(np.uint16) * step) - film).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("brightest", [40, 205, 255])
def test_16_bit_file_is_the_same_picture(kind, brightest, tmp_path):
    film = np.round(FILM * (brightest / FILM.max())).astype(np.uint8)
    path = tmp_path / f"film.{kind.lower()}"
    Image.fromarray(film.astype(np.uint16) * 257).save(path)
    assert abs(grey(path) - film).max() <= 1


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_smallest_depth_that_holds_the_values(bits):
    full = 2**bits - 1
    film = np.tile(np.linspace(0, full, 50).astype(np.int32), (40, 1))
    pixels = grey(film)
    assert pixels[0, 0] == 0 and pixels[0, -1] == 255
    assert abs(pixels - film * (255 / full)).max() <= 0.51


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1_and_from_0_to_255(dtype):
    unit = (FILM / 255).astype(dtype)
    assert abs(grey(unit) - FILM).max() <= 1
    assert (grey(FILM.astype(dtype)) == FILM).all()
    bright = FILM.astype(dtype)
    bright[0, 0] = 255.6  # a resampled film may overshoot; it must not wrap around to black
    assert grey(bright)[0, 0] == 255


# 16 bits a channel


DEPTHS = {"12 bits": 4095 / 255, "16 bits": 257.0, "10 bits": 1023 / 255, "dark": 2600 / 205}
WHITE_OF = {"12 bits": 4095, "16 bits": 65535, "10 bits": 1023, "dark": 4095}


def deep_film(depth: str) -> tuple[np.ndarray, np.ndarray]:
    """A film of more than 8 bits, and what it is shown as."""
    film = np.round(FILM * DEPTHS[depth]).astype(np.uint16)
    return film, film * (255 / WHITE_OF[depth])


def channels_of(film: np.ndarray, count: int, opaque: int = 65535) -> np.ndarray:
    colours = [film] * (count - 1 + count % 2)
    return np.stack(colours if count % 2 else [*colours, np.full_like(film, opaque)], -1)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_png_of_16_bits_a_channel(depth, count):
    film, shown = deep_film(depth)
    assert abs(grey(deep_png(channels_of(film, count))) - shown).max() <= 1


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_16_bits_a_channel(depth, count, order):
    film, shown = deep_film(depth)
    assert abs(grey(deep_tiff(channels_of(film, count), order)) - shown).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("count, planar", [(2, False), (3, True), (4, True)])
def test_tiff_that_only_imagecodecs_reads(count, planar, order):
    pytest.importorskip("imagecodecs")
    film, shown = deep_film("12 bits")
    assert abs(grey(deep_tiff(channels_of(film, count), order, planar=planar)) - shown).max() <= 1


def test_without_imagecodecs(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    film, shown = deep_film("12 bits")
    for content in (deep_png(channels_of(film, 4)), deep_tiff(channels_of(film, 4), ">")):
        assert abs(grey(content) - shown).max() <= 1
    with pytest.raises(
        ImportError, match=r"^image given as bytes: .* need imagecodecs: pip install 'otdrg-hf\[dicom\]'"
    ):
        load_radiograph(deep_tiff(channels_of(film, 3), planar=True))
    with clear_error("not an image file that can be read"):
        load_radiograph(deep_tiff(channels_of(film, 2)))


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_whose_white_is_zero(depth, order):
    if order == ">":  # which Pillow knows with black as zero alone
        pytest.importorskip("imagecodecs")
    film, shown = deep_film(depth)
    content = deep_tiff((WHITE_OF[depth] - film.astype(int))[..., None], order, photometric=0)
    assert abs(grey(content) - shown).max() <= 1
    if order == "<":
        assert abs(grey(Image.open(io.BytesIO(content))) - shown).max() <= 1


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("opaque", [65535, 4095, 255])
def test_transparent_is_black_in_16_bits(count, opaque):
    film, shown = deep_film("12 bits")
    channels = channels_of(film, count, opaque)
    channels[:, :10, -1] = 0
    channels[:, 10:20, -1] = opaque // 2 + 1
    pixels = grey(deep_png(channels))
    assert (pixels[:, :10] == 0).all()
    assert abs(pixels[:, 10:20] - shown[:, 10:20] / 2).max() <= 1
    assert abs(pixels[:, 20:] - shown[:, 20:]).max() <= 1


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_picture_from_a_file_of_16_bits_a_channel(kind, tmp_path):
    """Also when it is decoded already, as `datasets` hands it out; but not when it was drawn on since."""
    film, shown = deep_film("12 bits")
    path = tmp_path / f"film.{kind}"
    path.write_bytes((deep_png if kind == "png" else deep_tiff)(channels_of(film, 3)))
    assert abs(grey(Image.open(path)) - shown).max() <= 1
    with Image.open(path) as image:
        image.load()
        assert abs(grey(image) - shown).max() <= 1
        image.paste((200, 200, 200), (0, 0, 50, 20))
        assert (grey(image)[:20] == 200).all()
    path.unlink()
    assert (grey(image)[:20] == 200).all()


def test_colours_of_16_bits():
    film, shown = deep_film("12 bits")
    channels = np.stack([film, film // 2, film // 4], -1)
    pixels = np.asarray(load_radiograph(deep_png(channels)))
    assert abs(pixels - np.stack([shown, shown / 2, shown / 4], -1)).max() <= 1


def test_orientation_in_16_bits():
    film, shown = deep_film("12 bits")
    exif = Image.Exif()
    exif[0x0112] = 6
    content = deep_png(channels_of(film, 3))
    chunk = png_chunk(b"eXIf", exif.tobytes()[6:])
    assert abs(grey(content[:33] + chunk + content[33:]) - np.rot90(shown, -1)).max() <= 1


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_16_bits_cut_short(count, share):
    noise = np.random.default_rng(0).integers(0, 4096, (40, 50, count)).astype(np.uint16)
    for content in (deep_png(noise), deep_tiff(noise)):
        with clear_error("cut short|not an image file"):
            load_radiograph(content[: int(share * len(content))])


def test_tiff_that_is_longer_than_its_strips():
    content = deep_tiff(channels_of(deep_film("12 bits")[0], 1))
    height = struct.pack("<HHII", 257, 4, 1, 40)
    assert content.count(height) == 1
    with clear_error("damaged or cut short .strips are missing"):
        load_radiograph(content.replace(height, struct.pack("<HHII", 257, 4, 1, 1_000_000)))


# Tensors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e5m2])
@pytest.mark.parametrize("full", [1, 255])
def test_tensors_of_every_float(dtype, full):
    film = torch.from_numpy(FILM).double() * (full / 255)
    step = 24 if dtype == torch.float8_e5m2 else 1
    assert abs(grey(film.to(dtype)) - FILM).max() <= step
    assert abs(grey(film.to(dtype).requires_grad_()) - FILM).max() <= step


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64])
def test_tensors_of_integers(dtype):
    assert (grey(torch.from_numpy(FILM).to(dtype)) == FILM).all()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(40, 40, dtype=torch.bool),
        torch.zeros(40, 40, dtype=torch.complex64),
        torch.zeros(40, 40).to_sparse(),
        torch.zeros(40, 40, device="meta"),
        torch.full((40, 40), torch.nan, dtype=torch.bfloat16),
        torch.full((40, 40), -1, dtype=torch.bfloat16),
    ],
    ids=["bool", "complex", "sparse", "meta", "nan", "negative"],
)
def test_tensors_that_are_no_picture(tensor):
    with clear_error("image given as Tensor: ") as error:
        load_radiograph(tensor)
    assert "\n" not in str(error.value)


def test_orientation_of_a_photograph_is_followed():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    pixels = grey(file_of(Image.fromarray(FILM), exif=exif))
    assert pixels.shape == (50, 40) and (pixels == np.rot90(FILM, -1)).all()


def test_given_picture_is_left_as_it_is():
    image = Image.fromarray(FILM).convert("LA")
    load_radiograph(image)
    assert image.mode == "LA"


# How often an image is converted


@pytest.fixture
def work(monkeypatch):
    """The names of the methods by which Pillow makes a new image, as they are called."""
    calls = []
    for owner, name in (
        *[(Image.Image, name) for name in ("convert", "copy", "transpose", "tobytes")],
        *[(ImageOps, "exif_transpose"), (ImageOps, "invert"), (Image, "alpha_composite")],
    ):
        method = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, n=name, m=method, **kw: calls.append(n) or m(*args, **kw))
    return calls


def test_loaded_image_is_passed_through(work):
    image = Image.fromarray(np.stack([FILM] * 3, -1))
    assert load_radiograph(image) is image
    assert load_views([image, image]) == [image, image]
    assert work == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_file_is_converted_once(kind, mode, work, tmp_path):
    Image.fromarray(FILM).convert(mode).save(tmp_path / "image", kind)
    for image in (tmp_path / "image", (tmp_path / "image").read_bytes(), Image.open(tmp_path / "image")):
        work.clear()
        loaded = load_radiograph(image)
        assert [name for name in work if name != "copy"] == ["convert"]  # of RGB it is a copy
        assert type(loaded) is Image.Image and load_radiograph(loaded) is loaded and len(work) <= 2


def test_study_is_converted_once_on_its_way_through_the_pipeline(work, model, processor, tmp_path):
    report = pipeline("radiology-report", model=model, processor=processor)
    Image.fromarray(FILM).save(tmp_path / "image.png")
    rgb = load_radiograph(FILM)
    expected = report(FILM, max_new_tokens=2)
    for image, conversions in ((tmp_path / "image.png", 1), (FILM, 1), (rgb, 0)):
        work.clear()
        assert report(image, max_new_tokens=2) == expected
        assert work.count("convert") == conversions and not {"exif_transpose", "transpose"} & {*work}


def test_image_to_be_turned_or_made_opaque_is_not_passed_through():
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb = Image.fromarray(np.stack([FILM] * 3, -1))
    turned = Image.open(io.BytesIO(file_of(rgb, exif=exif)))
    plain = turned.copy()  # in memory, with its orientation
    assert type(plain) is Image.Image
    for image in (turned, plain):
        assert (grey(image) == np.rot90(FILM, -1)).all()
    clear = rgb.copy()
    clear.info["transparency"] = tuple(int(value) for value in rgb.getpixel((5, 5)))
    assert grey(clear)[5, 5] == 0 and grey(clear)[39, 49] == FILM[39, 49]


def test_long_film_is_read():
    assert load_radiograph(np.zeros((20_000, 20), np.uint8)).size == (20, 20_000)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels(monkeypatch, tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with clear_error("image 'huge.png': too many pixels"):
        load_radiograph(path)
    with clear_error("too many pixels"):
        load_radiograph(Image.new("1", (20_000, 20_000)))
    with clear_error("too many pixels"):
        load_radiograph(np.broadcast_to(np.uint8(0), (20_000, 20_000)))


def test_files_that_cannot_be_read(tmp_path):
    empty, text, cut = tmp_path / "empty.png", tmp_path / "text.png", tmp_path / "cut.png"
    empty.touch()
    text.write_text("This is no image.")
    noise = np.random.default_rng(0).integers(0, 255, (200, 200), np.uint8)
    cut.write_bytes(file_of(Image.fromarray(noise))[:20_000])
    for path, match in [
        (empty, "image 'empty.png': the file is empty"),
        (text, "image 'text.png': not an image file"),
        (cut, "image 'cut.png': the image data is damaged or cut short"),
        (tmp_path / "none.png", "image 'none.png': no such file"),
        (tmp_path, "is a folder"),
        (b"", "image given as bytes: the file is empty"),
        (b"no image", "image given as bytes: not an image file"),
    ]:
        with clear_error(match) as error:
            load_radiograph(path)
        assert "\n" not in str(error.value)
        assert str(tmp_path) not in str(error.value)


def test_pixels_that_cannot_be():
    holes = np.full((40, 40), 0.5)
    holes[3, 4] = np.nan
    for image, match in [
        (holes, "holds NaN or infinite pixels"),
        (np.full((40, 40), np.inf), "holds NaN or infinite pixels"),
        (Image.fromarray(holes.astype(np.float32)), "holds NaN or infinite pixels"),
        (torch.from_numpy(holes), "holds NaN or infinite pixels"),
        (np.full((40, 40), -1.0), r"holds negative pixels \(down to -1\)"),
        (np.full((40, 40), 2**16), "pixels up to 65536 are beyond 16 bits"),
        (np.zeros((40, 40), bool), "pixels of type bool"),
        (np.zeros((40, 40), complex), "pixels of type complex128"),
        (np.full((40, 40), "a"), "pixels of type <U1"),
        (np.zeros((2, 3, 40, 40)), r"an array of shape \(2, 3, 40, 40\)"),
        (np.zeros((40, 40, 4), np.uint8), r"an array of shape \(40, 40, 4\)"),
        (np.zeros((0, 40)), r"an array of shape \(0, 40\)"),
        (np.zeros((1, 1), np.uint8), "1 x 1 pixels, at least 16 a side"),
        (Image.new("L", (1, 1)), "1 x 1 pixels, at least 16 a side"),
        (Image.new("La", (40, 40)), "an image of mode La cannot be converted"),
        ("data:image/png;base64,SECRET!", "image given as data URL: the content of the data URL is not base64."),
        ("data:image/png,SECRET", "image given as data URL: a data URL must be data:image/"),
        ("data:image/png;base64,", "image given as data URL: the file is empty"),
        ("data:image/png;base64,U0VDUkVU", "image given as data URL: not an image file"),
        (io.StringIO("film"), "image given as StringIO: the file is open as text"),
        (None, "expected an image, path, URL, bytes or array, got NoneType"),
        (7, "got int"),
    ]:
        with clear_error(match) as error:
            load_radiograph(image)
        assert str(error.value).startswith("image given as ") and "\n" not in str(error.value)


def test_closed_picture(tmp_path):
    Image.fromarray(FILM).save(tmp_path / "film.png")
    image = Image.open(tmp_path / "film.png")
    image.close()
    with clear_error("image 'film.png'"):
        load_radiograph(image)


def test_culprit_among_several_is_named(tmp_path):
    with clear_error(r"image given as ndarray \(view 1 of study 3\): 1 x 1 pixels"):
        load_views([FILM, np.zeros((1, 1), np.uint8)], "study 3")
    with clear_error("image 'b.png': no such file"):
        load_views([FILM, tmp_path / "b.png"], "study 3")


def test_address_that_cannot_be_fetched():
    with clear_error(r"image 'film.png': could not be fetched") as error:
        load_radiograph("http://127.0.0.1:9/folder/film.png")
    assert "127.0.0.1" not in str(error.value)


def test_real_films():
    folder = Path(__file__).parents[3] / "shared" / "data"
    films = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not films:
        pytest.skip("the real films (shared/data) are not beside this checkout")
    for path in films[:6]:
        pixels = np.asarray(load_radiograph(path))
        assert pixels.std() > 10 and pixels.max() > 100, path.name
