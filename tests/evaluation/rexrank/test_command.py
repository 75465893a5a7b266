"""`otdrg rexrank`: predictions for a file of ReXrank's form, a run that is killed, its scores and a submission."""

import json
import subprocess
import sys

import pytest
import yaml
from PIL import Image

from otdrg_hf.metrics.rexrank import rexrank_bleu_2
from otdrg_hf.modeling.pipeline_otdrg import RadiologyReportPipeline
from tests.support.other_environment import ROOT
from tests.support.tiny_models import make_films

NAN = float("nan")
OPTIONS = ("--max_new_tokens", 6, "--device", "cpu", "--batch_size", 2)


def entry(number: int, **changes) -> dict:
    names = [f"s{number}/0.png", f"s{number}/1.png"]
    return {
        "image_path": names,
        "key_image_path": names[0],
        "frontal_lateral": ["Frontal", "Lateral"],
        "section_findings": "The heart is normal. No effusion.",
        "section_impression": "Normal chest.",
        "context": "Age:50-60.Gender:M.Indication: Cough. Comparison: None.",
        "report": "",
        "split": "test",
    } | changes


ENTRIES = {
    "s0": entry(0),
    "s1": entry(1, section_findings=NAN, context="", image_path=["/s1/0.png"], frontal_lateral=["antero-posterior"]),
    "s2": entry(2, frontal_lateral=["Lateral"], key_image_path="s2/1.png"),
    "s3": entry(3, frontal_lateral=["left lateral", NAN]),
    "s4": entry(4, section_impression=NAN),
}


