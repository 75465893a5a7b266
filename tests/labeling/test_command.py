"""`otdrg label` over files: what it answers, and what it says of files that it cannot read."""

import json

import pytest

from otdrg_hf.labeling.command import label_file


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", ["r.jsonl", "R.JSONL"])
def test_blank_lines_of_jsonl_are_passed_over_and_ids_kept(name, tmp_path):
    lines = '{"id": "a", "report": "No effusion."}\n\n{"report": "Mild edema."}\r\n{"report": ""}\n'
    rows = list(label_file(write(tmp_path / name, b"\xef\xbb\xbf" + lines.encode())))
    assert [row["id"] for row in rows] == ["a", "3", "4"]
    assert rows[0]["labels"]["Pleural Effusion"] == "negative"
    assert rows[1]["labels"] == {"Edema": "positive"}
    assert rows[2]["labels"] == {}


def test_processes_do_not_change_labels(tmp_path):
    path = write(tmp_path / "r.txt", "No effusion.\nMild edema.\n" * 300)
    assert list(label_file(path, num_proc=2)) == list(label_file(path))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("r.jsonl", '{"report": "Clear."}\n{"report": null}\n', "r.jsonl line 2: no 'report' that is text"),
        ("r.jsonl", '{"report": "Clear."}\n[1]\n', "r.jsonl line 2: a JSON list where an object is needed"),
        ("r.jsonl", '{"report": "Clear."\n', r"r.jsonl line 1: not JSON"),
        ("r.txt", "Clear.\nGröße".encode("latin-1"), r"r.txt line 2: not UTF-8 \(byte 0xf6 at column 3\)"),
        ("r.jsonl", '{"report": "Clear."}'.encode("utf-16"), "r.jsonl: the file is UTF-16"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        list(label_file(write(tmp_path / name, content)))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"labeler": "other"}, "unknown labeler 'other'"),
        ({"labeler": "chexbert"}, "needs its weights"),
        ({"labeler": "chexbert", "explain": True}, "chexbert has none"),
        ({"weights": "chexbert.pth"}, "weights are for the labeler chexbert"),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        list(label_file(write(tmp_path / "r.txt", "Clear.\n"), **options))


def test_a_file_that_is_not_there_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file r.txt"):
        list(label_file(tmp_path / "r.txt"))
    with pytest.raises(FileNotFoundError, match="is a folder"):
        list(label_file(tmp_path))


def test_answers_are_ready_for_json(tmp_path):
    (row,) = label_file(write(tmp_path / "r.txt", "No effusion.\n"), explain=True)
    assert json.loads(json.dumps(row))["evidence"] == [
        {"label": "Pleural Effusion", "state": "negative", "span": [3, 11], "text": "effusion"}
    ]


def test_csv_has_a_row_a_report(tmp_path):
    path = write(tmp_path / "r.csv", 'id,report\na,"No effusion.\nMild edema."\nb,Clear lungs.\n')
    assert [row["id"] for row in label_file(path)] == ["a", "b"]
    with pytest.raises(ValueError, match="r.csv line 2: no 'report' that is text"):
        list(label_file(write(path, "id,text\na,b\n")))
    with pytest.raises(ValueError, match="r.json: give JSON Lines"):
        list(label_file(write(tmp_path / "r.json", "[]")))


@pytest.mark.parametrize("options", [{"device": "cuda:7"}, {"explain": True, "num_proc": 2}])
def test_options_that_would_be_ignored_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="--device is for|--num_proc is for"):
        list(label_file(write(tmp_path / "r.txt", "Clear."), **options))
