"""Abstention: windows that are not certain enough at the last exit are rejected instead of answered."""

from __future__ import annotations

import numpy as np

from offramp.policies.policy import Policy
from offramp.policies.simulation import Decisions, answer_confidences
from offramp.scoring.metrics import Array

ALL_REJECTED = 2.0
"""More than any probability: all windows at the last exit are rejected."""


def certainty_of_rejecting(policy: Policy, decided: Decisions) -> Array:
    """Probability of every answer of the last exit, and infinity for those that left before, whom nobody rejects, ``(N,)``."""
    certain: Array = np.where(decided.exit == len(policy.exits) - 1, answer_confidences(policy, decided), np.inf)
    return certain


def rejection_bound(certain: Array, wrong: Array, most_error: float) -> tuple[float, float]:
    """The bound that rejects as few windows as hold the share of wrong answers to a limit, and that share.

    Where too many that are never rejected are wrong, it is the bound that leaves the smallest share.

    Args:
        certain: ``(N,)`` from :func:`certainty_of_rejecting`; what is below the bound is rejected.
        wrong: ``(N,)`` how wrong each answer is, in [0, 1].
        most_error: The limit, in (0, 1).
    """
    order = np.argsort(certain, kind="stable")
    wrong_above = np.append(np.cumsum(wrong[order][::-1])[::-1], 0.0)
    count_above = np.append(np.arange(len(certain), 0, -1), 0)
    limits = np.append(np.unique(np.append(certain[np.isfinite(certain)], 0.0)), ALL_REJECTED)
    first = np.searchsorted(certain[order], limits, side="left")
    counted = count_above[first]
    errors = np.divide(wrong_above[first], counted, out=np.zeros(len(limits)), where=counted > 0)
    enough = np.flatnonzero(errors <= most_error)
    chosen = int(enough[0]) if len(enough) else int(np.argmin(errors))
    return float(limits[chosen]), float(errors[chosen])
