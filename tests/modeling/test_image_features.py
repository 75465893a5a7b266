"""`get_image_features` gives what transformers' generation and users of other models expect of it."""

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tests.support.tiny_models import make_model

LAYERS = {"vit": 1, "clip": 1, "resnet": 2, "convnext": 2}
REAL_VIEWS = 4  # of `inputs`


@pytest.fixture
def study(inputs):
    return {key: inputs[key] for key in ("pixel_values", "view_mask")}


@pytest.mark.parametrize("vision", LAYERS)
def test_features_hold_what_the_encoder_gave(vision, study):
    model = make_model(vision)
    with torch.no_grad():
        features = model.get_image_features(**study)
        views = study["pixel_values"][study["view_mask"].bool()]
        expected = model.model.vision_tower(views).last_hidden_state
    assert isinstance(features, BaseModelOutputWithPooling)
    torch.testing.assert_close(features.last_hidden_state, expected)
    assert features.hidden_states is None and features.attentions is None
    mask = study["view_mask"].bool()
    assert len(features.pooler_output) == REAL_VIEWS
    torch.testing.assert_close(torch.stack(features.pooler_output), features.image_embeds[mask])


@pytest.mark.parametrize("vision", LAYERS)
@pytest.mark.parametrize("by_configuration", [False, True])
def test_hidden_states_on_request(vision, by_configuration, study):
    model = make_model(vision)
    options = {} if by_configuration else {"output_hidden_states": True}
    model.config.vision_config.output_hidden_states = by_configuration
    with torch.no_grad():
        features = model.get_image_features(**study, **options)
    assert len(features.hidden_states) == 1 + LAYERS[vision]
    assert all(len(each) == REAL_VIEWS for each in features.hidden_states)


@pytest.mark.parametrize("vision", ["vit", "clip"])
def test_attentions_on_request(vision, study):
    model = make_model(vision)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        features = model.get_image_features(**study, output_attentions=True)
    assert [each.shape[:2] for each in features.attentions] == [(REAL_VIEWS, 2)]


def test_tuple_on_request(model, study):
    with torch.no_grad():
        features = model.get_image_features(**study)
        given = model.get_image_features(**study, return_dict=False)
    assert isinstance(given, tuple)
    torch.testing.assert_close(given, features.to_tuple())
    assert torch.equal(given[0], features.last_hidden_state)


def test_configuration_that_asks_for_tuples_changes_no_report(inputs, study):
    model = make_model()
    expected = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    loss = model(**inputs, labels=inputs["input_ids"]).loss
    model.config.return_dict = False
    assert isinstance(model.get_image_features(**study), tuple)
    assert torch.equal(model(**inputs, labels=inputs["input_ids"])[0], loss)
    assert torch.equal(model.generate(**inputs, max_new_tokens=6, do_sample=False), expected)


def test_features_of_some_studies_leave_what_the_encoder_gave(model, study):
    with torch.no_grad():
        features = model.get_image_features(**study)
    some = features.of_studies(torch.tensor([2, 0, 0]))
    assert torch.equal(some.finding_embeds, features.finding_embeds[[2, 0, 0]])
    assert some.last_hidden_state is None and some.pooler_output is None


def test_reports_are_written_from_vision_features(model, inputs):
    images = {name: inputs[name] for name in ("pixel_values", "view_mask")}
    prompts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    features = {"vision_features": model.model.get_vision_features(**images), "view_mask": images["view_mask"]}
    for labels in ({}, {"disease_labels": torch.full((3, 14), 1)}):
        of_images, of_features = (
            model.generate(**prompts, **study, **labels, max_new_tokens=6) for study in (images, features)
        )
        assert torch.equal(of_images, of_features)


def test_vision_features_have_no_last_hidden_state(model, study):
    with torch.no_grad():
        features = model.get_image_features(**study)
        hidden = features.last_hidden_state[:, 1:]  # without the class token
        maps = torch.zeros(*study["view_mask"].shape, *hidden.shape[1:])
        maps[study["view_mask"].bool()] = hidden
        again = model.get_image_features(view_mask=study["view_mask"], vision_features=maps.unflatten(2, (4, 4)))
    assert again.last_hidden_state is None
    torch.testing.assert_close(again.pooler_output, features.pooler_output)
    torch.testing.assert_close(again.disease_logits, features.disease_logits)
