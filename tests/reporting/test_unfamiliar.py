"""`otdrg report` of images that the model does not know: a line says so, and --refuse_unfamiliar leaves them out."""

import json

import pytest

from otdrg_hf.images.finding import find_images
from otdrg_hf.reporting import REPORT_SCHEMA, load_reporter, report_image_files
from tests.support.other_images import DRAWN, chest

NAMES = ["chest.png", "page.png", "side.png", "turned.png"]
STRANGE = {"page.png", "turned.png"}
WARNING = "not one that the model knows"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    chest(5000).save(root / "chest.png")
    DRAWN["text pages"](0).save(root / "page.png")
    chest(5001, "lateral").save(root / "side.png")
    chest(5002).rotate(180).save(root / "turned.png")
    return root


@pytest.fixture
def otdrg(otdrg):
    """Runs `otdrg report`, for short reports."""
    return lambda *arguments: otdrg("report", *arguments, "--max_new_tokens", 4)


def rows_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_text_and_json_say_which_are_unfamiliar(otdrg, known, images, caplog):
    code, text, _ = otdrg(images, "--model", known)
    assert code == 0 and caplog.text.count(WARNING) == 1
    blocks = dict(block.split(": ", 1) for block in text.strip().split("\n\n"))
    assert list(blocks) == NAMES
    assert {name for name, block in blocks.items() if "NOT FAMILIAR: unlike the training images" in block} == STRANGE
    caplog.clear()
    code, text, _ = otdrg(images, "--model", known, "--json", "--batch_size", 4)
    assert code == 0 and caplog.text.count(WARNING) == 1
    rows = rows_of(text)
    assert {row["image"] for row in rows if not row["input"]["familiar"]} == STRANGE
    assert [row["input"]["view"] for row in rows if row["input"]["familiar"]] == ["frontal", "lateral"]


def test_streamed_text_says_so_too(otdrg, known, images):
    code, text, _ = otdrg(images / "turned.png", "--model", known, "--stream")
    assert code == 0 and "NOT FAMILIAR: unlike the training images, looks upside down" in text


def test_refused_images_are_left_out_with_a_line(otdrg, known, images, tmp_path):
    code, text, complained = otdrg(images, "--model", known, "--refuse_unfamiliar")
    reported = [line.partition(":")[0] for line in text.splitlines() if ".png" in line]
    assert code == 0 and reported == ["chest.png", "side.png"]
    lines = [line for line in complained.replace("\r", "\n").splitlines() if line.startswith("left out: ")]
    assert [line.split("'")[1] for line in lines] == sorted(STRANGE)
    assert lines[1] == "left out: image 'turned.png' is unlike the training images, looks upside down."
    assert str(images) not in complained + text

    output = tmp_path / "out.jsonl"
    for _ in range(2):  # the second time they are tried again
        code, _, complained = otdrg(images, "--model", known, "--refuse_unfamiliar", "-o", output)
        assert code == 0 and complained.count("left out: ") == 2
        assert "images are unlike the training images and were left out." in complained
        assert [row["image"] for row in rows_of(output.read_text())] == ["chest.png", "side.png"]

    code, text, _ = otdrg(images, "--model", known, "--refuse_unfamiliar", "--json")
    rows = rows_of(text)
    assert code == 0 and [row["image"] for row in rows] == NAMES
    assert {row["image"] for row in rows if set(row) == {"image", "refused"}} == STRANGE


def test_rows_follow_the_schema(known, images):
    from tests.reporting.test_command import follows

    report, files = load_reporter(str(known)), find_images([images])
    for refuse in (False, True):
        rows = list(report_image_files(report, files, "m", max_new_tokens=4, refuse_unfamiliar=refuse))
        assert len(rows) == 4 and all(follows(json.loads(json.dumps(row)), REPORT_SCHEMA) for row in rows)


@pytest.mark.parametrize("arguments", [["--refuse_unfamiliar"], ["--refuse_unfamiliar", "-o", "out.jsonl"]], ids=str)
def test_a_model_that_cannot_tell_refuses_nothing(otdrg, folder, images, monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    code, _, complained = otdrg(images, "--model", folder, *arguments)
    assert code == 2 and not list(tmp_path.iterdir())
    assert complained.splitlines()[-1] == (
        f"error: The model {folder.name!r} cannot tell which images are unfamiliar: "
        "`otdrg calibrate MODEL --dataset ...` adds what it takes."
    )


def test_a_streamed_report_cannot_be_refused(otdrg, known, images):
    code, _, complained = otdrg(images / "chest.png", "--model", known, "--stream", "--refuse_unfamiliar")
    assert code == 2 and complained.splitlines()[-1].startswith("error: --stream prints a report before")
