"""Scores with intervals: a bootstrap over groups, with the part of the seeds beside it, of any metric, exact and paired.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 8 and 16; groups as in Field and Welsh,
"Bootstrapping clustered data" (JRSS B 2007); blocks of neighbours as in Künsch, "The jackknife and the bootstrap for general stationary
observations" (Annals of Statistics 1989) and Roberts et al., "Cross-validation strategies for data with temporal, spatial, hierarchical, or
phylogenetic structure" (Ecography 2017); Holm's correction: Holm (Scand. J. Statist. 1979); equivalence by two one-sided tests:
Schuirmann (J. Pharmacokinetics and Biopharmaceutics 1987).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError
from offramp.schema.results import Gain, Score, UnitKind
from offramp.scoring.metrics import Array, Metric

FEWEST_GROUPS = 8
"""With fewer groups an interval over groups means little: blocks of them or windows are resampled instead, and each group is shown."""
MOST_UNITS = 4000
RESAMPLES = 2000
LEVEL = 0.05


@dataclass(frozen=True)
class Units:
    """What the bootstrap resamples.

    Attributes:
        of_window: int64 ``(N,)``, the unit of each window of the data set.
        count: Number of units U.
        kind: Groups; where there are fewer than eight of them, blocks of neighbouring windows, or windows.
    """

    of_window: NDArray[np.int64]
    count: int
    kind: UnitKind

    def sums(self, statistics: Array, indices: NDArray[np.int64]) -> Array:
        """Statistics ``(n, q)`` of the windows ``indices`` summed per unit, ``(U, q)``."""
        unit = self.of_window[indices]
        columns = [np.bincount(unit, weights=column, minlength=self.count) for column in statistics.T]
        return np.stack(columns, axis=1)


def resampling_units(
    groups: NDArray[np.int64], grouped: bool, indices: NDArray[np.int64], blocks: NDArray[np.int64] | None = None
) -> Units:
    """Units for the windows ``indices`` of a data set with these groups.

    Windows of fewer than eight groups are resampled by the blocks within their groups, and windows that are all their own group by their
    blocks; without blocks, or with fewer than eight of them, one by one. Beyond 4,000 units windows are dealt into 4,000, which leaves
    the interval as it is.

    Args:
        groups: int64 ``(N,)``.
        grouped: Whether windows share groups.
        indices: Windows that are scored.
        blocks: int64 ``(N,)``, windows of one block within a group depend on each other; None where nothing is known of that.
    """
    of_window = np.zeros(len(groups), dtype=np.int64)
    present, unit = np.unique(groups[indices], return_inverse=True)
    kind: UnitKind = "group"
    if not grouped or len(present) < FEWEST_GROUPS:
        unit = np.arange(len(indices))
        kind = "window" if grouped else "group"
        if blocks is not None:
            cells = np.stack([groups[indices] if grouped else np.zeros_like(indices), blocks[indices]])
            of_cell = np.unique(cells, axis=1, return_inverse=True)[1].ravel()
            if of_cell.max() + 1 >= FEWEST_GROUPS:
                unit, kind = of_cell, "block" if grouped else "group"
    count = int(unit.max()) + 1
    if count > MOST_UNITS:
        unit, count = (np.random.default_rng(0).permutation(count) % MOST_UNITS)[unit], MOST_UNITS
    of_window[indices] = unit
    return Units(of_window, count, kind)


@dataclass(frozen=True)
class Resamples:
    """Draws of the bootstrap: units are drawn with replacement, seeds move the score by what they differ.

    Attributes:
        units: float64 ``(B, U)``, how often each unit was drawn; rows sum to 1.
        seeds: float64 ``(B, S)``, standard normal numbers.
        reuse: Windows that a seed trains on, over those that it leaves of the same pool: the more it is, the more alike are the heads of
            all seeds, and the less do they show how much another pool would change. 0 where each seed has windows of its own.
    """

    units: Array
    seeds: Array
    reuse: float = 0.0

    @classmethod
    def draw(cls, units: int, seeds: int, seed: int, resamples: int = RESAMPLES, reuse: float = 0.0) -> Resamples:
        """Draw both, independently of each other."""
        rng = np.random.default_rng([seed, units, seeds])
        unit_weights = rng.multinomial(units, np.full(units, 1 / units), size=resamples) / units
        return cls(unit_weights, rng.standard_normal((resamples, seeds)), reuse)

    def scores(self, sums: Array, metric: Metric) -> Array:
        """Resampled scores ``(B,)``, mean over seeds, of sums ``(S, U, q)``; NaN where no seed has a drawn unit."""
        return self.combine(self.per_seed(sums, metric), per_seed_scores(sums, metric))

    def per_seed(self, sums: Array, metric: Metric) -> Array:
        """Scores ``(B, S)`` of each seed on the drawn units; NaN where a seed has none of them."""
        return np.stack([metric.score(self.units @ of_seed) for of_seed in sums], axis=1)

    def combine(self, resampled: Array, measured: Array) -> Array:
        """Draws of the mean over seeds ``(B,)``, over other units and over other training windows.

        The variance over other training windows is ``T² (1/S + reuse)``, where T² is the variance of the seeds' scores less what chance
        among units adds to it, which the drawn units show by themselves. It is the correction of Nadeau and Bengio, "Inference for the
        generalization error" (Machine Learning 2003, section 4), for windows that are trained on instead of tested on: a score is to first order a
        mean over training windows, and those of S seeds are drawn from one pool. ``study/seed_coverage.py`` measures how often the
        intervals hold.

        Args:
            resampled: ``(B, S)``, a score or a difference of each seed on the drawn units; NaN where a seed has none of them.
            measured: ``(S,)``, the same on all units.
        """
        counted = np.isfinite(resampled)
        total = counted.sum(1)
        over_units: Array = np.divide(
            np.where(counted, resampled, 0).sum(1), total, out=np.full(len(total), np.nan), where=total > 0
        )
        seeds = len(measured)
        spread = float(measured.var(ddof=1)) if seeds > 1 else 0.0
        if not 0 < spread < np.inf:
            return over_units
        apart = np.where(counted, resampled - over_units[:, None], np.nan)
        by_chance = float(np.nanvar(apart, axis=0).mean()) * seeds / (seeds - 1)
        own = max(0.0, spread - by_chance) / spread
        size = np.sqrt((1 / seeds + self.reuse) * own / (seeds - 1))
        draws: Array = over_units + size * (self.seeds @ (measured - measured.mean()))
        return draws


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
    ends = interval(resamples.scores(sums, metric)) if resamples else None
    if ends and metric.bounded:  # what the draws of seeds add knows no bounds
        ends = max(0.0, ends[0]), min(1.0, ends[1])
    return Score(
        mean=float(per_seed.mean()),
        std=float(per_seed.std(ddof=1)) if len(per_seed) > 1 else 0.0,
        per_seed=[float(score) for score in per_seed],
        ci95=ends,
    )


def gain_draws(better: Array, reference: Array, metric: Metric, resamples: Resamples) -> Array:
    """Resampled paired differences ``(B,)``, positive where the first is better whatever the metric's direction."""
    resampled = resamples.per_seed(better, metric) - resamples.per_seed(reference, metric)
    measured = per_seed_scores(better, metric) - per_seed_scores(reference, metric)
    return metric.sign * resamples.combine(resampled, measured)


