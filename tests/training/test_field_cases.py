"""The options and inputs of ../shared/cases/training.json, each run as its name says. Skipped where they are not."""

import json
from pathlib import Path

import pytest
from tiny_runs import EVALUATED, GPT2, LORA, SAVED, UNTIED, refusal, train
from tiny_training import tiny_rows, write_study_folder
from transformers import pipeline

from tests.support.tiny_models import make_films

CASES = Path(__file__).parents[3] / "shared/cases/training.json"
NAMES = [case["name"] for case in json.loads(CASES.read_text())] if CASES.is_file() else []
QUICK = ("prediction_loss_only: true", "lora_modules_to_save: [lm_head]")  # went wrong once; the others are many runs
BEST = {**SAVED, "load_best_model_at_end": True}
STAGES = ({"stage": "align"}, {"stage": "finetune"}, {"stage": "joint"}, LORA)
SHORT = {"max_new_tokens": 6}

# By name: recipes that run to their end.
RUN = {
    "prediction_loss_only: true": [{**EVALUATED, "prediction_loss_only": True}],
    "lora_modules_to_save: [lm_head]": [{**LORA, "text_config": UNTIED, "lora_modules_to_save": ["lm_head"]}],
    "gradient_checkpointing, both kinds, in align, finetune, joint and LoRA": [
        {**stage, "gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
        for stage in STAGES
        for reentrant in (False, True)
    ],
    "bf16 and dtype bfloat16 on CPU": [{"bf16": True}, {"dtype": "bfloat16"}],
    "auto_find_batch_size": [{"auto_find_batch_size": True}],
    "dataloader_num_workers 2": [{"dataloader_num_workers": 2}],
    "group_by_length": [{"train_sampling_strategy": "group_by_length"}],
    "gradient accumulation beyond the data": [{"gradient_accumulation_steps": 16}],
    "load_best_model_at_end, full and LoRA": [BEST, {**BEST, **LORA}],
    "save_strategy best": [{**EVALUATED, "save_strategy": "best", "metric_for_best_model": "loss"}],
    "eval_on_start, eval_accumulation_steps": [{**EVALUATED, "eval_on_start": True, "eval_accumulation_steps": 1}],
    "resume of LoRA": [{**LORA, **SAVED}, {**LORA, **SAVED, "max_steps": 3}],
    "save_only_model, then again": [{**SAVED, "save_only_model": True}] * 2,
    "neftune": [{"neftune_noise_alpha": 5}],
    "DoRA, rsLoRA, all-linear": [
        {**LORA, option: True, "lora_target_modules": ["all-linear"]} for option in ("use_dora", "use_rslora")
    ],
    "torch_compile (389 s on CPU, but through)": [{"torch_compile": True}],
    "generate_eval_studies with the best checkpoint by BLEU": [
        {**BEST, "generate_eval_studies": 2, "metric_for_best_model": "bleu_4"}
    ],
}
# By name: recipes that are refused, and what the line names.
REFUSED = {
    "report longer than a GPT-2 context": ({"text_config": {**GPT2, "n_positions": 1024}}, ["'study-0'", "1024"]),
    "label_smoothing_factor: 0.1": ({"label_smoothing_factor": 0.1}, ["label_smoothing_factor"]),
    "loss_type: dft": ({"loss_type": "dft"}, ["loss_type"]),
    "use_liger_kernel, optim adamw_8bit, report_to tensorboard without their packages": (
        {"use_liger_kernel": True, "optim": "adamw_8bit", "report_to": "tensorboard"},
        ["use_liger_kernel"],
    ),
    "batch larger than the data with dataloader_drop_last": (
        {"per_device_train_batch_size": 16, "dataloader_drop_last": True},
        ["8 studies"],
    ),
    "metric_for_best_model eval_bleu_4 without generate_eval_studies": (
        {**BEST, "metric_for_best_model": "eval_bleu_4"},
        ["generate_eval_studies"],
    ),
    "max_length: 64 (image tokens are kept)": ({"max_length": 64}, ["max_length"]),
    "packing, padding_free, assistant_only_loss (refused in one line)": ({"packing": True}, ["packing"]),
    "a wrong lora_target_modules (one line)": ({**LORA, "lora_target_modules": ["query"]}, ["query"]),
}


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return write_study_folder(folder, train=8, validation=4)


def rewrite(folder: Path, **fields) -> None:
    """Gives the training studies other fields."""
    path = folder / "train/metadata.jsonl"
    rows = [{**json.loads(line), **fields} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.skipif(not NAMES, reason="../shared/cases is not there")
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name in RUN]
)
def test_it_runs(name, data, tmp_path):
    for number, changes in enumerate(RUN[name]):
        # What is resumed goes on in the same folder.
        out = tmp_path / ("out" if "resume" in name or "again" in name else f"out{number}")
        folder = train(tmp_path, data, output_dir=str(out), **changes)
        assert (folder / f"{'adapter_' if 'use_peft' in changes else ''}model.safetensors").is_file()


