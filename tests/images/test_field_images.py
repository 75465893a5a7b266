"""The films of ../shared/cases, by the pipeline's loader and from prepared shards, against the picture they hold."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("pydicom")
pytest.importorskip("imagecodecs")

from otdrg_hf.data import load_study_dataset, prepare_dataset  # noqa: E402
from otdrg_hf.modeling.image_loading import load_radiograph  # noqa: E402
from tests.support.dicom_files import make_dicom  # noqa: E402

CASES = Path(__file__).parents[3] / "shared" / "cases"
if not (CASES / "dicom.json").is_file():
    pytest.skip("the cases from the field (shared/cases) are not beside this checkout", allow_module_level=True)

ALL = json.loads((CASES / "dicom.json").read_text(encoding="utf-8"))
WITHOUT_END = "JPEG lossless without end of image"  # which is refused
SHOWN = {case["name"]: case for case in ALL if isinstance(case["input"], dict) and case["name"] != WITHOUT_END}
WITHOUT_FILES = ["PhotometricInterpretation missing", "BitsStored missing", "bfloat16 tensor as an image"]


def film_of(case) -> Path:
    return CASES / case["input"]["file"]


def reference_of(case) -> np.ndarray:
    name = "reference_border" if "mean 61" in case["expected"] else "reference"
    return grey(Image.open(CASES / "films" / f"{name}.png"))


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L")).astype(float)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """All films by case, as `otdrg prepare folder --image_size` embeds them."""
    folder = tmp_path_factory.mktemp("films")
    lines = []
    for name, case in SHOWN.items():
        (folder / film_of(case).name).write_bytes(film_of(case).read_bytes())
        lines.append({"id": name, "file_name": film_of(case).name, "report": "The lungs are clear."})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    output = tmp_path_factory.mktemp("prepared")
    summary = prepare_dataset("folder", output, folder, image_size=80)
    assert summary["rejected"] == {} and summary["images"] == len(SHOWN)
    dataset = load_study_dataset(output, cache_dir=tmp_path_factory.mktemp("cache"))
    return {study["id"]: study["images"][0] for study in dataset}


def test_every_case_is_tried():
    assert {case["name"] for case in ALL} == {*SHOWN, WITHOUT_END, *WITHOUT_FILES}


@pytest.mark.parametrize("name", SHOWN)
def test_film_is_the_picture_that_it_holds(name, prepared):
    case = SHOWN[name]
    within = 4 if "<= 4" in case["expected"] else 3
    loaded, embedded = grey(load_radiograph(film_of(case))), grey(prepared[name])
    assert abs(loaded - reference_of(case)).mean() <= within
    assert abs(embedded - reference_of(case)).mean() <= within
    assert abs(embedded - loaded).mean() <= 1.5  # of which JPEG takes 1


def test_lossless_stream_without_its_end_is_refused():
    film = next(film_of(case) for case in ALL if case["name"] == WITHOUT_END)
    with pytest.raises(ValueError, match="its end is missing"):
        load_radiograph(film)


@pytest.mark.parametrize("keyword", ["PhotometricInterpretation", "BitsStored"])
def test_missing_element(keyword):
    assert f"{keyword} missing" in WITHOUT_FILES
    with pytest.raises(ValueError, match=f"the DICOM element {keyword} is missing"):
        load_radiograph(make_dicom(np.zeros((32, 32), np.uint16), **{keyword: None}))


def test_bfloat16():
    reference = grey(Image.open(CASES / "films" / "reference.png"))
    loaded = load_radiograph(torch.tensor(reference / 255, dtype=torch.bfloat16))
    assert abs(grey(loaded) - reference).mean() <= 1
