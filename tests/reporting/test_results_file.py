"""The output file grows by whole lines, is resumed where it was torn, and nothing else is overwritten."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otdrg_hf.images.finding import FoundImage
from otdrg_hf.reporting.command import _check_names, _check_run
from otdrg_hf.reporting.results_file import ResultsFile

NAMES = ("a.png", "b/c.png", "d.png")


def open_results(path, model="demo"):
    """As `otdrg report` opens its output."""
    return ResultsFile(path, "image", check=lambda row: _check_run(row, model, None))


def row(name, text="Clear."):
    return {"image": name, "model": "demo", "generated_text": text}


def names_in(path):
    return [json.loads(line)["image"] for line in path.read_bytes().splitlines()]


def test_images_that_have_a_line_are_finished(tmp_path):
    path = tmp_path / "out.jsonl"
    with open_results(path) as file:
        assert file.finished == {}
        file.append(row("b/c.png"))
    with open_results(path) as again:
        assert again.finished == {"b/c.png": 1}
        again.append(row("a.png"))
    assert names_in(path) == ["b/c.png", "a.png"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.text(max_size=20))
def test_torn_anywhere_each_image_has_one_line_in_the_end(tmp_path_factory, cut, text):
    path = tmp_path_factory.mktemp("torn") / "out.jsonl"
    with open_results(path) as file:
        for name in NAMES:
            file.append(row(name, text))
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % (len(whole) + 1)])
    with open_results(path) as again:
        again.append(*(row(name, text) for name in NAMES if name not in again.finished))
    assert path.read_bytes() == whole


def test_a_name_that_is_not_unicode_is_known_again(tmp_path):
    path = tmp_path / "out.jsonl"
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")  # as os.walk names such a file
    with open_results(path) as file:
        file.append(row(name))
    with open_results(path) as again:
        assert list(again.finished) == [name]


def test_no_empty_file_is_left(tmp_path):
    open_results(tmp_path / "out.jsonl").close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    ["My notes", "My notes\n", '{"id": 1, "report": "x"}\n', '{"image": "a.png"}\n', "[]\n", '{"image": "a\n', "\n"],
)
def test_other_files_are_left_as_they_are(tmp_path, content):
    path = tmp_path / "out.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"out.jsonl line 1: .*; choose another file, or remove that line$"):
        open_results(path)
    assert path.read_text() == content


def test_the_same_image_twice_is_named(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("".join(json.dumps(row(name)) + "\n" for name in ("a.png", "b.png", "a.png")))
    with pytest.raises(ValueError, match="out.jsonl line 3: image 'a.png' was given before, in line 1"):
        open_results(path)


def test_reports_of_another_model(tmp_path):
    path = tmp_path / "out.jsonl"
    with open_results(path) as file:
        file.append(row("a.png"))
    with pytest.raises(ValueError, match="out.jsonl line 1: a report by the model 'demo'; choose another file"):
        open_results(path, "mine")
    assert names_in(path) == ["a.png"]


def test_two_images_of_one_name():
    files = [FoundImage(name, f"/somewhere/{name}") for name in NAMES]
    _check_names(files)
    with pytest.raises(ValueError, match="2 images are called 'a.png': give the folder that holds them all"):
        _check_names([*files, FoundImage("a.png", "/elsewhere/a.png")])


@pytest.mark.parametrize("place", ["missing/out.jsonl", "file/out.jsonl", "."])
def test_file_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written") as error:
        open_results(tmp_path / place)
    assert str(tmp_path) not in str(error.value) and "\n" not in str(error.value)


def test_read_only_folder(tmp_path, monkeypatch):
    def refuse(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)  # the tests may run as root, whom permissions do not stop
    with pytest.raises(ValueError, match=r"out.jsonl cannot be written \(Permission denied\)") as error:
        open_results(tmp_path / "out.jsonl")
    assert str(tmp_path) not in str(error.value)


def test_what_is_not_an_ordinary_file(tmp_path):
    for path in (tmp_path, "/dev/zero"):  # of the latter there is no end
        with pytest.raises(ValueError, match=r" cannot be written \(it is not an ordinary file\)\.$"):
            open_results(path)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_lines_that_are_interrupted_while_written_are_taken_back(tmp_path, failure):
    path = tmp_path / "out.jsonl"
    file = open_results(path)
    file.append(row("a.png"))
    whole = path.read_bytes()

    class Torn:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, lines):
            self.file.write(lines[: len(lines) * 2 // 3])
            raise failure

    file._file = Torn(file._file)
    expected = ValueError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        file.append(row("b.png"), row("c.png"))
    assert path.read_bytes() == whole
