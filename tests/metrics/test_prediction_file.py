"""Wherever a file of predictions was cut, what is whole is kept and what is torn is written again."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otdrg_hf.metrics.prediction_file import PredictionFile, generation_settings

SETTINGS = {"model": "m", "split": "test", "beams": {"num_beams": 2}}
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)


def rows(texts):
    return [{"id": f"s{place}", "generated_text": text, "reference": "a"} for place, text in enumerate(texts)]


@settings(max_examples=80, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=6), st.data())
def test_any_cut_is_mended(tmp_path_factory, texts, data):
    folder = tmp_path_factory.mktemp("cut")
    whole = rows(texts)
    file = PredictionFile(folder, SETTINGS)
    assert file.rows == {}
    for row in whole:
        file.append([row])
    written = file.path.read_bytes()
    cut = data.draw(st.integers(0, len(written)))
    file.path.write_bytes(written[:cut])
    again = PredictionFile(folder, SETTINGS)
    kept = written[:cut].count(b"\n")
    assert [row.value for row in again.rows.values()] == whole[:kept]
    again.append(whole[kept:])
    assert again.path.read_bytes() == written


def test_other_settings_are_named_and_change_nothing(tmp_path):
    PredictionFile(tmp_path / "out", SETTINGS).append(rows(["a"]))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ValueError) as caught:
        PredictionFile(tmp_path / "out", {**SETTINGS, "split": "train", "seed": 1})
    assert str(caught.value) == (
        "out holds predictions made with split 'test', not 'train'; seed None, not 1; "
        "give another --output_dir, or delete this one to start anew"
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_folder_without_predictions_takes_any_settings(tmp_path):
    PredictionFile(tmp_path, SETTINGS)
    file = PredictionFile(tmp_path, {"model": "other"})
    assert json.loads((tmp_path / "generation.json").read_text()) == {"model": "other"}
    assert generation_settings(file.path) == {"model": "other"}
    assert generation_settings(tmp_path / "mine.jsonl") is None
