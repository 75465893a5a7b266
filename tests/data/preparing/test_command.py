"""Preparation: the same bytes however it was interrupted, nothing half-written taken for done, clear refusals."""

import errno
import json
import os

import pytest

from otdrg_hf.data import load_study_dataset, prepare_dataset
from otdrg_hf.data.errors import DataError
from otdrg_hf.data.preparing import command, images, shards
from otdrg_hf.data.preparing.study_index import StudyIndexWriter, read_studies, write_index
from otdrg_hf.data.preparing.summary import summary_text


@pytest.fixture(scope="module")
def tree(tmp_path_factory, mimic_tree):
    root = tmp_path_factory.mktemp("mimic")
    mimic_tree.write_mimic_tree(root, 60)
    return root


@pytest.fixture(scope="module")
def unbroken(tree, tmp_path_factory):
    output = tmp_path_factory.mktemp("unbroken") / "out"
    prepare_dataset("mimic_cxr", output, tree, shard_size=7, image_size=24)
    return contents(output)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Killed(BaseException):
    """Stands for a signal: what only BaseException handlers see."""


@pytest.mark.parametrize("stop_at", [1, 9, 40, 100])
def test_interrupted_and_resumed_is_identical(tree, tmp_path, monkeypatch, unbroken, stop_at):
    calls = []

    def resized(path, image_size):
        calls.append(path)
        if len(calls) == stop_at:
            raise Killed
        return images.resized_jpeg(path, image_size)

    monkeypatch.setattr(shards, "resized_jpeg", resized)
    with pytest.raises(Killed):
        prepare_dataset("mimic_cxr", tmp_path / "out", tree, shard_size=7, image_size=24)
    with pytest.raises(DataError, match="not finished"):
        load_study_dataset(tmp_path / "out")
    assert not (tmp_path / "out" / "summary.json").exists()
    before = len(calls)
    prepare_dataset("mimic_cxr", tmp_path / "out", tree, shard_size=7, image_size=24)
    assert contents(tmp_path / "out") == unbroken
    assert len(calls) - before < 120 - stop_at + 2 * 7 + 1  # only the shard that was cut off is done again


def test_killed_while_finishing(tree, tmp_path, monkeypatch, unbroken):
    def refuse(folder):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("otdrg_hf.data.preparing.folder.shutil.rmtree", refuse)
        with pytest.raises(Killed):
            prepare_dataset("mimic_cxr", tmp_path / "out", tree, shard_size=7, image_size=24)
    prepare_dataset("mimic_cxr", tmp_path / "out", tree, shard_size=7, image_size=24)
    assert contents(tmp_path / "out") == unbroken


def test_what_a_kill_leaves_behind_is_not_trusted(tree, tmp_path, monkeypatch, unbroken):
    output = tmp_path / "out"
    monkeypatch.setattr(command.PreparationFolder, "finish", lambda *arguments: {})
    prepare_dataset("mimic_cxr", output, tree, shard_size=7, image_size=24)
    monkeypatch.undo()
    shard = sorted((output / "data").glob("*.parquet"))
    shard[0].write_bytes(shard[0].read_bytes()[:-10])
    (output / "data" / f".{shard[1].name}.0a1b2c3d.tmp").write_bytes(b"half")
    shard[1].unlink()
    next((output / ".prepare").glob("*-00002-*.json")).write_text('{"bytes": ')
    prepare_dataset("mimic_cxr", output, tree, shard_size=7, image_size=24)
    assert contents(output) == unbroken


@pytest.mark.slow  # each worker process imports torch
def test_parallel_is_identical(tree, tmp_path, unbroken):
    prepare_dataset("mimic_cxr", tmp_path / "out", tree, shard_size=7, image_size=24, num_proc=2)
    assert contents(tmp_path / "out") == unbroken


def test_again_is_a_no_op_and_other_options_are_refused(tree, tmp_path):
    summary = prepare_dataset("mimic_cxr", tmp_path / "out", tree)
    stamp = (tmp_path / "out" / "summary.json").stat().st_mtime_ns
    assert prepare_dataset("mimic_cxr", tmp_path / "out", tree) == summary
    assert (tmp_path / "out" / "summary.json").stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match="other image_size"):
        prepare_dataset("mimic_cxr", tmp_path / "out", tree, image_size=32)


@pytest.mark.parametrize("place", ["shard", "index"])
def test_full_disk(tree, tmp_path, monkeypatch, place):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if place == "shard":
            patch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
        else:
            patch.setattr(StudyIndexWriter, "add", full)
        with pytest.raises(DataError, match="disk of the output folder is full"):
            prepare_dataset("mimic_cxr", tmp_path / "out", tree)
    left = [name for name in contents(tmp_path / "out") if name.endswith((".tmp", ".parquet"))]
    assert left == []
    assert prepare_dataset("mimic_cxr", tmp_path / "out", tree)["studies"] == 60


