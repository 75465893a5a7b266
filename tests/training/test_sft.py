"""The training script: a run killed and resumed, a LoRA run, and mistakes of the user in one line each."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_runs import write_recipe
from tiny_training import OTDRG, RESNET, tiny_rows, tiny_studies, write_study_folder
from transformers import AutoModel, AutoModelForImageTextToText

from otdrg_hf import OTDRGForConditionalGeneration
from otdrg_hf.data.phantom import PHANTOM_NAMES
from otdrg_hf.labeling import label_reports
from otdrg_hf.modeling.backbones_otdrg import encode_label_phrases
from otdrg_hf.reporting.split import generate_predictions
from otdrg_hf.training.arguments import StudyArguments
from otdrg_hf.training.model_setup import PHANTOM_NOTICE
from otdrg_hf.training.sft import main
from otdrg_hf.training.studies import load_studies
from tests.support.families import save_text, save_text_encoder, save_vision

TRAINING = Path(__file__).parents[2] / "training"
STEPS = 40
NO_CONFIGS = {"vision_config": None, "text_config": None}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """An image folder of 12 studies to train on and 4 to validate on."""
    return write_study_folder(tmp_path_factory.mktemp("data"), train=12, validation=4)


# Long enough to be killed in the middle.
RUN = {
    "max_steps": STEPS,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "cosine",
    "save_strategy": "steps",
    "save_steps": 4,
    "logging_steps": 4,
}


@pytest.fixture
def recipe(data, tmp_path):
    """Writes a recipe for a tiny run into `tmp_path/NAME` and returns its path."""

    def write(name, **changes):
        mixed = {} if changes.get("stage") == "align" else {"predicted_label_rate": 0.5}
        return write_recipe(tmp_path, data, name, **{**RUN, **mixed, **changes})

    return write


def launch(recipe: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", TRAINING / "accelerate/cpu.yaml"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    log = open(f"{recipe}.log", "w")
    return subprocess.Popen(
        [*command, TRAINING / "sft.py", "--config", recipe],
        env=environment,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return OTDRGForConditionalGeneration.from_pretrained(folder).state_dict()


def test_a_killed_run_ends_where_an_unbroken_one_does(recipe, tmp_path, capsys):
    killed = recipe("killed")
    process = launch(killed)
    # Until the first checkpoint is whole; the launcher runs the script as its child, in one session.
    while process.poll() is None and not (tmp_path / "killed/checkpoint-4/trainer_state.json").is_file():
        time.sleep(0.02)
    assert process.poll() is None, Path(f"{killed}.log").read_text()[-3000:]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed/model.safetensors").exists()
    # Whatever the kill has hit, a newer checkpoint that is not whole must not be in the way.
    torn = tmp_path / f"killed/checkpoint-{STEPS - 1}"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"")

    main(["--config", killed])
    assert re.search(rf"Resuming from \S*/killed/checkpoint-(?!{STEPS - 1}\b)\d+\.", capsys.readouterr().out)
    main(["--config", recipe("unbroken")])
    resumed, unbroken = weights(tmp_path / "killed"), weights(tmp_path / "unbroken")
    assert resumed.keys() == unbroken.keys()
    for name, value in unbroken.items():
        torch.testing.assert_close(resumed[name], value, atol=1e-6, rtol=0, msg=name)
    logs = [json.loads((tmp_path / name / "training_log.json").read_text()) for name in ("killed", "unbroken")]
    assert [entry["loss"] for entry in logs[0] if "loss" in entry] == pytest.approx(
        [entry["loss"] for entry in logs[1] if "loss" in entry], abs=1e-6
    )
    config = json.loads((tmp_path / "unbroken/config.json").read_text())
    assert len(config["positive_thresholds"]) == len(config["state_priors"]) == 14


def test_align_then_lora_by_the_command_line(recipe, tmp_path):
    main(["--config", recipe("align", stage="align", max_steps=2)])
    sources = {**NO_CONFIGS, "model_name_or_path": str(tmp_path / "align")}
    main(["--config", recipe("lora", stage="finetune", max_steps=2, **sources), "--use_peft", "true", "--lora_r", "4"])
    assert (tmp_path / "lora/adapter_config.json").is_file()
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "lora")
    base = json.loads((tmp_path / "lora/base/config.json").read_text())
    assert loaded.config.positive_thresholds == base["positive_thresholds"] is not None
    assert "radiology-report" in base["custom_pipelines"]
    assert not [*tmp_path.glob("**/*.tmp"), *tmp_path.glob("lora/*.bin")]


def test_a_model_knows_whether_its_llm_was_trained_on_reports(recipe, tmp_path):
    main(["--config", recipe("align", stage="align", max_steps=1)])
    start = {**NO_CONFIGS, "model_name_or_path": str(tmp_path / "align"), "max_steps": 1}
    main(["--config", recipe("tuned", stage="finetune", **start)])
    main(["--config", recipe("lora", stage="finetune", use_peft=True, **start)])
    again = {**start, "model_name_or_path": str(tmp_path / "tuned")}
    main(["--config", recipe("again", stage="align", **again)])
    for name, trained in (("align", False), ("tuned", True), ("lora/base", True), ("again", True)):
        assert json.loads((tmp_path / name / "config.json").read_text())["trained_on_reports"] is trained, name
    for name, said in (("align", True), ("tuned", False), ("lora", False)):
        text = (tmp_path / name / "README.md").read_text()
        assert ("language model was not trained on reports" in text) is said, name


def test_a_model_of_phantoms_is_called_one_until_it_is_trained_on_other_images(recipe, tmp_path):
    phantoms = {"dataset": "phantom", "load_kwargs": {"image_size": 64}, "labels_from": None}
    sizes = {"train_studies": 4, "eval_studies": 4, "max_steps": 1, "save_strategy": "no", "stage": "align"}
    main(["--config", recipe("phantoms", **phantoms, **sizes)])
    start = {**NO_CONFIGS, "model_name_or_path": str(tmp_path / "phantoms")}
    main(["--config", recipe("again", **start, **phantoms, **sizes)])
    main(["--config", recipe("others", **start, **sizes)])
    for name, notice in (("phantoms", PHANTOM_NOTICE), ("again", PHANTOM_NOTICE), ("others", None)):
        assert json.loads((tmp_path / name / "config.json").read_text()).get("notice") == notice, name


@pytest.mark.parametrize("stage", ["align", "joint"])
def test_statistics_of_a_pretrained_encoder_are_kept_and_those_of_one_from_scratch_are_learned(stage, recipe, tmp_path):
    vision, text = save_vision("resnet", tmp_path / "vision"), save_text("llama", tmp_path / "text")
    otdrg = {"otdrg_config": OTDRG | {"image_token_pooling": 1}, "max_steps": 2, "stage": stage}
    main(["--config", recipe("joined", vision_model=vision, text_model=text, **NO_CONFIGS, **otdrg)])
    main(["--config", recipe("scratch", vision_config=RESNET, image_size=64, **otdrg)])
    moved = {}
    for name, start in (("joined", AutoModel.from_pretrained(vision).state_dict()), ("scratch", None)):
        state = weights(tmp_path / name)
        prefix = "model.vision_tower."
        tower = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        fresh = {"running_mean": 0.0, "running_var": 1.0}
        moved[name] = {
            kind: any(
                not torch.equal(value, start[key] if start else torch.full_like(value, fresh.get(kind, 1.0)))
                for key, value in tower.items()
                if key.endswith(f"normalization.{kind}")
            )
            for kind in ("running_mean", "running_var", "weight")
        }
    assert moved["joined"] == {"running_mean": False, "running_var": False, "weight": True}
    assert moved["scratch"] == {"running_mean": True, "running_var": True, "weight": True}


def test_phrases_of_a_text_encoder_stay_through_both_stages_and_the_adapter(recipe, tmp_path):
    bert = save_text_encoder("bert", tmp_path / "bert")
    main(["--config", recipe("align", stage="align", max_steps=2, label_encoder=bert)])
    sources = {**NO_CONFIGS, "model_name_or_path": str(tmp_path / "align")}
    main(["--config", recipe("lora", stage="finetune", max_steps=2, **sources), "--use_peft", "true", "--lora_r", "4"])
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "lora")
    expected = encode_label_phrases(bert, loaded.config.label_phrases)
    torch.testing.assert_close(loaded.model.label_encoder.phrase_features, expected, rtol=0, atol=0)


def test_an_adapter_is_evaluated_as_any_model(data, recipe, tmp_path):
    main(["--config", recipe("align", stage="align", max_steps=1)])
    sources = {**NO_CONFIGS, "model_name_or_path": str(tmp_path / "align")}
    changes = {"stage": "finetune", "max_steps": 1, "use_peft": True, "learning_rate": 1.0}
    main(["--config", recipe("lora", **changes, **sources)])
    rows = {}
    for name in ("lora", "lora/base"):
        options = {"split": "validation", "max_new_tokens": 8, "device": "cpu"}
        path = generate_predictions(str(tmp_path / name), str(data), tmp_path / name / "predictions", **options)
        rows[name] = [json.loads(line)["generated_text"] for line in path.read_text().splitlines()]
    assert len(rows["lora"]) == 4 and rows["lora"] != rows["lora/base"]


def test_the_best_checkpoint_is_chosen_by_the_reports_it_writes(recipe, tmp_path):
    steps = {"max_steps": 3, "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    best = {"generate_eval_studies": 3, "metric_for_best_model": "bleu_4", "load_best_model_at_end": True}
    main(["--config", recipe("best", **steps, **best)])
    log = json.loads((tmp_path / "best/training_log.json").read_text())
    scores = [entry["eval_bleu_4"] for entry in log if "eval_bleu_4" in entry]
    assert len(scores) == 3
    chosen = weights(tmp_path / f"best/checkpoint-{1 + scores.index(max(scores))}")
    for name, value in weights(tmp_path / "best").items():
        assert torch.equal(value, chosen[name]), name


def test_studies_without_the_target_are_left_out(data, tmp_path, capsys):
    args = StudyArguments(dataset=str(data), load_kwargs={"cache_dir": str(tmp_path)}, target="impression")
    studies = load_studies(args, "train", None, None)
    assert studies["id"] == ["study-0", "study-3", "study-6", "study-9"]
    assert studies["disease_labels"] == label_reports(studies["report"]).tolist()
    assert "8 of 12 studies have no impression" in capsys.readouterr().out
    assert load_studies(args, "train", 4, None)["id"] == ["study-0", "study-3"]
    args.labels_from = "dataset"
    assert load_studies(args, "train", 4, None)["disease_labels"] == [tiny_rows(4)[i]["disease_labels"] for i in (0, 3)]


@pytest.mark.parametrize("name", PHANTOM_NAMES)
def test_as_many_phantoms_are_drawn_as_are_asked_for(name, monkeypatch):
    """Not the 1,000 that there are unless told, of which only fewer can be selected."""
    drawn = []

    def load(dataset, split, **options):
        drawn.append((dataset, options["num_studies"]))
        return tiny_studies(2)

    monkeypatch.setattr("otdrg_hf.training.studies.load_study_dataset", load)
    load_studies(StudyArguments(dataset=name), "train", 4000, None)
    assert drawn == [(name, 4000)]


@pytest.mark.parametrize(
    "changes, arguments, message",
    [
        ({}, ["--no_such_field", "1"], "no_such_field"),
        ({"no_such_field": 1}, [], "no_such_field"),
        ({"dataset": "nowhere"}, [], "nowhere"),
        ({"load_kwargs": {"num_films": 3}}, [], "num_films"),
        ({"target": "impression"}, [], "impression"),
        ({"vision_config": None}, [], "Give either model_name_or_path"),
        ({"otdrg_config": {"epsilon": 0}}, [], "epsilon"),
        ({}, ["--otdrg_config", "{"], "--otdrg_config must be JSON"),
        ({"use_peft": True}, [], "use_peft"),
        ({"label_encoder": "no/such"}, [], "'no/such' cannot be loaded as a text encoder"),
        ({**NO_CONFIGS, "model_name_or_path": "a", "label_encoder": "b"}, [], "label_encoder is for a new model"),
        ({"generate_eval_studies": 4, "stage": "align"}, [], "--generate_eval_studies"),
        ({**NO_CONFIGS, "model_name_or_path": "not/a/path"}, [], "Cannot load not/a/path"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(changes, arguments, message, recipe, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--config", recipe("wrong", **changes), *arguments])
    assert stop.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]


@pytest.mark.parametrize("content, message", [(None, "absent.yaml"), ("a: [", "expected"), ("- a", "YAML mapping")])
def test_a_recipe_that_cannot_be_read_is_one_line(content, message, tmp_path, capsys):
    path = tmp_path / "absent.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as stop:
        main(["--config", str(path)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
