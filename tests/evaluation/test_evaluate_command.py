"""`otdrg evaluate`: generate and score in one go, every option that scores, and one line for what a user got wrong."""

import csv
import json
from functools import partial

import numpy as np
import pytest

from otdrg_hf.evaluation.compare import evaluate_files
from otdrg_hf.labeling import LABELS, label_reports
from otdrg_hf.labeling.command import load_labeler
from otdrg_hf.metrics import evaluate_reports
from otdrg_hf.metrics.clinical import clinical_statistics

ROWS = [
    {"id": "a", "generated_text": "The heart is enlarged.", "reference": "There is cardiomegaly. No effusion."},
    {"id": "b", "generated_text": "Left pneumothorax.", "reference": "The lungs are clear."},
    {"id": "c", "generated_text": "Small pleural effusion.", "reference": "Small right pleural effusion."},
]
PREDICTED = [
    {"Cardiomegaly": "positive", "Edema": "uncertain"},
    {"No Finding": "positive"},
    {"Pleural Effusion": "negative"},
]
QUICK = ("--num_bootstrap", "0")


@pytest.fixture
def otdrg(otdrg, no_java):
    """Runs `otdrg evaluate`."""
    return partial(otdrg, "evaluate")


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def predictions(tmp_path):
    rows = [{**row, "predicted_labels": labels} for row, labels in zip(ROWS, PREDICTED, strict=True)]
    return write(tmp_path / "predictions.jsonl", rows)


def test_a_model_reports_a_split_and_is_scored_in_one_go(otdrg, folder, data, tmp_path):
    command = ("--model", folder, "--dataset", data, "--output_dir", "out", "--max_new_tokens", 6, "--device", "cpu")
    code, out, err = otdrg(*command, "--num_bootstrap", 20, "--section", "findings")
    assert code == 0, err
    assert f"{folder.name} on {data.name}, split test, references: findings" in out
    assert "labels predicted from the images" in out
    content = json.loads((tmp_path / "out/figures.json").read_text())["systems"]["predictions"]
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    texts, references = [row["generated_text"] for row in rows], [row["reference"] for row in rows]
    expected = evaluate_reports(texts, references, num_bootstrap=20)
    assert len(rows) == 5 and content["figures"] == expected
    assert content["record"]["generation"] == json.loads((tmp_path / "out/generation.json").read_text())
    assert content["record"]["section"] == "findings"
    head = content["disease_head"]
    assert head["figures"]["hallucinations_per_report"] > content["figures"]["hallucinations_per_report"]
    assert {"ce14_micro_f1_low", "ce5_macro_f1_uncertain_positive"} <= head["figures"].keys()
    # Scored again from the file, another time with nothing left to generate: the same figures.
    assert otdrg("out/predictions.jsonl", "--num_bootstrap", 20, "-o", "again.json")[0] == 0
    assert json.loads((tmp_path / "again.json").read_text())["systems"]["predictions"]["figures"] == expected
    assert otdrg(*command, "--num_bootstrap", 20, "--section", "findings")[:2] == (0, out)


def test_outputs_may_go_to_the_folder_that_the_run_makes(otdrg, folder, data, tmp_path):
    command = ("--model", folder, "--dataset", data, "--output_dir", "new", "--max_new_tokens", 2, "--device", "cpu")
    code, _, err = otdrg(*command, *QUICK, "--html", "new/worst.html", "--plot", "new/f1.svg", "-o", "new/all.json")
    assert code == 0, err
    made = {path.name for path in (tmp_path / "new").iterdir()}
    assert made == {"predictions.jsonl", "generation.json", "figures.json", "worst.html", "f1.svg", "all.json"}


def test_predicted_labels_are_scored_apart_from_the_reports(predictions):
    evaluation = evaluate_files([predictions], meteor=False, num_bootstrap=10)
    referred = label_reports([row["reference"] for row in ROWS])
    codes = {"positive": 1, "negative": 2, "uncertain": 3}
    predicted = np.array([[codes.get(labels.get(label), 0) for label in LABELS] for labels in PREDICTED])
    head = evaluation.heads["predictions"]
    for flag in (False, True):
        part = clinical_statistics(predicted, referred, flag)
        for name, value in part.figures(part.totals(), 3).items():
            assert head.figures[name] == pytest.approx(value), name
            assert head.figures[f"{name}_low"] <= head.figures[f"{name}_high"]
    assert evaluation.cards["predictions"].figures == evaluate_reports(
        [row["generated_text"] for row in ROWS], [row["reference"] for row in ROWS], meteor=False, num_bootstrap=10
    )
    by_label = {row["label"]: row for row in head.labels if not row["uncertain_positive"]}
    assert (by_label["Cardiomegaly"]["f1"], by_label["Pleural Effusion"]["f1"]) == (1.0, 0.0)


