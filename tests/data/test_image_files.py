"""Image files are checked to their end and resized without distortion."""

import io

import numpy as np
import pytest
from PIL import Image

from otdrg_hf.data.image_files import check_image, resized_jpeg
from otdrg_hf.data.rejections import IMAGE_MISSING, IMAGE_UNREADABLE, Rejected


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


def test_16_bit_images_keep_their_contrast(tmp_path):
    ramp = np.tile(np.linspace(0, 4095, 64).astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "x.png")
    values = np.asarray(Image.open(io.BytesIO(resized_jpeg(str(tmp_path / "x.png"), 64))))
    assert values.min() < 5 and values.max() > 250
