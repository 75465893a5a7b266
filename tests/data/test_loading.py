"""Every form of study data loads in the one schema, lazily, and says clearly what is wrong with it."""

import json

import numpy as np
import pytest
from PIL import Image

from otdrg_hf.data import STUDY_COLUMNS, load_study_dataset, prepare_dataset, study_features
from otdrg_hf.data.errors import DataError
from otdrg_hf.data.r2gen import read_annotation
from otdrg_hf.data.schema import split_name
from otdrg_hf.images.views import view_of
from otdrg_hf.labeling import LABELS

EFFUSION = LABELS.index("Pleural Effusion")


@pytest.fixture
def image_folder(tmp_path, make):
    """A function that writes an image folder with the metadata lines given."""

    def write(*lines, place="."):
        folder = tmp_path / "folder"
        (folder / place).mkdir(parents=True, exist_ok=True)
        for name in ("a.png", "b.png"):
            (folder / place / name).write_bytes(make.png())
        (folder / place / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return folder

    return write


@pytest.mark.parametrize(
    "position, view",
    [
        ("PA", "frontal"),
        ("AP", "frontal"),
        ("AP AXIAL", "frontal"),
        ("PA RLD", "frontal"),
        ("AP LLD", "frontal"),
        ("LATERAL", "lateral"),
        ("LL", "lateral"),
        ("XTABLE LATERAL", "lateral"),
        ("LEFT LATERAL DECUBITUS", "frontal"),
        ("LLD", "frontal"),
        ("ERECT AP", "frontal"),
        ("Posteroanterior", "frontal"),
        ("LAO", "unknown"),
        ("AP OBLIQUE", "frontal"),
        ("SWIMMERS", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
        ("frontal", "frontal"),
        ("lateral", "lateral"),
    ],
)
def test_view_positions(position, view):
    assert view_of(position) == view


def test_split_names():
    names = {"train", "val", "validation", "validate", " Test ", "dev"}
    assert {split_name(name) for name in names} == {"train", "validation", "test"}
    assert split_name("holdout") is None


def test_r2gen(load, r2gen_folder):
    studies = load(r2gen_folder, "train")
    assert studies.column_names == list(STUDY_COLUMNS) and studies.features == study_features()
    study = studies[0]
    assert study["report"] == study["findings"] == "Small left pleural effusion ."
    assert study["disease_labels"][EFFUSION] == 1 and len(study["disease_labels"]) == 14
    assert [image.size for image in study["images"]] == [(24, 30)] * 2
    assert study["views"] == ["unknown"] * 2
    assert {split: len(load(r2gen_folder, split)) for split in ("train", "val", "validation", "test")} == {
        "train": 3,
        "val": 1,
        "validation": 1,
        "test": 1,
    }


def test_streaming_gives_the_same(load, r2gen_folder):
    assert list(load_study_dataset(r2gen_folder, streaming=True)) == list(load(r2gen_folder))


def test_images_are_not_opened_until_read(load, r2gen_folder):
    for path in r2gen_folder.rglob("*.png"):
        path.write_bytes(b"not an image")
    studies = load(r2gen_folder)
    assert studies.select_columns(["report"])[0]["report"]
    with pytest.raises(Exception, match="cannot identify image"):
        studies[0]


def test_missing_images_are_counted(load, r2gen_folder, warned):
    (r2gen_folder / "images/CXR10_IM-0001/1.png").unlink()
    assert len(load(r2gen_folder)) == 3
    assert "1 of 6 images are missing on disk, the first images/CXR10_IM-0001/1.png" in warned()


def test_new_annotation_is_not_served_from_the_cache(load, r2gen_folder):
    assert load(r2gen_folder)[0]["disease_labels"][EFFUSION] == 1
    path = r2gen_folder / "annotation.json"
    path.write_text(path.read_text().replace("Small left", "No"))
    assert load(r2gen_folder)[0]["disease_labels"][EFFUSION] == 2


def test_real_annotation_loads(load, shared_iu):
    counts = {split: len(load(shared_iu, split)) for split in ("train", "val", "test")}
    assert counts == {"train": 2069, "val": 296, "test": 590}


def annotation(tmp_path, content):
    path = tmp_path / "annotation.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"train": [], "holdout": [], "x ": []}, r"unknown keys \['holdout', 'x '\]"),
        ({"train": [], " train": []}, "two keys for the split 'train'"),
        ({"train": [], " ": []}, "blank key that could be any of"),
        ([1, 2], "not an R2Gen annotation"),
        ({"train": {}}, "not an R2Gen annotation"),
        ("{", "not valid JSON"),
    ],
)
def test_annotations_that_do_not_fit(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_annotation(annotation(tmp_path, content))


def test_blank_key_is_what_is_missing_or_what_its_entries_say(tmp_path):
    assert set(read_annotation(annotation(tmp_path, {"train": [], "val": [], "": []}))) == {
        "train",
        "validation",
        "test",
    }
    entries = [{"id": "a", "split": "val"}]
    assert read_annotation(annotation(tmp_path, {"train": [], "\t": entries})) == {"train": [], "validation": entries}


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"id": "a", "report": "x"}, "train entry 0: .* id, report and image_path"),
        ({"id": "a", "report": 3, "image_path": ["a.png"]}, "report must be a string"),
        ({"id": "a", "report": "x", "image_path": ["../../a.png"]}, "leaves its dataset folder"),
        ("a", "must be an object"),
    ],
)
def test_entries_that_do_not_fit(load, tmp_path, entry, message):
    annotation(tmp_path, {"train": [entry], "val": [], "test": []})
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_image_folder(load, image_folder):
    first = {"file_names": ["a.png", "b.png"], "views": ["PA", "lateral"], "impression": "Pleural effusion."}
    second = {"file_name": "b.png", "id": "two", "disease_labels": {"Edema": "uncertain"}}
    third = {"file_name": "b.png", "indication": "Cough", "comparison": "Clear.", "disease_labels": [2] * 14}
    fourth = {"file_name": "a.png"}
    studies = load(image_folder(first, second, third, fourth))
    assert studies.features == study_features()
    assert (studies[0]["id"], studies[0]["views"]) == ("a", ["frontal", "lateral"])
    assert studies[0]["report"] == "Pleural effusion." and studies[0]["disease_labels"][EFFUSION] == 1
    assert studies[1]["disease_labels"] == [3 * (label == "Edema") for label in LABELS]
    assert studies[2]["disease_labels"] == [2] * 14 and studies[2]["comparison"] == "Clear."
    assert studies[3]["report"] == "" and studies[3]["disease_labels"] == [0] * 14


