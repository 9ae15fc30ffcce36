"""Scores with intervals: a bootstrap over groups, crossed with seeds, of any metric, exact and paired.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 8 and 16; groups as in Field and Welsh,
"Bootstrapping clustered data" (JRSS B 2007); Holm's correction: Holm (Scand. J. Statist. 1979).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError
from offramp.schema.results import Gain, Score
from offramp.scoring.metrics import Array, Metric

FEWEST_GROUPS = 8
"""With fewer groups an interval over groups means little: windows are resampled instead, and each group is shown."""
MOST_UNITS = 4000
RESAMPLES = 2000
LEVEL = 0.05


@dataclass(frozen=True)
class Units:
    """What the bootstrap resamples.

    Attributes:
        of_window: int64 ``(N,)``, the unit of each window of the data set.
        count: Number of units U.
        kind: Groups, or windows where there are fewer than eight groups.
    """

    of_window: NDArray[np.int64]
    count: int
    kind: Literal["group", "window"]

    def sums(self, statistics: Array, indices: NDArray[np.int64]) -> Array:
        """Statistics ``(n, q)`` of the windows ``indices`` summed per unit, ``(U, q)``."""
        unit = self.of_window[indices]
        columns = [np.bincount(unit, weights=column, minlength=self.count) for column in statistics.T]
        return np.stack(columns, axis=1)


def resampling_units(groups: NDArray[np.int64], grouped: bool, indices: NDArray[np.int64]) -> Units:
    """Units for the windows ``indices`` of a data set with these groups.

    Windows that are all their own group, and windows of fewer than eight groups, are resampled one by one; beyond 4,000
    of them they are dealt into 4,000 units, which leaves the interval as it is.
    """
    of_window = np.zeros(len(groups), dtype=np.int64)
    present, unit = np.unique(groups[indices], return_inverse=True)
    if grouped and len(present) >= FEWEST_GROUPS:
        of_window[indices] = unit
        return Units(of_window, len(present), "group")
    count = min(MOST_UNITS, len(indices))
    order = np.random.default_rng(0).permutation(len(indices))
    of_window[indices] = order % count
    return Units(of_window, count, "window" if grouped else "group")


@dataclass(frozen=True)
class Resamples:
    """Bootstrap weights: how often each unit and each seed was drawn, ``(B, U)`` and ``(B, S)`` float64, rows summing to 1."""

    units: Array
    seeds: Array

    @classmethod
    def draw(cls, units: int, seeds: int, seed: int, resamples: int = RESAMPLES) -> Resamples:
        """Draw units and seeds with replacement, independently of each other."""
        rng = np.random.default_rng([seed, units, seeds])
        unit_weights = rng.multinomial(units, np.full(units, 1 / units), size=resamples) / units
        seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
        return cls(unit_weights, seed_weights)

    def scores(self, sums: Array, metric: Metric) -> Array:
        """Resampled scores ``(B,)``, mean over the drawn seeds, of sums ``(S, U, q)``; NaN where no drawn seed has a drawn unit."""
        per_seed = np.stack([metric.score(self.units @ of_seed) for of_seed in sums], axis=1)
        counted = np.isfinite(per_seed)
        weights = self.seeds * counted
        total = weights.sum(1)
        summed = (np.where(counted, per_seed, 0) * weights).sum(1)
        scores: Array = np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)
        return scores


def resampled_units(units: NDArray[np.integer], resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """The same bootstrap for what is no function of sums: draws of whole units as indices of their windows.

    Args:
        units: ``(N,)`` unit of each window, any integers.
        resamples: Number of draws.
        seed: The same draws for the same seed and units.

    Yields:
        Indices of the windows of as many units as there are, drawn with replacement; the length varies with their sizes.

    Raises:
        DataError: There are no windows.
    """
    if units.ndim != 1 or not len(units):
        raise DataError(f"units has the shape {units.shape}: give one per window, and at least one window")
    present, unit = np.unique(units, return_inverse=True)
    for weights in Resamples.draw(len(present), 1, seed, resamples).units:
        times = np.rint(weights * len(present)).astype(np.int64)
        yield np.repeat(np.arange(len(units)), times[unit])


def per_seed_scores(sums: Array, metric: Metric) -> Array:
    """Score of each seed ``(S,)`` from sums ``(S, U, q)``."""
    return metric.score(sums.sum(1))


def summarise(sums: Array, metric: Metric, resamples: Resamples | None = None) -> Score:
    """Mean, standard deviation over seeds, and an interval if resamples are given."""
    per_seed = per_seed_scores(sums, metric)
    return Score(
        mean=float(per_seed.mean()),
        std=float(per_seed.std(ddof=1)) if len(per_seed) > 1 else 0.0,
        per_seed=[float(score) for score in per_seed],
        ci95=interval(resamples.scores(sums, metric)) if resamples else None,
    )


def gain_draws(better: Array, reference: Array, metric: Metric, resamples: Resamples) -> Array:
    """Resampled paired differences ``(B,)``, positive where the first is better whatever the metric's direction."""
    return metric.sign * (resamples.scores(better, metric) - resamples.scores(reference, metric))


def paired_gain(better: Array, reference: Array, metric: Metric, resamples: Resamples, units: Units) -> Gain:
    """What the first gains over the second, paired over units and seeds. ``significant`` is left to :func:`holm`."""
    mean = metric.sign * (per_seed_scores(better, metric).mean() - per_seed_scores(reference, metric).mean())
    draws = gain_draws(better, reference, metric, resamples)
    p_value = (1 + int((draws <= 0).sum())) / (1 + int(np.isfinite(draws).sum()))
    return Gain(mean=float(mean), ci95=interval(draws), unit=units.kind, p_value=p_value)


def holm(gains: Sequence[Gain]) -> list[Gain]:
    """Mark gains that are above zero at 2.5% one-sided after Holm's step-down correction over all of them.

    A gain resampled by window never counts: its interval says nothing about new groups.
    """
    order = sorted(range(len(gains)), key=lambda i: gains[i].p_value or 0.0)
    marked = list(gains)
    holds = True
    for rank, index in enumerate(order):
        p_value = gains[index].p_value
        holds = holds and p_value is not None and p_value * (len(gains) - rank) <= LEVEL / 2
        above = holds and gains[index].unit == "group" and gains[index].ci95[0] > 0
        marked[index] = gains[index].model_copy(update={"significant": above})
    return marked


def interval(values: Sequence[float] | NDArray[np.floating]) -> tuple[float, float]:
    """95% percentile interval of resampled values; those that are NaN do not count.

    Raises:
        DataError: None is a number.
    """
    draws = np.asarray(values, dtype=np.float64)
    if np.isnan(draws).all():
        raise DataError("interval: no resample gave a number; the groups are too few or too small")
    low, high = np.nanquantile(draws, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)