@pytest.mark.skipif(not NAMES, reason="../shared/cases is not there")
@pytest.mark.parametrize("name", [name for name in NAMES if name in REFUSED])
def test_it_is_refused_in_one_line(name, data, tmp_path):
    changes, words = REFUSED[name]
    if "longer than" in name:
        rewrite(data, report="opacity " * 1800)
    error = refusal(tmp_path, data, **changes)
    assert all(word in error for word in words)


@pytest.mark.skipif(not NAMES, reason="../shared/cases is not there")
@pytest.mark.parametrize("name", [name for name in NAMES if " in " in name and "report" in name and "<" in name])
def test_tokens_in_texts_are_words(name, data, tmp_path):
    text = "<image> and <finding> and </s> and <pad> are seen."
    rewrite(data, report=text, indication=text)
    train(tmp_path, data, labels_from="dataset")


@pytest.mark.skipif("six views; one study; all labels blank or positive" not in NAMES, reason="case is not there")
@pytest.mark.parametrize("state", [0, 1])
def test_odd_studies_train(state, data, tmp_path):
    row = tiny_rows(1)[0]
    names = [f"0-{view}.png" for view in range(6)]
    for name in names:
        row["images"][0].save(data / "train" / name)
    line = {**row, "file_names": names, "views": ["frontal"] * 6, "disease_labels": [state] * 14}
    del line["images"]
    (data / "train/metadata.jsonl").write_text(json.dumps(line) + "\n")
    train(tmp_path, data)


@pytest.mark.skipif(not NAMES, reason="../shared/cases is not there")
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("pipeline: ") and "<image>" not in name])
def test_reports_are_the_same(name, folder):
    films = make_films(4)
    studies = [films[0], {"images": films[1:3], "indication": "Cough."}, {"images": [films[3]], "comparison": "Clear."}]
    report = pipeline("radiology-report", model=str(folder))
    alone = [report(study, **SHORT)["generated_text"] for study in studies]
    assert [answer["generated_text"] for answer in report(studies, batch_size=3, **SHORT)] == alone
    for options in ({"use_cache": False}, {"num_beams": 1}, {"prompt_lookup_num_tokens": 2}):
        assert report(studies[1], generate_kwargs=options, **SHORT)["generated_text"] == alone[1]


@pytest.mark.skipif("pipeline: <image> in indication and comparison" not in NAMES, reason="case is not there")
def test_placeholders_in_what_is_known_are_left_out(folder):
    report, film = pipeline("radiology-report", model=str(folder)), make_films(1)[0]
    texts = [
        report({"images": film, "indication": f"Cough.{token}", "comparison": f"{token}Clear."}, **SHORT)
        for token in ("", " <image> ", "<finding>")
    ]
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.skipif(not NAMES, reason="../shared/cases is not there")
def test_every_case_is_tried():
    tried = {*RUN, *REFUSED, "six views; one study; all labels blank or positive"}
    untried = [name for name in NAMES if name not in tried and not name.startswith("pipeline: ") and "<" not in name]
    assert untried == []
