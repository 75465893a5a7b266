"""Image files are checked to their end and resized without distortion."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from otdrg_hf.data import load_study_dataset
from otdrg_hf.data.errors import IMAGE_MISSING, IMAGE_UNREADABLE, Rejected
from otdrg_hf.data.preparing.images import check_image, resized_jpeg
from otdrg_hf.modeling.image_loading import load_radiograph
from tests.support.deep_images import deep_png, deep_tiff


@pytest.fixture(params=["PNG", "JPEG"])
def picture(tmp_path, request):
    path = tmp_path / f"x.{request.param.lower()}"
    noise = np.random.default_rng(0).integers(0, 256, (90, 60), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def test_whole_image_passes(picture):
    check_image(str(picture))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_image_cut_short(picture, share):
    content = picture.read_bytes()
    picture.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(Rejected) as error:
        check_image(str(picture))
    assert error.value.reason == IMAGE_UNREADABLE
    assert str(picture.parent) not in error.value.detail


def test_no_image_and_no_file(tmp_path):
    (tmp_path / "x.png").write_bytes(b"not an image")
    for name, reason in (("x.png", IMAGE_UNREADABLE), ("y.png", IMAGE_MISSING)):
        with pytest.raises(Rejected) as error:
            check_image(str(tmp_path / name))
        assert error.value.reason == reason


@pytest.mark.parametrize("image_size, expected", [(30, (30, 45)), (60, (60, 90)), (200, (60, 90))])
def test_shorter_side_and_no_upscaling(picture, image_size, expected):
    image = Image.open(io.BytesIO(resized_jpeg(str(picture), image_size)))
    assert (image.format, image.mode, image.size) == ("JPEG", "L", expected)


# The pixels of the pipeline

RAMP = np.add.outer(np.arange(64) * 2, np.arange(48) * 2).astype(np.uint8)  # 0 to 220
DARK = RAMP.astype(np.uint16) * 11  # 0 to 2420, of 12 bits


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(image: Image.Image, orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file_of(image, kind, exif=exif)


def with_alpha(image: Image.Image) -> Image.Image:
    alpha = np.full(RAMP.shape, 255, np.uint8)
    alpha[:, :10] = 0
    alpha[10:20] = 128
    image = image.copy()
    image.putalpha(Image.fromarray(alpha))
    return image


def transparent_palette() -> bytes:
    image = Image.fromarray(RAMP // 16, "P")
    image.putpalette([shade for index in range(16) for shade in (index * 16,) * 3])
    return file_of(image, transparency=7)


FILES = {
    "8 bits": file_of(Image.fromarray(RAMP)),
    "16 bits, values to 2420": file_of(Image.fromarray(DARK)),
    "16 bits, values to 56540": file_of(Image.fromarray(RAMP.astype(np.uint16) * 257)),
    "16-bit TIFF": file_of(Image.fromarray(DARK), "TIFF"),
    "16-bit TIFF, white is zero": deep_tiff(4095 - DARK[..., None], photometric=0),
    "16 bits in colour": deep_png(np.stack([DARK] * 3, -1)),
    "16-bit TIFF in colour": deep_tiff(np.stack([DARK] * 3, -1), ">"),
    "16 bits with alpha": deep_png(np.stack([DARK, np.full_like(DARK, 65535)], -1)),
    "16 bits in colour with alpha": deep_png(np.stack([*[DARK] * 3, np.where(DARK > 900, 65535, 0)], -1)),
    "32-bit floats": file_of(Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF"),
    "grey with alpha": file_of(with_alpha(Image.fromarray(RAMP))),
    "colour with alpha": file_of(with_alpha(Image.fromarray(RAMP).convert("RGB"))),
    "palette with a transparent colour": transparent_palette(),
    "one bit": file_of(Image.fromarray(RAMP > 99)),
    "JPEG": file_of(Image.fromarray(RAMP), "JPEG", quality=95),
    "JPEG in colour": file_of(Image.fromarray(np.stack([RAMP, RAMP // 2, 255 - RAMP], -1)), "JPEG", quality=95),
    "JPEG of four inks": file_of(Image.fromarray(RAMP).convert("RGB").convert("CMYK"), "JPEG", quality=95),
    **{f"orientation {n}": turned(Image.fromarray(RAMP), n, "PNG") for n in range(1, 9)},
    **{f"JPEG, orientation {n}": turned(Image.fromarray(RAMP), n, "JPEG") for n in range(1, 9)},
    "16 bits, orientation 6": turned(Image.fromarray(DARK), 6, "PNG"),
}


@pytest.mark.parametrize("name", FILES)
def test_grey_values_are_those_of_the_pipeline(name, tmp_path):
    path = tmp_path / "film"
    path.write_bytes(FILES[name])
    loaded = load_radiograph(path).convert("L")
    check_image(str(path))
    for image_size in (48, 24):
        image = Image.open(io.BytesIO(resized_jpeg(str(path), image_size)))
        assert image.mode == "L" and min(image.size) == image_size
        expected = loaded.resize(image.size, Image.Resampling.LANCZOS)
        difference = abs(np.asarray(image).astype(int) - np.asarray(expected))
        assert difference.mean() <= 2 and np.percentile(difference, 95) <= 8


def test_training_sees_the_same(tmp_path):
    """What `datasets` has decoded by Pillow alone is loaded as the file itself."""
    folder = tmp_path / "studies"
    folder.mkdir()
    lines = []
    for number, content in enumerate(FILES.values()):
        (folder / f"{number}.film").write_bytes(content)
        lines.append(json.dumps({"id": str(number), "file_name": f"{number}.film", "report": "Clear."}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))
    studies = load_study_dataset(folder, cache_dir=tmp_path / "cache")
    for number, (name, study) in enumerate(zip(FILES, studies, strict=True)):
        loaded, expected = load_radiograph(study["images"][0]), load_radiograph(folder / f"{number}.film")
        assert loaded.size == expected.size, name
        assert (np.asarray(loaded) == np.asarray(expected)).all(), name


@pytest.mark.parametrize("name", ["16 bits, values to 2420", "16 bits in colour", "16-bit TIFF, white is zero"])
def test_dark_films_are_not_brightened(name, tmp_path):
    path = tmp_path / "film"
    path.write_bytes(FILES[name])
    image = Image.open(io.BytesIO(resized_jpeg(str(path), 48)))
    assert abs(np.asarray(image) - DARK * (255 / 4095)).mean() <= 1


def test_what_the_pipeline_refuses_is_rejected(tmp_path):
    path = tmp_path / "film.png"
    for image, reason in (
        (Image.new("L", (10, 40)), "image 'film.png': 10 x 40 pixels, at least 16 a side are needed."),
        (Image.new("1", (20_000, 20_000)), "image 'film.png': too many pixels for a radiograph"),
    ):
        image.save(path)
        for read in (lambda path: resized_jpeg(path, 8), check_image):
            with pytest.raises(Rejected) as error:
                read(str(path))
            assert error.value.reason == IMAGE_UNREADABLE and error.value.detail.startswith(reason)


def test_jpeg_with_too_many_pixels_is_rejected(tmp_path):
    path = tmp_path / "film.jpg"
    Image.new("L", (12_800, 12_800)).save(path)
    with pytest.raises(Rejected, match="too many pixels"):
        resized_jpeg(str(path), 64)


def test_jpeg_is_never_reduced_below_what_is_needed(tmp_path):
    path = tmp_path / "film.jpg"
    Image.fromarray(RAMP).save(path)
    assert Image.open(io.BytesIO(resized_jpeg(str(path), 6))).size == (6, 8)
