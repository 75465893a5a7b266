"""What a run writes down of itself, stage after stage."""

import json
import sys
from pathlib import Path

import pytest
import tiny_runs
from huggingface_hub import ModelCard
from tiny_runs import SAVED
from tiny_training import LLAMA, OTDRG, VIT, tiny_rows
from transformers import AutoModelForImageTextToText, pipeline

from otdrg_hf import cli
from otdrg_hf.hub.model_card import write_model_card
from otdrg_hf.hub.provenance import read_stages
from otdrg_hf.hub.push import plan_push
from otdrg_hf.training.record import _public_name, _stated_license
from tests.support.families import save_text, save_vision


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "jane-doe-hospital"
    for split, count in (("train", 6), ("validation", 4)):
        (folder / split).mkdir(parents=True)
        lines = []
        for index, row in enumerate(tiny_rows(count)):
            names = [f"{index}-{view}.png" for view in range(len(row["images"]))]
            for name, image in zip(names, row.pop("images"), strict=True):
                image.save(folder / split / name)
            lines.append({**row, "file_names": names})
        (folder / split / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


# Of the model as little as can be, so that its record is not of what the tests give.
RUN = {
    "labels_from": None,
    "vision_config": None,
    "text_config": None,
    "otdrg_config": {"background_mass": 0.4},
    "learning_rate": 1e-2,
    "lr_scheduler_type": "cosine",
    **SAVED,
}


def train(data: Path | str, tmp_path: Path, name: str, **changes) -> Path:
    return tiny_runs.train(tmp_path, data, name=name, **{**RUN, **changes})


@pytest.fixture
def aligned(data, tmp_path):
    otdrg = OTDRG | {"background_mass": 0.4}
    return train(
        data, tmp_path, "align", stage="align", vision_config=VIT, text_config=LLAMA, otdrg_config=otdrg, seed=3
    )


def test_two_stages_an_adapter_and_its_merge(aligned, data, tmp_path, capsys, monkeypatch):
    (first,) = read_stages(aligned)
    assert (first["stage"], first["dataset"], first["labels_from"]) == ("align", "folder", "labeler")
    assert first["studies"] == {"train": 6, "validation": 4} and first["image_size"] == [64, 64]
    assert first["recipe"]["learning_rate"] == 1e-2 and first["recipe"]["lr_scheduler_type"] == "cosine"
    assert first["recipe"]["seed"] == 3 and first["steps"] == 2 and first["precision"] == "fp32"
    assert first["otdrg_config"] == OTDRG | {"background_mass": 0.4}
    assert 0 < first["trained_parameters"] < first["parameters"]
    log = json.loads((aligned / "training_log.json").read_text())
    last = [entry for entry in log if "eval_loss" in entry][-1]
    assert first["validation"]["disease_micro_f1"] == last["eval_disease_micro_f1"]
    assert first["lora"] is first["vision_model"] is first["starts_from"] is None
    assert not list(aligned.glob("checkpoint-*/README.md"))
    card = ModelCard.load(aligned / "README.md")
    assert "generated_from_trainer" not in card.data.tags and "Stage 1: alignment" in card.text

    tuned = train(data, tmp_path, "lora", stage="finetune", model_name_or_path=str(aligned), use_peft=True, lora_r=4)
    stages = read_stages(tuned)
    assert stages[0] == first and stages[1]["stage"] == "finetune" and stages[1]["lora"]["r"] == 4
    assert stages[1]["starts_from"] is None  # a folder, and where it lies is nobody's business
    with pytest.raises(ValueError, match="LoRA adapter"):
        plan_push(tuned, "org/model", private=True)

    monkeypatch.setattr(sys, "argv", ["otdrg", "merge", str(tuned), str(tmp_path / "whole")])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert not done.value.code
    assert read_stages(tmp_path / "whole") == stages
    plan = plan_push(tmp_path / "whole", "org/model", private=True)
    assert {"README.md", "training_record.json", "model.safetensors"} <= {file.name for file in plan.files}
    for file in plan.files:
        assert str(tmp_path).encode() not in file.path.read_bytes(), file.name
        if not file.name.startswith("tokenizer"):
            assert b"jane-doe" not in file.path.read_bytes(), file.name
    text = (tmp_path / "whole" / "README.md").read_text()
    assert "| lora_r | 4 |" in text and "Stage 2: fine-tuning" in text and 'model="whole"' in text
    film = tiny_rows(1)[0]["images"][0]
    adapter = AutoModelForImageTextToText.from_pretrained(tuned)
    whole = pipeline("radiology-report", model=str(tmp_path / "whole"))
    inputs = whole.processor(images=film)
    ids = adapter.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert (whole.model.generate(**inputs, max_new_tokens=8, do_sample=False) == ids).all()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: whole is there already") and error.count("\n") == 1
    assert not [*tmp_path.glob("**/*.tmp")]


def test_an_adapter_has_a_card_of_its_own_and_none_of_its_tools(data, tmp_path):
    lora = {"use_peft": True, "lora_r": 2, "stage": "finetune"}
    tuned = train(data, tmp_path, "lora", vision_config=VIT, text_config=LLAMA, otdrg_config=OTDRG, **lora)
    text = (tmp_path / "lora/README.md").read_text()
    assert "an adapter (LoRA) of the model in `base/`" in text and "Stage 1: fine-tuning" in text
    for words in ("time machine", "fine-tuned version of", "More Information Needed", str(tmp_path)):
        assert words not in text
    assert not list(tuned.glob("checkpoint-*/README.md"))
    (tmp_path / "lora/README.md").write_text("My own words.")
    train(data, tmp_path, "lora", vision_config=VIT, text_config=LLAMA, otdrg_config=OTDRG, **lora, max_steps=3)
    assert (tmp_path / "lora/README.md").read_text() == "My own words."


CARD = "---\nlicense: {}\n---\n# A model\n"


@pytest.mark.parametrize(
    "card, config, expected",
    [
        (CARD.format("apache-2.0"), {}, "apache-2.0"),
        (CARD.format("other\nlicense_name: llama3.2\nlicense_link: LICENSE"), {}, "llama3.2"),
        (CARD.format("[mit, apache-2.0]"), {}, "['mit', 'apache-2.0']"),
        (None, {"license": "gemma"}, "gemma"),
        (CARD.format("mit"), {"license": "gemma"}, "mit"),
        ("---\nlicense: [\n---\n", {"license": "gemma"}, None),
        ("# No metadata", {}, None),
        (None, {}, None),
    ],
)
def test_the_licence_is_what_a_backbone_says(card, config, expected, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    if card:
        (tmp_path / "README.md").write_text(card)
    assert _stated_license(str(tmp_path)) == expected


@pytest.mark.parametrize(
    "source, expected",
    [
        ("google/vit-base", "google/vit-base"),
        ("/home/jane/models/vit-base/", "vit-base"),
        ("/cache/models--google--vit-base/snapshots/0a1b2c", "google/vit-base"),
        ("/cache/hub/models--org--a--b.c/snapshots/0a", "org/a--b.c"),
    ],
)
def test_a_backbone_is_named_without_where_it_lies(source, expected):
    assert _public_name(source) == expected


def test_backbones_from_folders_are_in_record_and_card(data, tmp_path):
    vision, text = save_vision("vit", tmp_path / "tiny-vit"), save_text("llama", tmp_path / "tiny-llama")
    Path(vision, "README.md").write_text(CARD.format("apache-2.0"))
    sources = {"vision_model": vision, "text_model": text}
    aligned = train(data, tmp_path, "joined", stage="align", otdrg_config=OTDRG | {"image_token_pooling": 1}, **sources)
    (stage,) = read_stages(aligned)
    assert stage["vision_model"] is None  # which is for names on the Hub
    assert stage["backbones"] == [
        {"part": "vision_model", "name": "tiny-vit", "license": "apache-2.0"},
        {"part": "text_model", "name": "tiny-llama", "license": None},
    ]
    tuned = train(data, tmp_path, "tuned", stage="finetune", model_name_or_path=str(aligned), otdrg_config={})
    for folder in (aligned, tuned):
        text = (folder / "README.md").read_text()
        assert "**Base models:** tiny-vit (licence: apache-2.0), tiny-llama\n" in text
        assert "The licences of the base models hold as well." in text and str(tmp_path) not in text
        assert "base_model" not in ModelCard.load(folder / "README.md").data.to_dict()  # the Hub would look for them


def test_rates_of_parts_and_what_rested_are_recorded(data, tmp_path):
    options = {"vision_config": VIT, "text_config": LLAMA, "otdrg_config": OTDRG, "stage": "joint"}
    out = train(data, tmp_path, "rates", **options, freeze_vision=True, text_learning_rate=1e-4)
    (stage,) = read_stages(out)
    assert stage["recipe"]["learning_rate"] == 1e-2 and stage["recipe"]["text_learning_rate"] == 1e-4
    assert stage["recipe"]["freeze_vision"] is True and "vision_learning_rate" not in stage["recipe"]
    assert "| text_learning_rate | 0.0001 |" in (out / "README.md").read_text()


def test_a_start_without_a_record_is_said_to_be_unknown(aligned, data, tmp_path):
    (aligned / "training_record.json").unlink()
    config = json.loads((aligned / "config.json").read_text())
    assert config["training_data"] == ["folder"]
    stages = read_stages(train(data, tmp_path, "more", stage="finetune", model_name_or_path=str(aligned)))
    # What it was is lost, what it learned from is in its configuration.
    assert stages[0] == {"stage": "unknown", "dataset": "folder"} and stages[1]["stage"] == "finetune"
    assert "Nothing was recorded about this stage" in (tmp_path / "more" / "README.md").read_text()


def test_phantoms_are_named_and_pushed(tmp_path):
    folder = train(
        "phantom",
        tmp_path,
        "phantoms",
        load_kwargs={"image_size": 64, "cache_dir": str(tmp_path / "cache")},
        train_studies=4,
        eval_studies=2,
        vision_config=VIT,
        text_config=LLAMA,
        otdrg_config=OTDRG,
        max_steps=1,
    )
    (stage,) = read_stages(folder)
    assert stage["dataset"] == "phantom" and stage["studies"] == {"train": 4, "validation": 2}
    write_model_card(folder, repo_id="org/phantoms")
    assert ModelCard.load(folder / "README.md").data.license == "apache-2.0"
    listed = {file.name for file in plan_push(folder, "org/phantoms").files}
    assert "training_record.json" in listed
    assert not listed & {"training_log.json", "trainer_state.json", "training_args.bin"}
