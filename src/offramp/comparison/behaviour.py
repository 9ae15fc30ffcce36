"""What a policy does beyond its score: how far its confidence can be believed, where which windows leave, and how it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from offramp.comparison.budgets import Contest, by_exit, right_exits
from offramp.comparison.gathering import Sample
from offramp.evaluation import snr_bins
from offramp.metrics import Array
from offramp.policies.calibration import expected_calibration_error, failure_auroc
from offramp.policies.criteria import confidence
from offramp.policies.failures import interval, overconfidence, overthinking, premature, resampled_units
from offramp.policies.policy import Policy
from offramp.policies.search import SAME, candidate, exit_temperatures, survivors, sweep
from offramp.policies.simulation import Decisions, certainties
from offramp.results import Instability, ReliabilityRow, ShiftRow

INSTABILITY_RESAMPLES = 100
MOST_GROUPS = 12
"""Test groups are shown one by one where there are at most so many."""
REJECTION_POINTS = 11
ALL_REJECTED = 2.0
"""More than any probability: all windows at the last exit are rejected."""


def reliability(contest: Contest, routed: Sequence[Policy]) -> list[ReliabilityRow]:
    """Calibration of every exit on test, mean over seeds: of all windows, and of those that reach it under the routed policy."""
    temperatures = [exit_temperatures(sample.windows, "classification") for sample in contest.val]
    return [_reliability(contest, routed, temperatures, exit) for exit in contest.exits]


def _reliability(
    contest: Contest, routed: Sequence[Policy], temperatures: Sequence[dict[str, float]], exit: str
) -> ReliabilityRow:
    found: dict[str, list[float | None]] = {}

    def note(name: str, value: float | None) -> None:
        found.setdefault(name, []).append(value)

    for policy, scale, sample in zip(routed, temperatures, contest.test, strict=True):
        logits = sample.windows.outputs[exit]
        right = logits.argmax(1) == sample.windows.targets
        before, after = confidence(logits), confidence(logits / scale[exit])
        note("temperature", scale[exit])
        note("ece_before", expected_calibration_error(before, right))
        note("ece_after", expected_calibration_error(after, right))
        note("auroc_before", failure_auroc(before, right))
        note("auroc_after", failure_auroc(after, right))
        if exit not in policy.exits:
            continue
        place = policy.exits.index(exit)
        reached = list(survivors(policy, sample.windows.outputs))[place]
        own = policy.answer_temperatures[place]
        note("share", len(reached) / sample.windows.count)
        note("survivors_temperature", own)
        if len(reached):
            theirs = right[reached]
            note("survivors_before", expected_calibration_error(before[reached], theirs))
            note("survivors_after", expected_calibration_error(after[reached], theirs))
            mine = confidence(logits[reached] / own)
            note("survivors_own", expected_calibration_error(mine, theirs))
            note("survivors_auroc", failure_auroc(mine, theirs))

    def mean(name: str) -> float | None:
        values = [value for value in found.get(name, []) if value is not None]
        return float(np.mean(values)) if values else None

    return ReliabilityRow(
        exit=exit,
        temperature=mean("temperature") or 1.0,
        survivors_temperature=mean("survivors_temperature"),
        survivors_share=mean("share") or 0.0,
        ece_before=mean("ece_before") or 0.0,
        ece_after=mean("ece_after") or 0.0,
        failure_auroc_before=mean("auroc_before"),
        failure_auroc_after=mean("auroc_after"),
        survivors_ece_before=mean("survivors_before"),
        survivors_ece_after=mean("survivors_after"),
        survivors_ece_own=mean("survivors_own"),
        survivors_failure_auroc=mean("survivors_auroc"),
    )


def shares_by_class(contest: Contest, policy: Policy) -> dict[str, dict[str, float]]:
    """Where windows of each class leave, first seed; empty for regression."""
    if contest.problem.task.kind != "classification":
        return {}
    sample = contest.test[0]
    return {
        name: _shares(contest, policy, sample.decide(policy).exit[sample.windows.targets == label])
        for label, name in enumerate(contest.problem.dataset.label_names)
        if (sample.windows.targets == label).any()
    }


def shares_by_snr(contest: Contest, policy: Policy) -> list[dict[str, float]]:
    """Where windows of each bin of SNR leave, first seed; empty where the data has no SNR."""
    bins = snr_bins(contest.problem)
    if bins is None:
        return []
    edges, place = bins
    left = contest.test[0].decide(policy).exit
    return [_shares(contest, policy, left[place == number]) for number in range(len(edges) - 1)]


def _shares(contest: Contest, policy: Policy, left: NDArray[np.int64]) -> dict[str, float]:
    shares = np.zeros(len(contest.exits))
    consulted = [contest.exits.index(exit) for exit in policy.exits]
    shares[consulted] = np.bincount(left, minlength=len(consulted)) / max(1, len(left))
    return by_exit(contest, shares)


def shift_row(contest: Contest, name: str, sample: Sample, policy: Policy, known: bool = True) -> ShiftRow:
    """What a policy does on some windows.

    Args:
        contest: The task.
        name: Of the population.
        sample: Its windows.
        policy: Of the same seed.
        known: Whether the heads have learned the windows' classes; scores mean nothing otherwise.
    """
    metric, decided = contest.problem.metric, sample.decide(policy)
    early = decided.exit < len(policy.exits) - 1
    right, full_right = _right(sample, decided)
    believed = _confidence(policy, decided) if contest.problem.task.kind == "classification" else None
    score = float(metric.score(sample.statistics(decided, policy).sum(0)))
    return ShiftRow(
        name=name,
        windows=sample.windows.count,
        score=score if known else None,
        full_score=float(metric.score(sample.windows.statistics[-1].sum(0))) if known else None,
        cost=float(contest.leaving_costs(policy)[decided.exit].mean()),
        exit_share=_shares(contest, policy, decided.exit),
        premature=premature(early, right, full_right) if known else None,
        overconfidence=None if believed is None else overconfidence(believed, right, early),
        confidence=None if believed is None else float(believed.mean()),
    )


def test_groups(contest: Contest) -> list[tuple[str, Sample, bool]]:
    """Each test group by itself, where there are few: a session, a scenario, a device of its own; first seed."""
    dataset, test = contest.problem.dataset, contest.test[0]
    groups = dataset.groups[test.indices]
    present = np.unique(groups)
    if not dataset.grouped or len(present) > MOST_GROUPS:
        return []
    return [(dataset.group_names[group], select(test, np.flatnonzero(groups == group)), True) for group in present]


def select(sample: Sample, rows: NDArray[np.int64]) -> Sample:
    """Some windows of a sample."""
    return replace(sample, windows=sample.windows.subset(rows), indices=sample.indices[rows])


def instability(contest: Contest, policy: Policy, budget: float, seed: int) -> Instability | None:
    """How much threshold, score and cost change where validation groups are drawn again; criterion and exits stay.

    None where a policy consults a single exit and has no threshold.
    """
    val, test = contest.val[0], contest.test[0]
    if len(policy.exits) < 2:
        return None
    consulted = tuple(contest.exits.index(exit) for exit in policy.exits)
    kind = contest.problem.task.kind
    units = val.units.of_window[val.indices]
    drawn: list[tuple[float, float, float]] = []
    for rows in resampled_units(units, INSTABILITY_RESAMPLES, seed):
        again = val.windows.subset(rows)
        tried = candidate(again, kind, policy.criterion, consulted, exit_temperatures(again, kind))
        points = sweep(tried, again, contest.costs)
        found = points.found(points.within(budget * SAME, contest.problem.metric), tried).policy
        decided = test.decide(found)
        score = contest.problem.metric.score(test.statistics(decided, found).sum(0))
        drawn.append((found.thresholds[0], float(score), float(contest.leaving_costs(found)[decided.exit].mean())))
    certain = certainties(policy, val.windows.outputs)[:-1]
    low, high = np.quantile(certain[np.isfinite(certain)], [0.05, 0.95])
    ends = [min(max(threshold, low), high) for threshold, _, _ in drawn]
    threshold_ci95 = interval(ends)
    return Instability(
        resamples=len(drawn),
        threshold_ci95=threshold_ci95,
        threshold_spread=(threshold_ci95[1] - threshold_ci95[0]) / max(float(high - low), 1e-12),
        score_ci95=interval([score for _, score, _ in drawn]),
        cost_ci95=interval([cost for _, _, cost in drawn]),
    )


def rejection_curve(contest: Contest, policy: Policy) -> list[tuple[float, float]]:
    """Share of test windows rejected at the last exit, and score of the others, as the least certain go first; first seed."""
    sample, metric = contest.test[0], contest.problem.metric
    if policy.kind != "classification":
        return []
    decided = sample.decide(policy)
    statistics, at_last = sample.statistics(decided, policy), decided.exit == len(policy.exits) - 1
    certain = np.where(at_last, _confidence(policy, decided), np.inf)
    limits = (
        [-np.inf, *np.quantile(certain[at_last], np.linspace(0.1, 1, REJECTION_POINTS - 1))] if at_last.any() else []
    )
    curve = []
    for limit in limits:
        kept = certain >= limit
        if kept.any():
            curve.append((float(1 - kept.mean()), float(metric.score(statistics[kept].sum(0)))))
    return curve


def rejecting(contest: Contest, policy: Policy, most_error: float) -> tuple[Policy, float]:
    """The policy that rejects as few windows at its last exit as hold the share of wrong answers on validation to a limit.

    Returns:
        The policy, and the share of wrong answers that it leaves on validation: the smallest there is, if the limit cannot be held
        because too many that left before are wrong.
    """
    sample = contest.val[0]
    decided = sample.decide(policy)
    right, _ = _right(sample, decided)
    certain = np.where(decided.exit == len(policy.exits) - 1, _confidence(policy, decided), np.inf)
    limits = np.append(np.unique(np.append(certain[np.isfinite(certain)], 0.0)), ALL_REJECTED)
    kept = [certain >= limit for limit in limits]
    errors = [float(1 - right[some].mean()) if some.any() else 0.0 for some in kept]
    enough = [number for number, error in enumerate(errors) if error <= most_error]
    chosen = enough[0] if enough else int(np.argmin(errors))
    return replace(policy, reject_below=float(limits[chosen])), errors[chosen]


def overthought(contest: Contest) -> float | None:
    """Share of test windows that some earlier exit answers right and the last one wrong, first seed; None for regression."""
    if contest.problem.task.kind != "classification":
        return None
    return overthinking(right_exits(contest.test[0]))


def _right(sample: Sample, decided: Decisions) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which answers under a policy are right, and which of full depth; for regression, right is no farther off than full depth."""
    windows = sample.windows
    full = windows.outputs[windows.exits[-1]]
    if windows.metric.kind == "classification":
        return decided.outputs.argmax(1) == windows.targets, full.argmax(1) == windows.targets
    ours, theirs = (np.linalg.norm(outputs - windows.targets, axis=1) for outputs in (decided.outputs, full))
    return ours <= theirs, np.ones(windows.count, dtype=bool)


def _confidence(policy: Policy, decided: Decisions) -> Array:
    """Probability of every answer at its exit's temperature."""
    scale = np.asarray(policy.answer_temperatures, dtype=np.float32)[decided.exit]
    believed: Array = confidence(decided.outputs / scale[:, None])
    return believed
