"""Policies within a budget: which exits to consult, by what criterion and at what thresholds, all chosen on validation.

Every head that is consulted costs, so that a cascade may do better with a few exits than with all. Single exits, pairs, triples and
all exits up to a depth are tried with one criterion that is quickly fitted; the criteria then compete on the best of these subsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from offramp.policies.costs import SAME, CascadeCosts
from offramp.policies.criteria import CRITERIA
from offramp.policies.learning import learned_parameters
from offramp.policies.policy import Policy
from offramp.policies.simulation import Outputs, certainties, leaving
from offramp.policies.windows import Windows
from offramp.scoring.calibration import fit_temperature
from offramp.scoring.metrics import Array

THRESHOLDS = 24
"""Tried for one threshold shared by all exits: quantiles of the certainty, one that lets none leave, one that lets all leave."""
OWN_THRESHOLDS = 12
"""Tried per exit, in turn, where every exit has its own."""
ROUNDS = 2
SUBSETS_KEPT = 2
"""Subsets per budget on which all criteria compete."""
FIRST = {"classification": "confidence", "regression": "benefit"}
"""The criterion with which subsets are ranked."""
FEWEST_SURVIVORS = 30
"""With fewer windows than this at an exit, the temperature of all windows serves."""
PER_EXIT = " per exit"
"""Ends the name of a policy whose exits have thresholds of their own."""

Kind = Literal["classification", "regression"]
Place = tuple[float, float, int]
"""Score (larger is better), minus the mean cost, and number of a threshold: the larger, the better."""


@dataclass(frozen=True, eq=False)
class Found:
    """A policy that was found on validation.

    Attributes:
        policy: Ready to run.
        score: On validation, larger is better: the metric's, or minus it.
        cost: Mean on validation, in the budget's unit.
    """

    policy: Policy
    score: float
    cost: float


@dataclass(frozen=True, eq=False)
class Candidate:
    """A criterion on a subset of exits, with its certainties.

    Attributes:
        policy: With thresholds that let none leave.
        consulted: Indices of its exits among all.
        certain: ``(k, N)``; its last row does not matter.
    """

    policy: Policy
    consulted: tuple[int, ...]
    certain: NDArray[np.float32]


class Searcher:
    """Finds policies for the validation windows of one seed, for any costs and budgets; what was fitted once is kept.

    Args:
        windows: Validation windows.
        kind: Of the task.
    """

    def __init__(self, windows: Windows, kind: Kind) -> None:
        self.windows = windows
        self.kind = kind
        self.temperatures = exit_temperatures(windows, kind)
        self._candidates: dict[tuple[str, tuple[int, ...]], Candidate] = {}

    def candidate(self, criterion: str, consulted: tuple[int, ...]) -> Candidate:
        """A criterion on some exits, its parameters learned on these windows."""
        key = (criterion, consulted)
        if key not in self._candidates:
            self._candidates[key] = candidate(self.windows, self.kind, criterion, consulted, self.temperatures)
        return self._candidates[key]

    def search(
        self, criteria: Sequence[str], costs: CascadeCosts, budgets: Sequence[float], worst: float | None = None
    ) -> list[dict[str, Found]]:
        """The best policy of every criterion within every budget, by score on validation; the cheaper one on a tie.

        Args:
            criteria: Names of criteria.
            costs: Of one window, in the budgets' unit.
            budgets: Most mean cost of a window on validation.
            worst: Most cost that any one window may have (service level); any if None.

        Returns:
            For every budget, policies by name: the criterion for one threshold shared by its exits, with `` per exit`` for
            thresholds of their own.

        Raises:
            PolicyError: Not even the cheapest exit keeps the service level.
        """
        if worst is not None:
            costs.check_service_level(worst)
        best: list[dict[str, Found]] = [{} for _ in budgets]
        subsets = self._subsets(costs, budgets, worst)
        for criterion in criteria:
            tried = [self.candidate(criterion, subset) for subset in subsets]
            sweeps = [sweep(each, self.windows, costs) for each in tried]
            for budget, found in zip(budgets, best, strict=True):
                places = [points.within(budget) for points in sweeps]
                number = max(range(len(tried)), key=lambda n: _rank(places[n]))
                shared = sweeps[number].found(places[number], tried[number])
                found[criterion] = shared
                found[criterion + PER_EXIT] = per_exit(tried[number], shared, self.windows, costs, budget)
        return best

    def _subsets(self, costs: CascadeCosts, budgets: Sequence[float], worst: float | None) -> list[tuple[int, ...]]:
        """Subsets that are best for some budget by the first criterion."""
        allowed = [
            subset
            for subset in exit_subsets(len(self.windows.exits))
            if worst is None or costs.leaving(subset)[-1] <= worst * SAME
        ]
        swept = [(s, sweep(self.candidate(FIRST[self.kind], s), self.windows, costs)) for s in allowed]
        kept: dict[tuple[int, ...], None] = {}
        for budget in budgets:
            ranked = sorted(swept, key=lambda pair: _rank(pair[1].within(budget)), reverse=True)
            kept |= dict.fromkeys(subset for subset, _ in ranked[:SUBSETS_KEPT])
        return list(kept)


def exit_subsets(exits: int) -> list[tuple[int, ...]]:
    """One, two or three exits, and all up to each depth."""
    few = [subset for size in (1, 2, 3) for subset in combinations(range(exits), size)]
    return few + [tuple(range(depth)) for depth in range(4, exits + 1)]


def exit_temperatures(windows: Windows, kind: str) -> dict[str, float]:
    """Each exit's temperature, fitted to all windows; 1 for regression."""
    if kind != "classification":
        return dict.fromkeys(windows.exits, 1.0)
    return {exit: fit_temperature(windows.outputs[exit], windows.targets) for exit in windows.exits}


