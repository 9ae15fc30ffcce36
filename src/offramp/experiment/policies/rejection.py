"""Abstention: the least certain windows at the last exit are rejected instead of answered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from offramp.experiment.policies.samples import Sample, confidences
from offramp.policies.policy import Policy
from offramp.schema.results import Rejection
from offramp.scoring.metrics import Array

CURVE_POINTS = 11
ALL_REJECTED = 2.0
"""More than any probability: all windows at the last exit are rejected."""


def rejection_curve(policy: Policy, test: Sample) -> list[tuple[float, float]]:
    """Share of windows rejected at the last exit, and score of the others, as the least certain go first."""
    decided, metric = test.decide(policy), test.windows.metric
    statistics, at_last = test.statistics(decided, policy), decided.exit == len(policy.exits) - 1
    certain = np.where(at_last, confidences(policy, decided), np.inf)
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
    certain = np.where(decided.exit == len(policy.exits) - 1, confidences(policy, decided), np.inf)
    wrong = val.windows.losses[val.answered_at(decided, policy), np.arange(val.windows.count)]
    limits, errors = _errors(certain, wrong)
    enough = np.flatnonzero(errors <= most_error)
    chosen = int(enough[0]) if len(enough) else int(np.argmin(errors))
    found = replace(policy, reject_below=float(limits[chosen]))
    tested = test.decide(found)
    kept = ~tested.rejected
    test_wrong = test.windows.losses[test.answered_at(tested, found), np.arange(test.windows.count)][kept]
    return found, Rejection(
        asked=most_error,
        validation_error=float(errors[chosen]),
        test_error=float(test_wrong.mean()) if kept.any() else None,
        test_share=float(1 - kept.mean()),
    )


def _errors(certain: Array, wrong: Array) -> tuple[Array, Array]:
    """Limits on the certainty, rejecting more and more, and the share of wrong answers among those that reach each."""
    order = np.argsort(certain, kind="stable")
    wrong_above = np.append(np.cumsum(wrong[order][::-1])[::-1], 0.0)
    count_above = np.append(np.arange(len(certain), 0, -1), 0)
    limits = np.append(np.unique(np.append(certain[np.isfinite(certain)], 0.0)), ALL_REJECTED)
    first = np.searchsorted(certain[order], limits, side="left")
    counted = count_above[first]
    errors = np.divide(wrong_above[first], counted, out=np.zeros(len(limits)), where=counted > 0)
    return limits, errors
