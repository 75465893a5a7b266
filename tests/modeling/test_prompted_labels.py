"""Tests of the labels that prompt the LLM: given, predicted and told ones, and what is shown of each."""

import torch

from tests.support.tiny_models import make_model


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


def test_shown_labels_prompt_the_llm_and_leave_the_losses_alone(model, inputs):
    labels, shown = torch.full((3, 14), 2), torch.full((3, 14), 3)
    shown[1] = -100
    given = {key: inputs[key] for key in ("pixel_values", "view_mask")}
    with torch.no_grad():
        predicted = model(**given).disease_states
        plain, other = model(**given, disease_labels=labels), model(**given, disease_labels=labels, shown_labels=shown)
    assert torch.equal(other.disease_states[[0, 2]], shown[[0, 2]])
    assert torch.equal(other.disease_states[1], predicted[1])
    for name in ("ot_loss", "disease_loss"):
        torch.testing.assert_close(getattr(other, name), getattr(plain, name), rtol=0, atol=0)


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


def test_a_label_told_as_predicted_shows_nothing_of_the_image(model, inputs):
    dark = {**inputs, "pixel_values": inputs["pixel_values"] * 0 - 1}
    labels = torch.full((3, 14), 3)
    told = torch.zeros(3, 14, dtype=torch.bool)
    told[:, :5] = True

    def tokens(study):
        with torch.no_grad():
            given = study["pixel_values"], study["view_mask"]
            seen = model.model.see(*given)
            return model.model.fuse(seen, *model.model.decide(seen, labels, told)).finding_embeds

    same = (tokens(inputs) - tokens(dark)).abs().amax(-1) < 1e-5
    assert same[told].all()


WORDS = [[[], [20 + label, 10], [], [11, 20 + label, 10]] for label in range(14)]


def embedded(model, ids: list[int]) -> torch.Tensor:
    width = model.config.label_words
    repeated = (ids * width)[:width]
    return model.get_input_embeddings()(torch.tensor(repeated, dtype=torch.long))


def test_findings_are_shown_in_words_positive_ones_first_and_repeated(inputs):
    model = make_model(label_words=8, label_word_ids=WORDS)
    labels = torch.zeros(3, 14, dtype=torch.long)
    labels[0, 3], labels[0, 5], labels[0, 7] = 3, 1, 2
    labels[1, 13] = 1
    labels[2] = 1  # more words than there is room for
    features = model.get_image_features(inputs["pixel_values"], inputs["view_mask"], labels)
    words = features.finding_embeds[:, :8]
    assert features.finding_embeds.shape[1] == 8 + 14
    torch.testing.assert_close(words[0], embedded(model, [25, 10, 11, 23, 10]))
    torch.testing.assert_close(words[1], embedded(model, [33, 10]))
    torch.testing.assert_close(words[2], embedded(model, [20, 10, 21, 10, 22, 10, 23, 10]))


def test_words_leave_the_label_tokens_as_they_are(inputs):
    plain, worded = make_model(), make_model(label_words=8, label_word_ids=WORDS)
    assert plain.state_dict().keys() == worded.state_dict().keys()
    worded.load_state_dict(plain.state_dict())
    torch.testing.assert_close(label_tokens(worded, inputs)[:, 8:], label_tokens(plain, inputs))


def test_words_survive_saving_and_loading(inputs, tmp_path):
    model = make_model(label_words=8, label_word_ids=WORDS)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(label_tokens(loaded, inputs), label_tokens(model, inputs))
