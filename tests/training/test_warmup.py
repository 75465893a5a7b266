"""The warm-up: the LLM learns to write reports from labels alone, and no image is read."""

import json

import pytest
import torch
from tiny_runs import refusal, train
from tiny_training import tiny_model, tiny_rows, tiny_trainer, write_study_folder

from otdrg_hf import OTDRGForConditionalGeneration
from otdrg_hf.training.collator import StudyCollator
from otdrg_hf.training.trainer import label_features

TRAINED = ("model.language_model", "lm_head", "model.fusion.label_tokens")
NOT_SHOWN = ("seen_dense", "place_norm", "place_dense")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_study_folder(tmp_path_factory.mktemp("data"), train=8, validation=4)


def text_trainer(folder, studies, **options):
    trainer = tiny_trainer(folder, studies, studies, stage="warmup", **options)
    trainer.data_collator = StudyCollator(trainer.processing_class, text_only=True)
    return trainer


def test_prompts_hold_labels_and_texts_and_no_image():
    _, processor = tiny_model()
    rows = [{**row, "images": None} for row in tiny_rows(4)]
    batch = StudyCollator(processor, text_only=True)(rows)
    assert "pixel_values" not in batch and "view_mask" not in batch
    assert ((batch["input_ids"] == processor.finding_token_id).sum(-1) == processor.num_finding_tokens).all()
    assert not (batch["input_ids"] == processor.image_token_id).any()
    with_images = StudyCollator(processor)(tiny_rows(4))
    for index in range(4):
        reports = [each["labels"][index][each["labels"][index] != -100] for each in (batch, with_images)]
        assert torch.equal(*reports)


def test_label_features_are_those_of_overridden_labels():
    model, processor = tiny_model()
    batch = StudyCollator(processor)(tiny_rows(3))
    model.eval()
    with torch.no_grad():
        features = label_features(model, batch["disease_labels"])
        told = torch.ones_like(batch["disease_labels"], dtype=torch.bool)
        seen = model.model.see(batch["pixel_values"], batch["view_mask"])
        fused = model.model.fuse(seen, *model.model.decide(seen, batch["disease_labels"], told))
    torch.testing.assert_close(features.finding_embeds, fused.finding_embeds)


def test_the_llm_and_the_label_tokens_are_trained_and_nothing_else(studies, tmp_path, monkeypatch):
    trainer = text_trainer(tmp_path, studies)
    model = trainer.model
    monkeypatch.setattr(model.model.vision_tower, "forward", None)  # raises if it is run
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    trainer.train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    expected = {
        name for name, _ in model.named_parameters() if name.startswith(TRAINED) and name.split(".")[3] not in NOT_SHOWN
    }
    assert moved - {"lm_head.weight"} == expected


def test_losses_fall_and_labels_make_the_difference(studies, tmp_path):
    trainer = text_trainer(tmp_path, studies, max_steps=60, learning_rate=5e-3)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_lm_loss"] == pytest.approx(after["eval_loss"], rel=1e-3)
    assert after["eval_loss"] < 0.5 * before["eval_loss"]
    shuffled = studies.remove_columns("disease_labels").add_column(
        "disease_labels", studies["disease_labels"][::-1], feature=studies.features["disease_labels"]
    )
    assert trainer.evaluate(shuffled)["eval_loss"] > after["eval_loss"]


def test_a_step_is_the_same_however_the_batch_is_divided(studies, tmp_path):
    weights = []
    for size, steps in ((4, 1), (2, 2)):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 1}
        trainer = text_trainer(tmp_path / str(size), studies, **options, optim="sgd", learning_rate=0.1)
        trainer.train()
        weights.append(trainer.model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-6, rtol=1e-4, msg=name)


def test_warm_up_then_align_then_finetune_by_the_command_line(data, tmp_path):
    from datasets import Image

    decode = Image.decode_example
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "decode_example", None)  # raises if an image is opened
        folder = train(tmp_path, data, stage="warmup", eval_strategy="epoch", changed_report_rate=0.5)
    assert Image.decode_example is decode
    log = json.loads((folder / "training_log.json").read_text())
    assert any("eval_lm_loss" in entry for entry in log) and not any("eval_ot_loss" in entry for entry in log)
    warm = OTDRGForConditionalGeneration.from_pretrained(folder)
    assert warm.config.trained_on_reports and warm.config.positive_thresholds is None
    assert "warm-up" in (folder / "README.md").read_text()
    for stage in ("align", "finetune"):
        sources = {"model_name_or_path": str(folder), "vision_config": None, "text_config": None}
        folder = train(tmp_path, data, stage=stage, output_dir=str(tmp_path / stage), **sources)
    assert [each["stage"] for each in json.loads((folder / "training_record.json").read_text())["stages"]] == [
        "warmup",
        "align",
        "finetune",
    ]


def test_a_plan_of_the_warm_up(data, tmp_path, capsys):
    train(tmp_path, data, "--dry_run", "true", stage="warmup")
    plan = capsys.readouterr().out
    assert "stage                 warmup" in plan and "(0.00 views" in plan


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"augment": True}, "--augment is for the stages"),
        ({"feature_cache": "f"}, "--feature_cache is for the stages"),
        ({"generate_eval_studies": 2}, "--generate_eval_studies is for the stages"),
        ({"predicted_label_rate": 0.5}, "--predicted_label_rate is for the stages"),
        ({"overridden_label_rate": 0.5}, "--overridden_label_rate is for the stages"),
        ({"label_prompt": False}, "writes reports from labels, which this model's prompts do not show"),
        ({"use_peft": True}, "use_peft"),
        ({"metric_for_best_model": "ot_loss", "eval_strategy": "epoch"}, "ot_loss is not a metric"),
    ],
)
def test_what_needs_an_image_is_refused(changes, message, data, tmp_path):
    assert message in refusal(tmp_path, data, stage="warmup", **changes)
