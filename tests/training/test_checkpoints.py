"""What a run leaves behind can be loaded, adapters and their merge too; unfinished checkpoints are passed over."""

import json

import pytest
import torch
from peft import PeftModel
from tiny_training import tiny_model, tiny_rows, tiny_trainer
from transformers import AutoModelForImageTextToText, AutoProcessor

from otdrg_hf import OTDRGForConditionalGeneration, OTDRGProcessor
from otdrg_hf.training.checkpoints import last_complete_checkpoint
from otdrg_hf.training.collator import StudyCollator


def outputs(model, batch):
    model.eval()
    with torch.no_grad():
        result = model(**batch)
    return result.logits, result.disease_logits, result.transport_plan


def assert_same(one, other, atol=0.0):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=0)


def test_checkpoints_load_by_from_pretrained(studies, tmp_path):
    trainer = tiny_trainer(tmp_path, studies, save_strategy="steps", save_steps=4)
    trainer.train()
    batch = trainer.data_collator(tiny_rows(3))
    expected = outputs(trainer.model, batch)
    folder = tmp_path / "checkpoint-4"
    loaded, info = OTDRGForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert_same(outputs(loaded, batch), expected)
    processor = OTDRGProcessor.from_pretrained(folder)
    again = StudyCollator(processor, others=trainer.data_collator.others)(tiny_rows(3))
    assert all(torch.equal(batch[name], again[name]) for name in batch)


def test_adapters_load_and_merge(studies, tmp_path):
    model, processor = tiny_model()
    base = tmp_path / "base"
    model.save_pretrained(base)
    model.name_or_path = str(base)
    trainer = tiny_trainer(tmp_path, studies, stage="finetune", lora=True, built=(model, processor))
    trainer.train()
    trainer.save_model()
    batch = trainer.data_collator(tiny_rows(3))
    expected = outputs(trainer.model, batch)
    untouched = OTDRGForConditionalGeneration.from_pretrained(base)
    assert not torch.allclose(outputs(untouched, batch)[0], expected[0], atol=1e-2)

    adapted = PeftModel.from_pretrained(untouched, tmp_path)
    assert_same(outputs(adapted, batch), expected)
    merged = adapted.merge_and_unload()
    assert type(merged) is OTDRGForConditionalGeneration
    assert_same(outputs(merged, batch), expected, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    assert_same(outputs(OTDRGForConditionalGeneration.from_pretrained(tmp_path / "merged"), batch), expected, atol=1e-5)

    assert_same(outputs(AutoModelForImageTextToText.from_pretrained(tmp_path), batch), expected)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), OTDRGProcessor)


@pytest.fixture
def checkpoints(tmp_path):
    for step in (5, 20, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return tmp_path


def test_the_newest_checkpoint_is_the_one_of_most_steps(checkpoints):
    (checkpoints / "checkpoint-best").mkdir()
    (checkpoints / "checkpoint-best" / "trainer_state.json").write_text("{}")
    assert last_complete_checkpoint(str(checkpoints)) == str(checkpoints / "checkpoint-100")


@pytest.mark.parametrize("content", [None, "", '{"global_step": 1'])
def test_a_half_written_checkpoint_is_passed_over(content, checkpoints):
    state = checkpoints / "checkpoint-100" / "trainer_state.json"
    if content is None:
        state.unlink()
    else:
        state.write_text(content)
    assert last_complete_checkpoint(str(checkpoints)) == str(checkpoints / "checkpoint-20")


def test_without_checkpoints_there_is_none(tmp_path):
    assert last_complete_checkpoint(str(tmp_path)) is None
    assert last_complete_checkpoint(str(tmp_path / "absent")) is None