def test_csv_and_table_hold_the_predicted_labels(otdrg, predictions, tmp_path):
    code, out, err = otdrg(predictions, *QUICK, "--csv", "out.csv")
    assert code == 0, err
    with open(tmp_path / "out.csv", newline="") as file:
        rows = {(row["figure"], row["label"], row["uncertain"]): row["value"] for row in csv.DictReader(file)}
    assert rows["disease_head_label_f1", "Cardiomegaly", "not positive"] == "1.0"
    value = rows["disease_head_ce14_micro_f1", "", "not positive"]
    table = out.split("labels predicted from the images")[1]
    assert f"{float(value):.4f}" == next(line.split()[1] for line in table.splitlines() if "ce14_micro_f1" in line)


def test_json_to_stdout_is_nothing_but_json(otdrg, predictions):
    code, out, _ = otdrg(predictions, *QUICK, "--json")
    assert code == 0
    assert set(json.loads(out)) == {"systems", "baselines", "paired", "warnings", "left_out"}


def test_the_same_names_are_told_apart_by_their_folders(otdrg, tmp_path):
    files = [write(tmp_path / name / "predictions.jsonl", ROWS) for name in "ab"]
    content = json.loads(otdrg(*files, "--num_bootstrap", 10, "--json")[1])
    assert list(content["systems"]) == ["a/predictions", "b/predictions"]
    assert list(content["paired"]) == ["a/predictions - b/predictions"]


def test_baselines_and_published_reports_from_the_command_line(otdrg, tmp_path):
    reports = [{"id": row["id"], "report": row["reference"]} for row in ROWS]
    splits = {"train": [{"id": "t", "report": "Cardiomegaly."}], "val": reports[1:2], "test": reports}
    (tmp_path / "annotation.json").write_text(json.dumps(splits))
    (tmp_path / "theirs.csv").write_text("study_id,generated_report\nc,Small effusion.\nb,Clear XXXX.\n")
    ours = write(tmp_path / "ours.jsonl", [{"id": row["id"], "generated_text": row["generated_text"]} for row in ROWS])
    command = (ours, "--references", "annotation.json", "--published", "theirs.csv", "--masks", "remove")
    code, out, err = otdrg(
        *command, "--num_bootstrap", 10, "--baselines_dir", "reports", "--constant_candidates", 1, "--json"
    )
    assert code == 0, err
    content = json.loads(out)
    assert list(content["systems"]) == ["ours", "theirs"] and list(content["paired"]) == ["ours - theirs"]
    assert content["left_out"] == {"theirs.csv: not in it": ["a"]} and "lacks 1 of 3 studies" in content["warnings"][0]
    assert content["systems"]["theirs"]["record"]["masks"]["policy"] == "remove"
    constant = [json.loads(line) for line in (tmp_path / "reports/constant.jsonl").read_text().splitlines()]
    assert [(row["id"], row["generated_text"]) for row in constant] == [("b", "Cardiomegaly."), ("c", "Cardiomegaly.")]
    assert not content["baselines"]["constant"]["peeks"]
    code, out, err = otdrg("--references", "annotation.json", *QUICK)
    assert code == 0 and "| *constant* " in out, err
    assert json.loads(otdrg(*command, *QUICK, "--no_baselines", "--json")[1])["baselines"] == {}


def test_a_vocabulary_maps_rare_words(otdrg, predictions, tmp_path):
    train = [{"id": f"t{index}", "report": "the lungs are clear . small right effusion ."} for index in range(3)]
    write(tmp_path / "train.jsonl", train)
    content = json.loads(
        otdrg(predictions, *QUICK, "--protocol", "r2gen-iu", "--vocabulary", "train.jsonl", "--json")[1]
    )
    protocol = content["systems"]["predictions"]["record"]["protocol"]
    # there is cardiomegaly no / pleural
    assert protocol["unknown_words_in_references"] == 5


def test_sections_are_cut_out(otdrg, tmp_path):
    text = "FINDINGS: Cardiomegaly. IMPRESSION: Edema."
    write(tmp_path / "p.jsonl", [{"id": "a", "generated_text": text, "reference": text.replace("Edema", "Clear")}])
    for section, expected in (("findings", 1.0), ("impression", 0.0), ("report", 0.5)):
        out = otdrg("p.jsonl", *QUICK, "--section", section, "--json")[1]
        figures = json.loads(out)["systems"]["p"]["figures"]
        assert figures["ce14_micro_precision"] == expected, section


