"""IU X-Ray: its XML reports, real and hostile, and its splits."""

import json

import pytest

from otdrg_hf.data import prepare_dataset
from otdrg_hf.data.errors import DataError, Rejected
from otdrg_hf.data.iu_reports import iter_iu_reports, parse_iu_report
from otdrg_hf.data.iu_xray import seeded_splits
from otdrg_hf.data.r2gen import read_annotation

BOMB = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><x>&b;</x>"""
EXTERNAL = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>"""


def rejected(output):
    return [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]


def test_report_is_parsed(make):
    report = parse_iu_report(make.report(7, findings="Heart size\n  normal."))
    assert (report.id, report.findings, report.indication) == ("CXR7", "Heart size normal.", "Chest pain")
    assert (report.mesh, report.images) == (("Cardiomegaly/mild",), ("CXR7_IM-0007-1001", "CXR7_IM-0007-2001"))


@pytest.mark.parametrize(
    "caption, count, views",
    [
        ("Xray Chest PA and Lateral", 2, ["unknown", "unknown"]),
        ("PA and Lateral", 1, ["unknown"]),
        ("Portable chest", 1, ["frontal"]),
        ("CHEST LATERAL VIEW", 1, ["lateral"]),
        ("Chest", 1, ["unknown"]),
    ],
)
def test_views_are_only_told_where_the_caption_does(make, caption, count, views):
    stems = [f"CXR1_IM-0001-{number}001" for number in range(count)]
    assert parse_iu_report(make.report(1, stems=stems, caption=caption)).views == views


@pytest.mark.parametrize("bomb", [BOMB, EXTERNAL, BOMB.decode().replace("?>", ' encoding="utf-16"?>').encode("utf-16")])
def test_document_types_are_refused(bomb):
    with pytest.raises(Rejected, match="document type"):
        parse_iu_report(bomb)


@pytest.mark.parametrize("content", [b"", b"<x>", b"<x/>", b"\xff\xfe", b'<e><uId id="../CXR1"/></e>'])
def test_no_report(content):
    with pytest.raises(Rejected, match="report unreadable"):
        parse_iu_report(content)


def test_image_names_cannot_climb(make):
    with pytest.raises(Rejected, match="image name"):
        parse_iu_report(make.report(1, stems=["../../secret"]))


def test_all_real_reports_parse(shared_iu):
    reports = list(iter_iu_reports(str(shared_iu / "NLMCXR_reports.tgz")))
    assert len(reports) == len({report.id for report in reports}) == 3955
    assert sum(bool(report.findings) for report in reports) == 3425
    assert sum(bool(report.impression) for report in reports) == 3921
    assert sum(bool(report.findings and report.impression) for report in reports) == 3419
    assert sum(not report.images for report in reports) == 104


def test_real_annotation_with_its_blank_key(shared_iu):
    splits = read_annotation(str(shared_iu / "annotation.json"))
    assert {name: len(entries) for name, entries in splits.items()} == {"train": 2069, "validation": 296, "test": 590}


def test_seeded_split():
    ids = [f"CXR{number}" for number in range(1000)]
    splits = seeded_splits(ids, 3)
    counts = {name: list(splits.values()).count(name) for name in ("train", "validation", "test")}
    assert counts == {"train": 700, "validation": 100, "test": 200} and set(splits) == set(ids)
    assert splits == seeded_splits(ids[::-1], 3) != seeded_splits(ids, 4)


def test_annotation_splits_and_names_the_rest(iu_download, tmp_path):
    annotation = tmp_path / "annotation.json"
    entries = {
        "train": [{"id": "CXR1_IM-0001"}, {"id": "CXR2_IM-0002"}],
        " val ": [{"id": "CXR3_IM-0003"}],
        "   ": [{"id": "CXR4_IM-0004"}, {"id": "CXR99_IM-0099"}],
    }
    annotation.write_text(json.dumps(entries))
    summary = prepare_dataset("iu_xray", tmp_path / "out", iu_download, annotation=annotation)
    assert {name: split["studies"] for name, split in summary["splits"].items()} == {
        "train": 2,
        "validation": 1,
        "test": 1,
    }
    assert summary["rejected"] == {"in no split": 16, "report missing": 1}
    assert rejected(tmp_path / "out")[-1]["id"] == "CXR99"


