# Copyright 2026 The otdrg-hf authors. Licensed under the Apache License, Version 2.0.
"""Batched entropic optimal transport: the plan between the patches and the labels of a study, its exact gradient, and
the cosine cost. The file imports torch alone, so that it can travel with a checkpoint."""

import importlib
import math
import re
from collections.abc import Callable
from functools import partial

import torch
from torch.autograd.function import once_differentiable

# Short-side updates per absorption: one Newton step, then plain Sinkhorn sweeps on the kernel that was just built.
_UPDATES_PER_BLOCK = 5
# The warm start begins where the exponents span about this much; from there epsilon is halved at each absorption.
_WARM_SPAN = 20.0
# Above this the part of the potentials that is kept apart would itself lose digits.
_LARGEST_REMAINDER = 4.0
# Totals of a and b may differ by the rounding of a half-precision softmax, not by more.
_TOTALS_TOLERANCE = 1e-2


def sinkhorn(
    cost: torch.Tensor,
    a: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    epsilon: float = 0.05,
    max_iterations: int = 100,
    tolerance: float = 1e-6,
    solver: str = "sinkhorn",
) -> torch.Tensor:
    r"""
    Entropic optimal transport plan (Cuturi, 2013): the T >= 0 with row sums `a` and column sums `b` that minimises
    `sum(T * cost) + epsilon * sum(T * (log T - 1))`.

    Args:
        cost (`torch.Tensor` of shape `(batch, n, m)` or `(n, m)`):
            What it costs to move a unit of mass from row i to column j. `+inf` forbids a pair.
        a (`torch.Tensor` of shape `(batch, n)` or `(n,)`, *optional*):
            Row masses, not negative; uniform when not given. A row of zero mass is exactly zero in the plan, its
            cost is never read (it may be NaN or infinite) and its gradient is zero, for `cost` and for `a`.
        b (`torch.Tensor` of shape `(batch, m)` or `(m,)`, *optional*):
            Column masses, likewise. `b` is rescaled to the total of `a`; a mass that is not given is uniform with the
            total of the other one, or 1. So the gradients are those of `a` and `b * sum(a) / sum(b)`, and no choice
            of gauge is left open.
        epsilon (`float`, *optional*, defaults to 0.05):
            Entropic regularisation, in units of the cost.
        max_iterations (`int`, *optional*, defaults to 100):
            Updates of the dual potentials at most. Samples stop alone: a result does not depend on its batch.
        tolerance (`float`, *optional*, defaults to 1e-6):
            A sample has converged when the absolute marginal errors sum to this share of its mass. The marginal of the
            longer side is exact up to rounding in any case. fp32 ends near 1e-6; ask for less in fp64.
        solver (`str`, *optional*, defaults to `"sinkhorn"`):
            `"sinkhorn"`, the solver of this file, or `"pot"`: `ot.sinkhorn` of Python Optimal Transport in the log
            domain and fp64, sample by sample on the CPU; an oracle, with the same gradient.

    Returns:
        `torch.Tensor` of the shape of `cost`: the plan, in fp64 for a fp64 cost and in fp32 for any other, also under
        autocast. It can be differentiated once, in `cost`, `a` and `b`, by the implicit function theorem: the gradient
        is that of the converged plan, and only the plan is kept for it.

    Raises:
        `ValueError`: wrong shape, dtype or argument; and, for masses on the CPU, negative or non-finite values or
        totals that differ by more than 1 %. Looking at values on an accelerator would make the host wait, so there
        the plan of such a sample is NaN instead. A NaN cost between two positive masses gives a NaN plan everywhere.
        `ImportError`: `solver="pot"` without POT.
    """
    _check_arguments(cost, a, b, epsilon, max_iterations, tolerance, solver)
    if cost.dim() == 2:
        a, b = (None if mass is None else mass[None] for mass in (a, b))
        return sinkhorn(cost[None], a, b, epsilon, max_iterations, tolerance, solver)[0]
    dtype = torch.float64 if cost.dtype == torch.float64 else torch.float32
    with torch.autocast(cost.device.type, enabled=False):
        cost = cost.to(dtype)  # [B, n, m]
        a, b = _balanced_masses(cost, a, b)  # [B, n], [B, m]
        if torch.compiler.is_compiling():
            return _plan_op(cost, a, b, float(epsilon), max_iterations, float(tolerance), solver)[0]
        return _TransportPlan.apply(cost, a, b, float(epsilon), max_iterations, tolerance, _SOLVERS[solver])


