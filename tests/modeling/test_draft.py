"""Tests of keeping to a draft: where it has an opinion, how strong, and what a label set by hand leaves of a report."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import pipeline

from otdrg_hf.modeling.draft_otdrg import PADDING, KeepDraft, agreement, draft_tokens
from tests.conftest import make_films, make_model

TOKENS = st.lists(st.integers(0, 4), min_size=1, max_size=8)


def preferred(written, draft, preference=2.0):
    """The tokens that the draft speaks for."""
    keep = KeepDraft(torch.tensor([draft]), prompt_length=2, preference=preference)
    scores = torch.randn(1, 10)
    gained = keep(torch.tensor([[7, 7, *written]]), scores) - scores
    assert set(gained.round(decimals=4).unique().tolist()) <= {0.0, preference}
    return gained[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    "written, follows",
    [
        ([], [5]),  # the draft's first word
        ([5], [3]),
        ([5, 3], [1]),
        ([5, 3, 1], [6]),
        ([8], []),  # nothing of the draft ends so
        ([8, 1], [4, 6]),  # either place
        ([8, 2, 1], [4]),  # the longer agreement
        ([4], []),  # the draft is at its end
    ],
    ids=str,
)
def test_the_token_after_the_longest_agreement_is_preferred(written, follows):
    assert preferred(written, [5, 3, 1, 6, 2, 1, 4]) == follows


@given(TOKENS, TOKENS)
@settings(max_examples=60, deadline=None)
def test_agreement_is_the_length_of_the_common_ending(written, draft):
    lengths = agreement(torch.tensor([written]), torch.tensor([draft]))[0].tolist()
    for place, length in enumerate(lengths):
        ends = [n for n in range(1, 9) if n <= place + 1 and draft[place + 1 - n : place + 1] == written[-n:]]
        assert length == max(ends, default=0)


def test_rows_without_a_draft_and_beams():
    drafts = torch.tensor([[5, 3, PADDING], [PADDING] * 3])
    ids = torch.tensor([[7, 5], [7, 8], [7, 5], [7, 3]])
    gained = KeepDraft(drafts, prompt_length=1)(ids, torch.zeros(4, 10))
    assert gained[0].nonzero()[:, 0].tolist() == [3] and not gained[1:].any()


def test_a_draft_ends_with_its_first_end_token():
    written = torch.tensor([[4, 2, 2, 2], [2, 0, 0, 0], [4, 5, 6, 7]])
    assert draft_tokens(written, [2]).tolist() == [[4, 2, -1, -1], [2, -1, -1, -1], [4, 5, 6, 7]]
    assert torch.equal(draft_tokens(written, []), written)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"return_dict_in_generate": True}], ids=str)
def test_a_label_set_by_hand_keeps_the_rest_of_the_report(processor, monkeypatch, options):
    """A strong preference writes the draft again, whatever its label token says; a batch mixes both kinds of study."""
    report = pipeline("radiology-report", model=make_model(), processor=processor)
    films = make_films(3, seed=5)
    plain = report(films, batch_size=3, max_new_tokens=12, generate_kwargs=options)
    states = [{f["label"]: f["state"] for f in answer["findings"]} for answer in plain]
    other = ["negative" if state["Pneumothorax"] == "positive" else "positive" for state in states]
    studies = [{"images": film, "disease_labels": {"Pneumothorax": o}} for film, o in zip(films, other, strict=True)]
    monkeypatch.setattr("otdrg_hf.modeling.draft_otdrg.PREFERENCE", 1e4)
    again = report([studies[0], films[1], studies[2]], batch_size=3, max_new_tokens=12, generate_kwargs=options)
    assert [a["generated_text"] for a in again] == [p["generated_text"] for p in plain]
    assert {f["label"]: f["state"] for f in again[0]["findings"]}["Pneumothorax"] == other[0]
