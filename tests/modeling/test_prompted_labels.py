"""Tests of the labels that prompt the LLM: given, predicted and told ones, and what is shown of each."""

import pytest
import torch

from tests.conftest import make_model


def test_given_labels_override_predicted_ones(model, inputs):
    labels = torch.full((3, 14), -100)
    labels[0, 8] = 1
    labels[1, 13] = 1
    with torch.no_grad():
        plain, given = model(**inputs), model(**inputs, disease_labels=labels)
        none_given = model(**inputs, disease_labels=torch.full((3, 14), -100))
    assert given.disease_states[0, 8] == 1 and given.disease_states[0, 13] == 0
    assert given.disease_states[1, 13] == 1 and not (given.disease_states[1, :12] % 2).any()
    assert torch.equal(given.disease_states[2], plain.disease_states[2])
    torch.testing.assert_close(given.disease_logits, plain.disease_logits, rtol=0, atol=0)
    torch.testing.assert_close(none_given.logits, plain.logits, rtol=0, atol=0)


def test_predicted_labels_are_shown_in_training_at_their_rate(inputs):
    model = make_model(predicted_label_rate=0.5)
    labels = torch.full((3, 14), 2)
    labels[:, 13] = 1
    with torch.no_grad():
        predicted = model(pixel_values=inputs["pixel_values"], view_mask=inputs["view_mask"]).disease_states
        assert (predicted != labels).any(-1).all()
        given = {key: inputs[key] for key in ("pixel_values", "view_mask")} | {"disease_labels": labels}
        assert torch.equal(model(**given).disease_states, labels)
        model.train()
        shown = [(model(**given).disease_states == labels).all(-1) for _ in range(60)]
    assert 60 < torch.stack(shown).sum() < 120


def label_tokens(model, inputs, labels=None):
    with torch.no_grad():
        return model.get_image_features(inputs["pixel_values"], inputs["view_mask"], labels).finding_embeds


def test_a_label_set_by_hand_changes_its_own_token_alone(model, inputs):
    with torch.no_grad():
        predicted = model(**inputs).disease_states
    labels = torch.full((3, 14), -100)
    labels[:, 8] = torch.where(predicted[:, 8] == 2, 1, 2)
    with torch.no_grad():
        derived = model(**inputs, disease_labels=labels).disease_states[:, 13] != predicted[:, 13]
    changed = (label_tokens(model, inputs, labels) != label_tokens(model, inputs)).any(-1)  # [3, 14]
    assert changed[:, 8].all() and torch.equal(changed[:, 13], derived)
    assert not changed[:, [j for j in range(14) if j not in (8, 13)]].any()


def test_a_label_told_against_the_prediction_shows_nothing_of_the_image(model, inputs):
    dark = {**inputs, "pixel_values": inputs["pixel_values"] * 0 - 1}
    with torch.no_grad():
        predicted = model(**inputs).disease_states, model(**dark).disease_states
    labels = torch.full((3, 14), 3)
    told = (predicted[0] != labels) & (predicted[1] != labels)
    assert told.any()
    here, there = label_tokens(model, inputs, labels), label_tokens(model, dark, labels)
    torch.testing.assert_close(here[told], there[told], rtol=1e-5, atol=1e-5)
    same = predicted[0] == predicted[1]
    assert (label_tokens(model, inputs) != label_tokens(model, dark)).any(-1)[same].all()


def test_an_unheard_of_denial_is_shown_as_blank_and_answered_as_given(inputs):
    model = make_model(state_priors=[[0.6, 0.3999, 5e-5, 5e-5]] * 14)
    denied, blank = torch.full((3, 14), 2), torch.zeros(3, 14, dtype=torch.long)
    with torch.no_grad():
        assert torch.equal(model(**inputs, disease_labels=denied).disease_states, denied)
        predicted = model(**inputs).disease_states
    told = (predicted != 2) & (predicted != 0)
    same = (label_tokens(model, inputs, denied) == label_tokens(model, inputs, blank)).all(-1)
    assert told.any() and same[told].all()


@pytest.mark.parametrize("rates, share", [((0.0, 0.0), 0), ((0.0, 0.5), 0.5), ((0.0, 1.0), 1), ((1.0, 1.0), 0)])
def test_given_labels_are_told_in_training_at_their_rate(inputs, rates, share):
    model = make_model(predicted_label_rate=rates[0], told_label_rate=rates[1])
    with torch.no_grad():
        predicted = model(**inputs).disease_states
    shown = label_tokens(model, inputs)
    model.train()
    told = [(label_tokens(model, inputs, predicted) != shown).any(-1).float().mean() for _ in range(60)]
    assert abs(torch.stack(told).mean() - share) < 0.05
    assert torch.equal(label_tokens(model, inputs, torch.full((3, 14), -100)), shown)
