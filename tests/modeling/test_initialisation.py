"""Projectors start with the variance of their inputs, however a model comes into being."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from otdrg_hf import OTDRGForConditionalGeneration, OTDRGModel
from tests.support.tiny_models import make_config

PROJECTORS = {
    "patch_projection": ("features", "position"),
    "label_encoder": ("dense", "output"),
    "fusion": ("image_dense", "image_output"),
    "fusion.label_tokens": ("phrase_dense", "seen_dense", "place_dense", "output"),
}
NAMES = [f"{module}.{layer}" for module, layers in PROJECTORS.items() for layer in layers]


@pytest.fixture(scope="module")
def config():
    return make_config(alignment_dim=64)


def check_projectors(body: OTDRGModel):
    """The standard deviation of `xavier_uniform_`, `sqrt(2 / (inputs + outputs))`: here about 0.15, not 0.02."""
    for name in NAMES:
        layer = body.get_submodule(name)
        expected = (2 / (layer.in_features + layer.out_features)) ** 0.5
        assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.15), name
        assert layer.bias is None or not layer.bias.any(), name


def test_projectors_of_a_model_that_is_built(config):
    torch.manual_seed(0)
    check_projectors(OTDRGModel(config))
    check_projectors(OTDRGForConditionalGeneration(config).model)


def test_projectors_of_a_model_from_its_configuration(config):
    torch.manual_seed(0)
    check_projectors(AutoModelForImageTextToText.from_config(config).model)


def test_other_linear_layers_keep_the_range_of_the_configuration(config):
    torch.manual_seed(0)
    model = OTDRGForConditionalGeneration(config)
    for layer in (model.model.language_model.layers[0].mlp.up_proj, model.lm_head):
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize("missing", [NAMES, NAMES[:1], NAMES[4:5]])
def test_projectors_that_a_checkpoint_lacks(config, missing, tmp_path):
    model = OTDRGForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    lost = [f"model.{name}.weight" for name in missing]
    save_file({name: value for name, value in weights.items() if name not in lost}, path, {"format": "pt"})
    torch.manual_seed(1)
    loaded, report = OTDRGForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == set(lost)
    check_projectors(loaded.model)
    for name, value in loaded.state_dict().items():
        assert (name in lost) != torch.equal(value, model.state_dict()[name]), name


def test_weights_of_a_clip_that_a_checkpoint_lacks(tmp_path):
    """Its attention has no parameter of its own either, and initialises those of its layers."""
    config = make_config("clip")
    config.vision_config.num_hidden_layers = 4
    model = OTDRGForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    lost = [name for name in weights if "q_proj.weight" in name and "vision_tower" in name]
    save_file({name: value for name, value in weights.items() if name not in lost}, path, {"format": "pt"})
    loaded = OTDRGForConditionalGeneration.from_pretrained(tmp_path)
    expected = (config.vision_config.hidden_size * 2 * 4) ** -0.5
    for name in lost:
        assert float(loaded.get_parameter(name).detach().std()) == pytest.approx(expected, rel=0.2), name


def test_loaded_weights_of_custom_code_are_not_initialised_again(tmp_path, monkeypatch):
    """A backbone of a user's own may write its weights without asking whether they were loaded."""
    model = OTDRGForConditionalGeneration(make_config())
    tower = type(model.model.vision_tower)

    def init_in_place(self, module):
        if isinstance(module, torch.nn.Linear):
            module.weight.data.fill_(7.0)

    monkeypatch.setattr(tower, "__module__", "mine")
    monkeypatch.setattr(tower, "_init_weights", init_in_place)
    assert model.is_custom_code()
    model.save_pretrained(tmp_path)
    loaded = OTDRGForConditionalGeneration.from_pretrained(tmp_path)
    for name, value in loaded.model.vision_tower.named_parameters():
        assert torch.equal(value, model.model.vision_tower.get_parameter(name)), name