def paired_gain(better: Array, reference: Array, metric: Metric, resamples: Resamples, units: Units) -> Gain:
    """What the first gains over the second, paired over units and seeds. ``significant`` is left to :func:`holm`."""
    mean = metric.sign * (per_seed_scores(better, metric).mean() - per_seed_scores(reference, metric).mean())
    draws = gain_draws(better, reference, metric, resamples)
    p_value = (1 + int((draws <= 0).sum())) / (1 + int(np.isfinite(draws).sum()))
    return Gain(
        mean=float(mean),
        ci95=interval(draws),
        unit=units.kind,
        p_value=p_value,
        equivalent_within=equivalence_bound(draws),
    )


def equivalence_bound(draws: Array) -> float:
    """The smallest bound within which two one-sided tests at 5% call the difference zero: the farther end of the 90% interval."""
    return max(abs(end) for end in interval(draws, 2 * LEVEL))


def holm(gains: Sequence[Gain]) -> list[Gain]:
    """Mark gains that are above zero at 2.5% one-sided after Holm's step-down correction over all of them.

    A gain resampled by block or window of few groups never counts: its interval says nothing about new groups.
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


def interval(values: Sequence[float] | NDArray[np.floating], level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of resampled values, 95% by default; those that are NaN do not count.

    Raises:
        DataError: None is a number.
    """
    draws = np.asarray(values, dtype=np.float64)
    if np.isnan(draws).all():
        raise DataError("interval: no resample gave a number; the groups are too few or too small")
    low, high = np.nanquantile(draws, [level / 2, 1 - level / 2])
    return float(low), float(high)
