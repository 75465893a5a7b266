"""Quantisation by bitsandbytes on the CPU: the backbones are quantised, what is OTDRG's own is not."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, QuantoConfig

from otdrg_hf import OTDRGForConditionalGeneration, OTDRGModel
from otdrg_hf.modeling.backbones_otdrg import PROJECTORS, spare_projectors
from tests.support.tiny_models import make_model, make_processor, make_text_config, make_vision_config

BITS = [{"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, {"load_in_8bit": True}]


def wide_model(vision: str, text: str) -> OTDRGForConditionalGeneration:
    """Of a size that the 4-bit kernels of the CPU take: 64 wide, and 32 a head."""
    width = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 32}
    backbones = {"text_config": make_text_config(text, len(make_processor().tokenizer), **width)}
    if vision == "vit":
        backbones["vision_config"] = make_vision_config(vision, **width)
    return make_model(vision, text, **backbones)


def quantised_modules(model) -> set[str]:
    """Their names, by their first two parts."""
    nn = pytest.importorskip("bitsandbytes").nn
    kinds = (nn.Linear4bit, nn.Linear8bitLt)
    return {".".join(name.split(".")[:2]) for name, each in model.named_modules() if isinstance(each, kinds)}


@pytest.mark.parametrize("bits", BITS, ids=["4 bits", "8 bits"])
@pytest.mark.parametrize("vision, text", [("vit", "llama"), ("resnet", "qwen2")])
def test_projectors_and_heads_are_left_as_they_are(vision, text, bits, inputs, tmp_path):
    pytest.importorskip("bitsandbytes")
    plain = wide_model(vision, text)
    plain.save_pretrained(tmp_path / "plain")
    model = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "plain", quantization_config=BitsAndBytesConfig(**bits)
    )
    towers = {"model.language_model"} | ({"model.vision_tower"} if vision == "vit" else set())
    assert quantised_modules(model) == towers
    kept = dict(plain.named_parameters())
    for name, value in model.named_parameters():
        if name.split(".")[1] in PROJECTORS or name.startswith("lm_head"):
            assert torch.equal(value, kept[name]), name
    with torch.no_grad():
        logits = model(**inputs).logits
    tokens = model.generate(**inputs, max_new_tokens=4, eos_token_id=None)
    assert logits.isfinite().all() and tokens.shape[1] == inputs["input_ids"].shape[1] + 4
    # What is saved is loaded again as it was, without being asked for.
    model.save_pretrained(tmp_path / "quantised")
    again = OTDRGForConditionalGeneration.from_pretrained(tmp_path / "quantised")
    assert quantised_modules(again) == towers
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, logits)


def test_modules_that_are_named_are_the_ones_left(tmp_path):
    pytest.importorskip("bitsandbytes")
    make_model().save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["model.language_model", "lm_head"])
    model = OTDRGForConditionalGeneration.from_pretrained(tmp_path, quantization_config=config)
    assert {"model.fusion", "model.vision_tower"} <= quantised_modules(model)
    assert "model.language_model" not in quantised_modules(model)


def test_of_the_model_without_a_head(tmp_path):
    pytest.importorskip("bitsandbytes")
    make_model().save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True)
    model = OTDRGModel.from_pretrained(tmp_path, quantization_config=config)
    assert {name.split(".")[0] for name in quantised_modules(model)} == {"vision_tower", "language_model"}
    assert config.llm_int8_skip_modules is None


def test_other_quantisations_are_told_by_their_own_field():
    config = spare_projectors(QuantoConfig(weights="int8"), "model.")
    assert config.modules_to_not_convert == [*(f"model.{name}" for name in PROJECTORS), "lm_head"]
    of_dict = spare_projectors({"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"}, "model.")
    assert isinstance(of_dict, BitsAndBytesConfig) and of_dict.bnb_4bit_compute_dtype == torch.bfloat16
    assert of_dict.llm_int8_skip_modules == config.modules_to_not_convert
