"""The frozen blocks of a vision encoder are run once per image: the same steps, and the features of the next stage."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import refusal, train
from tiny_training import RESNET, VIT, tiny_model, write_study_folder

from otdrg_hf import OTDRGForConditionalGeneration, OTDRGProcessor
from otdrg_hf.data import load_study_dataset
from otdrg_hf.modeling.vision_otdrg import encode_images
from otdrg_hf.training.feature_cache import FeatureCache, encoder_checksum, fill_cache, undecoded
from otdrg_hf.training.frozen_blocks import FrozenBlocks
from otdrg_hf.training.stages import apply_stage

DEEP = {**VIT, "num_hidden_layers": 4}
FAMILIES = {
    family: {**DEEP, "model_type": family} for family in ("vit", "dinov2", "siglip_vision_model", "clip_vision_model")
}
FAMILIES["resnet"] = RESNET
LOSSES = ("loss", "ot_loss", "disease_loss", "eval_loss", "eval_disease_macro_f1")


def built(vision: dict = DEEP, trained: int = 1):
    model, processor = tiny_model(vision)
    apply_stage(model, "align", train_vision_blocks=trained)
    return model, processor, FrozenBlocks(model.model.vision_tower.eval(), trained)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoder_goes_on_from_where_they_end(family):
    model, _, blocks = built(FAMILIES[family])
    tower, pixels = model.model.vision_tower, torch.randn(2, 3, 64, 64)
    hidden, whole = blocks.run(pixels), encode_images(tower, pixels)
    for block in blocks.frozen:  # raises if it is run
        block.register_forward_pre_hook(lambda *_: 1 / 0 if torch.is_grad_enabled() else None)
    with blocks.skipped(hidden), torch.no_grad():
        torch.testing.assert_close(encode_images(tower, torch.zeros_like(pixels)), whole)
    assert not any("forward" in vars(module) for module in tower.modules())


def test_gradients_are_those_of_the_whole_encoder():
    model, _, blocks = built(trained=2)
    tower, pixels = model.model.vision_tower, torch.randn(2, 3, 64, 64)
    encode_images(tower, pixels).square().sum().backward()
    whole = {name: parameter.grad.clone() for name, parameter in tower.named_parameters() if parameter.grad is not None}
    tower.zero_grad()
    with blocks.skipped(blocks.run(pixels)):
        encode_images(tower, torch.zeros_like(pixels)).square().sum().backward()
    for name, parameter in tower.named_parameters():
        assert (parameter.grad is not None) == (name in whole)
        if name in whole:
            torch.testing.assert_close(parameter.grad, whole[name])


def test_names_hold_what_is_frozen_alone(studies, tmp_path):
    model, processor, blocks = built()
    before = encoder_checksum(model, processor, blocks)
    assert before != encoder_checksum(model, processor)
    assert before != encoder_checksum(model, processor, built(trained=2)[2])
    with torch.no_grad():
        next(blocks.trained.parameters()).add_(1.0)
    assert encoder_checksum(model, processor, blocks) == before
    with torch.no_grad():
        next(blocks.frozen.parameters()).add_(1.0)
    assert encoder_checksum(model, processor, blocks) != before


def test_features_of_the_whole_encoder_start_there(studies, tmp_path, monkeypatch, capsys):
    model, processor, blocks = built()
    kept = fill_cache(tmp_path / "kept", model, processor, (studies,), blocks)
    tokens = 1 + 4 * 4
    assert f"{sum(map(len, studies['views']))} images" in capsys.readouterr().out
    assert kept.bytes_per_image(model, processor) == tokens * 32 * 2
    assert kept.read(undecoded(studies)[1]).shape == (2, tokens, 32)
    plain = fill_cache(tmp_path / "plain", model, processor, (studies,))
    monkeypatch.setattr("otdrg_hf.training.feature_cache.load_views", None)  # raises if an image is read
    started = fill_cache(tmp_path / "started", model, processor, (studies,), start=kept)
    for study in undecoded(studies):
        assert started.path(study).name == plain.path(study).name
        torch.testing.assert_close(started.read(study), plain.read(study), atol=5e-3, rtol=5e-3)  # kept in fp16


def test_a_run_is_that_without_it_and_leaves_the_features_of_the_next_stage(tmp_path, capsys):
    data = write_study_folder(tmp_path, train=5, validation=3)
    changes = {"vision_config": DEEP, "stage": "align", "train_vision_blocks": 2, "eval_strategy": "epoch"}
    changes |= {"max_steps": 5, "seed": 3, "learning_rate": 1e-3}
    cache = tmp_path / "features"
    plain = train(tmp_path, data, name="plain", **changes)
    capsys.readouterr()
    cached = train(tmp_path, data, name="cached", feature_cache=str(cache), **changes)
    printed = capsys.readouterr().out
    # Of training and validation studies, before and after training.
    assert printed.count("Features of ") == 4
    logs = [json.loads((folder / "training_log.json").read_text()) for folder in (plain, cached)]
    for without, with_cache in zip(*logs, strict=True):
        expected = {name: without[name] for name in LOSSES if name in without}
        assert {name: with_cache[name] for name in LOSSES if name in with_cache} == pytest.approx(expected, abs=2e-3)
    assert sum("ot_loss" in row for row in logs[1]) == 5
    weights = [load_file(folder / "model.safetensors") for folder in (plain, cached)]
    assert weights[0].keys() == weights[1].keys()

    model, processor = (each.from_pretrained(cached) for each in (OTDRGForConditionalGeneration, OTDRGProcessor))
    found = FeatureCache(cache, encoder_checksum(model, processor))
    for split in ("train", "validation"):
        assert found.missing(load_study_dataset(str(data), split, cache_dir=str(tmp_path / "cache"))) == []
    start = {"model_name_or_path": str(cached), **dict.fromkeys(("vision_config", "text_config", "otdrg_config"))}
    train(tmp_path, data, name="next", stage="finetune", feature_cache=str(cache), **start)
    assert "Features of " not in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train_vision_blocks": 4}, "--feature_cache has nothing to keep: all 4 blocks are trained"),
        ({"train_vision_blocks": 1, "augment": True}, "--augment changes each image in each epoch"),
        (
            {"train_vision_blocks": 1, "stage": "joint"},
            "--feature_cache needs a frozen vision encoder, or frozen blocks",
        ),
        ({}, "--feature_cache needs a frozen vision encoder, or frozen blocks"),
    ],
)
def test_caches_that_would_hold_nothing_are_refused(changes, message, tmp_path):
    data = write_study_folder(tmp_path, train=2, validation=2)
    fields = {"vision_config": DEEP, "stage": "align", "feature_cache": str(tmp_path / "features")}
    assert message in refusal(tmp_path, data, **{**fields, **changes})
