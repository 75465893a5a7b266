"""The model and processor of a run: sources, settings of a checkpoint, and the tokenizer of an LLM from scratch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import LLAMA, OTDRG, SENTENCES, VIT, tiny_model, tiny_rows
from transformers import AutoModelForCausalLM
from trl import ModelConfig

from otdrg_hf.training.arguments import StudyArguments
from otdrg_hf.training.collator import StudyCollator
from otdrg_hf.training.model_setup import load_model_and_processor, train_tokenizer

SPECIAL = ("<pad>", "<s>", "</s>")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(SENTENCES * 5, vocab_size=400)


def test_special_tokens(tokenizer):
    assert tokenizer.convert_tokens_to_ids(SPECIAL) == [0, 1, 2]
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == SPECIAL
    assert tokenizer.padding_side == "left"
    assert len(tokenizer) <= 400
    assert tokenizer("The heart.</s>")["input_ids"][-1] == tokenizer.eos_token_id


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(), st.sampled_from(SENTENCES), st.from_regex(r"[A-Za-z0-9 .,:\n-]{0,40}")))
def test_round_trip(tokenizer, text):
    if not any(token in text for token in SPECIAL):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_words_of_the_reports_are_few_tokens(tokenizer):
    assert len(tokenizer(" pleural effusion")["input_ids"]) < 6
    assert len(tokenizer("125")["input_ids"]) == 3  # digits apart: a number is read, not remembered


def test_deterministic(tokenizer):
    again = train_tokenizer(SENTENCES * 5, vocab_size=400)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def load(model_name_or_path=None, **fields):
    return load_model_and_processor(
        StudyArguments(**fields), ModelConfig(model_name_or_path=model_name_or_path), SENTENCES
    )


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"vision_model": "a"},
        {"text_model": "a"},
        {"vision_config": VIT},
        {"vision_model": "a", "vision_config": VIT, "text_config": LLAMA},
        {"vision_model": "a", "text_model": "a", "vision_config": VIT, "text_config": LLAMA},
        {"model_name_or_path": "a", "vision_model": "a", "text_model": "a"},
        {"model_name_or_path": "a", "vision_config": VIT, "text_config": LLAMA},
    ],
)
def test_exactly_one_model_source(source):
    with pytest.raises(ValueError, match="Give either model_name_or_path"):
        load(**source)


@pytest.mark.parametrize("pretrained", ["vision", "text"])
def test_a_pretrained_backbone_meets_one_from_scratch(pretrained, tmp_path):
    model, processor = tiny_model(seed=3)
    if pretrained == "vision":
        model.model.vision_tower.save_pretrained(tmp_path)
        processor.image_processor.save_pretrained(tmp_path)
        joined, joint = load(vision_model=str(tmp_path), text_config=LLAMA, otdrg_config=OTDRG)
        name, other = "vision_tower", "language_model"
    else:
        language_model = AutoModelForCausalLM.from_config(model.config.text_config)
        language_model.save_pretrained(tmp_path)
        processor.tokenizer.save_pretrained(tmp_path)
        model.model.language_model = language_model.model
        joined, joint = load(text_model=str(tmp_path), vision_config=VIT, otdrg_config=OTDRG)
        name, other = "language_model", "vision_tower"

    def same(part: str) -> bool:
        pairs = zip(getattr(model.model, part).parameters(), getattr(joined.model, part).parameters(), strict=True)
        return all(torch.equal(*pair) for pair in pairs)

    assert same(name) and not same(other)
    batch = StudyCollator(joint)(tiny_rows(2))
    assert torch.isfinite(joined(**batch).loss)
    assert joint.num_finding_tokens == joined.config.finding_seq_length


def without(fields: dict, name: str) -> dict:
    return {key: value for key, value in fields.items() if key != name}


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"vision_config": without(VIT, "model_type"), "text_config": LLAMA}, "vision_config needs model_type"),
        ({"vision_config": VIT, "text_config": without(LLAMA, "vocab_size")}, "text_config needs vocab_size"),
        ({"vision_config": without(VIT, "image_size"), "text_config": LLAMA}, "image_size"),
        ({"vision_config": VIT, "text_config": LLAMA, "otdrg_config": {"epsilom": 1}}, "epsilom"),
        ({"vision_config": VIT, "text_config": LLAMA, "otdrg_config": {"epsilon": -1}}, "`epsilon` must be > 0"),
    ],
)
def test_incomplete_configurations_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        load(**fields)


def test_a_checkpoint_takes_other_settings_in_earnest(tmp_path):
    model, processor = tiny_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    changed, _ = load(str(tmp_path), otdrg_config={"epsilon": 0.2, "ot_loss_weight": 0.5})
    assert changed.config.ot_loss_weight == 0.5
    batch = StudyCollator(processor)(tiny_rows(2))
    study = {key: batch[key] for key in ("pixel_values", "view_mask")}
    plans = [model.eval()(**study).transport_plan for model in (model, changed)]
    assert not torch.allclose(*plans, atol=1e-4)  # another epsilon, another plan
    with pytest.raises(ValueError, match="epsilom"):
        load(str(tmp_path), otdrg_config={"epsilom": 0.2})
    with pytest.raises(ValueError, match="ot_loss_weight"):
        load(str(tmp_path), otdrg_config={"ot_loss_weight": -2.0})


def test_the_processor_of_a_checkpoint_follows_its_other_settings(tmp_path):
    model, processor = tiny_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    phrases = [[f"{phrase} on film" for phrase in label] for label in model.config.label_phrases]
    changed, processor = load(str(tmp_path), otdrg_config={"image_token_pooling": 4, "label_phrases": phrases})
    assert processor.num_image_tokens == changed.config.image_seq_length == 1
    assert changed.config.label_phrase_ids == processor.label_phrase_ids(changed.config)
    assert torch.equal(changed.model.label_encoder.phrase_ids, changed.model.label_encoder.padded_phrase_ids())
    batch = StudyCollator(processor)(tiny_rows(2))
    assert torch.isfinite(changed(**batch).loss)
    processor.save_pretrained(tmp_path / "next")
    assert type(processor).from_pretrained(tmp_path / "next").num_image_tokens == 1


def test_a_model_that_is_no_otdrg_is_named(tmp_path):
    model, _ = tiny_model()
    model.config.text_config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not an OTDRG checkpoint"):
        load(str(tmp_path))