def test_image_folder_splits(load, image_folder):
    lines = [{"file_name": "a.png", "split": split} for split in ("train", "val", "val", "test")]
    folder = image_folder(*lines)
    assert [len(load(folder, split)) for split in ("train", "validation", "test")] == [1, 2, 1]
    (folder / "metadata.jsonl").unlink()
    for place in ("train", "valid"):
        image_folder({"file_name": "a.png"}, place=place)
    assert len(load(folder, "val")) == 1
    with pytest.raises(DataError, match="no split 'test', only train, validation"):
        load(folder, "test")


@pytest.mark.parametrize("form", ["{}/a.png", "./{}/a.png", "{}\\a.png"])
def test_a_split_is_the_folder_of_the_image_however_it_is_written(load, image_folder, form):
    for place in ("train", "test"):
        image_folder({"file_name": "a.png"}, place=place)
        (image_folder(place=place) / place / "metadata.jsonl").unlink()
    folder = image_folder(*({"file_name": form.format(place)} for place in ("train", "test")))
    assert [len(load(folder, split)) for split in ("train", "test")] == [1, 1]


@pytest.mark.parametrize(
    "line, message",
    [
        ({}, "line 1 needs file_name"),
        ({"file_name": "a.png", "file_names": ["b.png"]}, "line 1 needs file_name"),
        ({"file_name": "a.png", "split": "holdout"}, "unknown split 'holdout'"),
        ({"file_name": "a.png", "report": ["x"]}, "line 1: report must be text"),
        ({"file_name": "a.png", "views": ["PA", "AP"]}, "views must be a list"),
        ({"file_name": "a.png", "views": [1]}, "views must be a list"),
        ({"file_name": "a.png", "disease_labels": [1, 2]}, "disease_labels must be 14 states"),
        ({"file_name": "a.png", "disease_labels": {"Covid": "positive"}}, "disease_labels must be 14 states"),
        ({"file_name": "/etc/a.png"}, "leaves its dataset folder"),
        ([1], "line 1: a JSON list where an object is needed"),
    ],
)
def test_metadata_that_does_not_fit(load, image_folder, line, message):
    with pytest.raises(DataError, match=message):
        load(image_folder(line))


def test_prepared_by_path_and_embedded(load, iu_download, tmp_path):
    by_path = prepare_dataset("iu_xray", tmp_path / "paths", iu_download)
    embedded = prepare_dataset("iu_xray", tmp_path / "bytes", iu_download, image_size=12)
    assert by_path["studies"] == embedded["studies"] == 20
    first = load("iu_xray", "train", data_dir=tmp_path / "paths")
    second = load("iu_xray", "train", data_dir=tmp_path / "bytes")
    assert len(first) == len(second) == 14 and first.features == second.features == study_features()
    assert [image.size for image in first[0]["images"]] == [(24, 30)] * 2
    assert [image.size for image in second[0]["images"]] == [(12, 15)] * 2
    texts = [name for name in STUDY_COLUMNS if name != "images"]
    assert list(first.select_columns(texts)) == list(second.select_columns(texts))
    assert np.asarray(first[0]["images"][0]).shape == (30, 24)
    streamed = load_study_dataset(tmp_path / "paths", streaming=True)
    assert next(iter(streamed))["id"] == first[0]["id"]


