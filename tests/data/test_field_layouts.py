"""Folders as people have them: what is read, what is left out and named, and what is refused in one line."""

import json

import pytest

from otdrg_hf.data import prepare_dataset
from otdrg_hf.data.errors import DataError
from tests.data import test_mimic_cxr
from tests.support.shared_cases import shared_cases

REPORT = "Small left pleural effusion."


@pytest.fixture
def r2gen(tmp_path, make):
    """A function that writes an R2Gen folder with the training entries given, and a test entry, in an encoding."""

    def write(*entries, encoding="utf-8", keys=("train", "val", "test"), name="annotation.json", image="1.png"):
        folder = tmp_path / "r2gen"
        (folder / "images" / "a").mkdir(parents=True)
        (folder / "images" / "a" / image).write_bytes(make.png())
        plain = {"id": "t", "report": REPORT, "image_path": [f"a/{image}"]}
        content = dict(zip(keys, ([{**plain, **entry} for entry in entries], [plain], [plain]), strict=True))
        (folder / name).write_bytes(json.dumps(content, indent=1).encode(encoding))
        return folder

    return write


@pytest.fixture
def lines(tmp_path, make):
    """A function that writes an image folder with the metadata lines given, as bytes or objects."""

    def write(*given, start=b"", end=b"\n"):
        folder = tmp_path / "folder"
        folder.mkdir()
        (folder / "a.png").write_bytes(make.png())
        rows = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in given)
        (folder / "metadata.jsonl").write_bytes(start + end.join(rows) + end)
        return folder

    return write


def rejected(output):
    return [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]


def both_refuse(load, folder, message, tmp_path):
    """Loading and preparation say the same."""
    with pytest.raises(DataError, match=message):
        load(folder)
    with pytest.raises(DataError, match=message):
        prepare_dataset("folder", tmp_path / "out", folder)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_annotation_with_a_byte_order_mark(r2gen, load, encoding):
    folder = r2gen({"id": "größe"}, encoding=encoding)
    assert load(folder)[0]["id"] == "größe" and len(load(folder, "test")) == 1


def test_annotation_in_another_encoding_is_refused(r2gen, load, tmp_path):
    folder = r2gen()
    (folder / "annotation.json").write_bytes('{"train": [{"id": "größe"}]}'.encode("cp1252"))
    both_refuse(load, folder, "annotation.json is not valid JSON .*0xf6", tmp_path)


HALVES = [r"No \ud800 effusion", r"No \uDC01", r"\\\ud83d", r"\ud83d \ude00", r"\ude00\ud83d", r"\uD83D\u0041"]


@pytest.mark.parametrize("half", HALVES)
def test_half_surrogates_in_an_annotation(r2gen, load, tmp_path, half):
    folder = r2gen({"id": "a"}, {"id": "b", "report": "PLACE"})
    text = (folder / "annotation.json").read_text()
    line = text[: text.index("PLACE")].count("\n") + 1
    (folder / "annotation.json").write_text(text.replace("PLACE", half))
    both_refuse(load, folder, rf"annotation.json line {line} column \d+: the text holds half of a surrogate", tmp_path)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("key", ["report", "id", "indication"])
def test_half_surrogates_in_metadata(lines, load, tmp_path, half, key):
    folder = lines({"file_name": "a.png"}, b'{"file_name": "a.png", "%s": "%s"}' % (key.encode(), half.encode()))
    both_refuse(load, folder, "metadata.jsonl line 2: the text holds half of a surrogate", tmp_path)


@pytest.mark.parametrize("whole", [r"a \ud83d\ude00", r"\\ud800", r"\\\\ud83d", r"caf\u00e9", "\U0001f600"])
def test_whole_characters_are_read(lines, load, whole):
    folder = lines(b'{"file_name": "a.png", "report": "%s"}' % whole.encode())
    assert load(folder)[0]["report"] == json.loads(f'"{whole}"')


@pytest.mark.parametrize("value", [3.0, 3.5, float("nan"), True, ["a"], {"a": 1}, "", "  "])
def test_ids_that_no_prediction_could_be_joined_by(r2gen, lines, load, tmp_path, value):
    both_refuse(load, r2gen({"id": value}), "train entry 0: the id must be text or a whole number", tmp_path)
    folder = lines({"file_name": "a.png", "id": value})
    both_refuse(load, folder, "metadata.jsonl line 1: the id must be text or a whole number", tmp_path)


@pytest.mark.parametrize("value, name", [(3, "3"), ("3.0", "3.0"), ("s50414267", "s50414267"), (0, "0")])
def test_ids_that_are_text_or_whole_numbers(r2gen, lines, load, value, name):
    assert load(r2gen({"id": value}))[0]["id"] == name
    assert load(lines({"file_name": "a.png", "id": value}))[0]["id"] == name


def test_metadata_without_an_id_is_named_by_its_image(lines, load):
    assert load(lines({"file_name": "a.png"}, {"file_name": "a.png", "id": None}))["id"] == ["a", "a"]


@pytest.mark.parametrize("paths", [[], "", None, [""], [" "]])
def test_a_study_without_images_is_left_out_of_an_annotation(r2gen, load, tmp_path, paths, warned):
    folder = r2gen({"id": "a"}, {"id": "b", "image_path": paths})
    assert load(folder)["id"] == ["a"]
    assert "left out: 1 no image named, the first b" in warned()
    summary = prepare_dataset("folder", tmp_path / "out", folder)
    assert summary["rejected"] == {"no image named": 1}
    assert rejected(tmp_path / "out") == [{"id": "b", "split": "train", "reason": "no image named"}]
    assert load(tmp_path / "out")["id"] == ["a"]


