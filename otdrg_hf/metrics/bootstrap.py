"""Bootstrap of figures from sufficient statistics: reports are resampled, nothing is scored again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

_CHUNK_ENTRIES = 2_000_000  # entries of the count matrix that are held at a time (16 MB)


@dataclass(frozen=True)
class Statistics:
    """
    Sufficient statistics of a set of N reports, and how figures follow from them.

    Attributes:
        columns (`np.ndarray` of shape `[N, K]`, float64): one row for each report.
        figures (`Callable[[np.ndarray, int], dict[str, np.ndarray]]`): takes sums of rows `[..., K]` and N, and gives
            named figures of shape `[...]`. A figure that is not defined for some sums is NaN there.
    """

    columns: np.ndarray
    figures: Callable[[np.ndarray, int], dict[str, np.ndarray]]

    @property
    def num_reports(self) -> int:
        return len(self.columns)

    def totals(self) -> np.ndarray:
        """Sums over all reports, `[K]`."""
        return self.columns.sum(axis=0)

    def resampled_totals(self, num_bootstrap: int, seed: int) -> np.ndarray:
        """Sums over bootstrap samples, `[num_bootstrap, K]`; the same samples for the same N, number and seed."""
        counts = resample_counts(self.num_reports, num_bootstrap, seed)
        return np.concatenate([chunk @ self.columns for chunk in counts])


def join_statistics(parts: list[Statistics]) -> Statistics:
    """One `Statistics` of several over the same reports, so that one matrix multiplication resamples them all."""
    edges = np.cumsum([0] + [part.columns.shape[1] for part in parts])

    def figures(totals: np.ndarray, num_reports: int) -> dict[str, np.ndarray]:
        named = {}
        for part, start, end in zip(parts, edges[:-1], edges[1:], strict=True):
            named.update(part.figures(totals[..., start:end], num_reports))
        return named

    return Statistics(np.concatenate([part.columns for part in parts], axis=1), figures)


def mean_statistics(name: str, scores: np.ndarray) -> Statistics:
    """Statistics of a figure that is the mean of one score for each report, `[N]`."""
    return Statistics(np.asarray(scores, dtype=np.float64)[:, None], lambda totals, num: {name: totals[..., 0] / num})


def resample_counts(num_reports: int, num_bootstrap: int, seed: int) -> Iterator[np.ndarray]:
    """Yields `[b, num_reports]` float64 chunks that say how often each report is in each bootstrap sample."""
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK_ENTRIES // num_reports)
    for start in range(0, num_bootstrap, step):
        size = min(step, num_bootstrap - start)
        drawn = generator.integers(num_reports, size=(size, num_reports))
        drawn += np.arange(size)[:, None] * num_reports
        counts = np.bincount(drawn.ravel(), minlength=size * num_reports)
        yield counts.reshape(size, num_reports).astype(np.float64)


def interval(samples: np.ndarray, confidence: float) -> tuple[float, float] | tuple[None, None]:
    """Percentile interval of bootstrap `samples` `[B]`; NaN samples are left out, `None` where all are NaN."""
    samples = samples[~np.isnan(samples)]
    if len(samples) == 0:
        return None, None
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def check_bootstrap(num_bootstrap: int, confidence: float) -> None:
    """Raises `ValueError` unless `num_bootstrap >= 0` and `0 < confidence < 1`."""
    if num_bootstrap < 0:
        raise ValueError(f"num_bootstrap is {num_bootstrap}; give 0 for no intervals, or a number such as 1000")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; give a share between 0 and 1 such as 0.95")


def paired_bootstrap(
    first: Statistics, second: Statistics, *, num_bootstrap: int = 1000, seed: int = 0, confidence: float = 0.95
) -> dict[str, dict[str, float | None]]:
    """
    Paired bootstrap test of two systems on the same reports (Koehn, EMNLP 2004), two-sided.

    Both systems are resampled with the same reports. The p-value is twice the smaller share of samples in which the
    difference is on either side of 0, counting the observed set as one sample, so it is never below 2 / (B + 1).

    Args:
        first, second (`Statistics`): of N reports in the same order.
        num_bootstrap (`int`): number B of samples.
        seed (`int`): of the samples.
        confidence (`float`): coverage of the interval of the difference.

    Returns:
        `dict[str, dict]`: for every figure that both have, `difference` (first minus second), `low`, `high` and
        `p_value`; all `None` where a figure is not defined.

    Raises:
        ValueError: if the numbers of reports differ or `num_bootstrap` is not positive.
    """
    check_bootstrap(num_bootstrap, confidence)
    if num_bootstrap == 0:
        raise ValueError("num_bootstrap is 0; a paired test needs samples, such as 1000")
    if first.num_reports != second.num_reports:
        raise ValueError(
            f"the systems have {first.num_reports} and {second.num_reports} reports; a paired test needs the same ones"
        )
    one, other = (resampled_figures(system, num_bootstrap, seed) for system in (first, second))
    return {name: one.difference(other, name, confidence) for name in one.observed if name in other.observed}


@dataclass(frozen=True)
class ResampledFigures:
    """
    The figures of a system on its reports, and on the bootstrap samples of them.

    Attributes:
        observed (`dict[str, np.ndarray]`): By name, of shape `[]`.
        samples (`dict[str, np.ndarray]`): By name, of shape `[num_bootstrap]`; empty without a bootstrap.
    """

    observed: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]

    def with_intervals(self, confidence: float) -> dict[str, float | None]:
        """The observed figures, with `NAME_low` and `NAME_high` after a bootstrap; `None` where one is NaN."""
        figures = {name: None if np.isnan(value) else float(value) for name, value in self.observed.items()}
        for name, samples in self.samples.items():
            low, high = interval(samples, confidence) if figures[name] is not None else (None, None)
            figures[f"{name}_low"], figures[f"{name}_high"] = low, high
        return figures

    def difference(self, other: "ResampledFigures", name: str, confidence: float) -> dict[str, float | None]:
        """What this system has over another one in a figure: `difference`, `low`, `high` and `p_value`."""
        observed = self.observed[name] - other.observed[name]
        undefined: dict[str, float | None] = {"difference": None, "low": None, "high": None, "p_value": None}
        if np.isnan(observed):
            return undefined
        if not self.samples:
            return undefined | {"difference": float(observed)}
        samples = self.samples[name] - other.samples[name]
        samples = samples[~np.isnan(samples)]
        if len(samples) == 0:
            return undefined
        low, high = interval(samples, confidence)
        side = min(np.count_nonzero(samples <= 0), np.count_nonzero(samples >= 0))
        p_value = min(1.0, 2 * (int(side) + 1) / (len(samples) + 1))
        return {"difference": float(observed), "low": low, "high": high, "p_value": p_value}


def resampled_figures(statistics: Statistics, num_bootstrap: int, seed: int) -> ResampledFigures:
    """The figures of `statistics` and, with `num_bootstrap`, those of as many bootstrap samples."""
    num = statistics.num_reports
    samples = statistics.figures(statistics.resampled_totals(num_bootstrap, seed), num) if num_bootstrap else {}
    return ResampledFigures(statistics.figures(statistics.totals(), num), samples)
