"""Temperatures and policies chosen anew on labelled windows, with the heads, exits and criteria as they are.

What is fitted anew takes the place of the old only where it is no worse on groups that it was not fitted to (cross-fitting: each fold of the
groups is judged by what the others gave). A policy with a guarantee is not fitted at all: its promise is certified anew, see
:func:`~offramp.policies.certificates.renew`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.policies.certificates import Renewal, renew
from offramp.policies.changes import PolicyChange, TemperatureChange
from offramp.policies.costs import SAME, CascadeCosts
from offramp.policies.criteria import confidence
from offramp.policies.policy import Policy
from offramp.policies.purpose import Aim
from offramp.policies.rejection import certainty_of_rejecting, rejection_bound
from offramp.policies.search import candidate, per_exit, sweep, with_answer_temperatures
from offramp.policies.simulation import Decisions, simulate
from offramp.policies.windows import Windows
from offramp.progress import OnProgress, silent
from offramp.scoring.calibration import expected_calibration_error, fit_temperature, negative_log_likelihood
from offramp.scoring.metrics import Array

FOLDS = 5
CERTIFIED = "certified"
"""Name of the policy that a run certifies: whoever asks for it asks for the guarantee."""
FORGOTTEN = (
    "the bundle does not say what was certified, as those of later versions do: run the suite again to certify anew"
)

Temperatures = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Refit:
    """What was chosen anew.

    Attributes:
        temperatures: By exit.
        policies: By name, without those that are withdrawn.
        exits: What changed at each exit; empty for regression.
        changes: What changed in each policy.
    """

    temperatures: dict[str, float]
    policies: dict[str, Policy]
    exits: tuple[TemperatureChange, ...]
    changes: tuple[PolicyChange, ...]


def refit(
    windows: Windows,
    groups: NDArray[Any],
    temperatures: Temperatures,
    policies: Mapping[str, Policy],
    seed: int = 0,
    on_progress: OnProgress = silent,
) -> Refit:
    """Choose temperatures and policies anew.

    Args:
        windows: Labelled, with outputs at all exits that policies consult.
        groups: ``(N,)`` recordings, of which there are at least two.
        temperatures: Stored, by exit; 1 where there is none.
        policies: Stored, by name.
        seed: Of the folds.
        on_progress: Called with how many policies are done and how many there are.

    Raises:
        DataError: An answer is not finite, or a learned criterion cannot be fitted.
    """
    folds = dealt(groups, seed)
    exits, of_folds = refit_temperatures(windows, temperatures, folds)
    fresh = {change.exit: change.after for change in exits} or dict.fromkeys(windows.exits, 1.0)
    found, changes = {}, []
    for number, (name, policy) in enumerate(policies.items()):
        on_progress(number, len(policies))
        if policy.guarantee is not None or name == CERTIFIED:
            new, change = _certified_anew(name, policy, windows, groups)
        else:
            new, change = _refitted(name, policy, windows, folds, fresh, of_folds)
        if new is not None:
            found[name] = new
        changes.append(change)
    on_progress(len(policies), len(policies))
    return Refit({**temperatures, **({} if not exits else fresh)}, found, exits, tuple(changes))


def dealt(groups: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """Fold of each window ``(N,)``: whole groups, dealt at random into five folds, or as many as there are groups."""
    present, unit = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(present))
    folds: NDArray[np.int64] = (order % min(FOLDS, len(present)))[unit]
    return folds


def refit_temperatures(
    windows: Windows, stored: Temperatures, folds: NDArray[np.int64]
) -> tuple[tuple[TemperatureChange, ...], list[dict[str, float]]]:
    """New temperatures of all exits, and those that come of leaving each fold out; none for regression."""
    of_folds = [dict.fromkeys(windows.exits, 1.0) for _ in range(folds.max() + 1)]
    if windows.metric.kind != "classification":
        return (), of_folds
    changes = []
    for exit in windows.exits:
        logits, labels = windows.outputs[exit].astype(np.float64), windows.targets
        before, scale = stored.get(exit, 1.0), np.empty(len(labels))
        for number, temperatures in enumerate(of_folds):
            held = folds == number
            temperatures[exit] = scale[held] = fit_temperature(logits[~held], labels[~held])
        right = logits.argmax(1) == labels
        nll, ece = [], []
        for scaled in (logits / before, logits / scale[:, None]):
            nll.append(float(negative_log_likelihood(scaled, labels).mean()))
            ece.append(expected_calibration_error(confidence(scaled), right))
        kept = nll[1] > nll[0]
        after = before if kept else fit_temperature(logits, labels)
        if kept:
            for temperatures in of_folds:
                temperatures[exit] = before
        changes.append(TemperatureChange(exit, before, after, kept, *nll, *ece))
    return tuple(changes), of_folds


def _refitted(
    name: str,
    policy: Policy,
    windows: Windows,
    folds: NDArray[np.int64],
    fresh: Temperatures,
    of_folds: Sequence[Temperatures],
) -> tuple[Policy, PolicyChange]:
    """A policy within its budget, with other thresholds or with those that it has."""
    own = windows.subset(np.arange(windows.count), policy.exits)
    aim = policy.aim or _spent(policy, own)
    decided = simulate(policy, own.outputs)
    score, cost = _score(own, _statistics(own, decided)), _cost(decided, aim)
    elsewhere = []
    for number, temperatures in enumerate(of_folds):
        held = np.flatnonzero(folds == number)
        there = own.subset(held)
        fitted = _chosen(policy, own.subset(np.flatnonzero(folds != number)), temperatures, aim)
        elsewhere.append(_statistics(there, simulate(fitted, there.outputs)))
    cross_fitted = _score(own, np.concatenate(elsewhere))
    sign = own.metric.sign
    idle = not policy.thresholds and policy.reject_below is None  # one exit for all
    kept = idle or (cost <= aim.budget * SAME and sign * cross_fitted < sign * score)
    new = _answering(policy, policy, own, aim) if kept else _chosen(policy, own, fresh, aim)
    now = simulate(new, own.outputs)
    return new, PolicyChange(
        name=name,
        criterion=policy.criterion,
        exits=policy.exits,
        outcome="kept" if kept else "refitted",
        reason=None,
        thresholds_before=policy.thresholds,
        thresholds_after=new.thresholds,
        shares_before=_shares(policy, decided),
        shares_after=_shares(new, now),
        score_before=score,
        score_after=score if kept else cross_fitted,
        rejected_before=None if policy.reject_below is None else float(decided.rejected.mean()),
        rejected_after=None if policy.reject_below is None else float(now.rejected.mean()),
        cost_before=cost,
        cost_after=_cost(now, aim),
        budget=aim.budget,
        unit=aim.unit,
    )


def _certified_anew(
    name: str, policy: Policy, windows: Windows, groups: NDArray[Any]
) -> tuple[Policy | None, PolicyChange]:
    """A policy whose promise is renewed; without it there is no policy, for it is named and asked for by its promise."""
    own = windows.subset(np.arange(windows.count), policy.exits)
    decided = simulate(policy, own.outputs)
    found, promised = Renewal(None, np.nan, None, FORGOTTEN), policy.guarantee
    if promised is not None:
        found = renew(policy, own.outputs, own.targets, groups)
    new = None if found.policy is None else with_answer_temperatures(found.policy, own)
    now = None if new is None else simulate(new, own.outputs)
    return new, PolicyChange(
        name=name,
        criterion=policy.criterion,
        exits=policy.exits,
        outcome="withdrawn" if new is None else "renewed",
        reason=found.reason,
        thresholds_before=policy.thresholds,
        thresholds_after=None if new is None else new.thresholds,
        shares_before=_shares(policy, decided),
        shares_after=None if now is None else _shares(policy, now),
        score_before=_score(own, _statistics(own, decided)),
        score_after=None if now is None else _score(own, _statistics(own, now)),
        risk=None if promised is None else promised.risk,
        level=None if promised is None else promised.level,
        delta=None if promised is None else promised.delta,
        mean_loss=None if promised is None else found.mean_loss,
        bound=found.bound,
    )


def _chosen(policy: Policy, own: Windows, temperatures: Temperatures, aim: Aim) -> Policy:
    """Parameters and thresholds for a policy's criterion and exits, as the search of a run finds them."""
    costs = CascadeCosts(aim.leaving, (0.0,) * len(aim.leaving), aim.unit)
    tried = candidate(own, policy.kind, policy.criterion, tuple(range(len(policy.exits))), dict(temperatures))
    swept = sweep(tried, own, costs)
    found = swept.found(swept.within(aim.budget), tried)
    if len(set(policy.thresholds)) > 1:
        found = per_exit(tried, found, own, costs, aim.budget)
    return _answering(replace(found.policy, aim=policy.aim), policy, own, aim)


