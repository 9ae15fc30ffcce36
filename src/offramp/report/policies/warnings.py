"""What can go wrong with exits that decide, each a warning past a level that its text states."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from offramp.report.numbers import format_count, format_number, format_percent, format_score, is_better, is_bounded
from offramp.schema.results import BudgetRow, Certified, Instability, PolicyComparison, ReliabilityRow, ShiftRow
from offramp.scoring.metrics import METRICS

PREMATURE = 0.05
"""Share of a population's windows that leave early and wrong where full depth is right."""
PREMATURE_REGRESSION = 0.5
"""The same for regression, where half of the windows that leave have a larger error than at full depth even if exits are as good."""
OVERCONFIDENCE = 0.10
"""Mean confidence minus share right, of the windows that left before the last exit."""
THRESHOLD_SPREAD = 0.5
"""Width of the first threshold's interval over the spread of the certainty."""
SCORE_INTERVAL = 0.05
"""Width of the test score's interval when the policy is fitted again: absolute for scores in [0, 1], relative otherwise."""
OVERTHINKING = 0.05
"""Share of test windows that an earlier exit answers right and the last one wrong."""
LAST_EXIT_LAG = 0.05
"""How much worse than the policy full depth is on a population: absolute for scores in [0, 1], relative otherwise."""
BUDGET_MISSED = 0.05
"""How much more than the budget a policy spends on test."""
SURVIVORS_ECE = 0.10
"""Calibration error of the windows that reach an exit, where that of all windows is below ``ALL_ECE``."""
ALL_ECE = 0.05


def policy_warnings(comparison: PolicyComparison, metric: str, higher_is_better: bool) -> list[str]:
    """One warning for each way in which the policies of a task fail, the worst case named; empty where all is well."""
    warnings = [
        *_premature(comparison.shifts, metric),
        *_overconfident(comparison.shifts),
        *(_unstable(comparison.instability, metric) if comparison.instability else []),
        *_overthinking(comparison.overthinking),
        *_lagging(comparison.shifts, metric, higher_is_better),
        *_overspent(comparison.budgets),
        *_survivors(comparison.reliability),
    ]
    if comparison.certified is not None:
        warnings += _guarantee(comparison.certified, comparison.shifts)
    return warnings


def shifted(shifts: Iterable[ShiftRow]) -> list[ShiftRow]:
    """The populations that are not the ones that the policy was fitted or tested on."""
    return [row for row in shifts if row.name not in ("validation", "test")]


def cost_of(exit: str) -> str:
    """A budget in words; that of the suite has the name ``asked``."""
    return "the budget asked for" if exit == "asked" else f"the cost of {exit}"


def premature_level(metric: str) -> float:
    """The level of premature exits for a metric's kind of task."""
    return PREMATURE_REGRESSION if _is_regression(metric) else PREMATURE


def _premature(shifts: Sequence[ShiftRow], metric: str) -> list[str]:
    level = premature_level(metric)
    past = [(row.premature, row.name) for row in shifts if row.premature is not None and row.premature > level]
    if not past:
        return []
    share, name = max(past)
    failure = (
        "with a larger error than at full depth" if _is_regression(metric) else "and wrong where full depth is right"
    )
    return [
        f"Premature exits: on {name} {_percent(share)} of windows leave early {failure} "
        f"({_past(_percent(level), past, 'populations')})."
    ]


def _overconfident(shifts: Sequence[ShiftRow]) -> list[str]:
    past = [
        (row.overconfidence, row.name)
        for row in shifts
        if row.overconfidence is not None and row.overconfidence > OVERCONFIDENCE
    ]
    if not past:
        return []
    excess, name = max(past)
    return [
        f"Shallow overconfidence: on {name} windows that leave early are {excess:.3f} more confident than they are right"
        f" ({_past(f'{OVERCONFIDENCE:.2f}', past, 'populations')})."
    ]


def _unstable(one: Instability, metric: str) -> list[str]:
    warnings = []
    if one.threshold_spread > THRESHOLD_SPREAD:
        low, high = map(format_number, one.threshold_ci95)
        warnings.append(
            f"Unstable threshold: other validation groups put it anywhere from {low} to {high}, {one.threshold_spread:.2f} of the "
            f"certainty's own spread (level: {THRESHOLD_SPREAD:.2f})."
        )
    if _apart(*one.score_ci95, metric) > SCORE_INTERVAL:
        low, high = (format_score(bound, metric) for bound in one.score_ci95)
        warnings.append(
            f"Unstable score: with thresholds from other validation groups the test score is anywhere from {low} to {high} "
            f"(level: {_level(SCORE_INTERVAL, metric)} apart)."
        )
    return warnings


