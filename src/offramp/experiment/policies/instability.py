"""How much a policy changes when validation groups are drawn again."""

from __future__ import annotations

import numpy as np

from offramp.experiment.policies.budgets import Contest
from offramp.policies.policy import Policy
from offramp.policies.search import PER_EXIT, candidate, exit_temperatures, per_exit, sweep
from offramp.policies.simulation import certainties
from offramp.schema.results import Instability
from offramp.scoring.resampling import interval, resampled_units

RESAMPLES = 100


def instability(contest: Contest, policy: Policy, name: str, budget: float, seed: int) -> Instability | None:
    """Spread of threshold, score and cost over bootstrap draws of validation groups; criterion and exits stay; first seed.

    None where a policy has no threshold, or its first exit is never certain.

    Args:
        contest: The task.
        policy: Of the first seed.
        name: Of its row, which says whether its exits have thresholds of their own.
        budget: That its thresholds keep to on validation.
        seed: Of the draws.
    """
    val, test, metric = contest.val[0], contest.test[0], contest.problem.metric
    certain = certainties(policy, val.windows.outputs)[:-1]
    finite = certain[np.isfinite(certain)]
    if not len(finite):
        return None
    consulted = tuple(contest.exits.index(exit) for exit in policy.exits)
    kind, among = contest.problem.task.kind, tuple(range(len(policy.exits)))
    costs = contest.costs.of(consulted)
    drawn: list[tuple[float, float, float]] = []
    for rows in resampled_units(val.units.of_window[val.indices], RESAMPLES, seed):
        again = val.windows.subset(rows, policy.exits)
        tried = candidate(again, kind, policy.criterion, among, exit_temperatures(again, kind))
        points = sweep(tried, again, costs)
        found = points.found(points.within(budget), tried)
        if name.endswith(PER_EXIT):
            found = per_exit(tried, found, again, costs, budget)
        decided = test.decide(found.policy)
        score = float(metric.score(test.statistics(decided, found.policy).sum(0)))
        cost = float(contest.leaving_costs(found.policy)[decided.exit].mean())
        drawn.append((found.policy.thresholds[0], score, cost))
    low, high = np.quantile(finite, [0.05, 0.95])
    threshold_ci95 = interval([min(max(threshold, low), high) for threshold, _, _ in drawn])
    return Instability(
        resamples=len(drawn),
        threshold_ci95=threshold_ci95,
        threshold_spread=(threshold_ci95[1] - threshold_ci95[0]) / max(float(high - low), 1e-12),
        score_ci95=interval([score for _, score, _ in drawn]),
        cost_ci95=interval([cost for _, _, cost in drawn]),
    )
