"""The cache with room gives the keys and values of transformers' own, whatever happens to it in between."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, pipeline
from transformers.cache_utils import DynamicLayer

from otdrg_hf.modeling import pipeline_otdrg
from otdrg_hf.modeling.roomy_cache import GROWTH, RoomyLayer, make_cache
from tests.conftest import make_films, make_model

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from([1, 1, 1, 5, GROWTH, 2 * GROWTH])),
        st.tuples(st.just("crop"), st.integers(1, 3)),
        st.tuples(st.just("reorder"), st.permutations(range(4))),
        st.tuples(st.just("select"), st.just(None)),
        st.tuples(st.just("repeat"), st.just(2)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_same_as_the_layer_of_transformers(steps):
    generator = torch.Generator().manual_seed(0)
    layers = RoomyLayer(), DynamicLayer()
    rows = 4
    for step, value in [("append", 3), *steps]:
        if step == "append":
            new = torch.randn(2, rows, 2, value, 3, generator=generator)
            for given, expected in zip(*(layer.update(*new) for layer in layers), strict=True):
                assert torch.equal(given, expected)
        for layer in layers:
            if step == "crop" and layer.get_seq_length() > value:
                layer.crop(-value)
            elif step == "reorder" and rows == 4:
                layer.reorder_cache(torch.tensor(value))
            elif step == "select":
                layer.batch_select_indices(torch.arange(max(1, rows - 1)))
            elif step == "repeat":
                layer.batch_repeat_interleave(value)
        rows = layers[0].keys.shape[0]
        assert torch.equal(layers[0].keys, layers[1].keys) and torch.equal(layers[0].values, layers[1].values)


def test_appending_does_not_copy():
    layer = RoomyLayer()
    layer.update(*torch.randn(2, 1, 1, 3, 4))
    place = layer.keys.data_ptr()
    for _ in range(GROWTH):
        layer.update(*torch.randn(2, 1, 1, 1, 4))
    assert layer.keys.data_ptr() == place


@pytest.mark.parametrize("text", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"])
def test_reports_are_the_same(processor, monkeypatch, text, options):
    report = pipeline("radiology-report", model=make_model(text=text), processor=processor)
    films = make_films(3)

    def texts():
        answers = report(films, batch_size=3, max_new_tokens=12, generate_kwargs=options)
        return [answer.get("candidates", answer["generated_text"]) for answer in answers]

    roomy = texts()
    monkeypatch.setattr(pipeline_otdrg, "make_cache", lambda config: DynamicCache(config=config))
    assert roomy == texts()


def test_only_layers_of_full_attention_change(model):
    cache = make_cache(model.config.get_text_config(decoder=True))
    assert cache.layers and all(type(layer) is RoomyLayer for layer in cache.layers)
    windowed = make_cache(make_model(text="gemma2").config.get_text_config(decoder=True))
    kinds = [type(layer).__name__ for layer in windowed.layers]
    assert "RoomyLayer" in kinds and "DynamicSlidingWindowLayer" in kinds
