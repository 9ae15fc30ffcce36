"""Policies within a budget: which exits to consult, by what criterion and at what thresholds, all chosen on validation.

Every head that is consulted costs, so that a cascade may do better with a few exits than with all. Subsets of two and three exits
and those of all exits up to a depth are tried with the cheapest criterion; the criteria then compete on the subsets that it found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from offramp.errors import PolicyError
from offramp.metrics import Array, Metric
from offramp.policies.calibration import fit_temperature
from offramp.policies.criteria import CRITERIA
from offramp.policies.learning import learned_parameters
from offramp.policies.policy import Policy
from offramp.policies.simulation import Outputs, certainties, leaving

THRESHOLDS = 24
"""Tried for one threshold shared by all exits: quantiles of the certainty, and one that lets none leave."""
OWN_THRESHOLDS = 12
"""Tried per exit, in turn, where every exit has its own."""
ROUNDS = 2
SUBSETS_KEPT = 2
"""Subsets per budget on which all criteria compete."""
FIRST = {"classification": "confidence", "regression": "agreement"}
"""The criterion with which subsets are searched."""
FEWEST_SURVIVORS = 30
"""With fewer windows than this at an exit, the temperature of all windows serves."""
SAME = 1 + 1e-9
"""A cost may exceed a budget by rounding."""

Kind = Literal["classification", "regression"]
Place = tuple[float, float, int]
"""Score (larger is better), minus the mean cost, and number of a threshold: the larger, the better."""


@dataclass(frozen=True)
class CascadeCosts:
    """Cost of one window, in any unit.

    Attributes:
        reach: Encoder up to each exit, pooling included, ``(E,)``.
        consult: Head and decision at each exit, ``(E,)``.
    """

    reach: tuple[float, ...]
    consult: tuple[float, ...]

    def leaving(self, consulted: Sequence[int]) -> Array:
        """Cost of leaving at each of the consulted exits, ``(k,)``, all heads before it included."""
        reach, consult = np.asarray(self.reach)[list(consulted)], np.asarray(self.consult)[list(consulted)]
        cost: Array = reach + np.cumsum(consult)
        return cost

    def fixed(self) -> Array:
        """Cost of each fixed exit, ``(E,)``: one head."""
        cost: Array = np.asarray(self.reach) + np.asarray(self.consult)
        return cost


@dataclass(frozen=True, eq=False)
class Windows:
    """What the heads of one seed say about some windows at every exit.

    Attributes:
        exits: All exits, in order of depth.
        outputs: Per exit ``(N, outputs)`` float32.
        targets: Labels ``(N,)`` or values ``(N, dimensions)``.
        metric: The task's.
    """

    exits: tuple[str, ...]
    outputs: Outputs
    targets: NDArray[Any]
    metric: Metric

    @property
    def count(self) -> int:
        return len(self.targets)

    @cached_property
    def statistics(self) -> Array:
        """The metric's statistics at every exit, ``(E, N, q)``."""
        return np.stack([self.metric.statistics(self.outputs[exit], self.targets) for exit in self.exits])

    def subset(self, indices: NDArray[np.int64]) -> Windows:
        """Some of the windows, repeated where an index is."""
        outputs = {exit: rows[indices] for exit, rows in self.outputs.items()}
        return Windows(self.exits, outputs, self.targets[indices], self.metric)


@dataclass(frozen=True, eq=False)
class Found:
    """A policy that was found on validation.

    Attributes:
        policy: Ready to run.
        score: On validation, in the metric's unit.
        cost: Mean on validation, in the budget's unit.
    """

    policy: Policy
    score: float
    cost: float


@dataclass(frozen=True)
class Candidate:
    """A criterion on a subset of exits, with its certainties and what they lead to.

    Attributes:
        policy: With thresholds that let none leave.
        consulted: Indices of its exits.
        certain: ``(k, N)``.
    """

    policy: Policy
    consulted: tuple[int, ...]
    certain: NDArray[np.float32]


def affordable(costs: CascadeCosts, budget: float, unit: str) -> None:
    """Raise :class:`PolicyError` that says the nearest possible budget where not even the cheapest exit fits."""
    cheapest = float(costs.fixed().min())
    if cheapest > budget * SAME:
        raise PolicyError(
            f"policies.budget: no window can leave for {budget:g} {unit}; the nearest possible is {cheapest:g} {unit}"
        )


def exits_within(costs: CascadeCosts, limit: float | None, unit: str) -> int:
    """How many exits a cascade may use so that no window costs more than a service level allows, all heads consulted.

    Raises:
        PolicyError: Not even the first exit is within the limit.
    """
    if limit is None:
        return len(costs.reach)
    worst = costs.fixed()
    allowed = int((np.maximum.accumulate(worst) <= limit * SAME).sum())
    if not allowed:
        raise PolicyError(
            f"policies.service_level: the first exit costs {worst[0]:g} {unit}, more than {limit:g}; the nearest possible is {worst[0]:g}"
        )
    return allowed


