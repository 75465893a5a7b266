"""The output file grows by whole lines, is gone on with where it was torn, and nothing else is overwritten."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otdrg_hf.images.finding import FoundImage as Film
from otdrg_hf.report_file import ReportFile

FILMS = [Film(name, f"/somewhere/{name}") for name in ("a.png", "b/c.png", "d.png")]


def row(name, text="Clear."):
    return {"image": name, "model": "demo", "generated_text": text}


def names_in(path):
    return [json.loads(line)["image"] for line in path.read_bytes().splitlines()]


def test_films_that_have_a_line_are_left_out(tmp_path):
    path = tmp_path / "out.jsonl"
    file = ReportFile(path, "demo")
    assert file.remaining(FILMS) == FILMS
    file.write(row("b/c.png"))
    file.close()
    again = ReportFile(path, "demo")
    assert [film.name for film in again.remaining(FILMS)] == ["a.png", "d.png"]
    again.write(row("a.png"))
    again.close()
    assert names_in(path) == ["b/c.png", "a.png"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.text(max_size=20))
def test_torn_anywhere_each_film_has_one_line_in_the_end(tmp_path_factory, cut, text):
    path = tmp_path_factory.mktemp("torn") / "out.jsonl"
    file = ReportFile(path, "demo")
    for film in FILMS:
        file.write(row(film.name, text))
    file.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % (len(whole) + 1)])
    again = ReportFile(path, "demo")
    for film in again.remaining(FILMS):
        again.write(row(film.name, text))
    again.close()
    assert path.read_bytes() == whole


def test_no_empty_file_is_left(tmp_path):
    ReportFile(tmp_path / "out.jsonl", "demo").close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    ["My notes", "My notes\n", '{"id": 1, "report": "x"}\n', '{"image": "a.png"}\n', "[]\n", '{"image": "a\n', "\n"],
)
def test_other_files_are_left_as_they_are(tmp_path, content):
    path = tmp_path / "out.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match="out.jsonl, line 1, is not of `otdrg report`"):
        ReportFile(path, "demo")
    assert path.read_text() == content


def test_reports_of_another_model(tmp_path):
    path = tmp_path / "out.jsonl"
    file = ReportFile(path, "demo")
    file.write(row("a.png"))
    file.close()
    with pytest.raises(ValueError, match="out.jsonl holds reports by the model 'demo'; choose another file"):
        ReportFile(path, "mine")


def test_two_films_of_one_name(tmp_path):
    file = ReportFile(tmp_path / "out.jsonl", "demo")
    with pytest.raises(ValueError, match="2 films are called 'a.png': give the folder that holds them all"):
        file.remaining([*FILMS, Film("a.png", "/elsewhere/a.png")])


@pytest.mark.parametrize("place", ["missing/out.jsonl", "file/out.jsonl", "."])
def test_file_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written") as error:
        ReportFile(tmp_path / place, "demo")
    assert str(tmp_path) not in str(error.value) and "\n" not in str(error.value)


def test_read_only_folder(tmp_path, monkeypatch):
    def refuse(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)  # the tests may run as root, whom permissions do not stop
    with pytest.raises(ValueError, match=r"out.jsonl cannot be written \(Permission denied\)") as error:
        ReportFile(tmp_path / "out.jsonl", "demo")
    assert str(tmp_path) not in str(error.value)


def test_what_is_no_ordinary_file(tmp_path):
    for path in (tmp_path, "/dev/zero"):  # of the latter there is no end
        with pytest.raises(ValueError, match=r" cannot be written \(it is no ordinary file\)\.$"):
            ReportFile(path, "demo")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_line_that_is_cut_off_while_written_is_taken_back(tmp_path, failure):
    path = tmp_path / "out.jsonl"
    file = ReportFile(path, "demo")
    file.write(row("a.png"))
    whole = path.read_bytes()

    class Torn:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, line):
            self.file.write(line[: len(line) // 2])
            raise failure

    file._file = Torn(file._file)
    expected = ValueError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        file.write(row("b.png"))
    assert path.read_bytes() == whole
