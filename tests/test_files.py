"""Files are written whole or not at all, and lines that cannot be read are named."""

import json
import os

import pytest

from otdrg_hf.files import (
    atomic_path,
    decode_line,
    half_surrogate,
    numbered_lines,
    parse_object,
    remove_unfinished,
    write_bytes,
    write_json,
    write_text,
)


def test_writes_replace_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "Grüße\n")
    assert path.read_bytes() == "Grüße\n".encode()
    write_json(path, {"a": [1]})
    assert path.read_text() == '{\n "a": [\n  1\n ]\n}\n'
    write_json(path, {"a": [1]}, indent=None)
    assert path.read_text() == '{"a": [1]}\n'
    write_bytes(str(path), b"\x00")
    assert path.read_bytes() == b"\x00"
    assert [*tmp_path.iterdir()] == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path and temporary != path
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "part").touch()
        raise RuntimeError
    assert [*tmp_path.iterdir()] == [path] and path.read_text() == "old"


def test_a_folder_appears_whole(tmp_path):
    with atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "part").write_text("a")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "part").read_text() == "a"
    assert [*tmp_path.iterdir()] == [tmp_path / "folder"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_written_file_has_the_usual_permissions(tmp_path):
    write_text(tmp_path / "a", "")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_two_writers_of_a_file_do_not_meet(tmp_path):
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a").read_text() == "1" and len([*tmp_path.iterdir()]) == 1


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^the folder for a\.txt does not exist; make it first$"):
        write_text(tmp_path / "absent" / "a.txt", "")


def test_leftovers_of_a_kill_are_removed_and_nothing_else(tmp_path):
    writers = [atomic_path(tmp_path / "a.png") for _ in range(2)]  # they never end, as those of a killed process
    writers[0].__enter__().touch()
    writers[1].__enter__().mkdir()
    kept = {tmp_path / name for name in ("a.png", "mine.tmp", ".hidden")}
    for path in kept:
        path.touch()
    assert len([*tmp_path.iterdir()]) == 5
    remove_unfinished(tmp_path)
    assert {*tmp_path.iterdir()} == kept


def test_lines_have_numbers_and_no_marks(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": 2}')
    assert [*numbered_lines(path)] == [(1, b'{"a": 1}'), (2, b""), (3, b'{"a": 2}')]
    path.write_bytes("{}".encode("utf-16"))
    with pytest.raises(ValueError, match=r"^a\.jsonl: the file is UTF-16; save it as UTF-8$"):
        next(numbered_lines(path))
    with pytest.raises(FileNotFoundError, match="^no file b$"):
        next(numbered_lines(tmp_path / "b"))
    with pytest.raises(FileNotFoundError, match="is a folder, not a file$"):
        next(numbered_lines(tmp_path))


@pytest.mark.parametrize(
    "line, problem",
    [
        (b"{", "not JSON"),
        (b"[1]", "a JSON list where an object is needed"),
        (b'{"a": "\xff"}', r"not UTF-8 \(byte 0xff at column 8\)"),
        (b'{"a": "\\ud83d"}', "half of a surrogate pair"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_a_line_that_is_not_an_object_says_why(line, problem):
    with pytest.raises(ValueError, match=problem):
        parse_object(line)


def test_whole_surrogate_pairs_are_text():
    text = json.dumps("\N{GRINNING FACE}")
    assert half_surrogate(text) is None
    assert half_surrogate(r'"\\ud83d"') is None
    assert half_surrogate(text[:7] + '"') == 1
    assert decode_line("é".encode()) == "é"