def search(
    windows: Windows,
    kind: Kind,
    criteria: Sequence[str],
    costs: CascadeCosts,
    budgets: Sequence[float],
    worst: float | None = None,
) -> list[dict[str, Found]]:
    """The best policy of every criterion within every budget, by score on validation; the cheaper one on a tie.

    Args:
        windows: Validation windows of one seed.
        kind: Of the task.
        criteria: Names of criteria.
        costs: Of one window, in the budgets' unit.
        budgets: Most mean cost of a window on validation.
        worst: Most cost that any one window may have (service level); any if None.

    Returns:
        For every budget, policies by name: the criterion for one threshold shared by its exits, with `` per exit`` for thresholds
        of their own.
    """
    usable = exits_within(costs, worst, "per window")
    temperatures = exit_temperatures(windows, kind)
    first = FIRST[kind]
    subsets = [s for s in exit_subsets(usable) if worst is None or costs.leaving(s)[-1] <= worst * SAME]
    kept: dict[tuple[int, ...], None] = {}
    swept = [
        (subset, sweep(candidate(windows, kind, first, subset, temperatures), windows, costs)) for subset in subsets
    ]
    for budget in budgets:
        ranked = sorted(swept, key=lambda pair: _rank(pair[1].within(budget, windows.metric)), reverse=True)
        kept |= dict.fromkeys(subset for subset, _ in ranked[:SUBSETS_KEPT])
    best: list[dict[str, Found]] = [{} for _ in budgets]
    for criterion in criteria:
        tried = [candidate(windows, kind, criterion, subset, temperatures) for subset in kept]
        sweeps = [sweep(each, windows, costs) for each in tried]
        for budget, found in zip(budgets, best, strict=True):
            places = [points.within(budget, windows.metric) for points in sweeps]
            number = max(range(len(tried)), key=lambda n: _rank(places[n]))
            shared = sweeps[number].found(places[number], tried[number])
            found[criterion] = shared
            found[f"{criterion} per exit"] = per_exit(tried[number], shared, windows, costs, budget)
    return [{name: with_answer_temperatures(found, windows) for name, found in row.items()} for row in best]


def _losses(windows: Windows, consulted: Sequence[int]) -> Array | None:
    """What a window's answer at each exit loses, ``(k, N)``, where that is not its distance to the target: see :class:`Metric`."""
    if windows.metric.kind == "classification" or not windows.metric.higher_is_better:
        return None
    losses: Array = np.maximum(0, 1 - windows.metric.score(windows.statistics[list(consulted)]))
    return losses


def exit_subsets(exits: int) -> list[tuple[int, ...]]:
    """Two or three exits, and all up to each depth; of a single exit there is one."""
    few = [subset for size in (2, 3) for subset in combinations(range(exits), size)]
    return few + [tuple(range(depth)) for depth in range(4, exits + 1)] or [(0,)]


def exit_temperatures(windows: Windows, kind: str) -> dict[str, float]:
    """Each exit's temperature, fitted to all windows; 1 for regression."""
    if kind != "classification":
        return dict.fromkeys(windows.exits, 1.0)
    return {exit: fit_temperature(windows.outputs[exit], windows.targets) for exit in windows.exits}


def candidate(
    windows: Windows,
    kind: Kind,
    criterion: str,
    consulted: tuple[int, ...],
    temperatures: Mapping[str, float],
) -> Candidate:
    """A criterion on some exits, its parameters learned on these windows."""
    exits = tuple(windows.exits[index] for index in consulted)
    scale = tuple(temperatures[exit] for exit in exits)
    parameters = {}
    if CRITERIA[criterion].learned:
        losses = _losses(windows, consulted)
        parameters = learned_parameters(criterion, kind, exits, windows.outputs, windows.targets, scale, losses)
    policy = Policy(kind, criterion, exits, (np.inf,) * (len(exits) - 1), scale, scale, parameters)
    return Candidate(policy, consulted, certainties(policy, windows.outputs))