@pytest.fixture
def place(monkeypatch, tmp_path):
    """A folder with `input.json` and its images."""
    monkeypatch.chdir(tmp_path)
    for number, film in enumerate(make_films(10)):
        (tmp_path / f"images/s{number // 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(film).save(tmp_path / f"images/s{number // 2}/{number % 2}.png")
    (tmp_path / "input.json").write_text(json.dumps(ENTRIES))
    return tmp_path


@pytest.fixture
def otdrg(otdrg, place, folder):
    """Runs `otdrg rexrank` there."""

    def run(*arguments, model=folder):
        return otdrg("rexrank", *arguments, *(("--model", model) if model else ()))

    return run


FILES = ("input.json", "out.json", "--img_root_dir", "images", *OPTIONS)


def test_the_file_comes_back_with_a_prediction_for_every_study(otdrg, place):
    code, out, err = otdrg(*FILES, "--json")
    assert code == 0, err
    text = (place / "out.json").read_text()
    answered = json.loads(text)
    assert list(answered) == list(ENTRIES)
    for key, row in answered.items():
        prediction = row.pop("model_prediction")
        assert isinstance(prediction, str) and prediction.strip()
        assert json.dumps(row) == json.dumps(ENTRIES[key])
    assert str(place) not in text + (place / "out.json.run/generation.json").read_text()
    # Studies without findings are counted, listed, and not in the score.
    scores = json.loads(out)
    assert (scores["studies"], scores["scored"], scores["left_out"]) == (5, 4, ["s1"])
    predictions = {key: row["model_prediction"] for key, row in json.loads(text).items()}
    kept = [key for key in ENTRIES if key != "s1"]
    pair = [predictions[key] for key in kept], [ENTRIES[key]["section_findings"] for key in kept]
    assert scores["bleu_2"] == pytest.approx(sum(rexrank_bleu_2(*pair)) / 4)
    assert scores == json.loads((place / "out.json.run/scores.json").read_text())
    assert "left out of the scores: 1 of 5 studies, the first is 's1'" in err
    assert "without one view for each image: 1 of 5 studies, the first is 's2'; their key_image_path is taken" in err


def test_the_model_gets_the_images_views_and_context(otdrg, monkeypatch):
    studies, preprocess = [], RadiologyReportPipeline.preprocess

    def watch(self, study):
        studies.append({key: value for key, value in study.items() if key != "images"})
        return preprocess(self, study)

    monkeypatch.setattr(RadiologyReportPipeline, "preprocess", watch)
    assert otdrg(*FILES)[0] == 0
    known = {"indication": "50-60-year-old male. Cough.", "comparison": "None."}
    assert studies[0] == {"views": ["frontal", "lateral"], **known}
    assert studies[1] == {"views": ["frontal"], "indication": "", "comparison": ""}
    assert [study["views"] for study in studies[2:4]] == [["frontal", "unknown"], ["lateral", "unknown"]]


def test_a_run_that_is_killed_resumes_to_the_same_file(otdrg, place, monkeypatch):
    assert otdrg(*FILES)[0] == 0
    unbroken = (place / "out.json").read_bytes()
    calls, forward = [], RadiologyReportPipeline._forward

    def stop_at_the_second(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    again = ("input.json", "again.json", *FILES[2:])
    with monkeypatch.context() as patch:
        patch.setattr(RadiologyReportPipeline, "_forward", stop_at_the_second)
        assert otdrg(*again)[0] == 130
    lines = place / "again.json.run/predictions.jsonl"
    assert len(lines.read_bytes().splitlines()) == 2 and not (place / "again.json").exists()
    with open(lines, "ab") as file:
        file.write(b'{"id": "s2", "gener')  # torn off in the middle of a line
    calls.clear()
    assert otdrg(*again)[0] == 0
    assert (place / "again.json").read_bytes() == unbroken
    # Once more: nothing is left to generate.
    assert otdrg(*again)[0] == 0
    assert (place / "again.json").read_bytes() == unbroken


def test_another_model_or_board_does_not_resume(otdrg, place):
    assert otdrg(*FILES)[0] == 0
    code, _, err = otdrg(*FILES, "--sections", "findings_impression")
    assert code == 2 and "out.json.run holds predictions made with section 'findings', not 'findings_impression'" in err
    assert "give another OUTPUT.json, or delete that folder" in err
    rows = {**ENTRIES, "s4": entry(4, context="Indication: Fever.")}
    (place / "input.json").write_text(json.dumps(rows))
    code, _, err = otdrg(*FILES)
    assert code == 2 and "made with entries 'sha256" in err


def test_the_board_of_both_sections(otdrg, place, monkeypatch):
    forward = RadiologyReportPipeline.postprocess

    def with_headers(self, *args, **kwargs):
        answer = forward(self, *args, **kwargs)
        return {**answer, "sections": {"findings": "Clear lungs.", "impression": "Normal."}}

    monkeypatch.setattr(RadiologyReportPipeline, "postprocess", with_headers)
    code, out, err = otdrg(*FILES, "--sections", "findings_impression", "--json")
    assert code == 0, err
    texts = {row["model_prediction"] for row in json.loads((place / "out.json").read_text()).values()}
    assert texts == {"Findings: Clear lungs. Impression: Normal."}
    lines = [json.loads(line) for line in (place / "out.json.run/predictions.jsonl").read_text().splitlines()]
    assert lines[1]["reference"] == "Findings: None Impression: Normal chest."
    assert json.loads(out)["left_out"] == []
    assert "scored with None as their findings, as ReXrank does: 1 of 5 studies, the first is 's1'" in err
    assert "scored with None as their impression, as ReXrank does: 1 of 5 studies, the first is 's4'" in err
    assert otdrg("input.json", "f.json", *FILES[2:])[0] == 0
    assert {row["model_prediction"] for row in json.loads((place / "f.json").read_text()).values()} == {"Clear lungs."}


def test_empty_predictions_are_counted(otdrg, monkeypatch):
    monkeypatch.setattr("otdrg_hf.evaluation.rexrank.command.prediction_text", lambda *_: " ")
    code, _, err = otdrg(*FILES)
    assert code == 0 and "with an empty prediction: 5 of 5 studies, the first is 's0'; ReXrank scores 0" in err


def test_radcliq_without_weights_does_not_cost_the_file(otdrg, place, monkeypatch):
    def no_weights(*_):
        raise OSError("RadEval's radcliq cannot run here: no weights")

    monkeypatch.setattr("otdrg_hf.evaluation.rexrank.command.check_radeval", lambda _: None)
    monkeypatch.setattr("otdrg_hf.evaluation.rexrank.command.rexrank_radcliq", no_weights)
    code, out, err = otdrg(*FILES, "--radcliq", "--json")
    assert code == 0 and "RadCliQ-v1 was not computed: RadEval's radcliq cannot run here" in err
    scores = json.loads(out)
    assert scores["radcliq_v1"] is None and scores["radcliq_v1_bertscore"].endswith("idf off")


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "input.json is not JSON"),
        ("[]", "input.json is not a file of ReXrank's form"),
        ('{"a": 1, "b": {}}', "studies that are not objects: 1 of 2 studies, the first is 'a'"),
        ('{"a": {}, "b": {}, "a": {}}', "input.json has 1 ids twice, the first is 'a'"),
        (json.dumps({"a": entry(0), "b": {"image_path": []}}), "without image_path (a list of names): 1 of 2 studies"),
        (json.dumps({"a": entry(0), "b": entry(7)}), "2 of 4 images are not in --img_root_dir, the first is s7/0.png"),
        (json.dumps({"a": entry(0, image_path=["../input.json"])}), "leaves its folder --img_root_dir"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(content, message, otdrg, place):
    (place / "input.json").write_text(content)
    code, _, err = otdrg(*FILES)
    [line] = err.splitlines()
    assert code == 2 and line.startswith("error: ") and message in line and str(place) not in line
    assert not (place / "out.json").exists() and not (place / "out.json.run").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "give INPUT.json, OUTPUT.json and --img_root_dir, or --submission DIR"),
        (("input.json", "out.json"), "give INPUT.json, OUTPUT.json and --img_root_dir"),
        (("nothing.json", *FILES[1:]), "there is no file nothing.json"),
        (("input.json", "no/out.json", *FILES[2:]), "the folder for out.json does not exist"),
        (("input.json", "input.json", *FILES[2:]), "input.json cannot be written: give another name"),
        ((*FILES, "--sections", "impression"), "unknown sections 'impression'; give one of findings, findings_impress"),
        ((*FILES[:3], "nowhere"), "--img_root_dir nowhere is not a folder"),
        ((*FILES, "--submission", "s"), "--submission writes files for the leaderboard"),
        (("--submission", "images"), "images is there already: give a new folder"),
    ],
)
def test_mistakes_are_one_line(arguments, message, otdrg, place):
    before = sorted(place.rglob("*"))
    code, _, err = otdrg(*arguments)
    [line] = err.splitlines()
    assert code == 2 and line.startswith("error: ") and message in line
    assert sorted(place.rglob("*")) == before


