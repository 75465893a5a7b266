"""`otdrg report`: text, JSON lines and a file that goes on where it was cut off; one clear line for each bad film."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from PIL import Image
from transformers import pipeline

from otdrg_hf.data.phantom import make_phantom
from otdrg_hf.images.finding import FoundImage, find_images
from otdrg_hf.labeling import LABELS, STATES
from otdrg_hf.reporting import load_reporter, report_image_files, report_images
from otdrg_hf.reporting.schema import REPORT_SCHEMA
from tests.support.tiny_models import make_films

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def otdrg(otdrg):
    """Runs `otdrg report`."""
    return partial(otdrg, "report")


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Twelve films, of which three cannot be read."""
    root = tmp_path_factory.mktemp("patient_smith") / "films"
    (root / "more").mkdir(parents=True)
    for index, film in enumerate(make_films(9)):
        Image.fromarray(film).save(root / ("more" if index % 2 else "") / f"{index}.png")
    (root / "empty.png").touch()
    (root / "more" / "text.png").write_text("no film")
    (root / "zero.dcm").write_bytes(b"\0" * 128 + b"DICM")
    return root


BAD = {"empty.png", "more/text.png", "zero.dcm"}


def in_process(folder, films, **options):
    report = load_reporter(str(folder))
    return list(report_image_files(report, find_images([films]), "tiny", max_new_tokens=6, **options))


# In Python


@pytest.mark.parametrize("batch_size", [1, 4, 20])
def test_each_film_has_an_answer_in_order(folder, films, batch_size):
    answers = in_process(folder, films, batch_size=batch_size)
    assert [answer["image"] for answer in answers] == [film.name for film in find_images([films])]
    assert {answer["image"] for answer in answers if "error" in answer} == BAD
    report = pipeline("radiology-report", model=str(folder))
    for answer in answers:
        if "error" not in answer:
            expected = report(films / answer["image"], max_new_tokens=6)
            assert answer["generated_text"] == expected["generated_text"]
            assert [f["state"] for f in answer["findings"]] == [f["state"] for f in expected["findings"]]


def test_nothing_that_can_be_read(folder, films):
    bad = [FoundImage(name, str(films / name)) for name in sorted(BAD)]
    answers = list(report_image_files(load_reporter(str(folder)), bad, "tiny", batch_size=2))
    assert [answer["image"] for answer in answers] == sorted(BAD)
    assert list(report_image_files(load_reporter(str(folder)), [], "tiny")) == []


def follows(value, schema) -> bool:
    """Whether a value follows a JSON Schema, of those words that are used here."""
    kinds = {"object": dict, "array": list, "string": str, "number": (int, float)}
    if "oneOf" in schema:
        return sum(follows(value, each) for each in schema["oneOf"]) == 1
    if "enum" in schema:
        return value in schema["enum"]
    if schema["type"] == "integer":
        return type(value) is int and value >= schema["minimum"]
    if not isinstance(value, kinds[schema["type"]]):
        return False
    if schema["type"] == "object":
        known = schema["properties"]
        return set(schema["required"]) <= set(value) <= set(known) and all(follows(value[k], known[k]) for k in value)
    if schema["type"] == "array":
        return len(value) >= schema.get("minItems", 0) and all(follows(item, schema["items"]) for item in value)
    return schema["type"] == "string" or schema["minimum"] <= value <= schema["maximum"]


@pytest.fixture(scope="module")
def calibrated(folder, tmp_path_factory):
    """The model, with confidence in its sentences."""
    path = tmp_path_factory.mktemp("calibrated") / "tiny"
    shutil.copytree(folder, path)
    config = json.loads((path / "config.json").read_text())
    config["sentence_calibration"] = {"intercept": 1.0, "weakest_label": 0.5}
    (path / "config.json").write_text(json.dumps(config))
    return path


DRAFT = "The heart is enlarged. The bones are intact."


def test_sentences_of_the_report_that_comes_first(calibrated, films):
    for options in ({}, {"candidates": 3}):
        for answer in in_process(calibrated, films / "0.png", begins_with=DRAFT, **options):
            assert "candidate_sentences" not in answer and answer["generated_text"].startswith(DRAFT)
            for row in answer["sentences"]:
                assert answer["generated_text"][slice(*row["span"])] == row["text"]
            assert answer["sentences"][0]["labels"][0]["label"] == "Cardiomegaly"


