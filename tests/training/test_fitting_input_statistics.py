"""Statistics of training images: fitted, written into a checkpoint, and what they make of images never seen."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf

from otdrg_hf.modeling.familiarity_otdrg import InputStatistics
from otdrg_hf.training import input_statistics
from otdrg_hf.training.input_statistics import (
    add_input_statistics,
    channel_components,
    describe_studies,
    fit_normal,
    fit_view,
    shrunk_covariance,
)
from tests.support.other_images import chest, chest_studies
from tests.support.tiny_models import make_model, make_processor

MIN = input_statistics.MIN_IMAGES


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny model, its processor, and the folder of both."""
    model = make_model()
    processor = make_processor(num_image_tokens=model.config.image_seq_length)
    model.save_pretrained(tmp_path)
    return tmp_path, model, processor


def packed_in(folder) -> str | None:
    return json.loads((folder / "config.json").read_text()).get("input_statistics")


def test_it_writes_the_configuration_and_nothing_else(checkpoint):
    folder, model, processor = checkpoint
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    fields = json.loads(before.pop("config.json"))
    assert fields.pop("input_statistics") is None
    assert add_input_statistics(folder, chest_studies(MIN), model, processor) == {"frontal": MIN, "lateral": MIN}
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    written = json.loads(after.pop("config.json"))
    assert after == before
    assert written.pop("input_statistics") == model.config.input_statistics is not None
    assert written == fields
    assert len(model.config.input_statistics) < 120_000  # characters
    assert not model.training


def test_a_second_process_writes_nothing(checkpoint):
    folder, model, processor = checkpoint
    add_input_statistics(folder, chest_studies(MIN), model, processor, write=False)
    assert packed_in(folder) is None and model.config.input_statistics


def test_features_that_there_are_already_give_the_same(checkpoint):
    folder, model, processor = checkpoint
    studies = chest_studies(MIN)
    add_input_statistics(folder, studies, model, processor)
    expected = model.config.input_statistics
    values = [processor.image_processor(each["images"], return_tensors="pt")["pixel_values"] for each in studies]
    with torch.no_grad():
        features = [model.model.get_vision_features(each)[:, 0] for each in values]
    model.model.vision_tower = None
    add_input_statistics(folder, studies, model, processor, read_features=lambda index: features[index])
    described = [InputStatistics.unpack(each) for each in (expected, model.config.input_statistics)]
    distances = [each.distances(features[0], processor.plain_pixels(values[0])).total for each in described]
    torch.testing.assert_close(*distances, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("count", [1, MIN - 1])
def test_too_few_images_leave_a_checkpoint_without_those_of_another_encoder(checkpoint, count):
    folder, model, processor = checkpoint
    add_input_statistics(folder, chest_studies(MIN), model, processor)
    assert packed_in(folder)
    studies = [{"images": [chest(seed)], "views": ["unknown"]} for seed in range(count)]
    assert add_input_statistics(folder, studies, model, processor) == {}
    assert packed_in(folder) is None and model.config.input_statistics is None


def test_images_of_no_known_view_are_one_kind(checkpoint):
    folder, model, processor = checkpoint
    studies = [{**study, "views": ["unknown"] * 2} for study in chest_studies(MIN)]
    assert add_input_statistics(folder, studies, model, processor) == {"unknown": 2 * MIN}
    few_named = [{**study, "views": ["frontal", "unknown"]} for study in chest_studies(MIN)]
    assert add_input_statistics(folder, few_named, model, processor) == {"frontal": MIN}


def test_no_more_than_so_many_studies_are_read(checkpoint, monkeypatch):
    folder, model, processor = checkpoint
    monkeypatch.setattr(input_statistics, "MAX_STUDIES", MIN)
    assert add_input_statistics(folder, chest_studies(MIN + 25), model, processor) == {"frontal": MIN, "lateral": MIN}


def test_of_unseen_images_of_the_kind_few_are_unfamiliar(checkpoint):
    folder, model, processor = checkpoint
    add_input_statistics(folder, chest_studies(120), model, processor)
    statistics = InputStatistics.unpack(model.config.input_statistics)
    images = [image for study in chest_studies(100, first=1000) for image in study["images"]]
    values = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        features = model.model.get_vision_features(values)[:, 0]
    distances = statistics.distances(features, processor.plain_pixels(values))
    of_own_view = distances.total[torch.arange(200), torch.arange(200) % 2]
    assert (of_own_view > 1).float().mean() < 0.06
    assert (distances.total.argmin(1) == torch.arange(200) % 2).all()


def test_described_in_any_batches_alike(checkpoint, monkeypatch):
    _, model, processor = checkpoint
    described = describe_studies(chest_studies(9), range(9), model, processor)
    monkeypatch.setattr(input_statistics, "BATCH", 2)
    again = describe_studies(chest_studies(9), range(9), model, processor)
    assert described.views == again.views
    torch.testing.assert_close(described.parts[1:], again.parts[1:])
    torch.testing.assert_close(described.parts[0].abs(), again.parts[0].abs(), rtol=1e-3, atol=1e-3)


# The parts


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(3, 60), st.integers(1, 12))
def test_covariances_are_those_of_scikit_learn(seed, count, size):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, size)) @ rng.normal(size=(size, size))
    rows -= rows.mean(0)
    expected, _ = ledoit_wolf(rows, assume_centered=True)
    np.testing.assert_allclose(shrunk_covariance(torch.from_numpy(rows)).numpy(), expected, rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(2, 8), st.floats(1e-3, 1e3))
def test_distances_are_of_any_unit_and_finite(seed, size, unit):
    """Also of entries that never vary, and of fewer images than entries."""
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.normal(size=(6, size))).float()
    rows[:, 0] = 3.0
    others = torch.from_numpy(rng.normal(size=(4, size))).float()
    others[:, 0] = 3.0
    distances = fit_normal(rows).distance(others)
    assert torch.isfinite(distances).all()
    torch.testing.assert_close(fit_normal(unit * rows).distance(unit * others), distances, rtol=0.02, atol=0.02)


def test_the_limit_is_that_of_images_left_out():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(200, size, generator=generator) for size in (20, 40, 60)]
    view = fit_view(parts)
    fresh = [torch.randn(1000, size, generator=generator) for size in (20, 40, 60)]
    shares = [normal.distance(each) / normal.typical for normal, each in zip(view.parts.values(), fresh, strict=True)]
    assert 0.002 < (torch.stack(shares).square().mean(0).sqrt() > view.limit).float().mean() < 0.03


def test_components_are_orthonormal_and_leave_room_for_what_they_miss():
    features = torch.randn(500, 12, generator=torch.Generator().manual_seed(0))
    mean, basis = channel_components(features)
    assert basis.shape == (12, 6)
    torch.testing.assert_close(basis.T @ basis, torch.eye(6), atol=3e-3, rtol=0)
    torch.testing.assert_close(mean, features.mean(0))