def test_chexbert_labels_and_is_recorded(chexbert, published_tokenizer, predictions, otdrg):
    label = load_labeler("chexbert", chexbert / "chexbert.safetensors", tokenizer=chexbert, device="cpu")
    texts, references = [row["generated_text"] for row in ROWS], [row["reference"] for row in ROWS]
    expected = evaluate_reports(texts, references, meteor=False, labeler=label)
    weights = chexbert / "chexbert.safetensors"
    code, out, err = otdrg(predictions, *QUICK, "--labeler", "chexbert", "--weights", weights, "--json")
    assert code == 0, err
    system = json.loads(out)["systems"]["predictions"]
    assert system["record"]["clinical"]["labeler"] == "chexbert"
    assert system["record"]["versions"]["labeler"] == label.version
    assert label.version.startswith("chexbert weights sha256 ")
    assert {k: v for k, v in system["figures"].items() if "ce" in k} == {k: v for k, v in expected.items() if "ce" in k}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "nothing to score: give files of predictions, or --dataset for a model to report"),
        (["--model", "here"], "--model needs --dataset"),
        (["FILE", "--section", "summary"], "unknown section 'summary'; give one of findings, impression, report"),
        (["FILE", "--protocol", "coco"], "unknown protocol 'coco'"),
        (["FILE", "--labeler", "nobody"], "unknown labeler 'nobody'; give one of rules, chexbert"),
        (["FILE", "--labeler", "chexbert"], "needs its weights: --weights PATH"),
        (["FILE", "--labeler", "chexbert", "--weights", "no.pth"], "no CheXbert weights at no.pth"),
        (["FILE", "--weights", "no.pth"], "weights are for the labeler chexbert"),
        (["FILE", "--vocabulary", "v.jsonl"], "a vocabulary is for the r2gen protocols"),
        (["FILE", "--protocol", "r2gen-iu", "--vocabulary", "v.jsonl"], "there is no vocabulary file v.jsonl"),
        (["--references", "FILE", "--html", "w.html"], "--html shows the worst reports of a system"),
        (["--references", "FILE", "--no_baselines"], "nothing to score: give files of predictions, or do not leave"),
        (["FILE", "--masks", "drop"], "unknown policy of masks 'drop'; give one of keep, remove"),
        (["FILE", "--constant_by", "cider"], "a constant cannot be chosen by 'cider'"),
        (["FILE", "--published", "theirs.csv"], "no file theirs.csv"),
        (["FILE", "--radeval", "bleurt"], "unknown RadEval score 'bleurt'"),
        (["FILE", "--radeval", "green"], "need RadEval: pip install RadEval"),
        (["FILE", "-o", "no/out.json"], "the folder for out.json does not exist"),
        (["nothing.jsonl"], "nothing.jsonl"),
        (["--dataset", "FOLDER", "--split", "tset"], "Unknown split 'tset'"),
        (
            ["--dataset", "FOLDER", "--model", "./no_model"],
            "The model './no_model' cannot be loaded: there is no such folder",
        ),
        (["--dataset", "FOLDER", "--section", "all"], "unknown section 'all'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, otdrg, predictions, data, folder, monkeypatch):
    monkeypatch.setattr("otdrg_hf.metrics.radeval_adapter.radeval_is_available", lambda: False)
    monkeypatch.setattr("otdrg_hf.DEMO_CHECKPOINT", folder)
    places = {"FILE": str(predictions), "FOLDER": str(data)}
    code, _, err = otdrg(*(places.get(argument, argument) for argument in arguments))
    assert code == 2
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]


@pytest.mark.parametrize(
    "labels, message",
    [
        ("MISSING", r"line 2: no 'predicted_labels' \({label: state}\), which other lines have"),
        ({"Dextrocardia": "positive"}, "line 2: 'predicted_labels' has 'Dextrocardia': 'positive'"),
        ({"Edema": "maybe"}, "line 2: 'predicted_labels' has 'Edema': 'maybe'"),
    ],
)
def test_bad_predicted_labels_are_named(labels, message, tmp_path):
    rows = [{**row, "predicted_labels": {}} for row in ROWS]
    rows[1]["predicted_labels"] = labels
    if labels == "MISSING":
        del rows[1]["predicted_labels"]
    with pytest.raises(ValueError, match=message):
        evaluate_files([write(tmp_path / "p.jsonl", rows)], meteor=False, num_bootstrap=0)


@pytest.mark.parametrize(
    "options, message",
    [
        (("--num_studies", 1), "need --dataset"),
        (("--split", "nonsense"), "Unknown split 'nonsense'"),
        (("--candidates", 4), "need --dataset"),
        (("--batch_size", 8, "--max_new_tokens", 9), "--batch_size and --max_new_tokens would change nothing without"),
        (("--output_dir", "bd"), "--output_dir would change nothing without --dataset"),
        (("--neighbours", 1000), "--neighbours would change nothing without --dataset"),
        (("--device", "cpu"), "--device would change nothing without --dataset"),
        (("--no_baselines", "--baselines_dir", "bd"), "--baselines_dir is for"),
    ],
)
def test_options_that_would_be_ignored_are_refused(otdrg, predictions, tmp_path, options, message):
    code, _, err = otdrg(predictions, *QUICK, *options)
    assert code == 2 and message in err and not (tmp_path / "bd").exists()


@pytest.mark.parametrize(
    "outputs, message",
    [
        (("-o", "predictions.jsonl"), "predictions.jsonl is to be written and is one of the files to read"),
        (("--csv", "two.csv", "-o", "two.csv"), "two.csv is named for two outputs"),
        (("--baselines_dir", "."), "shuffled.jsonl is to be written and is one of the files to read"),
    ],
)
def test_no_output_takes_the_place_of_another_file(otdrg, predictions, tmp_path, monkeypatch, outputs, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "shuffled.jsonl", ROWS)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    code, _, err = otdrg("predictions.jsonl", "shuffled.jsonl", *outputs, *QUICK)
    assert code == 2 and message in err
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before
