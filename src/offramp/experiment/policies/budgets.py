"""One row per way to decide where windows leave, at the cost of every fixed exit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from offramp.experiment.evaluate import Resampling
from offramp.experiment.policies.samples import Sample
from offramp.heads.fit import FittedExit, Problem
from offramp.policies.costs import SAME, CascadeCosts
from offramp.policies.policy import Policy
from offramp.policies.purpose import Aim
from offramp.policies.search import Found, Searcher
from offramp.policies.selection import best
from offramp.schema.results import BudgetRow, Gain, PolicyRow
from offramp.scoring.metrics import Array
from offramp.scoring.resampling import paired_gain, summarise

LOWEST = float(np.finfo(np.float64).min)
"""Stands for minus infinity, which JSON has not."""


@dataclass(frozen=True, eq=False)
class Contest:
    """All that the rows of one task are made from.

    Attributes:
        problem: The task.
        fitted: Heads of every exit.
        val: Validation windows of every seed.
        searchers: Over the validation windows of every seed.
        test: Test windows of every seed.
        costs: Of one window.
        resampling: Of validation and test units.
    """

    problem: Problem
    fitted: Sequence[FittedExit]
    val: Sequence[Sample]
    searchers: Sequence[Searcher]
    test: Sequence[Sample]
    costs: CascadeCosts
    resampling: Resampling

    @property
    def exits(self) -> tuple[str, ...]:
        """All exits, in order of depth."""
        return self.val[0].windows.exits

    def leaving_costs(self, policy: Policy) -> Array:
        """Cost of leaving at each exit that a policy consults."""
        return self.costs.leaving([self.exits.index(exit) for exit in policy.exits])


@dataclass(frozen=True, eq=False)
class Budget:
    """The outcome at one budget.

    Attributes:
        row: As in the results.
        policies: By name, one per seed.
    """

    row: BudgetRow
    policies: dict[str, tuple[Policy, ...]]

    @property
    def routed(self) -> tuple[Policy, ...]:
        """The policies that are best on validation, one per seed."""
        return self.policies[self.row.routed]


def run_contest(
    contest: Contest, criteria: Sequence[str], budgets: Sequence[tuple[str, float]], worst: float | None
) -> list[Budget]:
    """Find policies for all budgets on validation and score them on test.

    Args:
        contest: The task.
        criteria: Names of criteria.
        budgets: Name and mean cost of each.
        worst: Most cost of any one window; None for any.
    """
    amounts = [amount for _, amount in budgets]
    found = [searcher.search(criteria, contest.costs, amounts, worst) for searcher in contest.searchers]
    return [
        _budget(contest, name, amount, worst, [of_seed[number] for of_seed in found])
        for number, (name, amount) in enumerate(budgets)
    ]


def _budget(
    contest: Contest, name: str, amount: float, worst: float | None, found: Sequence[dict[str, Found]]
) -> Budget:
    policies = {way: tuple(_aimed(contest, of_seed[way].policy, amount) for of_seed in found) for way in found[0]}
    rows, sums = {}, {}
    for way, of_seeds in policies.items():
        rows[way], sums[way] = policy_row(contest, way, of_seeds)
    sign = contest.problem.metric.sign
    routed = max(rows, key=lambda way: (sign * rows[way].val.mean, -rows[way].val_cost))
    # a policy that spends more on test than on validation is held against a fixed exit that may spend as much
    fixed_row, fixed_sums = fixed_exit(contest, min(max(amount, rows[routed].cost), worst or np.inf))
    gains = {way: gain(contest, of_way, fixed_sums) for way, of_way in sums.items()}
    row = BudgetRow(
        exit=name,
        budget=amount,
        fixed=fixed_row,
        policies=[row.model_copy(update={"gain": gains[way]}) for way, row in rows.items()],
        routed=routed,
        random=random_row(contest, rows[routed], policies[routed]),
        gain=gains[routed],
        verdict=verdict(gains[routed]),
    )
    return Budget(row, policies)


def _aimed(contest: Contest, policy: Policy, amount: float) -> Policy:
    """The policy with what its thresholds were chosen for, so that they can be chosen again on other windows."""
    return replace(policy, aim=Aim(float(amount), contest.costs.unit, tuple(contest.leaving_costs(policy).tolist())))


def fixed_exit(contest: Contest, budget: float) -> tuple[PolicyRow, Array]:
    """The fixed exit within a budget that is best on validation, and its test sums ``(S, U, q)``."""
    costs = contest.costs.fixed()
    allowed = [index for index, cost in enumerate(costs) if cost <= budget * SAME] or [int(costs.argmin())]
    chosen = allowed[best([contest.fitted[index].val_sums for index in allowed], contest.problem.metric)]
    exit = contest.fitted[chosen]
    metric = contest.problem.metric
    row = PolicyRow(
        name=exit.name,
        exits=[exit.name],
        cost=float(costs[chosen]),
        val_cost=float(costs[chosen]),
        val=summarise(exit.val_sums, metric),
        test=summarise(exit.test_sums, metric, contest.resampling.test),
        exit_share={exit.name: 1.0},
    )
    return row, exit.test_sums


def policy_row(contest: Contest, name: str, policies: Sequence[Policy]) -> tuple[PolicyRow, Array]:
    """A policy per seed on validation and test: its row, and its test sums ``(S, U, q)``."""
    metric = contest.problem.metric
    sums: dict[str, list[Array]] = {"val": [], "test": []}
    cost: dict[str, list[float]] = {"val": [], "test": []}
    shares = np.zeros(len(contest.exits))
    for policy, val, test in zip(policies, contest.val, contest.test, strict=True):
        for which, sample in (("val", val), ("test", test)):
            decided = sample.decide(policy)
            sums[which].append(sample.sums(sample.statistics(decided, policy)))
            cost[which].append(float(contest.leaving_costs(policy)[decided.exit].mean()))
        consulted = [contest.exits.index(exit) for exit in policy.exits]
        shares[consulted] += np.bincount(decided.exit, minlength=len(consulted)) / len(decided.exit)
    test_sums = np.stack(sums["test"])
    row = PolicyRow(
        name=name,
        exits=list(policies[0].exits),
        thresholds=[None if value == np.inf else max(value, LOWEST) for value in policies[0].thresholds],
        cost=float(np.mean(cost["test"])),
        val_cost=float(np.mean(cost["val"])),
        val=summarise(np.stack(sums["val"]), metric),
        test=summarise(test_sums, metric, contest.resampling.test),
        exit_share=by_exit(contest, shares / len(policies)),
    )
    return row, test_sums


def random_row(contest: Contest, row: PolicyRow, policies: Sequence[Policy]) -> PolicyRow:
    """Windows dealt at random to exits in a policy's own shares: the expectation over all dealings, exactly.

    It pays for the same heads as the policy, so that it costs the same.
    """
    metric = contest.problem.metric
    sums: dict[str, list[Array]] = {"val": [], "test": []}
    for policy, val, test in zip(policies, contest.val, contest.test, strict=True):
        for which, sample in (("val", val), ("test", test)):
            share = np.bincount(sample.decide(policy).exit, minlength=len(policy.exits)) / sample.windows.count
            consulted = [contest.exits.index(exit) for exit in policy.exits]
            expected = np.tensordot(share, sample.windows.statistics[consulted], axes=1)
            sums[which].append(sample.sums(expected))
    return row.model_copy(
        update={
            "name": "random",
            "thresholds": [],
            "val": summarise(np.stack(sums["val"]), metric),
            "test": summarise(np.stack(sums["test"]), metric, contest.resampling.test),
            "gain": None,
        }
    )


def oracle_row(contest: Contest) -> PolicyRow:
    """Each window leaves at the first of the exits whose answer loses least; all heads on the way are paid for.

    For classification that is the first exit that is right, and the first of all where none is.
    """
    metric = contest.problem.metric
    sums: dict[str, list[Array]] = {"val": [], "test": []}
    cost: dict[str, list[float]] = {"val": [], "test": []}
    paid = contest.costs.leaving(range(len(contest.exits)))
    shares = np.zeros(len(contest.exits))
    for val, test in zip(contest.val, contest.test, strict=True):
        for which, sample in (("val", val), ("test", test)):
            left = sample.windows.losses.argmin(0)
            sums[which].append(sample.sums(sample.windows.statistics[left, np.arange(sample.windows.count)]))
            cost[which].append(float(paid[left].mean()))
        shares += np.bincount(left, minlength=len(shares)) / len(left)
    return PolicyRow(
        name="oracle",
        exits=list(contest.exits),
        cost=float(np.mean(cost["test"])),
        val_cost=float(np.mean(cost["val"])),
        val=summarise(np.stack(sums["val"]), metric),
        test=summarise(np.stack(sums["test"]), metric, contest.resampling.test),
        exit_share=by_exit(contest, shares / len(contest.test)),
    )


def gain(contest: Contest, better: Array, reference: Array) -> Gain:
    """Paired over units and seeds, on test."""
    return paired_gain(better, reference, contest.problem.metric, contest.resampling.test, contest.problem.test_units)


def verdict(difference: Gain) -> str:
    """Who wins: an interval that is clear of zero decides; see ``gain.unit`` for whether it is one over groups."""
    if difference.ci95[0] > 0:
        return "routing"
    return "fixed" if difference.ci95[1] < 0 else "neither"


def by_exit(contest: Contest, shares: Array) -> dict[str, float]:
    """Shares by name of the exit, all exits included."""
    return {exit: float(share) for exit, share in zip(contest.exits, shares, strict=True)}
