"""Which attention each part of the model gets, and what is declared of it."""

import inspect
import typing

import pytest
import torch
from transformers.utils import TransformersKwargs

from otdrg_hf import OTDRGForConditionalGeneration, OTDRGModel
from otdrg_hf.modeling import backbones_otdrg
from tests.support.families import save_text, save_vision
from tests.support.tiny_models import make_films, make_model


@pytest.fixture
def notices(monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(backbones_otdrg.logger, "warning_once", lambda line: lines.append(line))
    return lines


def attention_of(model) -> tuple[str, str, str]:
    body = model.model
    return tuple(part.config._attn_implementation for part in (model, body.vision_tower, body.language_model))


@pytest.mark.parametrize(
    "vision, asked, own",
    [("resnet", "sdpa", "eager"), ("convnext", "sdpa", "eager"), ("swin", "flex_attention", "sdpa")],
)
def test_a_vision_encoder_that_does_not_know_it_keeps_its_own(vision, asked, own, inputs, tmp_path, notices):
    model = make_model(vision)
    model.save_pretrained(tmp_path)
    expected = model(**inputs).logits
    loaded = OTDRGForConditionalGeneration.from_pretrained(tmp_path, attn_implementation=asked)
    assert attention_of(loaded) == (asked, own, asked)
    assert len(notices) == 1 and "\n" not in notices[0] and own in notices[0]
    if asked == "sdpa":  # flex_attention is compiled
        torch.testing.assert_close(loaded(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
    model.set_attn_implementation("eager")
    model.set_attn_implementation(asked)
    assert attention_of(model) == (asked, "eager", asked)
    assert len(notices) == 2


def test_a_vision_encoder_that_knows_it_gets_it(notices):
    model = make_model("vit")
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        assert attention_of(model) == (name, name, name)
    model.set_attn_implementation({"vision_config": "eager"})
    assert attention_of(model) == ("sdpa", "eager", "sdpa")
    assert not notices


def test_from_backbones_with_a_convolutional_encoder(tmp_path, notices):
    backbones = save_vision("resnet", tmp_path / "vision"), save_text("llama", tmp_path / "text")
    model = OTDRGForConditionalGeneration.from_backbones(*backbones, attn_implementation="sdpa")
    assert attention_of(model) == ("sdpa", "eager", "sdpa")
    assert notices and len(set(notices)) == 1
    with torch.no_grad():
        assert model(**model.processor(images=make_films(1))).logits.isfinite().all()


@pytest.mark.parametrize("vision", ["vit", "resnet"])
def test_an_attention_that_nobody_knows_is_refused(vision, tmp_path, notices):
    model = make_model(vision)
    with pytest.raises(ValueError, match="no_such_kernel"):
        model.set_attn_implementation("no_such_kernel")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no_such_kernel"):
        OTDRGForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="no_such_kernel")
    assert not notices


@pytest.mark.parametrize("owner", [OTDRGForConditionalGeneration, OTDRGModel])
def test_keywords_of_forward_are_declared_as_in_transformers(owner):
    parameters = inspect.signature(inspect.unwrap(owner.forward)).parameters.values()
    [keywords] = [each for each in parameters if each.kind == inspect.Parameter.VAR_KEYWORD]
    assert typing.get_args(keywords.annotation) == (TransformersKwargs,)


@pytest.mark.parametrize("text", ["llama", "qwen3", "gemma2"])
def test_plan_of_tensor_parallelism_covers_the_head_and_the_language_model(text):
    model = make_model(text=text)
    plan = model.tp_plan
    assert plan["lm_head"] == "colwise_gather_output"
    assert any(name.startswith("model.language_model.layers.") for name in plan)