def _answering(policy: Policy, stored: Policy, own: Windows, aim: Aim) -> Policy:
    """With temperatures of the windows that reach each exit, and the bound below which answers are rejected where the stored policy has one."""
    answering = with_answer_temperatures(replace(policy, reject_below=None), own)
    if stored.reject_below is None:
        return answering
    decided = simulate(answering, own.outputs)
    certain = certainty_of_rejecting(answering, decided)
    if aim.reject_error is not None:
        wrong = own.losses[decided.exit, np.arange(own.count)]
        return replace(answering, reject_below=rejection_bound(certain, wrong, aim.reject_error)[0])
    # what was asked for is not known: as many as before
    rejected = int(simulate(stored, own.outputs).rejected.sum())
    return replace(
        answering, reject_below=float(np.append(np.sort(certain[np.isfinite(certain)]), 2.0)[: rejected + 1][-1])
    )


def _spent(policy: Policy, own: Windows) -> Aim:
    """The aim of a policy that is stored without one: as many exits consulted as it takes on these windows now."""
    leaving = tuple(float(place) for place in range(1, len(policy.exits) + 1))
    aim = Aim(leaving[-1], "exits", leaving)
    return replace(aim, budget=_cost(simulate(policy, own.outputs), aim))


def _statistics(own: Windows, decided: Decisions) -> Array:
    statistics: Array = own.statistics[decided.exit, np.arange(own.count)]
    return statistics


def _score(own: Windows, statistics: Array) -> float:
    return float(own.metric.score(statistics.sum(0)))


def _cost(decided: Decisions, aim: Aim) -> float:
    return float(np.asarray(aim.leaving)[decided.exit].mean())


def _shares(policy: Policy, decided: Decisions) -> tuple[float, ...]:
    counts = np.bincount(decided.exit, minlength=len(policy.exits)) / max(1, len(decided.exit))
    return tuple(counts.tolist())