def test_foreign_output_folder_is_left_alone(tree, tmp_path):
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "out" / "data" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="something else"):
        prepare_dataset("mimic_cxr", tmp_path / "out", tree)
    assert contents(tmp_path / "out") == {os.path.join("data", "mine.txt"): b"mine"}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"source": "mimic"}, "Unknown source 'mimic'"),
        ({"labels": "chexpert"}, "labels must be"),
        ({"image_size": -1}, "image_size must be"),
        ({"num_proc": 0}, "num_proc must be"),
        ({"data_dir": "nowhere"}, "is not a folder"),
        ({"reports": "nowhere.zip"}, "reports of mimic_cxr are not at 'nowhere.zip'"),
        ({"annotation": "annotation.json"}, "annotation cannot be given for mimic_cxr"),
    ],
)
def test_arguments_that_do_not_fit(tree, tmp_path, options, message):
    options = {"source": "mimic_cxr", "data_dir": tree, "output_dir": tmp_path / "out", **options}
    with pytest.raises(DataError, match=message):
        prepare_dataset(**options)
    assert not (tmp_path / "out").exists()


def test_summary_adds_up(tree, tmp_path):
    summary = prepare_dataset("mimic_cxr", tmp_path / "out", tree, plot=True)
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["studies"] == sum(split["studies"] for split in summary["splits"].values()) == 60
    assert summary["images"] == sum(summary["views"].values()) == 120
    for states in summary["labels"].values():
        assert sum(states[state] for state in ("blank", "positive", "negative", "uncertain")) == 60
        assert states["prevalence"] == pytest.approx(states["positive"] / 60, abs=1e-6)
    assert (tmp_path / "out" / "label_prevalence.png").read_bytes().startswith(b"\x89PNG")


def test_r2gen_folder_is_prepared(r2gen_folder, tmp_path):
    (r2gen_folder / "images/CXR10_IM-0001/1.png").unlink()
    summary = prepare_dataset("folder", tmp_path / "out", r2gen_folder)
    assert (summary["studies"], summary["images"], summary["rejected"]) == (5, 9, {"image missing": 1})
    assert len(load_study_dataset(tmp_path / "out", "train", cache_dir=tmp_path / "cache")) == 3


def test_image_folder_is_prepared(tmp_path, make):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(make.png())
    line = {"file_name": "a.png", "report": "Clear.", "age": 3, "disease_labels": [2] * 14}
    (folder / "metadata.jsonl").write_text(json.dumps(line))
    summary = prepare_dataset("folder", tmp_path / "out", folder)
    assert summary["rejected"] == {"column outside the schema": 1}
    assert summary["labels"]["Edema"]["negative"] == 1


def test_index_appears_only_when_whole(tmp_path):
    path = tmp_path / "index.sqlite"
    with pytest.raises(Killed), write_index(str(path)) as index:
        index.add("train", "a", {"x": 1})
        raise Killed
    assert list(tmp_path.iterdir()) == []
    with write_index(str(path)) as index:
        for number in range(5):
            index.add("train", str(number), {"x": number})
    assert list(read_studies(str(path), "train", 1, 3)) == [("1", {"x": 1}), ("2", {"x": 2})]


def test_a_first_call_that_came_to_nothing_binds_no_other(tree, tmp_path):
    (tmp_path / "reports.zip").write_bytes(b"cut short")
    with pytest.raises(DataError, match="not a zip archive"):
        prepare_dataset("mimic_cxr", tmp_path / "out", tree, reports=tmp_path / "reports.zip")
    assert prepare_dataset("mimic_cxr", tmp_path / "out", tree)["studies"] == 60


def test_summary_as_text(tree, tmp_path):
    summary = prepare_dataset("mimic_cxr", tmp_path / "out", tree)
    summary["rejected"] = {"image missing": 2, "empty report": 1234}
    lines = [line.split() for line in summary_text(summary).splitlines()]
    assert lines[0] == ["mimic_cxr", *summary["splits"], "all"]
    assert ["studies", *(str(split["studies"]) for split in summary["splits"].values()), "60"] in lines
    edema = summary["labels"]["Edema"]
    counts = [str(edema[state]) for state in ("positive", "negative", "uncertain", "blank")]
    assert ["Edema", *counts, f"{100 * edema['positive'] / 60:.1f}"] in lines
    assert lines[-2:] == [["empty", "report", "1,234"], ["image", "missing", "2"]]


def test_the_command_prints_the_summary(r2gen_folder, tmp_path, capsys):
    for as_json in (True, False):
        command.run("folder", tmp_path / "out", r2gen_folder, as_json, image_size=16)
        printed = capsys.readouterr().out
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert json.loads(printed) == summary if as_json else printed == summary_text(summary) + "\n"