def _overthinking(share: float | None) -> list[str]:
    if share is None or share <= OVERTHINKING:
        return []
    return [
        f"Overthinking: an earlier exit is right and the last one wrong on {_percent(share)} of test windows "
        f"(level: {_percent(OVERTHINKING)})."
    ]


def _lagging(shifts: Sequence[ShiftRow], metric: str, higher_is_better: bool) -> list[str]:
    past = [
        (_apart(row.score, row.full_score, metric), row.name, row.score, row.full_score)
        for row in shifts
        if row.score is not None
        and row.full_score is not None
        and is_better(row.score, row.full_score, higher_is_better)
        and _apart(row.score, row.full_score, metric) > LAST_EXIT_LAG
    ]
    if not past:
        return []
    _, name, score, full = max(past)
    return [
        f"Degraded last exit: on {name} full depth scores {format_score(full, metric)}, the policy {format_score(score, metric)}"
        f" ({_past(f'{_level(LAST_EXIT_LAG, metric)} worse', past, 'populations')})."
    ]


def _overspent(budgets: Sequence[BudgetRow]) -> list[str]:
    past = [
        (row.cost / budget.budget - 1, budget.exit, row.cost, budget.budget)
        for budget in budgets
        for row in budget.policies
        if row.name == budget.routed and row.cost > budget.budget * (1 + BUDGET_MISSED)
    ]
    if not past:
        return []
    excess, name, cost, budget_ = max(past)
    return [
        f"Budget missed: on test the routed policy at {cost_of(name)} spends {format_count(cost)} MACs where "
        f"{format_count(budget_)} were allowed, {_percent(excess)} more ({_past(_percent(BUDGET_MISSED), past, 'budgets')})."
    ]


def _survivors(reliability: Sequence[ReliabilityRow]) -> list[str]:
    past = [
        (row.survivors_ece_after, row.exit, row.ece_after, row.survivors_share)
        for row in reliability
        if row.survivors_ece_after is not None and row.survivors_ece_after > SURVIVORS_ECE and row.ece_after < ALL_ECE
    ]
    if not past:
        return []
    error, name, of_all, share = max(past)
    level = f"{SURVIVORS_ECE:.2f} where that of all is below {ALL_ECE:.2f}"
    return [
        f"Survivors are not calibrated: at {name} the calibration error is {of_all:.3f} over all windows but {error:.3f} over the "
        f"{format_percent(share)} that reach it ({_past(level, past, 'exits')})."
    ]


def _guarantee(certified: Certified, shifts: Sequence[ShiftRow]) -> list[str]:
    risk, level = certified.risk.replace("_", " "), f"{certified.level:.3g}"
    if certified.threshold is None:
        return [
            f"No guarantee: {certified.groups:,} calibration groups do not certify that the {risk} is at most {level} at any of "
            f"{certified.thresholds:,} thresholds; give more groups, or ask for less."
        ]
    warnings = []
    if certified.test_risk is not None and certified.test_risk > certified.level:
        why = (
            "a guarantee holds with its stated probability, and for the mean of all groups"
            if certified.exchangeable
            else "test groups were not drawn as the calibration groups were, and a guarantee speaks of such alone"
        )
        warnings.append(
            f"Guarantee exceeded on test: the {risk} is {certified.test_risk:.3f} where at most {level} was asked; {why}."
        )
    past = [(row.risk, row.name) for row in shifted(shifts) if row.risk is not None and row.risk > certified.level]
    if past:
        found, name = max(past)
        warnings.append(
            f"Shift voids the guarantee: it holds for windows drawn as the calibration groups were; on {name} the {risk} is "
            f"{found:.3f} ({_past(level, past, 'populations')})."
        )
    return warnings


def _past(level: str, past: Sequence[object], noun: str) -> str:
    """The level, and how many of the things compared are past it where the one that is named is not alone."""
    return f"level: {level}" + (f"; {len(past):,} {noun} are past it" if len(past) > 1 else "")


def _is_regression(metric: str) -> bool:
    return metric in METRICS and METRICS[metric].kind == "regression"


def _apart(score: float, other: float, metric: str) -> float:
    """How far two scores are apart: absolute in [0, 1], else relative to the larger; decibels as the powers that they stand for."""
    if is_bounded(metric):
        return abs(score - other)
    if metric.endswith("_db"):
        return float(10 ** (abs(score - other) / 10)) - 1
    largest = max(abs(score), abs(other))
    return abs(score - other) / largest if largest > 0 else 0.0


def _level(level: float, metric: str) -> str:
    if metric.endswith("_db"):
        return f"{10 * math.log10(1 + level):.2f} dB"
    return f"{100 * level:g} points" if is_bounded(metric) else _percent(level)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}%"
