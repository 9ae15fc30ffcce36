"""Abstention: the least certain windows at the last exit are rejected instead of answered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from offramp.experiment.policies.samples import Sample
from offramp.policies.policy import Policy
from offramp.policies.rejection import certainty_of_rejecting, rejection_bound
from offramp.schema.results import Rejection

CURVE_POINTS = 11


def rejection_curve(policy: Policy, test: Sample) -> list[tuple[float, float]]:
    """Share of windows rejected at the last exit, and score of the others, as the least certain go first."""
    decided, metric = test.decide(policy), test.windows.metric
    statistics, at_last = test.statistics(decided, policy), decided.exit == len(policy.exits) - 1
    certain = certainty_of_rejecting(policy, decided)
    limits = [-np.inf, *np.quantile(certain[at_last], np.linspace(0.1, 1, CURVE_POINTS - 1))] if at_last.any() else []
    kept = [certain >= limit for limit in limits]
    return [(float(1 - some.mean()), float(metric.score(statistics[some].sum(0)))) for some in kept if some.any()]


def rejecting(policy: Policy, most_error: float, val: Sample, test: Sample) -> tuple[Policy, Rejection]:
    """The policy that rejects as few windows at its last exit as hold the share of wrong answers on validation to a limit.

    Where too many that left before are wrong, it is the one that leaves the smallest share.

    Args:
        policy: Of a classification.
        most_error: The limit, in (0, 1).
        val: Validation windows of the policy's seed.
        test: Its test windows.
    """
    decided = val.decide(policy)
    wrong = val.windows.losses[val.answered_at(decided, policy), np.arange(val.windows.count)]
    bound, error = rejection_bound(certainty_of_rejecting(policy, decided), wrong, most_error)
    aim = None if policy.aim is None else replace(policy.aim, reject_error=most_error)
    found = replace(policy, reject_below=bound, aim=aim)
    tested = test.decide(found)
    kept = ~tested.rejected
    test_wrong = test.windows.losses[test.answered_at(tested, found), np.arange(test.windows.count)][kept]
    return found, Rejection(
        asked=most_error,
        validation_error=error,
        test_error=float(test_wrong.mean()) if kept.any() else None,
        test_share=float(1 - kept.mean()),
    )
