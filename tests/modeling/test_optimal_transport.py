"""Tests of the transport solver: against POT, against its own definition (properties), and of its gradient."""

import importlib
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otdrg_hf.modeling.optimal_transport import cosine_cost, sinkhorn, transport_cost

EXACT = {"max_iterations": 2000, "tolerance": 1e-12}
few = settings(max_examples=40, deadline=None)


def random_problem(seed, batch=2, n=None, m=None, zero_share=0.25):
    """cost [B, n, m] in 0..2, masses [B, n], [B, m] that sum to 1, some of them zero; fp64."""
    generator = torch.Generator().manual_seed(seed)
    n = n or int(torch.randint(1, 40, (), generator=generator))
    m = m or int(torch.randint(1, 16, (), generator=generator))
    cost = 2 * torch.rand(batch, n, m, generator=generator, dtype=torch.float64)  # [B, n, m]
    masses = []
    for size in (n, m):
        mass = torch.rand(batch, size, generator=generator, dtype=torch.float64) + 0.05  # [B, size]
        zero = torch.rand(batch, size, generator=generator) < zero_share
        zero[:, int(torch.randint(0, size, (), generator=generator))] = False
        mass = mass.masked_fill(zero, 0)
        masses.append(mass / mass.sum(-1, keepdim=True))
    return cost, *masses


problems = st.integers(0, 10_000).map(random_problem)
epsilons = st.sampled_from([0.5, 0.1, 0.05, 0.02, 0.005])


def close(left, right, tolerance=1e-8):
    torch.testing.assert_close(left, right, atol=tolerance, rtol=0)


# Against POT


def test_plan_is_that_of_pot_over_200_problems():
    pytest.importorskip("ot")
    worst = 0.0
    for seed in range(200):
        cost, a, b = random_problem(seed, batch=1, zero_share=0.25 if seed % 2 else 0.0)
        if seed % 4 == 3:  # the last view of the study is padding: no mass, and features that mean nothing
            n = cost.shape[1]
            cost = torch.cat([cost, torch.full_like(cost, torch.nan)], 1)
            a = torch.cat([a, torch.zeros(1, n, dtype=a.dtype)], 1)
        epsilon = (0.5, 0.1, 0.05)[seed % 3]
        expected = sinkhorn(cost, a, b, epsilon, 100_000, 1e-11, solver="pot")
        worst = max(worst, float((sinkhorn(cost, a, b, epsilon, **EXACT) - expected).abs().max()))
    assert worst <= 1e-6


def test_pot_solver_is_ot_sinkhorn_itself():
    ot = pytest.importorskip("ot")
    cost, a, b = random_problem(1, batch=1, n=12, m=5, zero_share=0)
    expected = ot.sinkhorn(a[0], b[0], cost[0], 0.1, method="sinkhorn_log", numItermax=10_000, stopThr=1e-12)
    close(sinkhorn(cost, a, b, 0.1, 10_000, 1e-12, solver="pot")[0], expected, 1e-10)


def test_small_epsilon_is_finite_and_right_in_both_precisions():
    ot = pytest.importorskip("ot")
    cost, a, b = random_problem(7, batch=2, n=49, m=14, zero_share=0)
    cost = (cost - cost.amin()) / (cost.amax() - cost.amin()) * 2
    expected = ot.solve_batch(cost, 0.005, a, b, max_iter=200_000, tol=1e-9, method="log_sinkhorn").plan
    close(sinkhorn(cost, a, b, 0.005, **EXACT), expected, 1e-6)
    plan = sinkhorn(cost.float(), a.float(), b.float(), 0.005)
    assert plan.isfinite().all()
    close(plan.double(), expected, 2e-6)


def test_pot_missing_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match="^solver='pot' needs POT: pip install POT$"):
        sinkhorn(torch.rand(1, 2, 2), solver="pot")


# Properties of the plan


@few
@given(problems, epsilons)
def test_plan_is_nonnegative_has_its_marginals_and_exact_zeros(problem, epsilon):
    cost, a, b = problem
    plan = sinkhorn(cost, a, b, epsilon, 2000, 1e-9)  # [B, n, m]
    assert (plan >= 0).all()
    close(plan.sum(2), a)
    close(plan.sum(1), b)
    assert (plan[a == 0] == 0).all()
    assert (plan.mT[b == 0] == 0).all()


