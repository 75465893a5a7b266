"""MIMIC-CXR, on made-up trees of its exact layout: split, views, labels, sections and the study before."""

import gzip
import io
import json
import shutil
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from otdrg_hf.data import load_study_dataset, prepare_dataset
from otdrg_hf.data.errors import DataError
from otdrg_hf.data.mimic_cxr import find_inputs, list_studies
from otdrg_hf.data.preparing.study_index import write_index
from otdrg_hf.labeling import LABELS

SPLIT = ("dicom_id", "study_id", "subject_id", "split")
# study -> (patient, split, [(dicom, view)], date, time, findings)
STUDIES = {
    50000001: (10000032, "train", [("aa-2", "LATERAL"), ("aa-1", "PA")], "21800506", "213014.531", "Small effusion."),
    50000003: (10000032, "train", [("bb-1", "AP")], "21800506", "90556.875", "Heart is enlarged."),
    50000002: (10000032, "train", [("cc-1", "")], "21800626", "165500.312", "Lungs are clear."),
    50000004: (19999999, "validate", [("dd-1", "LL")], "21800101", "0.5", "Right pneumothorax."),
    50000005: (19999987, "test", [("ee-1", "AP LLD")], "21800101", "120000", "Left rib fracture."),
}


@pytest.fixture
def tree(tmp_path, mimic_tree):
    """A tree of five studies, with tables that a test may rewrite."""
    root = tmp_path / "mimic"
    split_rows, metadata = [], []
    for study, (patient, split, images, date, time, findings) in STUDIES.items():
        folder = root / "files" / f"p{str(patient)[:2]}" / f"p{patient}"
        (folder / f"s{study}").mkdir(parents=True)
        (folder / f"s{study}.txt").write_text(mimic_tree.report_text(findings, f"Impression of {study}."))
        for dicom, view in images:
            (folder / f"s{study}" / f"{dicom}.jpg").write_bytes(mimic_tree.jpeg_bytes())
            ids = {"dicom_id": dicom, "study_id": study, "subject_id": patient}
            split_rows.append({**ids, "split": split})
            metadata.append({**ids, "ViewPosition": view, "StudyDate": date, "StudyTime": time})
    mimic_tree.write_table(root / "mimic-cxr-2.0.0-split.csv.gz", SPLIT, split_rows)
    mimic_tree.write_table(root / "mimic-cxr-2.0.0-metadata.csv.gz", mimic_tree.METADATA_COLUMNS, metadata)
    states = {"Edema": "1.0", "Pneumonia": "0.0", "Fracture": "-1.0"}
    chexpert = [{"subject_id": 10000032, "study_id": 50000001, **states}]
    columns = ("subject_id", "study_id", *mimic_tree.LABELS_AS_IN_CSV)
    mimic_tree.write_table(root / "mimic-cxr-2.0.0-chexpert.csv.gz", columns, chexpert)
    return root