def test_images_that_moved(load, iu_download, tmp_path):
    prepare_dataset("iu_xray", tmp_path / "out", iu_download)
    (tmp_path / "out" / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="pass their folder as image_root"):
        load(tmp_path / "out")
    assert isinstance(load(tmp_path / "out", image_root=tmp_path / "elsewhere")[0]["images"][0], Image.Image)


def test_prepared_folders_that_do_not_fit(load, iu_download, tmp_path):
    prepare_dataset("iu_xray", tmp_path / "out", iu_download, image_size=12, shard_size=3)
    with pytest.raises(DataError, match="prepared from iu_xray, not from mimic_cxr"):
        load("mimic_cxr", data_dir=tmp_path / "out")
    shard = sorted((tmp_path / "out" / "data").glob("train-*"))
    content = shard[1].read_bytes()
    shard[1].unlink()
    with pytest.raises(DataError, match="4 of 5 Parquet shards of 'train'"):
        load(tmp_path / "out")
    shard[1].write_bytes(content)
    damaged = bytearray(shard[0].read_bytes())
    damaged[40 : len(damaged) // 2] = b"x" * (len(damaged) // 2 - 40)
    shard[1].write_bytes(damaged)
    with pytest.raises(DataError, match=f"{shard[1].name} is damaged"):
        load(tmp_path / "out")
    shard[0].write_bytes(b"PAR1 cut")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        load(tmp_path / "out")


def test_phantoms_load_in_the_schema(load):
    studies = load("phantom", "val", num_studies=2, image_size=64)
    assert studies.column_names == list(STUDY_COLUMNS) and len(studies) == 2
    assert studies.features == study_features()
    with pytest.raises(ValueError, match="image_size 32"):
        load("phantom", num_studies=2, image_size=32)


def test_names_and_folders_that_do_not_fit(load, tmp_path):
    with pytest.raises(DataError, match="iu_xray needs data_dir"):
        load("iu_xray")
    with pytest.raises(DataError, match="is neither phantom, phantom_hard, iu_xray, mimic_cxr nor a folder$"):
        load("chexpert")
    with pytest.raises(DataError, match="Nothing to read"):
        load(tmp_path)
    with pytest.raises(DataError, match="Unknown split 'holdout'"):
        load("phantom", "holdout")
    with pytest.raises(TypeError, match="only phantoms take: image_size"):
        load(tmp_path, image_size=64)


@pytest.fixture
def texts(image_folder):
    """An image folder of five studies, the second and fourth without findings."""
    findings = ["Clear.", "", "Edema.", " ", "Effusion."]
    return image_folder(
        *({"file_name": "a.png", "id": str(n), "findings": text, "impression": "x"} for n, text in enumerate(findings))
    )


@pytest.mark.parametrize(
    "options, ids",
    [
        ({}, "01234"),
        ({"num_studies": 2}, "01"),
        ({"num_studies": 9}, "01234"),
        ({"having": "findings"}, "024"),
        ({"having": "findings", "num_studies": 2}, "02"),
        ({"having": "findings", "num_studies": 1}, "0"),
        ({"having": "findings", "num_studies": 9}, "024"),
        ({"having": "impression", "num_studies": 3}, "012"),
    ],
)
def test_the_first_studies_that_have_a_text(load, texts, options, ids):
    studies = load(texts, **options)
    assert "".join(studies["id"]) == ids and studies.features == study_features()
    assert "".join(study["id"] for study in load_study_dataset(texts, streaming=True, **options)) == ids


def test_studies_without_the_text_are_counted(load, texts, warned):
    load(texts, having="findings", num_studies=2)
    assert "left out: 1 of 3 studies have no findings" in warned()
    load(texts, having="findings")
    assert "left out: 2 of 5 studies have no findings" in warned()


def test_choosing_studies_opens_no_image(load, texts):
    (texts / "a.png").write_bytes(b"not an image")
    assert len(load(texts, having="findings", num_studies=2)) == 2
    streamed = load_study_dataset(texts, streaming=True, having="findings", num_studies=2)
    assert [row["findings"] for row in streamed.select_columns("findings")] == ["Clear.", "Edema."]


def test_choosing_studies_of_phantoms_and_in_place(load, r2gen_folder, tmp_path):
    assert len(load("phantom", num_studies=3, having="report", image_size=64)) == 3
    prepare_dataset("folder", tmp_path / "out", r2gen_folder)
    studies = load(tmp_path / "out", num_studies=2, having="report", in_place=True)
    assert len(studies) == 2 and studies[1]["images"][0].size == (24, 30)


def test_choices_that_do_not_fit(load, texts):
    with pytest.raises(DataError, match="^No train study of folder has a text in its column indication$"):
        load(texts, having="indication")
    with pytest.raises(DataError, match="having is 'views': give a column of texts, one of id, indication"):
        load(texts, having="views")
    for name in (texts, "phantom"):
        with pytest.raises(DataError, match="num_studies is 0: ask for at least one study"):
            load(name, num_studies=0)
