"""A threshold that is certified on the calibration groups, and what becomes of the certificate on other windows."""

from __future__ import annotations

from dataclasses import replace

from offramp.experiment.policies.budgets import Contest
from offramp.experiment.policies.samples import Sample
from offramp.policies.certificates import losses_along
from offramp.policies.guarantees import certify, group_losses, window_losses
from offramp.policies.policy import Policy
from offramp.policies.purpose import StoredGuarantee
from offramp.policies.search import shared_thresholds
from offramp.schema.policies import GuaranteeSpec
from offramp.schema.results import Certified

THRESHOLDS = 50
"""Tested in fixed sequence, from one that lets none leave; quantiles of the certainty on validation, so that they are fixed before
the calibration groups are looked at."""


def certified_policy(
    contest: Contest, calibration: Sample, routed: Policy, asked: GuaranteeSpec, exchangeable: bool
) -> tuple[Certified, Policy | None]:
    """Certify one threshold for the routed policy's criterion and exits, full depth being its last; first seed.

    Args:
        contest: The task.
        calibration: Windows used for nothing else, seen by the heads of the first seed.
        routed: Gives criterion and exits.
        asked: Risk, level, delta and method.
        exchangeable: Whether test groups were drawn as the calibration groups were.

    Returns:
        The part of the results, and the policy if a threshold is certified.

    Raises:
        PolicyError: There are too few calibration groups.
    """
    metric, test = contest.problem.metric, contest.test[0]
    consulted = [contest.exits.index(exit) for exit in routed.exits]
    with_full = tuple(dict.fromkeys([*consulted, len(contest.exits) - 1]))
    tried = contest.searchers[0].candidate(routed.criterion, with_full)
    # down to the smallest certainty: all leave at once
    thresholds = shared_thresholds(tried.certain[:-1], THRESHOLDS)[:-1].tolist()
    outputs, targets = calibration.windows.outputs, calibration.windows.targets
    losses = losses_along(tried.policy, outputs, targets, thresholds, asked.risk, _limit(tried.policy, asked))
    groups = contest.problem.dataset.groups[calibration.indices]
    certificate = certify(group_losses(losses, groups), asked.level, asked.delta, asked.method)
    full_score = float(metric.score(test.windows.statistics[-1].sum(0)))
    result = Certified(
        risk=asked.risk,
        level=asked.level,
        delta=certificate.delta,
        method=asked.method,
        criterion=routed.criterion,
        exits=list(tried.policy.exits),
        groups=certificate.groups,
        windows=calibration.windows.count,
        thresholds=len(thresholds),
        threshold=None,
        calibration_risk=None,
        test_risk=None,
        macs_saved_fraction=None,
        score=None,
        full_score=full_score,
        exchangeable=exchangeable,
    )
    if not certificate.index:  # none, or only the first, which lets none leave
        return result, None
    threshold = thresholds[certificate.index]
    promised = StoredGuarantee(
        risk=asked.risk,
        level=asked.level,
        delta=certificate.delta,
        method=asked.method,
        limit=_limit(tried.policy, asked),
        thresholds=tuple(thresholds),
        groups=certificate.groups,
        mean_loss=certificate.mean_loss,
        bound=certificate.bound,
    )
    policy = replace(tried.policy, thresholds=(threshold,) * (len(with_full) - 1), guarantee=promised)
    decided = test.decide(policy)
    cost = float(contest.leaving_costs(policy)[decided.exit].mean())
    found = {
        "threshold": threshold,
        "calibration_risk": certificate.mean_loss,
        "test_risk": risk_of(contest, test, policy, asked),
        "macs_saved_fraction": 1 - cost / float(contest.costs.fixed()[-1]),
        "score": float(metric.score(test.statistics(decided, policy).sum(0))),
    }
    return result.model_copy(update=found), policy


def risk_of(contest: Contest, sample: Sample, policy: Policy, asked: GuaranteeSpec) -> float:
    """A policy's risk on some windows, mean over their groups."""
    full = sample.windows.outputs[sample.windows.exits[-1]]
    answers, targets = sample.decide(policy).outputs, sample.windows.targets
    losses = window_losses(asked.risk, policy.kind, answers, full, targets, _limit(policy, asked))
    return float(group_losses(losses[None], contest.problem.dataset.groups[sample.indices]).mean())


def _limit(policy: Policy, asked: GuaranteeSpec) -> float | None:
    """How far off an answer is wrong; a suite with both kinds of tasks has a limit for its regressions alone."""
    return asked.limit if policy.kind == "regression" else None
