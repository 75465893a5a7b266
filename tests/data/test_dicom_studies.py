"""DICOM films in a folder of studies: decoded as they are read, views from their headers, checked and embedded."""

import io
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pydicom")
pytest.importorskip("imagecodecs")

from otdrg_hf.data import load_study_dataset, prepare_dataset  # noqa: E402
from otdrg_hf.data.errors import IMAGE_UNREADABLE, Rejected  # noqa: E402
from otdrg_hf.data.preparing.images import check_image, resized_jpeg  # noqa: E402
from tests.support.dicom_files import LOSSLESS, SECRETS, make_dicom  # noqa: E402
from tests.support.tiny_models import make_films  # noqa: E402

FILM = make_films(1, (64, 48))[0]
REPORT = "The heart is normal in size. No pleural effusion."


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "studies"
    path.mkdir()
    (path / "pa.dcm").write_bytes(make_dicom(FILM, LOSSLESS["jpeg-ls"], ViewPosition="PA"))
    (path / "ll.dcm").write_bytes(make_dicom(FILM, ViewPosition="LL"))
    Image.fromarray(FILM).save(path / "film.png")
    lines = [
        {"id": "a", "file_names": ["pa.dcm", "ll.dcm", "film.png"], "report": REPORT},
        {"id": "b", "file_name": "ll.dcm", "views": ["frontal"], "report": REPORT},
    ]
    (path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("streaming", [False, True])
def test_folder_with_dicom(folder, tmp_path, streaming):
    first, second = load_study_dataset(folder, streaming=streaming, cache_dir=tmp_path / "cache")
    assert first["views"] == ["frontal", "lateral", "unknown"] and second["views"] == ["frontal"]
    for image in (*first["images"], *second["images"]):
        assert (np.asarray(image.convert("L")) == FILM).all()


def test_prepared_folder_with_dicom(folder, tmp_path):
    (folder / "pa.dcm").write_bytes(b"\0" * 128 + b"DICM")
    for image_size, name in ((None, "by path"), (32, "embedded")):
        summary = prepare_dataset("folder", tmp_path / name, folder, image_size=image_size)
        assert summary["rejected"] == {IMAGE_UNREADABLE: 1}
        first = load_study_dataset(tmp_path / name, cache_dir=tmp_path / "cache")[0]
        assert first["views"] == ["lateral", "unknown"]
        assert first["images"][0].size == ((48, 64) if image_size is None else (32, 43))
        rejected = (tmp_path / name / "rejected.jsonl").read_text()
        assert str(tmp_path) not in rejected


def test_check_and_resize(folder):
    check_image(str(folder / "pa.dcm"))
    resized = Image.open(io.BytesIO(resized_jpeg(str(folder / "pa.dcm"), 48)))
    assert resized.size == (48, 64) and abs(np.asarray(resized).astype(int) - FILM).max() < 25


@pytest.mark.parametrize("elements", [{"Modality": "CT"}, {"PixelData": None}])
def test_other_dicom_is_rejected(tmp_path, elements):
    path = tmp_path / "film.dcm"
    path.write_bytes(make_dicom(FILM, **elements))
    with pytest.raises(Rejected) as error:
        check_image(str(path))
    assert error.value.reason == IMAGE_UNREADABLE
    assert not any(secret in error.value.detail for secret in (*SECRETS.values(), str(tmp_path)))
