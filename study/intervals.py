"""Intervals over what a result should hold for: other windows or sessions, other labels, other pretraining runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval and a one-sided p-value against zero or less."""

    mean: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def by_unit(values: NDArray[np.generic], groups: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums ``(..., U)`` over the windows of each group, of values ``(..., M)``, and the group sizes ``(U,)``."""
    _, unit, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(unit, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return np.add.reduceat(values[..., order].astype(np.float64), starts, axis=-1), sizes.astype(np.float64)


def crossed_bootstrap(values: NDArray[np.generic], groups: NDArray[np.int64], seed: int = 0) -> Estimate:
    """Mean of ``values``, resampling runs, label seeds and groups with replacement, each independently of the others.

    Source: Owen, "The pigeonhole bootstrap" (Annals of Applied Statistics 2007). Three pretraining runs are few: a percentile
    interval over three is too narrow, and the page shows every run beside it.

    Args:
        values: ``(runs, label seeds, M)``, e.g. the difference of two encoders' correctness on each test window.
        groups: int64 ``(M,)``, what of the test set is drawn as a whole.
        seed: Of the resampling.
    """
    sums, sizes = by_unit(values, groups)
    runs, seeds, units = sums.shape
    rng = np.random.default_rng(seed)

    def weights(count: int) -> NDArray[np.float64]:
        return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)

    of_run, of_seed, of_unit = weights(runs) / runs, weights(seeds) / seeds, weights(units)
    per_cell = (of_unit @ sums.reshape(-1, units).T).reshape(RESAMPLES, runs, seeds)
    draws = np.einsum("brs,br,bs->b", per_cell, of_run, of_seed) / (of_unit @ sizes)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high), (1 + int((draws <= 0).sum())) / (1 + RESAMPLES))