@pytest.mark.parametrize("names", [{"file_names": []}, {"file_name": None}, {"file_name": ""}, {"file_names": [""]}])
def test_a_study_without_images_is_left_out_of_metadata(lines, load, tmp_path, names, warned):
    folder = lines(
        {"file_name": "a.png"}, {"id": "b", "report": REPORT, **names}, {"file_name": "a.png", "report": "Clear."}
    )
    assert len(load(folder)) == 2
    assert "left out: 1 no image named, the first b" in warned()
    summary = prepare_dataset("folder", tmp_path / "out", folder)
    assert summary["rejected"]["no image named"] == 1
    assert {"id": "b", "split": "train", "reason": "no image named", "detail": "metadata.jsonl line 2"} in rejected(
        tmp_path / "out"
    )


def test_a_split_without_a_single_image(r2gen, load, tmp_path):
    folder = r2gen({"id": "a", "image_path": []})
    with pytest.raises(DataError, match=r"split 'train' has no study to load \(1 no image named\)"):
        load(folder)
    assert prepare_dataset("folder", tmp_path / "out", folder)["studies"] == 2


def test_backslashes_in_image_paths(r2gen, load):
    assert load(r2gen({"image_path": ["a\\1.png"]}))[0]["images"][0].size == (24, 30)


def test_split_keys_in_other_words(r2gen, load):
    folder = r2gen({}, keys=("Train", "valid", "TEST"))
    assert [len(load(folder, split)) for split in ("train", "val", "test")] == [1, 1, 1]


def test_unicode_and_blanks_in_file_names(r2gen, load, tmp_path):
    folder = r2gen({}, image="Röntgen 1 – pa.png")
    assert load(folder)[0]["images"][0].size == (24, 30)
    assert prepare_dataset("folder", tmp_path / "out", folder)["images"] == 3


def test_metadata_from_windows(lines, load):
    folder = lines({"file_name": "a.png", "report": REPORT}, start=b"\xef\xbb\xbf", end=b"\r\n")
    assert load(folder)[0]["report"] == REPORT


@pytest.mark.parametrize("report", [None, float("nan")])
def test_reports_that_are_no_text(r2gen, load, tmp_path, report):
    both_refuse(load, r2gen({"report": report}), "train entry 0: report must be a string", tmp_path)


def test_a_json_array_instead_of_lines(lines, load, tmp_path):
    both_refuse(load, lines(b'[{"file_name": "a.png"}]'), "metadata.jsonl line 1: a JSON list where", tmp_path)


def test_metadata_in_another_encoding(lines, load, tmp_path):
    folder = lines('{"file_name": "a.png", "report": "größe"}'.encode("cp1252"))
    both_refuse(load, folder, r"metadata.jsonl line 1: not UTF-8 \(byte 0xf6 at column 37\)", tmp_path)


def test_metadata_in_utf_16(lines, load, tmp_path):
    folder = lines({"file_name": "a.png"})
    (folder / "metadata.jsonl").write_bytes('{"file_name": "a.png"}'.encode("utf-16"))
    both_refuse(load, folder, "metadata.jsonl: the file is UTF-16; save it as UTF-8", tmp_path)


@pytest.mark.parametrize("labels", [[-1] + [0] * 13, [None] * 14, [1.5] + [0] * 13])
def test_labels_of_another_coding(lines, load, tmp_path, labels):
    folder = lines({"file_name": "a.png", "disease_labels": labels})
    both_refuse(load, folder, "disease_labels must be 14 states of 0 blank, 1 positive", tmp_path)


@pytest.mark.parametrize("name", ["mimic_annotation.json", "annotations.json", "metadata.csv"])
def test_files_of_another_name(r2gen, load, name):
    with pytest.raises(DataError, match="Nothing to read .* annotation.json with images/"):
        load(r2gen(name=name))


def test_captions_under_another_key(lines, load, warned):
    assert load(lines({"file_name": "a.png", "text": REPORT}))[0]["report"] == ""
    assert "metadata.jsonl has keys outside the schema, which are left out: text" in warned()


# The test of each case of ../shared/cases/dataset.json.
TESTS = {
    "prepare mimic_cxr: tree of MIMIC-CXR DICOMs": test_mimic_cxr.test_trees_of_other_formats,
    "annotation.json with a BOM": test_annotation_with_a_byte_order_mark,
    "half of a surrogate pair in a report": test_half_surrogates_in_an_annotation,
    "id given as a float": test_ids_that_no_prediction_could_be_joined_by,
    "study with an empty image_path": test_a_study_without_images_is_left_out_of_an_annotation,
    "backslashes in image_path": test_backslashes_in_image_paths,
    "split keys Train and valid": test_split_keys_in_other_words,
    "ids as whole numbers": test_ids_that_are_text_or_whole_numbers,
    "unicode and blanks in file names": test_unicode_and_blanks_in_file_names,
    "CRLF and BOM in metadata.jsonl": test_metadata_from_windows,
    "report null or NaN": test_reports_that_are_no_text,
    "JSON array instead of lines": test_a_json_array_instead_of_lines,
    "cp1252": test_metadata_in_another_encoding,
    "labels as -1 and null": test_labels_of_another_coding,
    "mimic_annotation.json instead of annotation.json": test_files_of_another_name,
    "metadata.csv instead of metadata.jsonl": test_files_of_another_name,
    'HF captions under "text"': test_captions_under_another_key,
}


@pytest.mark.parametrize(
    "case", shared_cases("dataset.json", lambda case: not case["name"].startswith("prepare --image_size"))
)
def test_every_case_from_the_field_has_a_test(case):
    assert case["name"] in TESTS
