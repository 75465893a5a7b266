"""IU X-Ray in Kaggle's layout, and R2Gen's folder with projections: the same studies, frontal images first."""

import csv
import json
from pathlib import Path

import pytest

from otdrg_hf.data import STUDY_COLUMNS, load_study_dataset, prepare_dataset
from otdrg_hf.data.errors import DataError
from otdrg_hf.data.iu_reports import study_number
from otdrg_hf.data.iu_xray import R2GenViews, image_key
from otdrg_hf.data.schema import frontal_first
from tests.data.kaggle_iu import PROJECTION_COLUMNS, REPORT_COLUMNS, rebuild_kaggle, write_table

TEXTS = [name for name in STUDY_COLUMNS if name != "images"]


def report_rows(numbers, **changed):
    row = {"MeSH": "Opacity/lung/base/left;Cardiomegaly", "image": "PA and Lateral", "findings": "Small left effusion."}
    row |= {"Problems": "Opacity;Cardiomegaly", "indication": "Chest  pain", "impression": "Small effusion.\nStable."}
    return [{**dict.fromkeys(REPORT_COLUMNS, ""), **row, "uid": number, **changed} for number in numbers]


@pytest.fixture
def kaggle(tmp_path, make):
    """A folder in Kaggle's layout: 10 studies of a lateral and a frontal image each, the lateral listed first."""
    folder = tmp_path / "kaggle"
    (folder / "images_normalized").mkdir(parents=True)
    write_table(folder / "indiana_reports.csv", REPORT_COLUMNS, report_rows(range(1, 11)))
    rows = []
    for number in range(1, 11):
        for series, view in ((1001, "Lateral"), (2001, "Frontal")):
            name = f"{number}_IM-{number:04d}-{series}.dcm.png"
            (folder / "images_normalized" / name).write_bytes(make.png())
            rows.append({"uid": number, "filename": name, "projection": view})
    write_table(folder / "indiana_projections.csv", PROJECTION_COLUMNS, rows)
    return folder


def annotate(path: Path, **splits: list[int]) -> Path:
    path.write_text(json.dumps({name: [{"id": f"CXR{n}_IM-{n:04d}"} for n in ids] for name, ids in splits.items()}))
    return path


def rejected(output):
    return [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]


def test_prepared_with_views_and_the_frontal_image_first(kaggle, load, tmp_path):
    annotation = annotate(tmp_path / "split.json", train=[1, 2, 3], val=[4], test=[5, 6])
    summary = prepare_dataset("iu_xray", tmp_path / "out", kaggle, annotation=annotation)
    assert {name: split["studies"] for name, split in summary["splits"].items()} == {
        "train": 3,
        "validation": 1,
        "test": 2,
    }
    assert summary["views"] == {"frontal": 6, "lateral": 6, "unknown": 0}
    assert summary["rejected"] == {"in no split": 4}
    study = load("iu_xray", "test", data_dir=tmp_path / "out")[0]
    assert (study["id"], study["views"]) == ("CXR5", ["frontal", "lateral"])
    assert study["indication"] == "Chest pain" and study["impression"] == "Small effusion. Stable."
    paths = load("iu_xray", "test", data_dir=tmp_path / "out").data.column("images").to_pylist()[0]
    assert [Path(image["path"]).name for image in paths] == ["5_IM-0005-2001.dcm.png", "5_IM-0005-1001.dcm.png"]


def test_loaded_as_it_is(kaggle, load, tmp_path):
    annotate(kaggle / "annotation.json", train=range(1, 8), val=[8], test=[9, 10])
    prepare_dataset("iu_xray", tmp_path / "out", kaggle)
    for split in ("train", "validation", "test"):
        prepared = load("iu_xray", split, data_dir=tmp_path / "out")
        for studies in (load("iu_xray", split, data_dir=kaggle), load(kaggle, split)):
            assert list(studies.select_columns(TEXTS)) == list(prepared.select_columns(TEXTS))
            assert [image.size for image in studies[0]["images"]] == [(24, 30)] * 2
    assert len(list(load_study_dataset(kaggle, "val", streaming=True))) == 1