def cosine_cost(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """1 - cos(x_i, y_j), in 0..2 and in fp32 whatever the autocast (fp64 stays fp64).

    Args:
        x (`torch.Tensor` of shape `(batch, n, dim)`): row features. A zero vector costs 1 everywhere.
        y (`torch.Tensor` of shape `(batch, m, dim)`): column features.

    Returns:
        `torch.Tensor` of shape `(batch, n, m)`.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        x = torch.nn.functional.normalize(x.to(dtype), dim=-1)  # [B, n, d]
        y = torch.nn.functional.normalize(y.to(dtype), dim=-1)  # [B, m, d]
        return 1 - x @ y.mT  # [B, n, m]


def transport_cost(plan: torch.Tensor, cost: torch.Tensor) -> torch.Tensor:
    """sum(plan * cost) of each sample: `(batch, n, m)` twice -> `(batch,)`, in the dtype of the plan. Where the plan
    is zero the cost does not count, so that padding with an infinite or NaN cost leaks into neither value nor
    gradient."""
    cost = cost.to(plan.dtype).masked_fill(plan == 0, 0)  # [B, n, m]
    return (plan * cost).sum((-2, -1))  # [B]


def _check_arguments(cost, a, b, epsilon, max_iterations, tolerance, solver):
    shape = tuple(cost.shape)
    if cost.dim() not in (2, 3) or 0 in shape[-2:] or not cost.is_floating_point():
        raise ValueError(f"cost must be floating point of shape [B, n, m] or [n, m], got {cost.dtype} {list(shape)}")
    for name, mass, expected in (("a", a, shape[:-1]), ("b", b, shape[:-2] + shape[-1:])):
        if mass is not None and (tuple(mass.shape) != expected or not mass.is_floating_point()):
            raise ValueError(
                f"{name} must be floating point of shape {list(expected)} for a cost of shape {list(shape)}, "
                f"got {mass.dtype} {list(mass.shape)}"
            )
    if torch.compiler.is_compiling():  # numbers may be symbols there
        return
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise ValueError(f"epsilon must be positive and finite, got {epsilon}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    if solver not in _SOLVERS:
        raise ValueError(f"solver must be one of {sorted(_SOLVERS)}, got {solver!r}")


def _balanced_masses(cost, a, b):
    """Both masses [B, n], [B, m] in the dtype of the cost, b with the total of a; checked (see `sinkhorn`)."""
    batch, n, m = cost.shape
    a, b = (None if mass is None else mass.to(cost) for mass in (a, b))
    given = [(name, mass) for name, mass in (("a", a), ("b", b)) if mass is not None]
    if a is None:
        total = cost.new_ones(batch, 1) if b is None else b.sum(-1, keepdim=True)  # [B, 1]
        a = (total / n).expand(batch, n)
    if b is None:
        b = (a.sum(-1, keepdim=True) / m).expand(batch, m)
    a_total, b_total = a.sum(-1, keepdim=True), b.sum(-1, keepdim=True)  # [B, 1]
    bounded = torch.isfinite(a_total) & torch.isfinite(b_total)  # [B, 1]
    signed = (a < 0).any(-1, keepdim=True) | (b < 0).any(-1, keepdim=True)  # [B, 1]
    balanced = (a_total - b_total).abs() <= _TOTALS_TOLERANCE * a_total  # [B, 1]
    valid = bounded & ~signed & balanced  # [B, 1]
    if not torch.compiler.is_compiling() and a.device.type == "cpu" and not bool(valid.all()):
        sample = int((~valid[:, 0]).nonzero()[0])
        for name, mass in given:
            if not bool(torch.isfinite(mass[sample]).all()):
                raise ValueError(f"{name} holds a NaN or infinite mass in sample {sample}")
            if bool((mass[sample] < 0).any()):
                raise ValueError(f"{name} holds a negative mass ({float(mass[sample].min()):.3g}) in sample {sample}")
        raise ValueError(
            f"a and b must have the same total, got {float(a_total[sample]):.6g} and {float(b_total[sample]):.6g} "
            f"in sample {sample}: divide each by its sum"
        )
    b = b * (a_total / torch.where(b_total > 0, b_total, 1))
    return a.masked_fill(~valid, torch.nan), b


class _TransportPlan(torch.autograd.Function):
    """(cost [B, n, m], a [B, n], b [B, m]) -> plan [B, n, m] by any solver, differentiated at the solution."""

    @staticmethod
    def forward(ctx, cost, a, b, epsilon, max_iterations, tolerance, solve):
        plan = _solve_plan(cost, a, b, epsilon, max_iterations, tolerance, solve)
        ctx.epsilon = epsilon
        ctx.save_for_backward(plan)
        return plan

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_plan):
        (plan,) = ctx.saved_tensors  # [B, n, m]
        return *_plan_gradients(plan, grad_plan, ctx.epsilon, ctx.needs_input_grad[0]), None, None, None, None


def _solve_plan(cost, a, b, epsilon, max_iterations, tolerance, solve):
    """The plan [B, n, m] of cost [B, n, m] and balanced masses [B, n], [B, m]."""
    # Reductions over a long contiguous last axis are up to ten times faster than over a short one.
    wide = cost.shape[1] < cost.shape[2]
    cost, short, long = (cost, a, b) if wide else (cost.mT.contiguous(), b, a)  # [B, s, l], [B, s], [B, l]
    # A sample without any mass is solved as if it had some: its plan is zero because its total is.
    total = a.sum(-1, keepdim=True)  # [B, 1]
    empty = total == 0
    short, long = (
        torch.where(empty, 1 / mass.shape[-1], mass / torch.where(empty, 1, mass.sum(-1, keepdim=True)))
        for mass in (short, long)
    )
    support = (short > 0)[:, :, None] & (long > 0)[:, None, :] & ~empty[:, :, None]  # [B, s, l]
    lowest = cost.masked_fill(~support, torch.inf).amin((1, 2), keepdim=True)  # [B, 1, 1]
    cost = torch.where(support, cost - torch.where(empty[:, :, None], 0, lowest), 0)  # [B, s, l]
    plan = solve(cost, short, long, epsilon, max_iterations, tolerance) * total[:, :, None]  # [B, s, l]
    return plan if wide else plan.mT.contiguous()  # [B, n, m]


def _plan_gradients(plan, grad_plan, epsilon, of_cost=True):
    """Cotangents of cost [B, n, m], a [B, n] and b [B, m], from plan and its cotangent [B, n, m]."""
    # With T = exp((f_i + g_j - C_ij) / eps), R = T * G and the marginals held: dL/dC = -(R - T * (alpha_i +
    # beta_j)) / eps, dL/da = alpha, dL/db = beta, where [diag(a) T; T' diag(b)] [alpha; beta] = [R 1; R' 1].
    with torch.autocast(plan.device.type, enabled=False):
        grad_plan = grad_plan.masked_fill(plan == 0, 0)  # [B, n, m]
        if plan.shape[1] < plan.shape[2]:
            alpha, beta = _implicit_multipliers(plan, grad_plan)  # [B, n], [B, m]
        else:
            beta, alpha = _implicit_multipliers(plan.mT, grad_plan.mT)
        grad_cost = None
        if of_cost:
            grad_cost = plan * (alpha[:, :, None] + beta[:, None, :] - grad_plan) / epsilon  # [B, n, m]
        # The system leaves (alpha + t, beta - t) open. With sum(beta * b) = 0 rescaling b has no gradient, as it
        # must, and masses that are zero get a zero gradient.
        shift = (beta * plan.sum(1)).sum(-1, keepdim=True) / _safe(plan.sum((1, 2)))[:, None]  # [B, 1]
        alpha = torch.where(plan.sum(2) > 0, alpha + shift, 0)
        beta = torch.where(plan.sum(1) > 0, beta - shift, 0)
        return grad_cost, alpha, beta


# What torch.compile takes as one step each: the solver loops until it has converged, which no graph can hold. The names
# are of this file, which may be loaded from a checkpoint beside the installed one, whose folder may be called anything.
_NAMESPACE = re.sub(r"\W", "_", __name__, flags=re.ASCII)


@torch.library.custom_op(f"{_NAMESPACE}::transport_plan", mutates_args=())
def _plan_op(
    cost: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    epsilon: float,
    max_iterations: int,
    tolerance: float,
    solver: str,
) -> list[torch.Tensor]:
    return [_solve_plan(cost, a, b, epsilon, max_iterations, tolerance, _SOLVERS[solver]).contiguous()]


@_plan_op.register_fake
def _(cost, a, b, epsilon, max_iterations, tolerance, solver):
    return [torch.empty_like(cost, memory_format=torch.contiguous_format)]


@torch.library.custom_op(f"{_NAMESPACE}::transport_plan_gradients", mutates_args=())
def _gradients_op(plan: torch.Tensor, grad_plan: torch.Tensor, epsilon: float) -> list[torch.Tensor]:
    return [gradient.contiguous() for gradient in _plan_gradients(plan, grad_plan, epsilon)]


@_gradients_op.register_fake
def _(plan, grad_plan, epsilon):
    return [
        torch.empty_like(plan, memory_format=torch.contiguous_format),
        plan.new_empty(plan.shape[:2]),
        plan.new_empty(plan.shape[0], plan.shape[2]),
    ]


def transport_decompositions(max_iterations: int = 50) -> dict[torch._ops.OpOverload, Callable]:
    """
    What replaces the transport in an exported program where there is no such operator, as in ONNX: the same iterations,
    a fixed number of them, by operators that are everywhere.

    Args:
        max_iterations (`int`, *optional*, defaults to 50):
            Updates of the dual potentials. The solver, which stops by itself, needs 20 to 30 at an epsilon of 0.05.

    Returns:
        For `torch.export.ExportedProgram.run_decompositions`, in addition to `torch.export.default_decompositions()`.
    """

    def decomposed(cost, a, b, epsilon, _, tolerance, solver):
        solve = partial(_solve_sinkhorn, fixed=True)
        return [_solve_plan(cost, a, b, epsilon, max_iterations, tolerance, solve)]

    return {getattr(torch.ops, _NAMESPACE).transport_plan.default: decomposed}


def _keep_plan(ctx, inputs, output):
    ctx.epsilon = inputs[3]
    ctx.save_for_backward(output[0])


def _plan_backward(ctx, grad_plans):
    (plan,) = ctx.saved_tensors
    return *_gradients_op(plan, grad_plans[0], ctx.epsilon), None, None, None, None


_plan_op.register_autograd(_plan_backward, setup_context=_keep_plan)


def _implicit_multipliers(plan, grad_plan):
    """The multipliers [B, s] and [B, l] of the short and the long marginal, from plan and cotangent [B, s, l]."""
    weighted = plan * grad_plan  # [B, s, l]
    inverse = 1 / _safe(plan.sum(1))  # [B, l]
    conditional = plan * inverse[:, None, :]  # [B, s, l]
    long_rhs = weighted.sum(1)  # [B, l]
    short_rhs = (weighted - conditional * long_rhs[:, None, :]).sum(2)  # [B, s]
    short = _solve(*_schur_system(plan.mT, conditional, plan.sum(2), short_rhs))  # [B, s]
    long = inverse * (long_rhs - torch.bmm(short[:, None], plan)[:, 0])  # [B, l]
    return short, long


def _schur_system(plan, conditional, mass, rhs):
    """Matrix [B, s, s] and right-hand side [B, s] of (diag(mass) - conditional plan) x = rhs, which leaves x open up to
    a constant, for plan [B, l, s], its conditional [B, s, l] given the long side, its short marginal `mass` [B, s], and
    rhs [B, s]."""
    # The matrix is a graph Laplacian. Its diagonal as the sum of what is off it keeps the small eigenvalues of a
    # nearly permutation-like plan, which a difference would lose; the ridge fixes the constant.
    off_diagonal = torch.eye(mass.shape[-1], dtype=plan.dtype, device=plan.device) - 1  # [s, s], -1 and 0
    laplacian = torch.bmm(conditional, plan) * off_diagonal  # [B, s, s]
    ridge = torch.where(mass > 0, mass * (8 * torch.finfo(plan.dtype).eps), 1)  # [B, s]
    laplacian = laplacian + torch.diag_embed(ridge - laplacian.sum(2))
    return laplacian, rhs - mass * (rhs.sum(-1) / _safe(mass.sum(-1)))[:, None]


def _solve(matrix, rhs):
    """x [B, s] with matrix x = rhs."""
    return torch.linalg.solve_ex(matrix, rhs[:, :, None])[0][:, :, 0]


def _eliminate(matrix, rhs):
    """As `_solve`, by Gauss-Jordan elimination, for which a Laplacian needs no pivots."""
    system = torch.cat([matrix, rhs[:, :, None]], dim=2)  # [B, s, s + 1]
    diagonal = torch.eye(rhs.shape[-1], dtype=torch.bool, device=rhs.device)  # [s, s]
    for index in range(len(diagonal)):
        row = system[:, index : index + 1] / system[:, index : index + 1, index : index + 1]  # [B, 1, s + 1]
        own = diagonal[index][:, None]  # [s, 1]
        system = torch.where(own, row, system - system[:, :, index : index + 1] * row)
    return system[:, :, -1]


def _safe(denominator):
    return torch.where(denominator == 0, 1, denominator)


def _solve_sinkhorn(cost, short, long, epsilon, max_iterations, tolerance, fixed=False):
    """Plan [B, s, l] of cost [B, s, l] and masses [B, s], [B, l] that sum to 1; the long marginal is exact.

    Matrix-vector sweeps on a kernel that is rebuilt from the potentials every few updates, so that the sweeps never
    leave the range of the exponents (Schmitzer, 2019), while epsilon falls to its value. The first update after each
    rebuild is a Newton step of the semi-dual (Brauer et al., 2017), damped for the self-concordance of log-sum-exp
    (Sun and Tran-Dinh, 2019): some ten of them do what takes plain Sinkhorn thousands of sweeps at a small epsilon.
    With `fixed` no value decides what is computed, so that a graph can hold it: all iterations, eliminations by hand.
    """
    solve = _eliminate if fixed else _solve
    tiny = torch.finfo(cost.dtype).tiny ** 0.5
    present = short > 0  # [B, s]
    # an infinite or NaN entry says nothing about the scale of the others
    span = torch.where(torch.isfinite(cost), cost, 0).amax((1, 2))[:, None]  # [B, 1]
    level = (span / _WARM_SPAN).clamp_min(epsilon)  # [B, 1], the epsilon of this block
    potential = level * short.log()  # [B, s], -inf where there is no mass
    # At a small epsilon one ulp of the potential already moves the plan: what is finer is kept apart.
    remainder = torch.zeros_like(short)  # [B, s], in units of level
    done = torch.zeros_like(span, dtype=torch.bool)  # [B, 1]
    all_done = _HostFlag()
    left = max_iterations
    while True:
        exponents = potential[:, :, None] - cost  # [B, s, l]
        highest = exponents.amax(1, keepdim=True)  # [B, 1, l]
        if fixed:
            exponents = (exponents - highest) / level[:, :, None] + remainder[:, :, None]
        else:  # without a copy
            exponents.sub_(highest).div_(level[:, :, None]).add_(remainder[:, :, None])
        conditional = torch.softmax(exponents, dim=1)  # [B, s, l]
        plan = conditional * long[:, None, :]  # [B, s, l]
        sums = plan.sum(2)  # [B, s]
        error = (sums - short).abs().sum(-1, keepdim=True)  # [B, 1]
        done = done | ((error <= tolerance) & (level <= epsilon))
        if left <= 0 or (not fixed and all_done(done)):
            return plan
        kernel = plan.mT.contiguous()  # [B, l, s]
        step = solve(*_schur_system(kernel, conditional, short, short - sums))  # [B, s]
        length = step.abs().amax(-1, keepdim=True)  # [B, 1]
        newton = (step * 2 * torch.log1p(length / 2) / _safe(length)).exp()
        scaling = torch.where(torch.isfinite(length), newton, short / sums.clamp_min(tiny))  # [B, s]
        for _ in range(min(_UPDATES_PER_BLOCK, left) - 1):
            opposite = long / torch.bmm(scaling[:, None], plan)[:, 0].clamp_min(tiny)  # [B, l]
            scaling = short / torch.bmm(opposite[:, None], kernel)[:, 0].clamp_min(tiny)  # [B, s]
        left -= _UPDATES_PER_BLOCK
        moved = remainder + torch.where(present, scaling, 1).log()  # [B, s]
        fold = (level > epsilon) | (moved.abs().amax(-1, keepdim=True) > _LARGEST_REMAINDER)  # [B, 1]
        folded = torch.where(fold, potential + level * moved, potential)  # [B, s]
        rest = torch.where(present, moved - (folded - potential) / level, 0)  # [B, s]
        next_level = (level / 2 if left > 0 else level * 0).clamp_min(epsilon)  # [B, 1]
        # A sample that has converged is frozen, so that when the host notices changes nothing.
        potential = torch.where(done, potential, folded)
        remainder = torch.where(done, remainder, rest * level / next_level)
        level = torch.where(done, level, next_level)


class _HostFlag:
    """Tells the host whether a device tensor is all true, on CUDA some calls late because it never waits."""

    def __init__(self):
        self.pending = None

    def __call__(self, done):
        if done.device.type != "cuda":
            return bool(done.all())
        if self.pending is not None:
            flag, event = self.pending
            if not event.query():
                return False
            if bool(flag):
                return True
        flag = torch.empty((), dtype=torch.bool, device="cpu", pin_memory=True)
        flag.copy_(done.all(), non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self.pending = (flag, event)
        return False


def _solve_pot(cost, short, long, epsilon, max_iterations, tolerance):
    """As `_solve_sinkhorn`, by `ot.sinkhorn` on the positive masses of each sample."""
    try:
        ot = importlib.import_module("ot")
    except ImportError as error:
        raise ImportError("solver='pot' needs POT: pip install POT") from error
    plan = torch.zeros_like(cost, dtype=torch.float64, device="cpu")  # [B, s, l]
    for sample, (sample_cost, p, q) in enumerate(zip(cost.cpu(), short.cpu(), long.cpu(), strict=True)):
        if not bool(torch.isfinite(p).all() & torch.isfinite(q).all()):
            plan[sample] = torch.nan
            continue
        rows, columns = p.nonzero()[:, 0], q.nonzero()[:, 0]  # [s'], [l']
        p, q = p[rows].double(), q[columns].double()
        solved = ot.sinkhorn(
            p / p.sum(),
            q / q.sum(),
            sample_cost[rows][:, columns].double(),  # [s', l']
            epsilon,
            method="sinkhorn_log",
            numItermax=max_iterations,
            stopThr=tolerance,
            warn=False,
        )
        plan[sample, rows[:, None], columns] = solved
    return plan.to(cost)


_SOLVERS = {"sinkhorn": _solve_sinkhorn, "pot": _solve_pot}
