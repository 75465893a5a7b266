"""Tests of DICOM as a Pillow plugin: what `Image.open` gives, when it is registered, and what it costs other images."""

import copy
import io
import logging
import pickle
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("imagecodecs")

import otdrg_hf.images  # noqa: E402
from otdrg_hf.images.dicom import DicomImageFile, view_in_file  # noqa: E402
from otdrg_hf.modeling import image_loading  # noqa: E402
from otdrg_hf.modeling.image_loading import VIEW, view_in  # noqa: E402
from tests.support.dicom_files import LOSSLESS, SECRETS, make_dicom  # noqa: E402

FILM = np.add.outer(np.arange(64) * 3, np.arange(48)).astype(np.uint8)
DEEP = FILM.astype(np.uint16) * 16 + 7  # 12 bits


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "patient_smith" / "IM0001"
    path.parent.mkdir()
    path.write_bytes(make_dicom(FILM, LOSSLESS["jpeg-ls"], ViewPosition="LL"))
    return path


def test_public_name():
    assert otdrg_hf.images.load_radiograph is image_loading.load_radiograph
    with pytest.raises(AttributeError, match="no attribute 'load_radiographs'"):
        otdrg_hf.images.load_radiographs  # noqa: B018


def test_registering_is_cheap():
    """`import otdrg_hf` does it, and so does every command, `otdrg --help` too."""
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1]); print([name for name in sys.argv[2:] if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, otdrg_hf.images.__file__, "PIL", "numpy", "torch", "pydicom"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout == "['PIL']\n", result.stderr


def test_image_opens_by_its_header_and_loads_its_pixels(path):
    with Image.open(path) as image:
        assert isinstance(image, DicomImageFile)
        assert (image.format, image.mode, image.size) == ("DICOM", "L", (48, 64))
        assert image.get_format_mimetype() == "application/dicom"
        assert image.info == {VIEW: "lateral"} and view_in(image) == "lateral"
        assert (np.asarray(image) == FILM).all()
    assert (np.asarray(image) == FILM).all()  # the file is closed, the pixels are there
    assert Image.registered_extensions()[".dcm"] == "DICOM"


@pytest.mark.parametrize("change", [copy.copy, copy.deepcopy, lambda image: pickle.loads(pickle.dumps(image))])
def test_image_is_copied_and_sent_to_other_processes(path, change):
    image = change(Image.open(path))
    assert (np.asarray(image) == FILM).all() and view_in(image) == "lateral"


def test_colour_and_deep_images_are_displayable(tmp_path):
    path = tmp_path / "image.dcm"
    path.write_bytes(make_dicom(np.stack([FILM] * 3, -1)))
    assert Image.open(path).mode == "RGB" and (np.asarray(Image.open(path)) == FILM[..., None]).all()
    path.write_bytes(make_dicom(4095 - DEEP, bits=12, PhotometricInterpretation="MONOCHROME1"))
    image = Image.open(path)
    assert image.mode == "L" and abs(np.asarray(image) - DEEP * (255 / 4095)).max() <= 1
    image.save(tmp_path / "image.png")
    assert (np.asarray(Image.open(tmp_path / "image.png")) == np.asarray(image)).all()


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_pixels_and_view_are_those_of_the_loader(syntax, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(make_dicom(DEEP, LOSSLESS[syntax], 12, ViewPosition="PA", WindowCenter=900, WindowWidth=1500))
    for given in (path, Image.open(path)):
        loaded = otdrg_hf.images.load_radiograph(given)
        assert type(loaded) is Image.Image and loaded.mode == "RGB" and view_in(loaded) == "frontal"
        assert (np.asarray(loaded) == np.asarray(Image.open(path).convert("RGB"))).all()


def damaged(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


@pytest.mark.parametrize(
    "content, match",
    [
        (lambda: make_dicom(FILM, Modality="CT"), "a CT slice, not a radiograph"),
        (lambda: make_dicom(FILM, Rows=None), "the DICOM element Rows is missing"),
        (lambda: make_dicom(FILM, NumberOfFrames=2), "several frames"),
        (lambda: bytes(128) + b"DICM", "a DICOM file without an image"),
        (lambda: damaged(make_dicom(FILM, LOSSLESS["jpeg-ls"])), "cut short"),
        (lambda: damaged(make_dicom(FILM)), "cut short"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_image_once(content, match, path):
    path.write_bytes(content())

    def load_opened():
        return otdrg_hf.images.load_radiograph(Image.open(path))

    for load in (lambda: Image.open(path).load(), load_opened, lambda: otdrg_hf.images.load_radiograph(path)):
        with pytest.raises(ValueError, match=match) as error:
            load()
        text = str(error.value)
        assert text.startswith("image 'IM0001': ") and text.count("IM0001") == 1 and "\n" not in text
        assert "patient_smith" not in text and not any(secret in text for secret in SECRETS.values())


def test_view_in_a_file(tmp_path):
    contents = {"a.dcm": make_dicom(FILM, ViewPosition="AP"), "b.dcm": b"text", "c.png": b"", "d.DICOM": b"\0" * 200}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    views = {name: view_in_file(str(tmp_path / name)) for name in (*contents, "missing.dcm")}
    assert views.pop("a.dcm") == "frontal" and set(views.values()) == {"unknown"}
    assert view_in_file(str(tmp_path)) == "unknown"


@pytest.mark.parametrize("name", ["IM0001", "b.ima", "c.dcm"])
@pytest.mark.parametrize("preamble", [True, False])
def test_dicom_of_any_name_has_its_view(tmp_path, name, preamble):
    content = make_dicom(FILM, ViewPosition="LL")
    (tmp_path / name).write_bytes(content if preamble else content[132:])
    assert view_in_file(str(tmp_path / name)) == "lateral"


# Other images, and other threads


def test_other_images_open_as_before_and_need_no_pydicom(tmp_path):
    kinds = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "TGA", "PPM", "ICO", "JPEG2000")
    for kind in kinds:
        Image.fromarray(FILM).save(tmp_path / kind, kind)
    code = (
        "import sys, otdrg_hf.images; from PIL import Image\n"
        "sys.modules['pydicom'] = sys.modules['imagecodecs'] = None\n"
        "loaded = [otdrg_hf.images.load_radiograph(path) for path in sys.argv[1:]]\n"
        "print([Image.open(path).format for path in sys.argv[1:]], {image.mode for image in loaded})"
    )
    command = [sys.executable, "-c", code, *(str(tmp_path / kind) for kind in kinds)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout == f"{list(kinds)} {{'RGB'}}\n", result.stderr


def test_header_is_quoted_in_no_warning_and_no_log(caplog):
    content = make_dicom(FILM, SpecificCharacterSet="ISO_IR 100").replace(b"ISO_IR 100", b"SMITH_JOHN")
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        pydicom.dcmread(io.BytesIO(content))
        assert "SMITH" in caplog.text and "SMITH" in str(caught[0].message)
        caplog.clear(), caught.clear()
        assert (np.asarray(otdrg_hf.images.load_radiograph(content))[..., 0] == FILM).all()
        assert not caught and "SMITH" not in caplog.text
        logging.getLogger("pydicom").warning("of another file")  # pydicom itself is not silenced for good
        assert "of another file" in caplog.text


def test_threads_load_at_once_and_leave_the_filters_of_warnings_as_they_were():
    before = list(warnings.filters)
    contents = [make_dicom(np.roll(FILM, turn, 0), LOSSLESS[name]) for turn, name in enumerate(sorted(LOSSLESS))]
    with ThreadPoolExecutor(8) as threads:
        loaded = list(threads.map(otdrg_hf.images.load_radiograph, contents * 10))
    for number, image in enumerate(loaded):
        assert (np.asarray(image)[..., 0] == np.roll(FILM, number % len(contents), 0)).all()
    assert list(warnings.filters) == before


# Remote code


REMOTE = """
import sys
sys.path.insert(0, sys.argv[2])
if sys.argv[3] == "alone":
    sys.modules["otdrg_hf"] = None  # as if it were not installed
else:
    import otdrg_hf
from travelled.image_loading import load_radiograph, view_in
try:
    image = load_radiograph(sys.argv[1])
    print(image.mode, image.size, view_in(image))
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize("way", ["alone", "imported"])
def test_code_that_travels_with_a_checkpoint_says_what_to_import(way, path, tmp_path):
    (tmp_path / "travelled").mkdir()
    shutil.copy(Path(image_loading.__file__), tmp_path / "travelled")
    command = [sys.executable, "-c", REMOTE, str(path), str(tmp_path), way]
    result = subprocess.run(command, capture_output=True, text=True)
    alone = "image 'IM0001': a DICOM file, which needs pip install 'otdrg-hf[dicom]' and `import otdrg_hf`.\n"
    assert result.stdout == (alone if way == "alone" else "RGB (48, 64) lateral\n"), result.stderr
