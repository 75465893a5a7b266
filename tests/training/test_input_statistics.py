"""A training stage ends with the statistics of its images in the configuration, whatever it is trained with."""

import json

import pytest
from tiny_runs import LORA, train
from tiny_training import write_study_folder

from otdrg_hf.modeling.familiarity_otdrg import InputStatistics
from otdrg_hf.training import input_statistics


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_study_folder(tmp_path_factory.mktemp("data"), train=12, validation=4)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(input_statistics, "MIN_IMAGES", 6)


def statistics_in(folder) -> InputStatistics | None:
    packed = json.loads((folder / "config.json").read_text())["input_statistics"]
    return None if packed is None else InputStatistics.unpack(packed)


def test_a_stage_ends_with_statistics(data, tmp_path, capfd):
    folder = train(tmp_path, data, stage="joint")
    assert statistics_in(folder).views
    assert "Input statistics: of " in capfd.readouterr().out


def test_a_cache_of_features_gives_the_same(data, tmp_path):
    for name in ("plain", "cached"):
        (tmp_path / name).mkdir()
    # The encoder of a stage that does not train it, from the same seed.
    plain, cached = (
        statistics_in(train(tmp_path / name, data, stage="align", freeze_vision=True, **options))
        for name, options in (("plain", {}), ("cached", {"feature_cache": str(tmp_path / "features")}))
    )
    assert plain.views.keys() == cached.views.keys()
    for view in plain.views:
        ours, theirs = plain.views[view], cached.views[view]
        assert float(ours.limit) == pytest.approx(float(theirs.limit), rel=0.05)
        assert float(ours.layout.typical) == pytest.approx(float(theirs.layout.typical), rel=1e-4)


def test_an_adapter_has_them_in_its_base(data, tmp_path):
    folder = train(tmp_path, data, **LORA)
    assert statistics_in(folder / "base").views and not (folder / "config.json").exists()


def test_too_few_images_are_said(data, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(input_statistics, "MIN_IMAGES", 1000)
    assert statistics_in(train(tmp_path, data, stage="joint")) is None
    assert "Input statistics: none, there are too few images." in capfd.readouterr().out