def test_text_shows_the_confidence_in_each_sentence(otdrg, calibrated, films):
    code, out, _ = otdrg(films / "0.png", "--model", calibrated, "--begins_with", DRAFT, "--max_new_tokens", 6)
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith(f"0.png: {DRAFT}")
    assert "    -    The heart is enlarged." in lines  # said by a person
    assert any(line.startswith("    -    The bones are intact.") for line in lines)


def test_a_draft_is_continued_in_the_stream(otdrg, folder, films):
    options = ("--model", folder, "--begins_with", DRAFT, "--max_new_tokens", 6)
    code, streamed, _ = otdrg(films / "0.png", "--stream", *options)
    assert code == 0 and streamed.startswith(f"0.png: {DRAFT}")
    _, whole, _ = otdrg(films / "0.png", "--json", *options)
    assert json.loads(whole)["generated_text"] in streamed


@pytest.mark.parametrize(
    "options, match",
    [
        (("--begins_with", "Clear. " * 400), "the beginning of the report takes"),
        (("--impression_of", "Clear lungs."), "did not learn to begin its reports with 'Findings:'"),
        (("--begins_with", "Clear.", "--impression_of", "Clear lungs."), "not both"),
    ],
    ids=["long", "no sections", "both"],
)
def test_a_draft_that_cannot_be_continued_is_one_line(otdrg, folder, films, options, match):
    code, out, err = otdrg(films / "0.png", "--model", folder, *options)
    assert code == 2 or code == 1
    assert out == "" and match in err.lower() + err and err.count("\n") == 1


def test_answers_follow_the_schema(folder, calibrated, films):
    answers = in_process(folder, films) + in_process(folder, films, candidates=2)
    sectioned = {**answers[0], "sections": {"findings": "Clear.", "impression": "Normal."}}
    for answer in (*answers, sectioned, *in_process(calibrated, films), *in_process(calibrated, films, candidates=2)):
        assert follows(json.loads(json.dumps(answer)), REPORT_SCHEMA)
    assert any("candidates" in answer for answer in answers) and any("error" in answer for answer in answers)
    for wrong in ({"image": "a"}, {**answers[0], "path": "/a"}, {**answers[0], "findings": []}):
        assert not follows(wrong, REPORT_SCHEMA)


def test_candidates_and_their_agreement(folder, films):
    for answer in in_process(folder, films / "0.png", candidates=3):
        assert len(answer["candidates"]) == len(answer["candidate_agreement"]) == 3
        assert answer["candidates"][0] == answer["generated_text"]


def test_report_images_as_before(folder, films):
    first, second = report_images([str(films / "0.png"), str(films / "empty.png")], str(folder), 6, 2, "cpu")
    assert first["image"] == "0.png" and len(first["findings"]) == 14
    assert second == {"image": "empty.png", "error": "image 'empty.png': the file is empty."}


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"dtype": "int3"}, "'int3' is not a dtype; choose from auto, float32"),
        ({"device": "cuda:99"}, "There is no device 'cuda:99' here"),
        ({"device": "toaster"}, "There is no device 'toaster' here"),
        ({"model": "no/such/folder"}, "The model 'no/such/folder' cannot be loaded: there is no such folder"),
        ({"model": "./none"}, "The model './none' cannot be loaded: there is no such folder"),
    ],
    ids=str,
)
def test_what_cannot_be_loaded(folder, arguments, match):
    with pytest.raises(ValueError, match=match) as error:
        load_reporter(**{"model": str(folder), **arguments})
    assert "\n" not in str(error.value)


def test_dtype(folder):
    assert str(load_reporter(str(folder), dtype="bfloat16").model.dtype) == "torch.bfloat16"


# The command