@few
@given(problems, epsilons)
def test_plan_has_the_form_of_the_optimum(problem, epsilon):
    # log T + C / eps is a sum f_i + g_j exactly when T is the optimum for its marginals
    cost, a, b = problem
    plan = sinkhorn(cost, a, b, epsilon, 2000, 1e-9)
    for sample in range(len(cost)):
        rows, columns = a[sample] > 0, b[sample] > 0
        dual = plan[sample][rows][:, columns].log() + cost[sample][rows][:, columns] / epsilon  # [n', m']
        mixed = dual - dual[:1] - dual[:, :1] + dual[:1, :1]
        assert mixed.abs().max() < 1e-6


@few
@given(problems, epsilons, st.randoms(use_true_random=False))
def test_permuted_rows_and_columns_permute_the_plan(problem, epsilon, random):
    cost, a, b = problem
    rows = torch.tensor(random.sample(range(a.shape[1]), a.shape[1]))
    columns = torch.tensor(random.sample(range(b.shape[1]), b.shape[1]))
    plan = sinkhorn(cost, a, b, epsilon, **EXACT)
    permuted = sinkhorn(cost[:, rows][:, :, columns], a[:, rows], b[:, columns], epsilon, **EXACT)
    close(permuted, plan[:, rows][:, :, columns])


@few
@given(problems, epsilons, st.floats(-1e3, 1e3))
def test_a_constant_in_the_cost_changes_nothing(problem, epsilon, constant):
    cost, a, b = problem
    close(sinkhorn(cost + constant, a, b, epsilon, **EXACT), sinkhorn(cost, a, b, epsilon, **EXACT))


@few
@given(problems, epsilons, st.sampled_from([0.0, 1e30, torch.inf, -torch.inf, torch.nan]))
def test_padding_without_mass_changes_nothing(problem, epsilon, filler):
    cost, a, b = problem
    padded = torch.nn.functional.pad(cost, (0, 2, 0, 5), value=filler)  # [B, n + 5, m + 2]
    plan = sinkhorn(padded, torch.nn.functional.pad(a, (0, 5)), torch.nn.functional.pad(b, (0, 2)), epsilon, **EXACT)
    close(plan[:, :-5, :-2], sinkhorn(cost, a, b, epsilon, **EXACT))
    assert (plan[:, -5:] == 0).all() and (plan[:, :, -2:] == 0).all()


@few
@given(problems, epsilons)
def test_transposed_problem_has_the_transposed_plan(problem, epsilon):
    cost, a, b = problem
    close(sinkhorn(cost.mT, b, a, epsilon, **EXACT), sinkhorn(cost, a, b, epsilon, **EXACT).mT)


@few
@given(problems)
def test_larger_epsilon_has_more_entropy_and_a_higher_cost(problem):
    cost, a, b = problem
    plans = [sinkhorn(cost, a, b, epsilon, **EXACT) for epsilon in (0.02, 0.1, 0.5, 1e4)]
    entropy = torch.stack([-torch.special.xlogy(plan, plan).sum((1, 2)) for plan in plans])  # [4, B]
    price = torch.stack([transport_cost(plan, cost) for plan in plans])  # [4, B]
    assert (entropy.diff(dim=0) > -1e-8).all()
    assert (price.diff(dim=0) > -1e-8).all()
    close(plans[-1], a[:, :, None] * b[:, None, :], 1e-4)


@few
@given(problems, epsilons, st.sampled_from([torch.float32, torch.float64]))
def test_sample_alone_equals_sample_in_a_batch(problem, epsilon, dtype):
    cost, a, b = (x.to(dtype) for x in problem)
    other = random_problem(11, batch=3, n=cost.shape[1], m=cost.shape[2], zero_share=0)
    together = sinkhorn(*(torch.cat([x, y.to(dtype)]) for x, y in zip((cost, a, b), other, strict=True)), epsilon)
    close(together[: len(cost)], sinkhorn(cost, a, b, epsilon), 1e-6)
    close(together[:1], sinkhorn(cost[:1], a[:1], b[:1], epsilon), 1e-6)


