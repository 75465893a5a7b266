"""Tests of the transport loss: what it is the cross-entropy of, what counts, and that features do not collapse."""

import pytest
import torch
from torch import nn

from otdrg_hf.modeling.disease_states_otdrg import BLANK, POSITIVE
from otdrg_hf.modeling.layers_otdrg import LabelEncoder, PatchProjection, TransportAlignment
from otdrg_hf.modeling.losses_otdrg import transport_loss
from otdrg_hf.modeling.optimal_transport import transport_cost
from otdrg_hf.training.probes.spread import mean_cosine
from tests.support.tiny_models import make_config

TEMPERATURE = 0.5


@pytest.fixture(scope="module")
def config():
    return make_config(background_mass=0.4, max_iterations=300, tolerance=1e-6)


@pytest.fixture
def problem(config):
    torch.manual_seed(0)
    alignment = TransportAlignment(config)
    nn.init.normal_(alignment.background)
    mask = torch.ones(3, 32)
    mask[1, 16:] = 0
    patches, phrases = torch.randn(3, 32, config.alignment_dim), torch.randn(14, 4, config.alignment_dim)
    background = alignment(patches, mask, torch.randn(3, 14, config.alignment_dim), torch.ones(3, 14)).cost[..., -1]
    states, others = torch.randint(0, 4, (3, 14)), torch.randint(0, 4, (3, 2, 14))
    return alignment, (patches, mask, phrases, background), states, others


def distance(problem, study: int, states: torch.Tensor) -> torch.Tensor:
    alignment, (patches, mask, phrases, _), *_ = problem
    masses = torch.tensor(alignment.config.state_masses)[states]
    stated = phrases[torch.arange(14), states]
    aligned = alignment(patches[study, None], mask[study, None], stated[None], masses[None])
    return transport_cost(aligned.plan, aligned.cost)[0]


def test_it_is_the_cross_entropy_of_transport_distances(problem, config):
    _, studies, states, others = problem
    loss = transport_loss(*studies, states, others, config, TEMPERATURE)
    assert loss.shape == (3,) and loss.dtype == torch.float32
    unit = (1 - config.background_mass) / 14
    for study in range(3):
        every = [states[study], *others[study]]
        scores = torch.stack([-distance(problem, study, each) for each in every]) / (unit * TEMPERATURE)
        torch.testing.assert_close(loss[study], -scores.log_softmax(0)[0], atol=1e-3, rtol=1e-3)


def test_states_that_are_its_own_are_no_others(problem, config):
    _, studies, states, others = problem
    once = transport_loss(*studies, states, others[:, :1], config)
    own = torch.cat([others[:, :1], states[:, None], states[:, None]], 1)
    torch.testing.assert_close(transport_loss(*studies, states, own, config), once, atol=1e-3, rtol=1e-3)
    assert (transport_loss(*studies, states, states[:, None], config) == 0).all()


def test_what_is_unknown_tells_nothing_apart(problem, config):
    _, studies, states, others = problem
    states[:, 3], others[:, :, 5] = -100, -100
    blank = states.clone()
    blank[:, 3] = BLANK
    as_if = torch.where(others < 0, blank[:, None], others)
    as_if[:, :, 3] = BLANK
    expected = transport_loss(*studies, blank, as_if, config)
    torch.testing.assert_close(transport_loss(*studies, states, others, config), expected)
    others[:, :, 3] = (others[:, :, 3] + 1) % 4
    torch.testing.assert_close(transport_loss(*studies, states, others, config), expected)


def test_others_are_those_of_the_batch_by_default(problem, config):
    _, studies, states, _ = problem
    others = torch.stack([states[[2, 0, 1]], states[[1, 2, 0]]], 1)
    expected = transport_loss(*studies, states, others, config)
    torch.testing.assert_close(transport_loss(*studies, states, None, config), expected)


def test_a_study_alone_has_none_to_be_told_from(problem, config):
    _, (patches, mask, phrases, background), states, _ = problem
    assert transport_loss(patches[:1], mask[:1], phrases, background[:1], states[:1], None, config).tolist() == [0]


def test_padded_views_count_for_nothing(problem, config):
    _, (patches, mask, phrases, background), states, others = problem
    loss = transport_loss(patches, mask, phrases, background, states, others, config)
    patches[1, 16:], background[1, 16:] = 1e4, 2
    again = transport_loss(patches, mask, phrases, background, states, others, config)
    torch.testing.assert_close(again, loss)
    one = patches[1:2, :16], mask[1:2, :16], phrases, background[1:2, :16]
    short = transport_loss(*one, states[1:2], others[1:2], config)
    torch.testing.assert_close(short, loss[1:2], atol=1e-3, rtol=1e-3)


def train_on_transport_alone(config, against_others: bool, steps: int = 200) -> tuple[float, float]:
    """Mean pairwise cosine of the phrases of presence, and of the patches, after training on transport alone."""
    torch.manual_seed(0)
    embedding = nn.Embedding(400, 32)
    encoder, projection, alignment = LabelEncoder(config), PatchProjection(config), TransportAlignment(config)
    nn.init.normal_(alignment.background)
    films, states, mask = torch.randn(8, 4, 4, 16), torch.randint(0, 4, (8, 14)), torch.ones(8, 16)
    parameters = [p for module in (encoder, projection, alignment) for p in module.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(steps):
        patches = projection(films).flatten(1, 2)
        _, phrases = encoder(embedding(encoder.token_ids()))
        aligned = alignment(patches, mask, phrases[torch.arange(14), states], torch.ones(8, 14))
        loss, background = transport_cost(aligned.plan, aligned.cost), aligned.cost[..., -1]
        if against_others:
            loss = transport_loss(patches, mask, phrases, background, states, None, config)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    return mean_cosine(phrases[:, POSITIVE].detach()), mean_cosine(patches.detach().flatten(0, 1))


def test_the_distance_alone_collapses_and_against_others_it_keeps_features_apart():
    phrases, patches = train_on_transport_alone(make_config(), against_others=False)
    assert phrases > 0.95 and patches > 0.95
    phrases, patches = train_on_transport_alone(make_config(), against_others=True)
    before, _ = train_on_transport_alone(make_config(), against_others=True, steps=1)
    assert phrases < before and patches < 0.2