def test_folder_to_file_then_again(otdrg, folder, films, tmp_path):
    output = tmp_path / "out.jsonl"
    arguments = (films, "--model", folder, "-o", output, "--max_new_tokens", 6, "--batch_size", 4)
    code, printed, complained = otdrg(*arguments)
    assert code == 1, complained
    rows = lines_of(output)
    assert [row["image"] for row in rows] == [f.name for f in find_images([films]) if f.name not in BAD]
    assert all(row["model"] == folder.name for row in rows)
    errors = [line for line in complained.replace("\r", "\n").splitlines() if "error: " in line]
    assert len(errors) == 3 and "3 of 12 images could not be read." in complained
    before = output.read_bytes()
    again, _, complained_again = otdrg(*arguments)
    assert again == 1 and output.read_bytes() == before  # the bad ones are tried again
    for text in (printed, complained, complained_again, output.read_text()):
        assert "patient_smith" not in text and str(tmp_path) not in text


@pytest.fixture(params=[40, pytest.param(1000, marks=pytest.mark.slow)])
def many(request, tmp_path):
    """A folder of so many synthetic phantoms."""
    (tmp_path / "films").mkdir()
    for seed in range(request.param):
        make_phantom(seed, "test", image_size=64).images[0].save(tmp_path / "films" / f"{seed:04d}.png")
    return tmp_path / "films"


def test_killed_twice_and_resumed(otdrg, folder, many, tmp_path):
    names = sorted(path.name for path in many.iterdir())
    output = tmp_path / "out.jsonl"
    arguments = [str(many), "--model", str(folder), "-o", str(output), "--max_new_tokens", "60"]
    codes = []
    for kill, wanted in ((signal.SIGKILL, len(names) // 7), (signal.SIGINT, len(names) * 3 // 7)):
        process = subprocess.Popen(
            [sys.executable, "-m", "otdrg_hf", "report", *arguments],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
        )
        while process.poll() is None and (not output.exists() or output.read_bytes().count(b"\n") < wanted):
            time.sleep(0.01)
        process.send_signal(kill)
        _, complained = process.communicate(timeout=120)
        codes.append(process.returncode)
        assert wanted <= output.read_bytes().count(b"\n") < len(names)
        if kill == signal.SIGINT:
            assert output.read_bytes().endswith(b"\n")
            assert complained.rstrip().endswith(b"images are left; the same command resumes here.")
        else:
            with open(output, "ab") as file:
                file.write(b'{"image": "3')  # as if the line had been cut as well
    assert codes == [-signal.SIGKILL, 130]
    assert otdrg(*arguments)[0] == 0
    assert [row["image"] for row in lines_of(output)] == names  # each once


def test_text_and_streamed_text(otdrg, folder, films):
    path = films / "0.png"
    [expected] = in_process(folder, path)
    code, text, complained = otdrg(path, "--model", folder, "--max_new_tokens", 6)
    assert code == 0, complained
    assert text.startswith("0.png: ")
    disputed = {row["label"] for row in expected["disagreements"]}
    for finding in expected["findings"]:
        shown = f"  {finding['label']:<28}{finding['state']}" in text
        assert shown == (finding["state"] != "blank" or finding["label"] in disputed)
    code, streamed, complained = otdrg(path, "--model", folder, "--max_new_tokens", 6, "--stream")
    assert code == 0, complained
    states = [[line for line in printed.splitlines() if line.startswith("  ")] for printed in (text, streamed)]
    assert streamed.startswith("0.png:") and states[0] == states[1] != []


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--stream"], "error: image 'empty.png': the file is empty."),
        (["--stream", "--json"], "error: --stream prints the text of one image, without -o, --json and --candidates."),
        (["-o", "missing/out.jsonl"], "error: out.jsonl cannot be written (No such file or directory)."),
        (
            ["--operating_point", "recall=high"],
            "error: --operating_point recall=high: 'high' is not a number; write recall=0.9",
        ),
        (
            ["--operating_point", "{Edema"],
            """error: --operating_point {Edema: not JSON; write '{"Edema": {"recall": 0.95}}'""",
        ),
        (["--dtype", "int3"], "error: 'int3' is not a dtype; choose from auto, float32, bfloat16, float16."),
    ],
    ids=str,
)
def test_one_clear_line(otdrg, folder, films, tmp_path, arguments, line):
    code, _, complained = otdrg(films / "empty.png", "--model", folder, *arguments)
    assert code in (1, 2) and complained.splitlines()[-1] == line
    assert "Traceback" not in complained and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def decided(folder, tmp_path_factory):
    """A checkpoint with operating curves and plausible states."""
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("calibrated") / "checkpoint")
    config = json.loads((copy / "config.json").read_text())
    findings = [label for label in LABELS if label != "No Finding"]
    config["positive_thresholds"] = [0.5] * 14
    config["operating_curves"] = {label: [[0.7, 0.5, 0.4], [1e-6, 0.1, 1.0]] for label in findings}
    config["operating_curves"]["Edema"] = []
    config |= {"conformal_thresholds": dict.fromkeys(LABELS, [0.1, 0.2]), "conformal_error_rate": 0.1}
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize(
    "written, asked",
    [
        ("sensitive", "sensitive"),
        ("recall=1", {"recall": 1.0}),
        ("precision = 0.5", {"precision": 0.5}),
        ('{"Fracture": {"recall": 1.0}}', {"Fracture": {"recall": 1.0}}),
    ],
)
def test_an_operating_point_on_the_command_line(otdrg, decided, films, written, asked):
    arguments = (films / "0.png", "--model", decided, "--max_new_tokens", 4, "--json", "--operating_point", written)
    code, out, complained = otdrg(*arguments)
    assert code == 0, complained
    answer = json.loads(out)
    assert answer["operating_point"]["asked"] == asked
    assert all(set(finding["plausible"]) <= set(STATES) for finding in answer["findings"])
    states = {finding["label"]: finding["state"] for finding in answer["findings"]}
    if written != "precision = 0.5":
        assert states["Fracture"] == "positive" or written == "sensitive"
    known = REPORT_SCHEMA["oneOf"][0]["properties"]
    assert set(answer) <= set(known) and set(answer["findings"][0]) == set(known["findings"]["items"]["properties"])