def studies(output):
    rows = [row for path in sorted((output / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {row["id"]: row for row in rows}


def rejected(output):
    return [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]


def append(path, line):
    with gzip.open(path, "at") as table:
        table.write(line + "\n")


@pytest.fixture
def convert(tree):
    """A function that replaces the JPGs of the tree by files of another format, all or those of some studies."""

    def convert(suffix, content, studies=("",), keep=False):
        for path in sorted(tree.rglob("*.jpg")):
            if any(study in str(path) for study in studies):
                path.with_suffix(suffix).write_bytes(content)
                if not keep:
                    path.unlink()

    return convert


def image_bytes(kind, shade=200):
    image = Image.new("L", (20, 24), shade)
    if kind == ".dcm":
        pytest.importorskip("pydicom")
        from tests.support.dicom_files import make_dicom

        return make_dicom(np.asarray(image))
    content = io.BytesIO()
    image.save(content, "PNG" if kind == ".png" else "JPEG")
    return content.getvalue()


@pytest.mark.parametrize("image_size", [None, 12])
@pytest.mark.parametrize("suffix", [".dcm", ".png", ".jpeg"])
def test_trees_of_other_formats(tree, convert, tmp_path, suffix, image_size):
    convert(suffix, image_bytes(suffix))
    summary = prepare_dataset("mimic_cxr", tmp_path / "out", tree, image_size=image_size)
    assert (summary["studies"], summary["images"], summary["rejected"]) == (5, 6, {})
    first = studies(tmp_path / "out")["s50000001"]
    assert [image["path"].endswith(suffix if image_size is None else ".jpg") for image in first["images"]] == [True] * 2
    loaded = load_study_dataset("mimic_cxr", "train", data_dir=tmp_path / "out", cache_dir=tmp_path / "cache")
    assert {image.size for study in loaded for image in study["images"]} == {
        (20, 24) if image_size is None else (12, 14)
    }
    assert loaded[0]["views"] == ["frontal", "lateral"]


def test_jpgs_are_preferred_and_formats_may_be_mixed(tree, convert, tmp_path):
    convert(".png", image_bytes(".png"), studies=("s50000003", "s50000005"))
    convert(".dcm", image_bytes(".dcm"), studies=("s50000001", "s50000003"), keep=True)
    convert(".dcm", image_bytes(".dcm"), studies=("s50000002",))
    prepare_dataset("mimic_cxr", tmp_path / "out", tree)
    suffixes = {name: row["images"][0]["path"][-3:] for name, row in studies(tmp_path / "out").items()}
    assert suffixes == {
        "s50000001": "jpg",
        "s50000002": "dcm",
        "s50000003": "png",
        "s50000004": "jpg",
        "s50000005": "png",
    }


def test_images_that_are_missing_are_named_as_the_tables_have_them(tree, tmp_path):
    place = tree / "files/p10/p10000032/s50000003"
    (place / "bb-1.jpg").unlink()
    (place / "bb-1.txt").write_text("no image")
    summary = prepare_dataset("mimic_cxr", tmp_path / "out", tree)
    assert summary["rejected"] == {"image missing": 1, "no usable image": 1}
    assert rejected(tmp_path / "out")[0]["image"] == "files/p10/p10000032/s50000003/bb-1.jpg"


def test_reports_with_a_byte_order_mark(tree, tmp_path):
    path = tree / "files/p10/p10000032/s50000001.txt"
    path.write_bytes(b"\xef\xbb\xbfINDICATION: Cough.\nFINDINGS: Small effusion.\n")
    prepare_dataset("mimic_cxr", tmp_path / "out", tree)
    assert studies(tmp_path / "out")["s50000001"]["indication"] == "Cough."


def test_the_whole_tree(tree, tmp_path):
    summary = prepare_dataset("mimic_cxr", tmp_path / "out", tree)
    assert {name: split["studies"] for name, split in summary["splits"].items()} == {
        "train": 3,
        "validation": 1,
        "test": 1,
    }
    assert summary["views"] == {"frontal": 3, "lateral": 2, "unknown": 1}
    found = studies(tmp_path / "out")
    first = found["s50000001"]
    place = "files/p10/p10000032/s50000001"
    assert [image["path"] for image in first["images"]] == [f"{place}/aa-1.jpg", f"{place}/aa-2.jpg"]
    assert (first["views"], first["view_positions"]) == (["frontal", "lateral"], ["PA", "LATERAL"])
    assert (first["findings"], first["impression"]) == ("Small effusion.", "Impression of 50000001.")
    assert first["report"] == "Small effusion. Impression of 50000001."
    assert first["indication"] == "___F with cough // eval for pneumonia"
    assert (first["patient_id"], first["study_date"]) == ("p10000032", "21800506")


def test_study_before_is_by_date_and_time_not_by_number(tree, tmp_path):
    prepare_dataset("mimic_cxr", tmp_path / "out", tree)
    found = studies(tmp_path / "out")
    assert found["s50000003"]["comparison"] == ""  # 09:05:56 of the first day, written without its leading zero
    assert found["s50000001"]["comparison"] == "Heart is enlarged. Impression of 50000003."
    assert found["s50000002"]["comparison"] == "Small effusion. Impression of 50000001."
    assert found["s50000004"]["comparison"] == ""


def test_chexpert_labels_where_present_else_the_labeler(tree, tmp_path):
    prepare_dataset("mimic_cxr", tmp_path / "out", tree)
    found = studies(tmp_path / "out")
    expected = [{"Edema": 1, "Pneumonia": 2, "Fracture": 3}.get(label, 0) for label in LABELS]
    assert found["s50000001"]["disease_labels"] == expected
    assert found["s50000004"]["disease_labels"][LABELS.index("Pneumothorax")] == 1
    prepare_dataset("mimic_cxr", tmp_path / "rules", tree, labels="labeler")
    assert studies(tmp_path / "rules")["s50000001"]["disease_labels"][LABELS.index("Pleural Effusion")] == 1


def test_reports_from_the_archive(tree, tmp_path):
    prepare_dataset("mimic_cxr", tmp_path / "tree_out", tree)
    with zipfile.ZipFile(tree / "mimic-cxr-reports.zip", "w") as zipped:
        for path in sorted(tree.rglob("*.txt")):
            zipped.write(path, path.relative_to(tree))
            path.unlink()
    prepare_dataset("mimic_cxr", tmp_path / "out", tree)
    assert studies(tmp_path / "out") == studies(tmp_path / "tree_out")


def test_reports_in_a_tree_of_their_own(tree, tmp_path):
    for path in sorted(tree.rglob("*.txt")):
        target = tmp_path / "texts" / path.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    summary = prepare_dataset("mimic_cxr", tmp_path / "out", tree, reports=tmp_path / "texts")
    assert summary["studies"] == 5


def test_missing_and_broken_files_are_named(tree, tmp_path):
    folder = tree / "files/p10/p10000032"
    (folder / "s50000001/aa-2.jpg").unlink()
    (folder / "s50000003/bb-1.jpg").write_bytes(b"not an image")
    (folder / "s50000002.txt").unlink()
    summary = prepare_dataset("mimic_cxr", tmp_path / "out", tree)
    place = "files/p10/p10000032"
    entries = {(entry["id"], entry["reason"]): entry.get("image") for entry in rejected(tmp_path / "out")}
    assert entries == {
        ("s50000001", "image missing"): f"{place}/s50000001/aa-2.jpg",
        ("s50000003", "image unreadable"): f"{place}/s50000003/bb-1.jpg",
        ("s50000003", "no usable image"): None,
        ("s50000002", "report missing"): None,
    }
    assert summary["studies"] == 3
    assert studies(tmp_path / "out")["s50000001"]["view_positions"] == ["PA"]


def test_rows_that_do_not_fit_are_named(tree, tmp_path):
    split = tree / "mimic-cxr-2.0.0-split.csv.gz"
    append(split, "../../x,50000001,10000032,train")
    append(split, "ff-1,50000009,10000032,holdout")
    append(split, "aa-1,50000001,10000032,train")
    append(split, "gg-1,50000005,19999987,train")
    chexpert = tree / "mimic-cxr-2.0.0-chexpert.csv.gz"
    append(chexpert, "10000032,50000002" + ",2.0" * 14)
    append(chexpert, "10000032,59999999" + ",1.0" * 14)
    summary = prepare_dataset("mimic_cxr", tmp_path / "out", tree)
    assert summary["rejected"] == {"duplicate": 2, "in no split": 1, "malformed row": 2, "unknown split": 1}
    assert "s50000005" not in studies(tmp_path / "out")
    details = [entry.get("detail", "") for entry in rejected(tmp_path / "out")]
    assert any("in two splits" in detail for detail in details)


@pytest.mark.parametrize("table, column", [("split", "subject_id"), ("metadata", "StudyDate"), ("chexpert", "Edema")])
def test_missing_column_is_named(tree, tmp_path, table, column):
    path = tree / f"mimic-cxr-2.0.0-{table}.csv.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(column.encode(), b"Other")))
    with pytest.raises(DataError, match=f"mimic-cxr-2.0.0-{table}.csv.gz lacks the columns {column}"):
        prepare_dataset("mimic_cxr", tmp_path / "out", tree)
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_table_cut_short_or_absent(tree, tmp_path):
    path = tree / "mimic-cxr-2.0.0-metadata.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="metadata.csv.gz is damaged or cut short"):
        prepare_dataset("mimic_cxr", tmp_path / "out", tree)
    path.unlink()
    with pytest.raises(DataError, match="metadata.csv.gz is not in"):
        prepare_dataset("mimic_cxr", tmp_path / "out2", tree)


def test_reports_archive_cut_short(tree, tmp_path):
    (tree / "mimic-cxr-reports.zip").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DataError, match="mimic-cxr-reports.zip"):
        prepare_dataset("mimic_cxr", tmp_path / "out", tree)


def test_no_usable_study_at_all(tree, tmp_path):
    shutil.rmtree(tree / "files")
    with pytest.raises(DataError, match="No study could be prepared .5 report missing"):
        prepare_dataset("mimic_cxr", tmp_path / "out", tree)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rejected.jsonl"]


def test_the_join_does_not_scan_a_table_for_each_study(tmp_path, mimic_tree):
    """The steps that SQLite takes grow with the number of studies and not with its square."""

    def steps(count):
        folder = tmp_path / str(count)
        folder.mkdir()
        ids = [{"dicom_id": f"{n * 7919 % count:06d}", "study_id": 50000000 + n, "subject_id": n} for n in range(count)]
        write_table = mimic_tree.write_table
        write_table(folder / "mimic-cxr-2.0.0-split.csv.gz", SPLIT, [{**row, "split": "train"} for row in ids])
        metadata = [{**row, "ViewPosition": "PA", "StudyDate": 21800506, "StudyTime": 0} for row in ids]
        write_table(folder / "mimic-cxr-2.0.0-metadata.csv.gz", mimic_tree.METADATA_COLUMNS, metadata)
        chexpert = [{"subject_id": row["subject_id"], "study_id": row["study_id"]} for row in ids]
        columns = ("subject_id", "study_id", *mimic_tree.LABELS_AS_IN_CSV)
        write_table(folder / "mimic-cxr-2.0.0-chexpert.csv.gz", columns, chexpert)
        taken = []
        with write_index(str(folder / "index.sqlite")) as index:
            index.database.set_progress_handler(lambda: taken.append(1), 100)
            inputs = find_inputs(str(folder), {})
            assert sum(1 for _ in list_studies(inputs, index.database, index.reject, use_chexpert=True)) == count
        return len(taken)

    assert steps(1600) < 2.5 * steps(800)