@dataclass(frozen=True, eq=False)
class Sweep:
    """What one threshold for all exits leads to.

    Attributes:
        thresholds: ``(T,)``, from the safest (infinite) to one that lets all leave at the first exit.
        scores: ``(T,)``, larger is better.
        costs: Mean ``(T,)``.
    """

    thresholds: Array
    scores: Array
    costs: Array

    def within(self, budget: float, metric: Metric) -> Place | None:
        """Score, minus cost and place of the best threshold within a budget; None if there is none."""
        allowed = np.flatnonzero(self.costs <= budget * SAME)
        if not len(allowed):
            return None
        order = np.lexsort((-allowed, self.costs[allowed], -self.scores[allowed]))  # on a tie, that which lets more leave
        place = int(allowed[order[0]])
        return float(self.scores[place]), -float(self.costs[place]), place

    def found(self, place: Place | None, tried: Candidate) -> Found:
        """The policy at a place; the cheapest of all where there is none within the budget."""
        number = len(self.thresholds) - 1 if place is None else place[2]
        thresholds = (float(self.thresholds[number]),) * (len(tried.consulted) - 1)
        policy = replace(tried.policy, thresholds=thresholds)
        return Found(policy, float(self.scores[number]), float(self.costs[number]))


def sweep(tried: Candidate, windows: Windows, costs: CascadeCosts) -> Sweep:
    """Score and cost of a candidate at every threshold, larger scores being better."""
    thresholds = shared_thresholds(tried.certain[:-1], THRESHOLDS)
    scores, cost = outcomes(tried, np.repeat(thresholds[:, None], len(tried.consulted) - 1, axis=1), windows, costs)
    return Sweep(thresholds, scores, cost)


def shared_thresholds(certain: NDArray[np.float32], number: int) -> Array:
    """Infinity, then quantiles of the certainty from high to low down to its smallest value; each once."""
    finite = certain[np.isfinite(certain)]
    if not len(finite):
        return np.asarray([np.inf, -np.inf])
    quantiles = np.quantile(finite, np.linspace(1, 0, number - 1), method="lower").astype(np.float32)
    return np.concatenate([[np.inf], np.unique(quantiles)[::-1], [-np.inf]]).astype(np.float64)


def outcomes(tried: Candidate, thresholds: Array, windows: Windows, costs: CascadeCosts) -> tuple[Array, Array]:
    """Scores (larger is better) and mean costs ``(T,)`` for thresholds ``(T, k - 1)``."""
    left = leaving(tried.certain, thresholds)
    leave_cost = costs.leaving(tried.consulted)
    total, share = 0.0, 0.0
    for place, index in enumerate(tried.consulted):
        here = (left == place).astype(np.float64)
        total = total + here @ windows.statistics[index]
        share = share + here.mean(1) * leave_cost[place]
    sign = 1.0 if windows.metric.higher_is_better else -1.0
    return sign * windows.metric.score(np.asarray(total)), np.asarray(share)


def per_exit(tried: Candidate, shared: Found, windows: Windows, costs: CascadeCosts, budget: float) -> Found:
    """Thresholds of their own: from the shared one, each in turn is moved to where the score within the budget is best."""
    own = list(shared.policy.thresholds)
    best = (shared.score, -shared.cost)
    for _ in range(ROUNDS):
        for place in range(len(own)):
            options = shared_thresholds(tried.certain[place], OWN_THRESHOLDS)
            thresholds = np.repeat(np.asarray([own]), len(options), axis=0)
            thresholds[:, place] = options
            scores, cost = outcomes(tried, thresholds, windows, costs)
            allowed = [n for n in range(len(options)) if cost[n] <= budget * SAME]
            if allowed and (found := max((float(scores[n]), -float(cost[n]), n) for n in allowed))[:2] > best:
                best, own[place] = found[:2], float(options[found[2]])
    return Found(replace(shared.policy, thresholds=tuple(own)), best[0], -best[1])


def with_answer_temperatures(found: Found, windows: Windows) -> Found:
    """The same policy with temperatures fitted to the windows that reach each exit, and the score in the metric's unit."""
    sign = 1.0 if windows.metric.higher_is_better else -1.0
    policy = found.policy
    if policy.kind == "classification":
        policy = replace(policy, answer_temperatures=tuple(_survivors_temperatures(policy, windows)))
    return Found(policy, sign * found.score, found.cost)


def survivors(policy: Policy, outputs: Outputs) -> Iterator[NDArray[np.int64]]:
    """Per consulted exit, the indices of the windows that reach it."""
    left = leaving(certainties(policy, outputs), np.asarray(policy.thresholds, dtype=np.float64))
    return (np.flatnonzero(left >= place) for place in range(len(policy.exits)))


def _survivors_temperatures(policy: Policy, windows: Windows) -> Iterator[float]:
    for exit, reached, temperature in zip(
        policy.exits, survivors(policy, windows.outputs), policy.temperatures, strict=True
    ):
        few = len(reached) < FEWEST_SURVIVORS
        yield temperature if few else fit_temperature(windows.outputs[exit][reached], windows.targets[reached])


def _rank(place: Place | None) -> tuple[float, float]:
    return (-np.inf, -np.inf) if place is None else place[:2]
