"""Times and memory of the transport solver beside POT's batch solver, in interleaved pairs, printed as ratios.

Run: python tests/benchmarks/optimal_transport.py [--repeats 7]
"""

import argparse
import statistics
import time

import ot
import torch

from otdrg_hf.modeling.optimal_transport import cosine_cost, sinkhorn

ITERATIONS = 100


def problem(batch, n, m, spread=None):
    """Cosine cost [B, n, m] of random features; with `spread` it is stretched to 0..spread."""
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(batch, size, 16, generator=generator) for size in (n, m)]
    cost = cosine_cost(*features)
    if spread is not None:
        cost = (cost - cost.amin()) / (cost.amax() - cost.amin()) * spread
    return cost.requires_grad_(), torch.randn(cost.shape, generator=generator)


def pot_plan(cost, epsilon, iterations=ITERATIONS, tolerance=0.0, grad="autodiff"):
    return ot.solve_batch(cost, epsilon, max_iter=iterations, tol=tolerance, method="log_sinkhorn", grad=grad).plan


def gradient(plan, cost, cotangent):
    return torch.autograd.grad(plan, cost, cotangent)


def interleaved(ours, theirs, repeats):
    """Median seconds of both, and the median of the ratios of the pairs, ours to theirs."""
    pairs = []
    for repeat in range(repeats + 1):
        times = []
        for function in (ours, theirs):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        if repeat:  # the first pair warms up
            pairs.append(times)
    ratio = statistics.median(one / other for one, other in pairs)
    return *(statistics.median(column) for column in zip(*pairs, strict=True)), ratio


def saved_bytes(function):
    """Bytes that autograd keeps for the backward pass of what `function` computes, each storage once."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor  # kept alive, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        plan = function()
    total = sum(tensor.untyped_storage().nbytes() for tensor in storages.values())
    del plan
    return total


def marginal_error(plan):
    """Largest absolute marginal error, summed over a side, for uniform masses."""
    sides = [(plan.detach().double().sum(axis) - 1 / plan.shape[3 - axis]).abs().sum(-1).max() for axis in (1, 2)]
    return float(max(sides))


def compare_shape(batch, n, m, repeats, epsilon=0.05):
    cost, cotangent = problem(batch, n, m)

    def theirs():
        gradient(pot_plan(cost, epsilon), cost, cotangent)

    print(f"\n{batch} x {n} x {m}, eps {epsilon}, fp32, forward + backward")
    for name, tolerance in (("same iterations", 0.0), ("stopping at 1e-6", 1e-6)):

        def ours(tolerance=tolerance):
            gradient(sinkhorn(cost, None, None, epsilon, ITERATIONS, tolerance), cost, cotangent)

        one, other, ratio = interleaved(ours, theirs, repeats)
        print(f"  {name:17} ours {one * 1e3:8.2f} ms   POT {other * 1e3:8.2f} ms   time ratio {ratio:.3f}")
    one = saved_bytes(lambda: sinkhorn(cost, None, None, epsilon, ITERATIONS, 0.0))
    other = saved_bytes(lambda: pot_plan(cost, epsilon))
    print(f"  saved for backward: ours {one / 2**20:.3f} MiB   POT {other / 2**20:.1f} MiB   ratio {one / other:.4f}")
    errors = marginal_error(sinkhorn(cost, epsilon=epsilon)), marginal_error(pot_plan(cost, epsilon))
    print(f"  marginal error:     ours {errors[0]:.1e}   POT {errors[1]:.1e}")


def compare_small_epsilon(batch, n, m, repeats, epsilon=0.005):
    cost, _ = problem(batch, n, m, spread=2.0)
    cost = cost.detach()
    one, other, ratio = interleaved(
        lambda: sinkhorn(cost, None, None, epsilon, ITERATIONS, 0.0),
        lambda: pot_plan(cost, epsilon, grad="detach"),
        repeats,
    )
    plans = sinkhorn(cost, epsilon=epsilon), pot_plan(cost, epsilon, grad="detach")
    print(f"\n{batch} x {n} x {m}, eps {epsilon}, costs 0..2, fp32, forward, same iterations")
    print(f"  ours {one * 1e3:.2f} ms   POT {other * 1e3:.2f} ms   time ratio {ratio:.3f}")
    print(f"  marginal error:     ours {marginal_error(plans[0]):.1e}   POT {marginal_error(plans[1]):.1e}")
    few = cost[:2].double()
    exact = pot_plan(few, epsilon, iterations=50_000, tolerance=1e-10, grad="detach")
    for name, plan in zip(("ours", "POT"), plans, strict=True):
        assert plan.isfinite().all()
        share = float((plan[:2].double() - exact).abs().sum((1, 2)).max())
        print(f"  misplaced mass against converged POT in fp64, {name}: {share:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="pairs per comparison")
    repeats = parser.parse_args().repeats
    print(f"torch {torch.__version__}, POT {ot.__version__}, {torch.get_num_threads()} threads, CPU")
    for n, m in ((196, 15), (49, 14), (256, 56)):
        compare_shape(32, n, m, repeats)
    for n, m in ((196, 15), (49, 14)):
        compare_small_epsilon(32, n, m, repeats)


if __name__ == "__main__":
    main()
