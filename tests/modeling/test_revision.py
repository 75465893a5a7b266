"""Tests of keeping to a draft: where it has an opinion, how strong, and what an overridden label leaves of a report."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, pipeline

from otdrg_hf import DEMO_CHECKPOINT
from otdrg_hf.data.phantom.study import make_phantom
from otdrg_hf.modeling import layers_otdrg
from otdrg_hf.modeling.revision_otdrg import (
    PADDING,
    ExpectedTokens,
    KeepDraft,
    agreement,
    draft_tokens,
    draws_samples,
)
from tests.support.tiny_models import make_films, make_model

VOCAB = 10
TOKENS = st.lists(st.integers(0, 4), min_size=1, max_size=8)


def preferred(written, draft, preference=2.0):
    """The tokens that the draft speaks for, where the label changed nothing."""
    scores = torch.randn(1, VOCAB)
    expected = ExpectedTokens.from_logits(scores.expand(1, 1 + len(draft), VOCAB))
    keep = KeepDraft(torch.tensor([draft]), expected, prompt_length=2, preference=preference)
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
    expected = ExpectedTokens.from_logits(torch.zeros(2, 4, VOCAB))
    gained = KeepDraft(drafts, expected, prompt_length=1)(ids, torch.zeros(4, VOCAB))
    assert gained[0].nonzero()[:, 0].tolist() == [3] and not gained[1:].any()


def test_what_the_label_makes_likelier_at_that_place_gains_as_much_up_to_the_preference():
    """The draft is 5 3 6; after 5, its model expected the tokens by `old`, and the new one by `new`."""
    old = torch.tensor([0.10, 0.10, 0.10, 0.50, 0.04, 0.04, 0.04, 0.04, 0.02, 0.02]).log()
    new = torch.tensor([0.10, 0.01, 0.20, 0.02, 0.55, 0.04, 0.02, 0.02, 0.02, 0.02]).log()
    logits = torch.randn(1, 4, VOCAB)
    logits[0, 1] = old
    keep = KeepDraft(torch.tensor([[5, 3, 6]]), ExpectedTokens.from_logits(logits), prompt_length=0, preference=2.0)
    gained = (keep(torch.tensor([[5]]), new[None]) - new)[0]
    doubled = math.log(2.0)
    expected = torch.tensor([0, 0, doubled, 2.0, 2.0, 0, 0, 0, 0, 0])  # 3 is the draft's, 4 made thirteenfold
    torch.testing.assert_close(gained, expected)
    assert not (keep(torch.tensor([[8]]), new[None]) - new).any()  # no place of the draft ends so


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, VOCAB]), st.integers(1, 3))
@settings(max_examples=40)
def test_expected_tokens_are_exact_for_the_likeliest_and_a_bound_for_the_others(seed, count, beams):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 5, VOCAB, generator=generator)
    places = torch.rand(2 * beams, 5, generator=generator) < 0.4
    dense = logits.log_softmax(-1).repeat_interleave(beams, 0).masked_fill(~places.unsqueeze(-1), -torch.inf).amax(1)
    tops = logits.log_softmax(-1).topk(count)
    found = ExpectedTokens(tops.values, tops.indices).at(places, beams, VOCAB)
    somewhere = places.any(-1)
    assert not found[~somewhere].any()
    dense, found = dense[somewhere], found[somewhere]
    assert (found >= dense - 1e-6).all()
    likeliest = dense.argmax(-1, keepdim=True)
    torch.testing.assert_close(found.gather(1, likeliest), dense.gather(1, likeliest))
    if count == VOCAB:
        torch.testing.assert_close(found, dense)


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
    monkeypatch.setattr("otdrg_hf.modeling.revision_otdrg.PREFERENCE", 1e4)
    again = report([studies[0], films[1], studies[2]], batch_size=3, max_new_tokens=12, generate_kwargs=options)
    assert [a["generated_text"] for a in again] == [p["generated_text"] for p in plain]
    assert {f["label"]: f["state"] for f in again[0]["findings"]}["Pneumothorax"] == other[0]


@pytest.mark.parametrize("text", ["llama", "gpt2"])
def test_a_batch_keeps_to_its_drafts_as_one_study_at_a_time_does(processor, text):
    report = pipeline("radiology-report", model=make_model(text=text), processor=processor)
    films = make_films(3, seed=6)
    states = [{f["label"]: f["state"] for f in answer["findings"]} for answer in report(films)]
    other = ["negative" if state["Edema"] == "positive" else "positive" for state in states]
    studies = [
        {"images": films[0], "indication": "Cough.", "disease_labels": {"Edema": other[0]}},
        {"images": films[1]},
        {"images": films[2], "indication": "The heart is normal in size.", "disease_labels": {"Edema": other[2]}},
    ]
    one_by_one = [report(study, max_new_tokens=12)["generated_text"] for study in studies]
    batch = report(studies, batch_size=3, max_new_tokens=12)
    assert [answer["generated_text"] for answer in batch] == one_by_one


def test_a_draft_is_written_by_the_logits_processor_of_its_revision(processor):
    """Else the revision would be drawn to words that the caller has ruled out."""
    model, counted = make_model(), []
    inputs = processor(images=make_films(1), disease_labels=[{"Edema": "uncertain"}])

    def count(input_ids, scores):
        counted.append(len(input_ids))
        return scores

    written = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, logits_processor=[count])
    assert written.shape[1] == inputs["input_ids"].shape[1] + 5 and len(counted) == 10


def test_whether_samples_are_drawn_is_what_generate_makes_of_all_configurations():
    model = make_model()
    model.generation_config.do_sample = True
    short = GenerationConfig(max_new_tokens=5)
    assert draws_samples(model, {"generation_config": short}) and draws_samples(model, {"max_new_tokens": 5})
    assert not draws_samples(model, {"generation_config": GenerationConfig(do_sample=False)})
    assert not draws_samples(model, {"generation_config": short, "do_sample": False})


@pytest.fixture(scope="module")
def demo():
    return pipeline("radiology-report", model=str(DEMO_CHECKPOINT))


def overridden_studies(demo, count: int) -> list[dict]:
    """Phantoms with one label each against its prediction, every finding in turn."""
    studies = [
        make_phantom(seed, "test", image_size=demo.processor.image_processor.size["height"]) for seed in range(count)
    ]
    answers = demo([study.images for study in studies], batch_size=10, max_new_tokens=1)
    labels = demo.model.config.label_names[:-1]
    rows = []
    for index, (study, answer) in enumerate(zip(studies, answers, strict=True)):
        finding = answer["findings"][index % len(labels)]
        state = "negative" if finding["state"] in ("positive", "uncertain") else "positive"
        rows.append({"images": study.images, "views": study.views, "disease_labels": {finding["label"]: state}})
    return rows


def test_generate_and_pipeline_write_the_same_revisions(demo):
    """50 phantoms in batches, and the first of them one at a time."""
    studies = overridden_studies(demo, 50)
    answers = demo(studies, batch_size=25, max_new_tokens=60)
    texts = [answer["generated_text"] for answer in answers]
    written = []
    for start in (0, 25):
        batch = {key: [study[key] for study in studies[start : start + 25]] for key in studies[0]}
        inputs = demo.processor(**batch)
        ids = demo.model.generate(**inputs, max_new_tokens=60)[:, inputs["input_ids"].shape[1] :]
        written += [text.strip() for text in demo.processor.batch_decode(ids, skip_special_tokens=True)]
    assert written == texts
    assert [demo(study, max_new_tokens=60)["generated_text"] for study in studies[:5]] == texts[:5]
    unchanged = demo([{**study, "disease_labels": {}} for study in studies[:10]], batch_size=10, max_new_tokens=60)
    assert sum(text != plain["generated_text"] for text, plain in zip(texts, unchanged, strict=False)) >= 5


def test_the_pipeline_solves_two_transports_a_study(demo, monkeypatch):
    """One that knows no states, one to the decided states: revisions and losses add none."""
    counts = []
    solve = layers_otdrg.sinkhorn
    monkeypatch.setattr(
        layers_otdrg,
        "sinkhorn",
        lambda cost, *rest, **options: counts.append(len(cost)) or solve(cost, *rest, **options),
    )
    [first, *others] = overridden_studies(demo, 4)
    counts.clear()
    demo([first, *(study["images"] for study in others)], batch_size=4, max_new_tokens=2)
    assert sum(counts) == 2 * 4


def test_a_padded_batch_is_revised_without_a_mask_as_with_one(processor):
    model, films = make_model(), make_films(2, seed=6)
    inputs = processor(images=films, indication=["", "The heart is normal in size."])
    states = model.get_image_features(**{name: inputs[name] for name in ("pixel_values", "view_mask")}).disease_states
    labels = torch.where(states == 1, 2, 1)
    with_mask = model.generate(**inputs, disease_labels=labels, max_new_tokens=12)
    mask = inputs.pop("attention_mask")
    assert mask[0, 0] == 0
    assert torch.equal(model.generate(**inputs, disease_labels=labels, max_new_tokens=12), with_mask)