def candidate(
    windows: Windows, kind: Kind, criterion: str, consulted: tuple[int, ...], temperatures: dict[str, float]
) -> Candidate:
    """A criterion on some exits, its parameters learned on these windows."""
    exits = tuple(windows.exits[index] for index in consulted)
    scale = tuple(temperatures[exit] for exit in exits)
    parameters = {}
    if CRITERIA[criterion].learned:
        losses = windows.losses[list(consulted)] if windows.metric.higher_is_better else None
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

    def within(self, budget: float) -> Place | None:
        """The best threshold within a budget; None if there is none."""
        allowed = np.flatnonzero(self.costs <= budget * SAME)
        if not len(allowed):
            return None
        order = np.lexsort(
            (-allowed, self.costs[allowed], -self.scores[allowed])
        )  # on a tie, that which lets more leave
        place = int(allowed[order[0]])
        return float(self.scores[place]), -float(self.costs[place]), place

    def found(self, place: Place | None, tried: Candidate) -> Found:
        """The policy at a place; the one that lets all leave at once where there is none within the budget."""
        number = len(self.thresholds) - 1 if place is None else place[2]
        thresholds = (float(self.thresholds[number]),) * (len(tried.consulted) - 1)
        policy = replace(tried.policy, thresholds=thresholds)
        return Found(policy, float(self.scores[number]), float(self.costs[number]))


def sweep(tried: Candidate, windows: Windows, costs: CascadeCosts) -> Sweep:
    """Score and cost of a candidate at every threshold."""
    thresholds = shared_thresholds(tried.certain[:-1], THRESHOLDS)
    scores, cost = outcomes(tried, np.repeat(thresholds[:, None], len(tried.consulted) - 1, axis=1), windows, costs)
    return Sweep(thresholds, scores, cost)


def shared_thresholds(certain: NDArray[np.float32], number: int) -> Array:
    """Infinity, quantiles of the certainty from high to low down to its smallest value, and minus infinity; each once."""
    finite = certain[np.isfinite(certain)]
    if not len(finite):
        return np.asarray([np.inf, -np.inf])
    quantiles = np.quantile(finite, np.linspace(1, 0, number - 1), method="lower").astype(np.float32)
    return np.concatenate([[np.inf], np.unique(quantiles)[::-1], [-np.inf]]).astype(np.float64)


def outcomes(tried: Candidate, thresholds: Array, windows: Windows, costs: CascadeCosts) -> tuple[Array, Array]:
    """Scores (larger is better) and mean costs ``(T,)`` for thresholds ``(T, k - 1)``."""
    left = leaving(tried.certain, thresholds)
    paid = costs.leaving(tried.consulted)
    total, cost = np.zeros((len(thresholds), windows.statistics.shape[2])), np.zeros(len(thresholds))
    for place, index in enumerate(tried.consulted):
        here = (left == place).astype(np.float64)
        total += here @ windows.statistics[index]
        cost += here.mean(1) * paid[place]
    return windows.metric.sign * windows.metric.score(total), cost


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


def with_answer_temperatures(policy: Policy, windows: Windows) -> Policy:
    """The same policy with temperatures fitted to the windows that reach each exit."""
    if policy.kind != "classification":
        return policy
    temperatures = []
    for exit, reached, temperature in zip(
        policy.exits, survivors(policy, windows.outputs), policy.temperatures, strict=True
    ):
        few = len(reached) < FEWEST_SURVIVORS
        temperatures.append(
            temperature if few else fit_temperature(windows.outputs[exit][reached], windows.targets[reached])
        )
    return replace(policy, answer_temperatures=tuple(temperatures))


def survivors(policy: Policy, outputs: Outputs) -> list[NDArray[np.int64]]:
    """Per consulted exit, the indices of the windows that reach it."""
    left = leaving(certainties(policy, outputs), np.asarray(policy.thresholds, dtype=np.float64))
    return [np.flatnonzero(left >= place) for place in range(len(policy.exits))]


def _rank(place: Place | None) -> tuple[float, float]:
    return (-np.inf, -np.inf) if place is None else place[:2]