def test_converged_sample_waits_unchanged_for_a_slow_one():
    cost, a, b = random_problem(12, n=30, m=6, zero_share=0)
    cost[0] *= 0.1
    options = {"epsilon": 0.02, "tolerance": 1e-3}
    # A sample that went on would move by about the tolerance; BLAS rounds batches of two sizes differently by 3e-11.
    close(sinkhorn(cost, a, b, **options)[:1], sinkhorn(cost[:1], a[:1], b[:1], **options), 1e-9)


def test_plan_cut_short_still_belongs_to_its_epsilon():
    cost, a, b = random_problem(13, n=6, m=4, zero_share=0)
    dual = sinkhorn(cost, a, b, 0.01, max_iterations=1).log() + cost / 0.01  # [B, n, m]
    close(dual - dual[:, :1] - dual[:, :, :1] + dual[:, :1, :1], torch.zeros_like(dual), 1e-6)


def test_fp32_converges_at_a_small_epsilon_with_uneven_masses():
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.softmax(3 * torch.randn(8, size, generator=generator), -1) for size in (196, 15))
    cost = cosine_cost(torch.randn(8, 196, 3, generator=generator), torch.randn(8, 15, 3, generator=generator))
    plan = sinkhorn(cost, a, b, 0.002, max_iterations=300).double()
    assert (plan.sum(1) - b).abs().sum(-1).max() < 2e-6


@few
@given(problems, st.floats(1e-3, 1e3))
def test_plan_scales_with_the_total_mass(problem, total):
    cost, a, b = problem
    plan = sinkhorn(cost, a, b, **EXACT)
    close(sinkhorn(cost, a * total, b * total, **EXACT) / total, plan)


def test_masses_that_are_not_given_are_uniform():
    cost, a, b = random_problem(3, n=6, m=4)
    uniform_a, uniform_b = cost.new_full((2, 6), 1 / 6), cost.new_full((2, 4), 1 / 4)
    close(sinkhorn(cost, **EXACT), sinkhorn(cost, uniform_a, uniform_b, **EXACT))
    close(sinkhorn(cost, a * 3, **EXACT), sinkhorn(cost, a * 3, uniform_b * 3, **EXACT))
    close(sinkhorn(cost, b=b * 3, **EXACT), sinkhorn(cost, uniform_a * 3, b * 3, **EXACT))


def test_one_problem_without_a_batch():
    cost, a, b = random_problem(4, batch=1)
    assert torch.equal(sinkhorn(cost[0], a[0], b[0]), sinkhorn(cost, a, b)[0])


def test_sample_without_any_mass_has_an_empty_plan_and_leaves_the_others_alone():
    cost, a, b = random_problem(5)
    plan = sinkhorn(cost, a, b)
    keep = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    cost = torch.where(keep[:, :, None] > 0, cost, torch.nan)
    emptied = sinkhorn(cost, a * keep, b * keep)
    assert (emptied[0] == 0).all()
    close(emptied[1], plan[1])


def test_forbidden_pairs_get_no_mass():
    cost, a, b = random_problem(6, n=8, m=4, zero_share=0)
    assert (a[:, 2] < b[:, :2].sum(-1)).all()  # else no plan could obey
    cost[:, 2, 2:] = torch.inf
    plan = sinkhorn(cost, a, b, **EXACT)
    assert (plan[:, 2, 2:] == 0).all()
    close(plan.sum(2), a)
    close(plan.sum(1), b)


def test_nan_cost_between_positive_masses_is_not_hidden():
    cost, a, b = random_problem(8, zero_share=0)
    cost[0, 0, 0] = torch.nan
    plan = sinkhorn(cost, a, b)
    assert plan[0].isnan().all()
    assert plan[1].isfinite().all()


def test_default_settings_reach_the_default_tolerance_on_cosine_costs():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 196, 16, generator=generator), torch.randn(8, 15, 16, generator=generator)
    for epsilon in (0.5, 0.05, 0.01):
        plan = sinkhorn(cosine_cost(x, y), epsilon=epsilon)
        assert (plan.double().sum(1) - 1 / 15).abs().sum(-1).max() < 2e-6
        assert (plan.double().sum(2) - 1 / 196).abs().sum(-1).max() < 2e-6


# Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_plan_is_solved_in_fp32_at_least(dtype):
    cost, a, b = (x.to(dtype) for x in random_problem(9))
    plan = sinkhorn(cost, a, b)
    assert plan.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    wide = [x.to(plan.dtype) for x in (cost, a, b)]
    close(plan, sinkhorn(*wide), 1e-6)


def test_autocast_changes_neither_plan_nor_gradient():
    cost, a, b = (x.float() for x in random_problem(10, n=30, m=7))
    cost = cost.bfloat16().float()
    cotangent = torch.randn(cost.shape, generator=torch.Generator().manual_seed(0))

    def solve(cost):
        leaves = [x.clone().requires_grad_() for x in (cost, a, b)]
        plan = sinkhorn(*leaves)
        return plan, torch.autograd.grad(plan, leaves, cotangent)

    expected = solve(cost)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plan, gradients = solve(cost.bfloat16())
        x, y = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
        product = cosine_cost(x, y)
    assert plan.dtype == product.dtype == torch.float32
    close(plan, expected[0], 1e-6)
    close(product, cosine_cost(x, y), 1e-6)
    assert gradients[0].dtype == torch.bfloat16
    torch.testing.assert_close(gradients[0], expected[1][0].bfloat16())
    for gradient, reference in zip(gradients[1:], expected[1][1:], strict=True):
        torch.testing.assert_close(gradient, reference)


# Gradient


def masked_softmax(logits, mass):
    return logits.masked_fill(mass == 0, -torch.inf).softmax(-1)


@pytest.mark.parametrize("solver", ["sinkhorn", "pot"])
@pytest.mark.parametrize("n, m", [(7, 4), (4, 7), (5, 5), (1, 3)])
def test_gradcheck_with_softmax_masses_and_zeros(solver, n, m):
    if solver == "pot":
        pytest.importorskip("ot")
    cost, a, b = random_problem(20, n=n, m=m)
    logits = [torch.randn_like(a), torch.randn_like(b)]

    def plan(cost, a_logits, b_logits):
        masses = masked_softmax(a_logits, a), masked_softmax(b_logits, b)
        return sinkhorn(cost, *masses, 0.2, max_iterations=20_000, tolerance=1e-14, solver=solver)

    assert torch.autograd.gradcheck(plan, [x.requires_grad_() for x in (cost, *logits)])


def test_gradcheck_with_masses_given_directly():
    cost, a, b = random_problem(21, n=6, m=4, zero_share=0)
    cost, a, b = (x.requires_grad_() for x in (cost, 2 * a, 2 * b))
    exact = {"epsilon": 0.2, "max_iterations": 2000, "tolerance": 1e-15}
    assert torch.autograd.gradcheck(lambda *leaves: sinkhorn(*leaves, **exact), (cost, a, b))
    assert torch.autograd.gradcheck(lambda cost, a: sinkhorn(cost, a, **exact), (cost, a))
    assert torch.autograd.gradcheck(lambda cost, b: sinkhorn(cost, None, b, **exact), (cost, b))