def test_projections_tell_the_views(iu_download, tmp_path):
    lines = ["uid,filename,projection", "1,1_IM-0001-1001.dcm.png,Frontal", "1,1_IM-0001-2001.dcm.png,Lateral"]
    (tmp_path / "views.csv").write_text("\n".join(lines))
    summary = prepare_dataset("iu_xray", tmp_path / "out", iu_download, projections=tmp_path / "views.csv")
    assert summary["views"] == {"frontal": 1, "lateral": 1, "unknown": 38}
    (tmp_path / "views.csv").write_text("uid,name\n")
    with pytest.raises(DataError, match="lacks the columns filename, projection"):
        prepare_dataset("iu_xray", tmp_path / "other", iu_download, projections=tmp_path / "views.csv")


def test_bad_reports_and_images_are_named_and_counted(tmp_path, make):
    folder = tmp_path / "iu"
    folder.mkdir()
    reports = {
        "1.xml": make.report(1),
        "2.xml": make.report(2, findings="XXXX", impression=""),
        "3.xml": make.report(3, findings="No hay derrame pleural. El corazón es normal.", impression=""),
        "4.xml": make.report(4),
        "5.xml": make.report(5, stems=[]),
        "6.xml": BOMB,
        "7.xml": make.report(1),
        "8.xml": make.report(8),
        "../9.xml": make.report(9),
    }
    make.tar(folder / "NLMCXR_reports.tgz", reports)
    names = [f"CXR{number}_IM-{number:04d}" for number in (1, 2, 3, 8)]
    images = {f"{name}-{series}.png": make.png() for name in names for series in (1001, 2001)}
    images["CXR8_IM-0008-2001.png"] = make.png()[:-30]
    images |= {"../evil.png": b"x", "CXR77_IM-0077-1001.png": make.png()}
    make.tar(folder / "NLMCXR_png.tgz", images)
    summary = prepare_dataset("iu_xray", tmp_path / "out", folder)
    assert (summary["studies"], summary["images"]) == (2, 3)
    assert summary["rejected"] == {
        "duplicate": 1,
        "empty report": 1,
        "image missing": 2,
        "image that no report names": 1,
        "image unreadable": 1,
        "no image named": 1,
        "no usable image": 1,
        "report not in English": 1,
        "report unreadable": 1,
        "unsafe archive member": 2,
    }
    assert len(rejected(tmp_path / "out")) == sum(summary["rejected"].values())
    assert not (tmp_path / "evil.png").exists() and not (tmp_path / "out" / "evil.png").exists()
    assert str(tmp_path) not in (tmp_path / "out" / "rejected.jsonl").read_text()


def test_extracted_folders_do_as_well(iu_download, tmp_path):
    import tarfile

    for name, target in (("NLMCXR_reports", "ecgen"), ("NLMCXR_png", "png")):
        with tarfile.open(iu_download / f"{name}.tgz") as tar:
            tar.extractall(tmp_path / target, filter="data")
    options = {"reports": tmp_path / "ecgen", "images": tmp_path / "png", "image_size": 16}
    summary = prepare_dataset("iu_xray", tmp_path / "out", iu_download, **options)
    assert summary["studies"] == 20
    archived = prepare_dataset("iu_xray", tmp_path / "out2", iu_download, image_size=16)
    assert archived["splits"] == summary["splits"]
    for path in (tmp_path / "out" / "data").iterdir():
        assert path.read_bytes() == (tmp_path / "out2" / "data" / path.name).read_bytes()
