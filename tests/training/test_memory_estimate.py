"""Tests of the memory estimate: what of the vocabulary's logits the loss holds at a time."""

import pytest
from peft import LoraConfig, get_peft_model

from otdrg_hf.modeling.language_loss_otdrg import CHUNK_LOGITS
from otdrg_hf.training.memory_estimate import Step, memory
from tests.conftest import make_model


def logits_bytes(model, supervised: int) -> float:
    step = Step(1, 1, supervised, supervised, half_precision=False, checkpointing=False, runs_llm=True)
    return memory(model, step, devices=1)["vocabulary logits"]


def test_logits_are_counted_up_to_a_chunk_and_the_gradient_of_the_projection():
    model = make_model()
    vocabulary = model.config.text_config.vocab_size
    most = CHUNK_LOGITS // vocabulary
    assert logits_bytes(model, most) == 12 * most * vocabulary
    weight = model.lm_head.weight
    assert logits_bytes(model, 4 * most) == logits_bytes(model, 8 * most) == 12 * CHUNK_LOGITS + 4 * weight.numel()
    weight.requires_grad_(False)
    assert logits_bytes(model, 8 * most) == 12 * CHUNK_LOGITS


@pytest.mark.parametrize("how", ["adapter", "sharded"])
def test_a_projection_that_has_to_be_called_gives_all_logits(how, monkeypatch):
    model = make_model()
    number = 2 * CHUNK_LOGITS // model.config.text_config.vocab_size
    expected = 12 * number * model.config.text_config.vocab_size
    if how == "adapter":
        model = get_peft_model(model, LoraConfig(target_modules=["lm_head"]))
    else:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert logits_bytes(model, number) == expected