def test_gradient_is_that_of_unrolled_autodiff():
    ot = pytest.importorskip("ot")
    cost, a, b = random_problem(22, n=20, m=6, zero_share=0)
    cost.requires_grad_()
    cotangent = torch.randn(cost.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unrolled = ot.solve_batch(cost, 0.1, a, b, max_iter=3000, tol=1e-13, method="log_sinkhorn", grad="autodiff").plan
    (expected,) = torch.autograd.grad(unrolled, cost, cotangent)
    (gradient,) = torch.autograd.grad(sinkhorn(cost, a, b, 0.1, **EXACT), cost, cotangent)
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("filler", [torch.nan, torch.inf, -torch.inf])
def test_zero_masses_shield_value_and_gradient_from_any_cost(filler):
    clean, a, b = random_problem(23, n=9, m=5)
    hidden = (a == 0)[:, :, None] | (b == 0)[:, None, :]  # [B, n, m]
    assert hidden.any()

    def loss_and_gradients(cost):
        leaves = [x.clone().requires_grad_() for x in (cost, a, b)]
        loss = transport_cost(sinkhorn(*leaves), leaves[0])  # [B]
        return loss, torch.autograd.grad(loss.sum(), leaves)

    loss, gradients = loss_and_gradients(clean.masked_fill(hidden, filler))
    expected_loss, expected = loss_and_gradients(clean)
    close(loss, expected_loss)
    for gradient, reference in zip(gradients, expected, strict=True):
        close(gradient, reference)
    assert (gradients[0][hidden] == 0).all()
    close(gradients[1][a == 0], torch.zeros_like(gradients[1][a == 0]))
    close(gradients[2][b == 0], torch.zeros_like(gradients[2][b == 0]))


def test_cotangent_of_padding_is_ignored():
    cost, a, b = random_problem(23, n=9, m=5)
    hidden = (a == 0)[:, :, None] | (b == 0)[:, None, :]  # [B, n, m]
    cost.requires_grad_()
    (gradient,) = torch.autograd.grad(sinkhorn(cost, a, b), cost, cost.detach().masked_fill(hidden, torch.inf))
    assert gradient.isfinite().all()


def test_gradient_at_a_small_epsilon_in_fp32():
    cost, a, b = random_problem(24, n=49, m=14)
    cotangent = torch.randn(cost.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients = []
    for dtype in (torch.float64, torch.float32):
        leaf = cost.float().to(dtype).requires_grad_()
        plan = sinkhorn(leaf, a.to(dtype), b.to(dtype), 0.005, 1000, 1e-6 if dtype == torch.float32 else 1e-13)
        gradients.append(torch.autograd.grad(plan, leaf, cotangent.to(dtype))[0].double())
    assert (gradients[1] - gradients[0]).norm() < 1e-3 * gradients[0].norm()


def test_only_the_plan_is_saved_and_only_one_derivative_is_offered():
    saved = []
    cost = torch.rand(2, 30, 7, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.nbytes) or x, lambda x: x):
        plan = sinkhorn(cost)
    assert sum(saved) == plan.nbytes
    (gradient,) = torch.autograd.grad(plan.square().sum(), cost, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# Cost helpers


def test_cosine_cost_of_known_vectors():
    x = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    y = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]])
    close(cosine_cost(x, y), torch.tensor([[[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]]]))


def test_transport_cost_is_the_inner_product():
    plan, cost = torch.rand(3, 4, 5), torch.rand(3, 4, 5)
    torch.testing.assert_close(transport_cost(plan, cost), torch.einsum("bij,bij->b", plan, cost))


# Wrong input


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"cost": torch.rand(3)}, "cost must be floating point of shape"),
        ({"cost": torch.rand(1, 3, 0)}, "cost must be floating point of shape"),
        ({"cost": torch.ones(1, 3, 2, dtype=torch.long)}, "cost must be floating point"),
        ({"a": torch.rand(1, 2)}, r"a must be floating point of shape \[1, 3\].*got torch.float32 \[1, 2\]"),
        ({"b": torch.rand(2)}, r"b must be floating point of shape \[1, 2\]"),
        ({"b": torch.ones(1, 2, dtype=torch.long)}, "b must be floating point"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"epsilon": -1.0}, "epsilon must be positive"),
        ({"epsilon": float("nan")}, "epsilon must be positive"),
        ({"max_iterations": 0}, "max_iterations must be at least 1"),
        ({"tolerance": -1e-6}, "tolerance must not be negative"),
        ({"solver": "emd"}, "solver must be one of"),
        ({"a": torch.tensor([[0.5, 0.7, -0.2]])}, "a holds a negative mass .* in sample 0"),
        ({"b": torch.tensor([[torch.nan, 1.0]])}, "b holds a NaN or infinite mass in sample 0"),
        ({"a": torch.ones(1, 3), "b": torch.ones(1, 2)}, "same total, got 3 and 2 in sample 0"),
        ({"a": torch.zeros(1, 3), "b": torch.ones(1, 2)}, "same total, got 0 and 2"),
    ],
)
def test_wrong_input_is_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        sinkhorn(**{"cost": torch.rand(1, 3, 2), **arguments})
    assert "\n" not in str(error.value)


def test_module_needs_torch_alone():
    module = importlib.import_module(sinkhorn.__module__)
    imported = {value.__name__ for value in vars(module).values() if type(value) is type(sys)}
    assert imported - sys.stdlib_module_names == {"torch"}