def test_seeded_split_without_an_annotation(kaggle, load, tmp_path):
    summary = prepare_dataset("iu_xray", tmp_path / "out", kaggle)
    assert [summary["splits"][name]["studies"] for name in ("train", "validation", "test")] == [7, 1, 2]
    assert load(kaggle, "test")["id"] == load(tmp_path / "out", "test")["id"]


@pytest.mark.parametrize("place", ["images_normalized", "images/images_normalized"])
@pytest.mark.parametrize("suffix", [".dcm.png", ".png", ".jpg", ".dcm.jpeg", ".dcm.JPG"])
def test_images_are_found_whatever_they_were_converted_to(kaggle, tmp_path, place, suffix):
    """The list of projections goes on naming PNGs where people converted the images."""
    (kaggle / "images_normalized").rename(kaggle / "unpacked")
    (kaggle / place).mkdir(parents=True)
    for path in sorted((kaggle / "unpacked").iterdir()):
        path.rename(kaggle / place / path.name.replace(".dcm.png", suffix))
    summary = prepare_dataset("iu_xray", tmp_path / "out", kaggle)
    assert (summary["images"], summary["rejected"]) == (20, {})


def test_uids_as_pandas_writes_them_and_trimmed_tables(kaggle, tmp_path):
    rows = report_rows(f"{number}.0" for number in range(1, 11))
    columns = ("uid", "findings", "impression")
    write_table(kaggle / "indiana_reports.csv", columns, [{name: row[name] for name in columns} for row in rows])
    text = (kaggle / "indiana_projections.csv").read_text()
    (kaggle / "indiana_projections.csv").write_text("\ufeff" + text, encoding="utf-8")
    assert prepare_dataset("iu_xray", tmp_path / "out", kaggle)["views"]["frontal"] == 10


def test_what_cannot_be_joined_is_listed(kaggle, tmp_path, make):
    rows = report_rows((1, 2, 3)) + report_rows((3, "x")) + report_rows((4,), findings="", impression="XXXX")
    write_table(kaggle / "indiana_reports.csv", REPORT_COLUMNS, rows + report_rows((40,)))
    (kaggle / "images_normalized" / "2_IM-0002-2001.dcm.png").unlink()
    annotation = annotate(tmp_path / "split.json", train=[1, 2, 4, 40, 41], val=[3], test=[])
    summary = prepare_dataset("iu_xray", tmp_path / "out", kaggle, annotation=annotation)
    assert (summary["studies"], summary["images"]) == (3, 5)
    assert summary["rejected"] == {
        "duplicate": 1,
        "empty report": 1,
        "image missing": 1,
        "image that no report names": 12,
        "no image named": 1,
        "report missing": 1,
        "report unreadable": 1,
    }
    by_reason = {line["reason"]: line for line in rejected(tmp_path / "out")}
    assert by_reason["no image named"]["id"] == "CXR40" and by_reason["report missing"]["id"] == "CXR41"
    assert by_reason["image missing"]["image"] == "2_IM-0002-2001.dcm.png"
    assert by_reason["report unreadable"] == {
        "member": "row 5",
        "reason": "report unreadable",
        "detail": "uid 'x' is not a number",
    }


def test_reports_and_projections_elsewhere(kaggle, tmp_path):
    other = tmp_path / "tables"
    other.mkdir()
    for name in ("indiana_reports.csv", "indiana_projections.csv"):
        (kaggle / name).rename(other / name)
    with pytest.raises(DataError, match="indiana_reports.csv needs indiana_projections.csv"):
        prepare_dataset("iu_xray", tmp_path / "out", kaggle, reports=other / "indiana_reports.csv")
    given = {"reports": other / "indiana_reports.csv", "projections": other / "indiana_projections.csv"}
    assert prepare_dataset("iu_xray", tmp_path / "out", kaggle, **given)["studies"] == 10


def test_a_table_that_does_not_fit(kaggle, tmp_path):
    (kaggle / "indiana_reports.csv").write_text("uid,report\n1,Clear.\n")
    with pytest.raises(DataError, match="indiana_reports.csv lacks the columns findings, impression"):
        prepare_dataset("iu_xray", tmp_path / "out", kaggle)


