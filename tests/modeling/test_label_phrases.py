"""Tests of label phrases from a text encoder: its features reach the model, stay with it, and are frozen."""

import pytest
import torch
from transformers import AutoModel

from otdrg_hf import OTDRGForConditionalGeneration
from otdrg_hf.modeling.backbones_otdrg import empty_from_backbones, encode_label_phrases, label_feature_size
from tests.support.families import TEXT_ENCODERS, save_text, save_text_encoder, save_vision
from tests.support.tiny_models import make_tokenizer

PHRASES = [["edema", "edema is present"], ["fracture of a rib", "no fracture"], ["?", "nodule"]]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    return save_vision("vit", tmp_path_factory.mktemp("vision")), save_text("llama", tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_text_encoder("bert", tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("name", TEXT_ENCODERS)
def test_features_of_a_phrase_do_not_depend_on_its_company(name, tmp_path):
    folder, width = save_text_encoder(name, tmp_path), TEXT_ENCODERS[name][2]
    features = encode_label_phrases(folder, PHRASES)
    assert features.shape == (3, 2, width) and features.std(dim=(0, 1)).min() > 0 and not features.requires_grad
    for j, label in enumerate(PHRASES):
        for s, phrase in enumerate(label):
            torch.testing.assert_close(encode_label_phrases(folder, [[phrase]])[0, 0], features[j, s])
    assert label_feature_size(folder) == width


def test_the_mean_of_the_last_hidden_states(bert):
    tokenizer, model = make_tokenizer(), AutoModel.from_pretrained(bert)
    with torch.no_grad():
        hidden = model(**tokenizer("no fracture", return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(encode_label_phrases(bert, PHRASES)[1, 1], hidden[0].mean(0))


def test_a_joined_model_has_them_and_keeps_them(backbones, bert, tmp_path):
    fields = {"alignment_dim": 16, "label_phrases": None}
    plain = OTDRGForConditionalGeneration.from_backbones(*backbones, **fields)
    model = OTDRGForConditionalGeneration.from_backbones(*backbones, label_encoder=bert, **fields)
    held = model.model.label_encoder
    torch.testing.assert_close(held.phrase_features, encode_label_phrases(bert, model.config.label_phrases))
    assert model.config.label_feature_size == held.dense.in_features == 16
    assert "phrase_features" not in dict(held.named_parameters()) and plain.config.label_feature_size is None

    pixels = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = model.get_image_features(pixels)
        # The LLM's embeddings are no part of it.
        model.get_input_embeddings().weight.mul_(-1)
        torch.testing.assert_close(model.get_image_features(pixels).disease_logits, before.disease_logits)
        held.phrase_features.copy_(held.phrase_features.flip(0))
        assert not torch.allclose(model.get_image_features(pixels).disease_logits, before.disease_logits)
        held.phrase_features.copy_(held.phrase_features.flip(0))
    model.save_pretrained(tmp_path)
    again = OTDRGForConditionalGeneration.from_pretrained(tmp_path)
    torch.testing.assert_close(again.model.label_encoder.phrase_features, held.phrase_features, rtol=0, atol=0)
    with torch.no_grad():
        after = again.get_image_features(pixels)
    torch.testing.assert_close(after.disease_logits, before.disease_logits, rtol=0, atol=0)


def test_an_empty_model_has_their_size(backbones, bert):
    model, _ = empty_from_backbones(OTDRGForConditionalGeneration, *backbones, label_encoder=bert)
    assert model.model.label_encoder.phrase_features.is_meta and model.config.label_feature_size == 16


def test_what_is_no_text_encoder_is_named(backbones, tmp_path):
    for folder in (str(tmp_path), backbones[0]):
        for ask in (label_feature_size, lambda folder: encode_label_phrases(folder, PHRASES)):
            with pytest.raises(ValueError, match=f"{folder}' cannot be loaded as a text encoder"):
                ask(folder)
