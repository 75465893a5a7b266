"""The RadEval adapter hands texts over and figures back; RadEval itself is played by a stand-in here."""

import sys
from types import ModuleType

import pytest

from otdrg_hf.metrics.radeval_adapter import radeval_figures, radeval_is_available


def test_figures_come_back_under_their_names(monkeypatch):
    asked = {}

    class RadEval:
        def __init__(self, **options):
            asked.update(options)

        def __call__(self, refs, hyps):
            asked.update(refs=refs, hyps=hyps)
            return {"radgraph_simple": 0.5, "ratescore": 1, "explanations": ["text"]}

    stand_in = ModuleType("RadEval")
    stand_in.RadEval = RadEval
    monkeypatch.setitem(sys.modules, "RadEval", stand_in)
    monkeypatch.setattr("otdrg_hf.metrics.radeval_adapter.radeval_is_available", lambda: True)
    figures = radeval_figures(["a", "b"], [["c", "d"], ["e"]], scores=("radgraph", "ratescore"))
    assert figures == {"radeval_radgraph_simple": 0.5, "radeval_ratescore": 1.0}
    assert asked == {
        **{"do_radgraph": True, "do_ratescore": True, "do_green": False},
        **{"refs": ["c", "e"], "hyps": ["a", "b"]},
    }


def test_without_radeval_or_with_an_unknown_score():
    with pytest.raises(ValueError, match="unknown RadEval score 'bleurt'"):
        radeval_figures(["a"], ["b"], scores=("bleurt",))
    if radeval_is_available():
        pytest.skip("RadEval is installed here")
    with pytest.raises(ImportError, match="pip install RadEval"):
        radeval_figures(["a"], ["b"])