def test_an_image_name_cannot_climb(kaggle, tmp_path):
    (tmp_path / "secret.png").write_bytes((kaggle / "images_normalized/1_IM-0001-1001.dcm.png").read_bytes())
    rows = [{"uid": 1, "filename": "../../secret.png", "projection": "Frontal"}]
    write_table(kaggle / "indiana_projections.csv", PROJECTION_COLUMNS, rows)
    annotation = annotate(tmp_path / "split.json", train=[1], val=[], test=[])
    with pytest.raises(DataError, match="No study could be prepared"):
        prepare_dataset("iu_xray", tmp_path / "out", kaggle, annotation=annotation)


def test_projections_order_the_images_of_the_xml_reports(iu_download, tmp_path):
    rows = [{"uid": 1, "filename": "1_IM-0001-1001.dcm.png", "projection": "Lateral"}]
    rows += [{"uid": 1, "filename": "1_IM-0001-2001.dcm.png", "projection": "Frontal"}]
    write_table(iu_download / "indiana_projections.csv", PROJECTION_COLUMNS, rows)
    prepare_dataset("iu_xray", tmp_path / "out", iu_download)
    studies = [study for split in ("train", "val", "test") for study in raw_studies(tmp_path / "out", split)]
    first = next(study for study in studies if study["id"] == "CXR1")
    assert first["views"] == ["frontal", "lateral"]
    assert [image["path"] for image in first["images"]] == ["CXR1_IM-0001-2001.png", "CXR1_IM-0001-1001.png"]
    assert all(study["views"] == ["unknown"] * 2 for study in studies if study["id"] != "CXR1")


def raw_studies(folder, split):
    import pyarrow.parquet as pq

    return [row for path in sorted((folder / "data").glob(f"{split}*")) for row in pq.read_table(path).to_pylist()]


def test_frontal_first_keeps_the_order_otherwise():
    study = {"images": list("abcde"), "views": ["lateral", "unknown", "frontal", "lateral", "frontal"]}
    ordered = frontal_first(study)
    assert "".join(ordered["images"]) == "ceabd"
    assert ordered["views"] == ["frontal", "frontal", "lateral", "unknown", "lateral"]


@pytest.mark.parametrize("name", ["CXR7_IM-0007-1001", "7_IM-0007-1001.dcm.png", "7_IM-0007-1001.jpg"])
def test_image_keys(name):
    assert image_key("CXR7", name) == image_key("7.0", name) == ("7", "IM-0007-1001")
    assert study_number(" CXR12 ") == "12"


@pytest.fixture
def r2gen_projections(tmp_path):
    names = ("10_IM-0001-1001", "10_IM-0001-2001", "11_IM-0001-3001-0001", "11_IM-0001-3001-0002", "11_IM-0002-1001")
    views = ("Lateral", "Frontal", "Frontal", "Lateral", "Frontal")
    rows = [
        {"uid": name[:2], "filename": f"{name}.dcm.png", "projection": view}
        for name, view in zip(names, views, strict=True)
    ]
    write_table(tmp_path / "views.csv", PROJECTION_COLUMNS, rows[::-1])
    return tmp_path / "views.csv"


def test_views_of_r2gen_images(r2gen_projections):
    """Image n of R2Gen's study is the n-th of those that its id is the start of."""
    views = R2GenViews(str(r2gen_projections))
    assert [views.view("CXR10_IM-0001", f"CXR10_IM-0001/{number}.png") for number in range(3)] == [
        "lateral",
        "frontal",
        "unknown",
    ]
    assert views.view("CXR11_IM-0002", "CXR11_IM-0002\\0.png") == "frontal"
    assert views.view("CXR11_IM-0001-3001", "CXR11_IM-0001-3001/1.png") == "lateral"
    assert views.view("CXR11_IM-000", "CXR11_IM-000/0.png") == "unknown"
    assert views.view("CXR12_IM-0001", "CXR12_IM-0001/0.png") == "unknown"
    assert views.view("study", "study/front.png") == "unknown"


