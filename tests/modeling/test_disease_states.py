"""Tests of the label states: thresholds, labels that were given, and a No Finding that agrees with the rest."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otdrg_hf import OTDRGConfig
from otdrg_hf.modeling.disease_states_otdrg import (
    BLANK,
    NEGATIVE,
    POSITIVE,
    UNCERTAIN,
    predict_states,
    resolve_states,
    shown_states,
)

CONFIG = OTDRGConfig()
NAMES = CONFIG.label_names
NORMAL, DEVICES = NAMES.index("No Finding"), NAMES.index("Support Devices")
FINDINGS = [index for index in range(14) if index not in (NORMAL, DEVICES)]
few = settings(max_examples=100, deadline=None)
states_of_a_study = st.lists(st.integers(0, 3), min_size=14, max_size=14)


def logits_of(states):
    """Logits `[1, 14, 4]` whose likeliest states are these."""
    return torch.nn.functional.one_hot(torch.tensor([states]), 4).float()


def is_consistent(states):
    abnormal = any(states[index] in (POSITIVE, UNCERTAIN) for index in FINDINGS)
    return (states[NORMAL] == POSITIVE) != abnormal and states[NORMAL] in (BLANK, POSITIVE)


@few
@given(states_of_a_study)
def test_predicted_states_are_the_likeliest_and_consistent(states):
    predicted = predict_states(logits_of(states), CONFIG)[0].tolist()
    assert predicted[:NORMAL] == states[:NORMAL]
    assert is_consistent(predicted)


@few
@given(states_of_a_study, st.lists(st.sampled_from([-100, 0, 1, 2, 3]), min_size=14, max_size=14))
def test_given_labels_are_never_changed(states, labels):
    predicted = predict_states(logits_of(states), CONFIG)
    resolved = resolve_states(torch.tensor([labels]), predicted, CONFIG)[0].tolist()
    for index, label in enumerate(labels):
        if label >= 0:
            assert resolved[index] == label
    if labels[NORMAL] == -100:
        assert is_consistent(resolved)
    if labels[NORMAL] == POSITIVE:
        free = [index for index in FINDINGS if labels[index] == -100]
        assert all(resolved[index] in (BLANK, NEGATIVE) for index in free)


def test_minus_100_is_predicted_and_no_labels_are_all_predicted():
    predicted = predict_states(logits_of([BLANK] * 5 + [POSITIVE] + [NEGATIVE] * 8), CONFIG)
    unknown = torch.full((1, 14), -100)
    assert torch.equal(resolve_states(unknown, predicted, CONFIG), predicted)
    assert torch.equal(resolve_states(None, predicted, CONFIG), predicted)


def test_devices_do_not_contradict_a_normal_study():
    states = [BLANK] * 14
    states[DEVICES] = POSITIVE
    assert predict_states(logits_of(states), CONFIG)[0, NORMAL] == POSITIVE


def test_a_denied_finding_makes_the_study_normal_again():
    states = [BLANK] * 14
    states[8] = POSITIVE
    predicted = predict_states(logits_of(states), CONFIG)
    assert predicted[0, NORMAL] == BLANK
    labels = torch.full((1, 14), -100)
    labels[0, 8] = NEGATIVE
    assert resolve_states(labels, predicted, CONFIG)[0, NORMAL] == POSITIVE


def test_inputs_are_left_as_they_are():
    predicted = predict_states(logits_of([POSITIVE] * 14), CONFIG)
    labels = torch.full((1, 14), -100)
    labels[0, NORMAL] = POSITIVE
    before = predicted.clone(), labels.clone()
    resolve_states(labels, predicted, CONFIG)
    assert torch.equal(predicted, before[0]) and torch.equal(labels, before[1])


@pytest.mark.parametrize("threshold, expected", [(0.2, POSITIVE), (0.4, NEGATIVE)])
def test_threshold_decides_what_is_positive(threshold, expected):
    config = OTDRGConfig(positive_thresholds=[threshold] * 14)
    logits = torch.tensor([0.2, 0.3, 0.45, 0.05]).log().expand(1, 14, 4)
    assert predict_states(logits, config)[0, 0] == expected


def test_label_that_is_likeliest_positive_but_below_its_threshold_takes_the_next_state():
    config = OTDRGConfig(positive_thresholds=[0.9] * 14)
    logits = torch.tensor([0.1, 0.6, 0.1, 0.2]).log().expand(1, 14, 4)
    assert predict_states(logits, config)[0, 0] == UNCERTAIN


def test_labels_without_no_finding_are_left_alone():
    config = OTDRGConfig(label_names=["Nodule", "Mass"], no_finding_label=None, device_labels=[])
    logits = torch.tensor([[[0.0, 1, 0, 0], [0, 0, 1, 0]]])
    assert predict_states(logits, config).tolist() == [[POSITIVE, NEGATIVE]]


def test_a_denial_that_training_never_held_is_shown_as_blank():
    priors = [[0.7, 0.1, 0.1, 0.1]] * 14
    priors[12] = [0.7, 0.2999, 5e-5, 5e-5]
    every = torch.arange(4).repeat(14, 1).T  # [4, 14]: each state of each label
    shown = shown_states(every, OTDRGConfig(state_priors=priors))
    assert shown[:, 12].tolist() == [BLANK, POSITIVE, BLANK, UNCERTAIN]
    others = [label for label in range(14) if label != 12]
    assert torch.equal(shown[:, others], every[:, others])
    assert torch.equal(shown_states(every, OTDRGConfig()), every)