@pytest.mark.parametrize(
    "written, line",
    [
        ("careful", "error: 'careful' is not an operating point: give specific, balanced, sensitive"),
        ("recall=2", "error: An operating point with a recall of 2.0 is impossible"),
        ('{"Oedema": "sensitive"}', "error: The operating point names 'Oedema'; the labels are"),
    ],
)
@pytest.mark.parametrize("way", [(), ("-o", "out.jsonl"), ("--stream",)], ids=str)
def test_an_operating_point_that_makes_no_sense_is_one_line(otdrg, decided, films, tmp_path, written, line, way):
    code, _, complained = otdrg(films / "0.png", "--model", decided, "--operating_point", written, *way)
    assert code == 2 and complained.splitlines()[-1].startswith(line) and "Traceback" not in complained
    assert not list(tmp_path.iterdir())


def test_a_model_without_curves_says_how_to_get_them(otdrg, folder, films):
    code, _, complained = otdrg(films / "0.png", "--model", folder, "--operating_point", "sensitive")
    assert code == 2 and "otdrg calibrate MODEL --dataset" in complained.splitlines()[-1]


def test_a_file_holds_reports_of_one_operating_point(otdrg, decided, films, tmp_path):
    arguments = (films / "0.png", "--model", decided, "--max_new_tokens", 2, "-o", tmp_path / "out.jsonl")
    assert otdrg(*arguments, "--operating_point", "specific")[0] == 0
    assert otdrg(*arguments, "--operating_point", "specific")[0] == 0
    code, _, complained = otdrg(*arguments)
    assert code == 2 and 'a report at the operating point "specific"; choose another file' in complained
    (tmp_path / "out.jsonl").unlink()
    assert otdrg(*arguments)[0] == 0
    code, _, complained = otdrg(*arguments, "--operating_point", "balanced")
    assert code == 2 and "a report without an operating point; choose another file" in complained


def test_a_file_holds_reports_of_one_way_of_writing(otdrg, folder, films, tmp_path):
    arguments = (films / "0.png", "--model", folder, "--max_new_tokens", 2, "-o", tmp_path / "out.jsonl")
    assert otdrg(*arguments, "--candidates", 2, "--begins_with", "The  heart")[0] == 0
    assert otdrg(*arguments, "--candidates", 2, "--begins_with", "The  heart")[0] == 0
    code, _, complained = otdrg(*arguments, "--begins_with", "The heart")
    assert code == 2 and "a report of 2 candidates; choose another file" in complained
    code, _, complained = otdrg(*arguments, "--candidates", 2, "--begins_with", "No effusion")
    assert code == 2 and "a report that begins otherwise; choose another file" in complained
