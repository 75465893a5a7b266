"""Tests of the couplings that transport is compared with: their marginals, padding, and what they become at limits."""

import ot
import pytest
import torch

from otdrg_hf.modeling.layers_otdrg import couple, label_positions
from otdrg_hf.modeling.vision_otdrg import grid_positions
from tests.support.tiny_models import make_config

COUPLINGS = ("transport", "unbalanced", "attention", "pooling")


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    cost = 2 * torch.rand(2, 32, 6, generator=generator)
    a = torch.full((2, 32), 1 / 32)
    a[1, 16:] = 0
    a = a / a.sum(-1, keepdim=True)
    b = torch.tensor([0.1, 0.05, 0.05, 0.1, 0.2, 0.5]).expand(2, 6)
    return cost, a, b


def solved(problem, coupling, **fields):
    return couple(*problem, make_config(coupling=coupling, max_iterations=500, tolerance=1e-6, **fields))


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_labels_have_their_mass_and_padding_none(coupling, problem):
    plan = solved(problem, coupling)
    torch.testing.assert_close(plan.sum(1), problem[2], atol=1e-5, rtol=0)
    assert (plan[1, 16:] == 0).all()


@pytest.mark.parametrize("coupling", COUPLINGS[:3])
def test_gradients_are_finite_and_leave_padding_alone(coupling, problem):
    cost, a, b = problem
    cost.requires_grad_()
    (gradient,) = torch.autograd.grad((solved((cost, a, b), coupling) ** 2).sum(), cost)
    assert gradient.isfinite().all() and (gradient[0] != 0).any() and (gradient[1, 16:].abs() < 1e-30).all()


def test_only_transport_holds_the_patch_masses(problem):
    errors = {name: (solved(problem, name).sum(2) - problem[1]).abs().sum() for name in COUPLINGS[:3]}
    assert errors["transport"] < 1e-5 < 0.1 < errors["unbalanced"] < errors["attention"]


def test_attention_is_a_softmax_over_the_patches_of_each_label(problem):
    cost, _, b = problem
    plan = solved(problem, "attention", epsilon=0.1)
    expected = torch.softmax(-cost[1, :16] / 0.1, dim=0) * b[1]
    torch.testing.assert_close(plan[1, :16], expected)


def test_pooling_sees_the_same_in_every_label(problem):
    plan = solved(problem, "pooling")
    conditional = plan / plan.sum(1, keepdim=True)
    torch.testing.assert_close(conditional, problem[1][:, :, None].expand_as(plan))


def test_unbalanced_agrees_with_pot(problem):
    cost, a, b = (each[0].double().numpy() for each in problem)
    # POT relaxes both sides: a weight of 1e9 holds the labels' to 1e-8.
    expected = ot.unbalanced.sinkhorn_unbalanced(a, b, cost, 0.05, (0.1, 1e9), numItermax=20_000, stopThr=1e-12)
    plan = solved(problem, "unbalanced", epsilon=0.05, patch_relaxation=0.1)
    torch.testing.assert_close(plan[0].double(), torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_unbalanced_becomes_transport_when_hardly_relaxed(problem):
    relaxed = solved(problem, "unbalanced", patch_relaxation=1e4)
    torch.testing.assert_close(relaxed, solved(problem, "transport"), atol=2e-5, rtol=0)


def test_positions_are_where_the_first_view_was_looked_at():
    evidence = torch.zeros(1, 2 * 4 * 4, 2)
    evidence[0, 6, 0] = 0.2  # row 1, column 2 of the first view
    evidence[0, 16 + 3, 0] = 0.4  # the second view says nothing about left and right
    evidence[0, 0, 1] = evidence[0, 3, 1] = 0.1
    found = label_positions(evidence, torch.tensor([[True, True]]), 4, 4)
    positions = grid_positions(4, 4, found.shape[-1], evidence.device, evidence.dtype)
    torch.testing.assert_close(found[0, 0], positions[1, 2])
    torch.testing.assert_close(found[0, 1], (positions[0, 0] + positions[0, 3]) / 2)
    of_second = label_positions(evidence, torch.tensor([[False, True]]), 4, 4)  # what is padding is not the first
    torch.testing.assert_close(of_second[0, 0], positions[0, 3])