def test_r2gen_folder_with_projections(r2gen_folder, r2gen_projections, load, tmp_path):
    studies = load(r2gen_folder, projections=r2gen_projections)
    assert studies["views"] == [["frontal", "lateral"], ["frontal", "lateral"], ["unknown"] * 2]
    paths = studies.data.column("images").to_pylist()
    assert [Path(image["path"]).name for image in paths[0]] == ["1.png", "0.png"]
    assert load(r2gen_folder)["views"] == [["unknown"] * 2] * 3
    summary = prepare_dataset("folder", tmp_path / "out", r2gen_folder, projections=r2gen_projections)
    assert summary["splits"]["train"]["views"] == {"frontal": 2, "lateral": 2, "unknown": 2}
    assert load(tmp_path / "out")["views"] == studies["views"]


def test_projections_may_name_the_images_of_the_folder(r2gen_folder, load, tmp_path):
    rows = [{"uid": 10, "filename": "CXR10_IM-0001/1.png", "projection": "Frontal"}]
    write_table(tmp_path / "views.csv", PROJECTION_COLUMNS, rows)
    assert load(r2gen_folder, projections=tmp_path / "views.csv")[0]["views"] == ["frontal", "unknown"]


def test_options_are_refused_where_they_mean_nothing(kaggle, r2gen_folder, load, tmp_path, make):
    prepare_dataset("iu_xray", tmp_path / "out", kaggle)
    table = kaggle / "indiana_projections.csv"
    with pytest.raises(DataError, match="projections cannot be given for a prepared folder"):
        load(tmp_path / "out", projections=table)
    with pytest.raises(DataError, match="annotation cannot be given for a folder of studies"):
        load(r2gen_folder, annotation=r2gen_folder / "annotation.json")
    with pytest.raises(DataError, match="projections of the dataset are not at 'nowhere.csv'"):
        load(r2gen_folder, projections=tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="images and reports cannot be given for folder"):
        prepare_dataset("folder", tmp_path / "other", r2gen_folder, reports=table, images=r2gen_folder)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(make.png())
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png"}')
    with pytest.raises(DataError, match="metadata.jsonl has views of its own"):
        load(folder, projections=table)


@pytest.fixture(scope="module")
def real_kaggle(shared_iu, tmp_path_factory):
    if not (shared_iu / "films_256.csv").is_file():
        pytest.skip("the images of IU X-Ray are not in ../shared/data/iu_xray")
    folder = tmp_path_factory.mktemp("kaggle")
    rebuild_kaggle(shared_iu, folder)
    return folder


def test_the_real_collection(real_kaggle, shared_iu, tmp_path):
    summary = prepare_dataset("iu_xray", tmp_path / "out", real_kaggle, annotation=shared_iu / "annotation.json")
    assert [summary["splits"][name]["studies"] for name in ("train", "validation", "test")] == [2069, 296, 590]
    assert summary["images"] == 6087 and summary["views"] == {"frontal": 3055, "lateral": 3032, "unknown": 0}
    assert summary["rejected"] == {"in no split": 896}
    studies = [study for split in ("train", "validation", "test") for study in raw_studies(tmp_path / "out", split)]
    assert all(study["views"][0] == "frontal" for study in studies if "frontal" in study["views"])
    assert sum("frontal" not in study["views"] for study in studies) == 8


def test_the_real_projections_find_r2gens_images(real_kaggle, shared_iu):
    """All but those of a study with a gap that nothing tells of, and of films that are not in the projections."""
    with open(shared_iu / "films_256.csv", newline="") as file:
        view_of_file = {row["filename"]: row["projection"].lower() for row in csv.DictReader(file)}
    views = R2GenViews(str(real_kaggle / "indiana_projections.csv"))
    wrong = []
    with open(shared_iu / "r2gen_films.csv", newline="") as file:
        for row in csv.DictReader(file):
            if views.view(row["id"], row["r2gen_path"]) != view_of_file.get(row["filename"], "unknown"):
                wrong.append(row["r2gen_path"])
    assert wrong == ["CXR3809_IM-1919/1.png"]
