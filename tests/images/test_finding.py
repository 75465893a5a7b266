"""Tests of finding images by files, folders, patterns and URLs, and of what they are called."""

import os

import pytest
from PIL import Image

from otdrg_hf.images.finding import find_images
from tests.support.tiny_models import make_films


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "films"
    for name in ("b.png", "a.jpg", "sub/c.PNG", "sub/deep/d.bmp"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_films(1)[0]).save(path)
    (root / "IM000001").write_bytes(b"\0" * 128 + b"DICM")
    (root / "1.2.840").write_bytes(b"\0" * 128 + b"DICM")
    (root / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (root / "e.dcm").write_bytes(b"")
    (root / "notes.txt").write_text("no film")
    (root / ".hidden.png").write_bytes(b"")
    (root / ".git").mkdir()
    (root / ".git" / "x.png").write_bytes(b"")
    return root


def names(locations):
    return [image.name for image in find_images(locations)]


def test_folder(folder):
    expected = ["1.2.840", "IM000001", "a.jpg", "b.png", "e.dcm", "sub/c.PNG", "sub/deep/d.bmp"]
    assert names([folder]) == expected
    assert names([f"{folder}/"]) == expected
    assert all(os.path.isfile(image.location) for image in find_images([folder]))


def test_order_is_that_of_the_arguments(folder):
    found = find_images([folder / "b.png", folder / "sub", folder / "a.jpg", folder / "missing.png"])
    assert [image.name for image in found] == ["b.png", "c.PNG", "deep/d.bmp", "a.jpg", "missing.png"]


def test_patterns(folder, monkeypatch):
    assert names([f"{folder}/*.png"]) == ["b.png"]
    assert names([f"{folder}/**/*.[pP][nN][gG]"]) == ["b.png", "sub/c.PNG"]
    monkeypatch.chdir(folder)
    assert names(["*/c.PNG"]) == ["sub/c.PNG"]


def test_file_whose_name_looks_like_a_pattern(folder):
    path = folder / "film [1].png"
    Image.fromarray(make_films(1)[0]).save(path)
    assert names([path]) == ["film [1].png"]


def test_address_is_named_without_its_query():
    [image] = find_images(["https://host.example/films/chest.png?key=secret#part"])
    assert image.name == "chest.png" and image.location.endswith("?key=secret#part")
    assert names(["https://host.example/"]) == ["image"]
    assert names(["data:image/png;base64,U0VDUkVU/U0VDUkVU"]) == ["image"]


def test_nothing_to_report(tmp_path):
    (tmp_path / "empty").mkdir()
    for location, match in (("empty", "no image in the folder 'empty'"), ("no*.png", "No file matches 'no\\*.png'")):
        with pytest.raises(ValueError, match=match) as error:
            find_images([tmp_path / location])
        assert str(tmp_path) not in str(error.value) and "\n" not in str(error.value)
