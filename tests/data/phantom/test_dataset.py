"""Phantoms as a dataset: schema, the cache, and that the number of processes changes nothing."""

from __future__ import annotations

import json
import sys

import pytest

from otdrg_hf.data.phantom import make_phantom, phantom_dataset

COLUMNS = ["id", "images", "views", "indication", "comparison", "findings", "impression", "report", "disease_labels"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    pytest.importorskip("datasets")
    return tmp_path_factory.mktemp("phantoms")


def test_rows_are_the_studies(cache):
    dataset = phantom_dataset("test", 6, 64, cache_dir=cache)
    assert dataset.column_names[: len(COLUMNS)] == COLUMNS and len(dataset) == 6
    for seed, row in enumerate(dataset):
        study = make_phantom(seed, "test", 64)
        assert row["id"] == study.id == f"phantom-test-{seed:06d}"
        assert row["report"] == study.findings + " " + study.impression
        assert row["disease_labels"] == study.disease_labels
        assert [image.tobytes() for image in row["images"]] == [image.tobytes() for image in study.images]
        assert json.loads(row["boxes"]) == study.boxes and json.loads(row["sides"]) == study.sides
        assert row["comparison"] == ""


def test_second_read_comes_from_the_cache(cache, monkeypatch):
    first = phantom_dataset("test", 6, 64, cache_dir=cache)

    def draws_again(*_):
        raise AssertionError("drawn again instead of read from the cache")

    monkeypatch.setattr("otdrg_hf.data.phantom.dataset.make_phantom", draws_again)
    second = phantom_dataset("test", 6, 64, cache_dir=cache)
    assert first[:]["disease_labels"] == second[:]["disease_labels"]
    assert first.cache_files == second.cache_files


def test_a_broken_run_leaves_nothing_that_looks_complete(cache, monkeypatch):
    def breaks(seed, *arguments):
        if seed == 3:
            raise KeyboardInterrupt
        return make_phantom(seed, *arguments)

    with monkeypatch.context() as patch, pytest.raises(BaseException):  # noqa: B017
        patch.setattr("otdrg_hf.data.phantom.dataset.make_phantom", breaks)
        phantom_dataset("broken", 5, 64, cache_dir=cache)
    assert len(phantom_dataset("broken", 5, 64, cache_dir=cache)) == 5


def test_two_processes_draw_the_same_studies_in_order(cache):
    one = phantom_dataset("shards", 7, 64, cache_dir=cache / "one")
    two = phantom_dataset("shards", 7, 64, num_proc=2, cache_dir=cache / "two")
    assert one["id"][:] == two["id"][:] and one["report"][:] == two["report"][:]


def test_more_studies_begin_with_the_same(cache):
    few, more = (phantom_dataset("test", count, 64, cache_dir=cache) for count in (3, 6))
    assert few["report"][:] == more["report"][:3]


def test_missing_datasets_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'otdrg-hf\[train\]'"):
        phantom_dataset("test", 2, 64)


def test_no_studies_is_refused():
    with pytest.raises(ValueError, match="num_studies"):
        phantom_dataset("test", 0, 64)
