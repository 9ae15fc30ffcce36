"""Rules that pick one fixed exit per task, from validation scores alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.errors import SuiteError
from offramp.schema.suite import SelectionSpec
from offramp.scoring.metrics import Array, Metric
from offramp.scoring.resampling import LEVEL, Resamples, gain_draws, per_seed_scores


@dataclass(frozen=True)
class NonInferiority:
    """Which exits are shown not to be worse than full depth by more than the margin.

    Attributes:
        chosen: Index of the shallowest that passes; the last one where none does.
        lower: Lower ends of the simultaneous one-sided 95% intervals of each exit's gain over full depth, in the metric's unit; 0 for
            full depth itself.
        margin: The tolerance in the metric's unit.
        bonferroni: Index that Bonferroni's correction of the same bootstrap would choose.
    """

    chosen: int
    lower: tuple[float, ...]
    margin: float
    bonferroni: int


@dataclass(frozen=True)
class Choice:
    """What the suite's rule picks, and what is shown beside it.

    Attributes:
        rule: The rule, with its tolerance.
        chosen: Index of the exit that the rule picks.
        best: Index of the exit with the best validation score.
        test: The test of non-inferiority, whatever the rule.
    """

    rule: SelectionSpec
    chosen: int
    best: int
    test: NonInferiority


def non_inferior(sums: Sequence[Array], metric: Metric, resamples: Resamples, tolerance: float | str) -> NonInferiority:
    """The shallowest exit that is not worse than the full encoder by more than a tolerance, all exits tested at once.

    The gains of all exits over full depth are resampled together. The 95% quantile of the largest of their studentised errors (max-T)
    sets the lower ends of intervals that hold for all exits at once, so that any exit above the margin may be named, and the family-wise
    error stays at 5% (Romano and Wolf, Econometrica 2005; Hothorn, Bretz and Westfall, Biometrical Journal 2008). Since neighbouring exits
    err alike, this asks for less than Bonferroni's correction. A bad exit does not stand in the way of a good one behind it.

    Args:
        sums: Per exit, validation statistics summed per seed and unit, ``(S, U, q)``.
        metric: The task's metric.
        resamples: Bootstrap weights over the units.
        tolerance: A number in the metric's unit, or a percentage of the full encoder's score such as ``"1%"``.
    """
    full, last = sums[-1], len(sums) - 1
    full_score = float(per_seed_scores(full, metric).mean())
    allowed = margin(tolerance, full_score)
    if last == 0:
        return NonInferiority(0, (0.0,), allowed, 0)
    gains = np.array([metric.sign * (per_seed_scores(each, metric).mean() - full_score) for each in sums[:-1]])
    errors = np.stack([gain_draws(each, full, metric, resamples) for each in sums[:-1]], axis=1) - gains
    spread = np.nanstd(errors, axis=0)
    studentised = np.divide(errors, spread, out=np.zeros_like(errors), where=spread > 0)
    together = float(np.nanquantile(studentised.max(1), 1 - LEVEL))
    lower = gains - together * spread
    apart = gains - np.nanquantile(errors, 1 - LEVEL / last, axis=0)
    return NonInferiority(
        _shallowest(lower > -allowed), (*(float(value) for value in lower), 0.0), allowed, _shallowest(apart > -allowed)
    )


def _shallowest(passes: NDArray[np.bool_]) -> int:
    """Index of the first that passes; of full depth where none does."""
    return int(np.append(passes, True).argmax())


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
