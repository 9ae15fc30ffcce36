"""Certificates of whole policies: what leaving by each of some thresholds would lose, and whether a promise still holds on new groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import PolicyError
from offramp.policies.guarantees import certify, group_losses, window_losses
from offramp.policies.policy import Policy
from offramp.policies.purpose import StoredGuarantee
from offramp.policies.simulation import Outputs, certainties, leaving
from offramp.schema.policies import Risk
from offramp.scoring.metrics import Array


def losses_along(
    policy: Policy,
    outputs: Outputs,
    targets: NDArray[Any],
    thresholds: Sequence[float],
    risk: Risk,
    limit: float | None,
) -> Array:
    """Loss of every window at every threshold, one for all exits, ``(T, N)``.

    Args:
        policy: Its last exit is full depth; its own thresholds do not matter.
        outputs: Of its exits.
        targets: Classes ``(N,)`` or values ``(N, outputs)``.
        thresholds: T of them.
        risk: What counts as a loss, see :func:`~offramp.policies.guarantees.window_losses`.
        limit: For regression.
    """
    certain = certainties(policy, outputs)
    stacked = np.stack([outputs[exit] for exit in policy.exits])
    losses = []
    for threshold in thresholds:
        left = leaving(certain, np.full(len(policy.exits) - 1, threshold))
        answers = stacked[left, np.arange(len(targets))]
        losses.append(window_losses(risk, policy.kind, answers, stacked[-1], targets, limit))
    return np.stack(losses)


@dataclass(frozen=True, eq=False)
class Renewal:
    """What became of a promise.

    Attributes:
        policy: That keeps it, with the threshold that is certified now; None where it is withdrawn.
        mean_loss: Of the new groups, at that threshold or, where it is withdrawn, at the policy's old one.
        bound: What is held against the level at the last certified threshold, or at the first where none is; None where there are too
            few groups to tell.
        reason: Why it is withdrawn, in words; None where it is renewed.
    """

    policy: Policy | None
    mean_loss: float
    bound: float | None
    reason: str | None


def renew(policy: Policy, outputs: Outputs, targets: NDArray[Any], groups: NDArray[Any]) -> Renewal:
    """Certify a policy's promise anew: same risk, level, delta and method, on groups that nothing of the policy was chosen on.

    The temperatures, parameters and the sequence of thresholds are those of the old policy, so that all is fixed before the new groups are
    looked at, and all of them may certify. The threshold is the last one that is certified now, more careful or bolder than before.

    Args:
        policy: One with a guarantee, whose last exit is full depth.
        outputs: Of its exits, for N windows.
        targets: Classes ``(N,)`` or values ``(N, outputs)``.
        groups: ``(N,)`` recordings, drawn as those for which the promise is to hold.

    Raises:
        PolicyError: The policy has no guarantee.
    """
    promised = policy.guarantee
    if promised is None:
        raise PolicyError("nothing is certified for the policy: there is nothing to renew")
    losses = group_losses(
        losses_along(policy, outputs, targets, promised.thresholds, promised.risk, promised.limit), groups
    )
    now = losses[_place(policy, promised)]
    try:
        found = certify(losses, promised.level, promised.delta, promised.method)
    except PolicyError as error:  # too few groups
        return Renewal(None, float(now.mean()), None, str(error))
    if not found.index:  # none, or only the first, by which none leaves
        reason = (
            f"the risk cannot be shown to be at most {promised.level:g} at any threshold that lets windows leave early"
        )
        return Renewal(None, float(now.mean()), found.bound, reason)
    threshold = promised.thresholds[found.index]
    kept = replace(promised, groups=found.groups, mean_loss=found.mean_loss, bound=found.bound)
    renewed = replace(policy, thresholds=(threshold,) * (len(policy.exits) - 1), guarantee=kept)
    return Renewal(renewed, found.mean_loss, found.bound, None)


def _place(policy: Policy, promised: StoredGuarantee) -> int:
    """Where the policy's threshold is in the sequence; the last at least as careful one if it is not there."""
    asked = max(policy.thresholds, default=np.inf)
    return max(0, sum(threshold >= asked for threshold in promised.thresholds) - 1)
