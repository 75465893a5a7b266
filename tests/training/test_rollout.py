"""Sampled reports: their log-probabilities are those of the loss, and they follow from study and seed alone."""

import pytest
import torch
from tiny_training import speak_up, tiny_model, tiny_rows

from otdrg_hf.data.schema import INPUT_COLUMNS
from otdrg_hf.modeling.modeling_otdrg import OTDRGForConditionalGeneration
from otdrg_hf.training.rollout import never_sampled, sample_reports, study_generators, token_log_probs

GPT2 = {"model_type": "gpt2", "vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 2}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def built(request):
    model, processor = tiny_model() if request.param == "llama" else tiny_model(text=GPT2)
    return speak_up(model).eval(), processor


def study_inputs(processor, rows) -> dict[str, torch.Tensor]:
    return dict(processor(**{name: [row[name] for row in rows] for name in INPUT_COLUMNS}))


def sample(built, rows, group=3, step=0, tokens=12, temperature=1.0):
    model, processor = built
    generators = study_generators([row["id"] for row in rows], 7, step, model.device)
    return sample_reports(model, study_inputs(processor, rows), generators, group, tokens, temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_of_rollout_and_loss_agree(built, temperature):
    model, _ = built
    rollout = sample(built, tiny_rows(4), temperature=temperature)  # of one and two views, with and without indication
    lengths = rollout.prompt_mask.sum(1)
    assert len(set(lengths.tolist())) > 1 and rollout.features.view_mask.sum(1).tolist() == [1, 2, 1, 2]
    log_probs, entropies = token_log_probs(
        model,
        model,
        torch.cat([rollout.prompt_ids, rollout.completion_ids], 1),
        torch.cat([rollout.prompt_mask, rollout.completion_mask], 1),
        rollout.completion_ids.shape[1],
        rollout.features.of_studies(rollout.study),
        temperature,
    )
    written = rollout.completion_mask.bool()
    torch.testing.assert_close(log_probs[written], rollout.log_probs[written], atol=1e-4, rtol=0)
    assert (entropies[written] > 0).all() and entropies.isfinite().all()


def test_log_probabilities_are_those_of_the_whole_model(built):
    """Of images, not of features, and of the plain forward."""
    model, processor = built
    rows = tiny_rows(2)
    rollout = sample(built, rows, group=1)
    inputs = study_inputs(processor, rows)
    ids = torch.cat([rollout.prompt_ids, rollout.completion_ids], 1)
    mask = torch.cat([rollout.prompt_mask, torch.ones_like(rollout.completion_ids)], 1)
    inputs |= {"input_ids": ids, "attention_mask": mask}
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(**inputs, position_ids=positions).logits[:, rollout.prompt_ids.shape[1] - 1 : -1]
    logits[..., never_sampled(model)] = -torch.inf
    expected = logits.log_softmax(-1).gather(-1, rollout.completion_ids.unsqueeze(-1)).squeeze(-1)
    written = rollout.completion_mask.bool()
    torch.testing.assert_close(rollout.log_probs[written], expected[written], atol=1e-4, rtol=0)


def test_placeholders_are_never_sampled(built):
    model, _ = built
    placeholders = [model.config.image_token_id, model.config.finding_token_id]
    head = model.get_output_embeddings()
    original = head.forward
    # A head that wants to write nothing else.
    head.forward = lambda hidden: original(hidden).index_fill(-1, torch.tensor(placeholders), 50.0)
    try:
        rollout = sample(built, tiny_rows(2), group=8, tokens=16)
    finally:
        head.forward = original
    assert not torch.isin(rollout.completion_ids, torch.tensor(placeholders)).any()
    assert rollout.log_probs.isfinite().all()


def test_samples_follow_from_the_study_and_the_step(built):
    rows = tiny_rows(4)
    whole = sample(built, rows)
    other_batch = sample(built, rows[2:])
    length = min(whole.completion_ids.shape[1], other_batch.completion_ids.shape[1])
    assert torch.equal(whole.completion_ids[6:, :length], other_batch.completion_ids[:, :length])
    assert not torch.equal(whole.completion_ids, sample(built, rows, step=1).completion_ids)
    assert len({tuple(row) for row in whole.completion_ids.tolist()}) == len(whole.completion_ids)


def test_samples_have_the_probabilities_of_the_model(built):
    """The first token of many samples, against the distribution that the model gives."""
    model, processor = built
    row = tiny_rows(1)
    rollout = sample(built, row, group=4000, tokens=1, temperature=0.5)
    with torch.no_grad():
        logits = model(**study_inputs(processor, row)).logits[0, -1] / 0.5
    logits[never_sampled(model)] = -torch.inf
    expected = logits.softmax(-1)
    seen = torch.bincount(rollout.completion_ids[:, 0], minlength=len(expected)) / 4000
    assert (seen - expected).abs().max() < 4 * (expected * (1 - expected) / 4000).sqrt().max()


def test_a_report_is_masked_after_its_end(built):
    model, _ = built
    end = model.generation_config.eos_token_id
    rollout = sample(built, tiny_rows(4), group=8, tokens=60)
    ended = (rollout.completion_ids == end).any(1)
    assert torch.equal(rollout.ended, ended)
    for tokens, mask, is_whole in zip(rollout.completion_ids, rollout.completion_mask, ended, strict=True):
        length = int((tokens == end).nonzero()[0]) + 1 if is_whole else len(tokens)
        assert mask.tolist() == [1] * length + [0] * (len(tokens) - length)


def test_studies_are_encoded_once(built, monkeypatch):
    calls = []
    encode = OTDRGForConditionalGeneration.get_image_features
    counted = lambda self, *args, **kwargs: calls.append(1) or encode(self, *args, **kwargs)  # noqa: E731
    monkeypatch.setattr(OTDRGForConditionalGeneration, "get_image_features", counted)
    rollout = sample(built, tiny_rows(3), group=5)
    assert len(calls) == 1 and len(rollout.features.view_mask) == 3 and len(rollout.completion_ids) == 15
