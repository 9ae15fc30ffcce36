"""Rules that pick one fixed exit per task, from validation scores alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offramp.errors import SuiteError
from offramp.scoring.metrics import Array, Metric
from offramp.scoring.resampling import LEVEL, Resamples, gain_draws, per_seed_scores


def non_inferior(sums: Sequence[Array], metric: Metric, resamples: Resamples, tolerance: float | str) -> int:
    """The shallowest exit reached in fixed sequence that is not worse than the full encoder by more than a tolerance.

    From the deepest exit to the shallowest, each is tested against full depth, paired, one-sided at 5%: the 5% quantile of the
    resampled gain must lie above minus the tolerance. The first that fails ends the sequence, so the family-wise error stays
    at 5% (Maurer, Hothorn and Lehmacher 1995).

    Args:
        sums: Per exit, validation statistics summed per seed and unit, ``(S, U, q)``.
        metric: The task's metric.
        resamples: Bootstrap weights over the units.
        tolerance: A number in the metric's unit, or a percentage of the full encoder's score such as ``"1%"``.

    Returns:
        Index of the chosen exit.
    """
    full = sums[-1]
    allowed = margin(tolerance, float(per_seed_scores(full, metric).mean()))
    chosen = len(sums) - 1
    for index in range(len(sums) - 2, -1, -1):
        if np.nanquantile(gain_draws(sums[index], full, metric, resamples), LEVEL) <= -allowed:
            break
        chosen = index
    return chosen


def best(sums: Sequence[Array], metric: Metric) -> int:
    """The exit with the best mean validation score; the shallower one on a tie."""
    return int(np.argmax([metric.sign * per_seed_scores(of_exit, metric).mean() for of_exit in sums]))


def within_budget(sums: Sequence[Array], metric: Metric, costs: Sequence[float], budget: float, unit: str) -> int:
    """The best exit among those whose cost is within a budget.

    Raises:
        SuiteError: No exit is cheap enough; names the cheapest.
    """
    candidates = affordable(costs, budget, unit)
    return candidates[best([sums[index] for index in candidates], metric)]


def affordable(costs: Sequence[float], budget: float, unit: str) -> list[int]:
    """Indices of the exits whose cost is within a budget.

    Raises:
        SuiteError: No exit is cheap enough; names the cheapest.
    """
    candidates = [index for index, cost in enumerate(costs) if cost <= budget]
    if not candidates:
        cheapest = f"the cheapest costs {min(costs):g} {unit}"
        raise SuiteError(f"selection: no exit costs at most {budget:g} {unit}; {cheapest}")
    return candidates


def margin(tolerance: float | str, full_score: float) -> float:
    """A tolerance in the metric's own unit. Whether an absolute one has a unit is for the suite's schema to say."""
    return abs(full_score) * float(tolerance.rstrip("%")) / 100 if isinstance(tolerance, str) else tolerance
