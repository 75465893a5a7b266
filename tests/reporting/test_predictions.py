"""Wherever a file of predictions was cut, what is whole is kept and what is torn is written again."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otdrg_hf.reporting.predictions import finished_studies, generation_settings, open_predictions
from otdrg_hf.reporting.results_file import read_results

SETTINGS = {"model": "m", "split": "test", "beams": {"num_beams": 2}}
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)


def rows(texts):
    return [{"id": f"s{place}", "generated_text": text, "reference": "a"} for place, text in enumerate(texts)]


@settings(max_examples=80, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=6), st.data())
def test_any_cut_is_repaired(tmp_path_factory, texts, data):
    folder = tmp_path_factory.mktemp("cut")
    whole = rows(texts)
    with open_predictions(folder, SETTINGS) as file:
        assert file.finished == {}
        for row in whole:
            file.append(row)
    written = file.path.read_bytes()
    cut = data.draw(st.integers(0, len(written)))
    file.path.write_bytes(written[:cut])
    kept = whole[: written[:cut].count(b"\n")]
    assert finished_studies(file.path, SETTINGS) == {row["id"] for row in kept}
    assert file.path.read_bytes() == written[:cut]
    with open_predictions(folder, SETTINGS) as again:
        assert list(again.finished) == [row["id"] for row in kept]
        assert list(read_results(again.path, "id")) == kept
        again.append(*whole[len(kept) :])
    assert again.path.read_bytes() == written


def test_other_settings_are_named_and_change_nothing(tmp_path):
    with open_predictions(tmp_path / "out", SETTINGS) as file:
        file.append(*rows(["a"]))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    others = {**SETTINGS, "split": "train", "seed": 1}
    for read in (lambda: open_predictions(tmp_path / "out", others), lambda: finished_studies(file.path, others)):
        with pytest.raises(ValueError) as caught:
            read()
        assert str(caught.value) == (
            "out holds predictions made with split 'test', not 'train'; seed None, not 1; "
            "give another --output_dir, or delete this one to start again"
        )
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_folder_without_predictions_takes_any_settings(tmp_path):
    open_predictions(tmp_path, SETTINGS).close()
    file = open_predictions(tmp_path, {"model": "other"})
    assert json.loads((tmp_path / "generation.json").read_text()) == {"model": "other"}
    assert generation_settings(file.path) == {"model": "other"}
    assert generation_settings(tmp_path / "mine.jsonl") is None
    file.close()