def test_an_image_that_cannot_be_read_leaves_the_others_and_no_file(otdrg, place):
    image = place / "images/s2/1.png"
    content = image.read_bytes()
    image.write_bytes(content[:40])
    code, _, err = otdrg(*FILES)
    error = err.splitlines()[-1]
    assert code == 2 and "studies that cannot be read: 1 of 5 studies, the first is 's2'" in error
    assert str(place) not in error and not (place / "out.json").exists()
    image.write_bytes(content)
    assert otdrg(*FILES)[0] == 0
    assert list(json.loads((place / "out.json").read_text())) == list(ENTRIES)


def test_a_file_of_another_origin_is_not_overwritten(otdrg, place):
    (place / "out.json").write_text("mine")
    code, _, err = otdrg(*FILES)
    assert code == 2 and "out.json is there already: delete it, or give another name" in err
    assert (place / "out.json").read_text() == "mine"


def test_a_submission_runs_as_the_leaderboard_runs_it(otdrg, place, folder):
    code, out, err = otdrg("--submission", "entry", "--sections", "findings")
    assert code == 0, err
    names = {path.name for path in (place / "entry").iterdir()}
    assert names == {"environment.yaml", "inference.py", "README.md"}
    assert str(place) not in "".join(path.read_text() for path in (place / "entry").iterdir())
    environment = yaml.safe_load((place / "entry/environment.yaml").read_text())
    pip = environment["dependencies"][-1]["pip"]
    assert any(line.startswith("transformers==5.") for line in pip) and not any("+" in line for line in pip)
    assert (
        f"`{folder.name}`" in (place / "entry/README.md").read_text()
        or folder.name in (place / "entry/README.md").read_text()
    )
    (place / "entry/model").symlink_to(folder)
    given = ["--input_json_file", "input.json", "--save_json_file", "out.json", "--img_root_dir", "images"]
    done = subprocess.run(
        [sys.executable, "entry/inference.py", *given], cwd=place, env={"PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert all(row["model_prediction"].strip() for row in json.loads((place / "out.json").read_text()).values())


def test_a_submission_names_the_model_on_the_hub(otdrg, place):
    assert otdrg("--submission", "entry", model="org/otdrg")[0] == 0
    assert "MODEL = 'org/otdrg'" in (place / "entry/inference.py").read_text()
    assert "`org/otdrg` on the Hub" in (place / "entry/README.md").read_text()
