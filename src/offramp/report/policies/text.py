"""Policies beside fixed exits in words: one sentence per task, the guarantee, and how often which side wins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from offramp.report.numbers import (
    format_count,
    format_equivalence,
    format_gain,
    format_number,
    format_percent,
    format_score,
    is_better,
    is_bounded,
    metric_label,
)
from offramp.report.policies.warnings import cost_of, policy_warnings, shifted
from offramp.schema.results import (
    BudgetRow,
    Certified,
    MeasuredPolicies,
    PolicyComparison,
    PolicyRow,
    Results,
    ShiftRow,
    TaskResult,
)

__all__ = [
    "Tally",
    "VerdictCounts",
    "certificate_sentences",
    "instability_sentence",
    "measured_policy_sentence",
    "policy_line",
    "policy_name",
    "policy_sentence",
    "policy_warnings",
    "routed_row",
    "time_of",
    "verdict_counts",
    "verdict_sentence",
    "verdict_words",
]

_VERDICTS = {"fixed": "the fixed exit wins", "routing": "routing wins", "neither": "neither wins"}
_ORACLES = {
    "classification": "an oracle that leaves at the first right answer",
    "regression": "an oracle that leaves at the best answer",
}


@dataclass(frozen=True)
class Tally:
    """How often the fixed exit wins, routing wins, or neither; and how many wins are over blocks or windows, with fewer than eight groups."""

    fixed: int
    routing: int
    neither: int
    by_window: int = 0

    @property
    def total(self) -> int:
        """All comparisons counted."""
        return self.fixed + self.routing + self.neither


@dataclass(frozen=True)
class VerdictCounts:
    """Verdicts over tasks: each at its chosen budget of MACs, at all of its budgets, and at matched time where it was measured."""

    tasks: Tally
    budgets: Tally
    timed: Tally


def policy_sentence(
    comparison: PolicyComparison,
    kind: Literal["classification", "regression"],
    metric: str,
    higher_is_better: bool,
) -> str:
    """Say what routing gives at the cost of the chosen budget, and what an oracle would.

    ``At the cost of stage2.0 (63% fewer MACs) routing by entropy reaches accuracy 61.2% against 62.0% for the fixed exit
    (-0.8 points [-1.9, 0.2]): neither wins; random exits reach 58.3%; an oracle that leaves at the first right answer would
    reach 80.1% with 90% fewer MACs.``
    """
    budget, oracle = comparison.budgets[comparison.chosen], comparison.oracle
    reached = f"{_ORACLES[kind]} would reach {format_score(oracle.test.mean, metric)}"
    clauses = [
        f"At {cost_of(budget.exit)} ({_macs(budget.budget, comparison.full_cost)}) "
        + _match(budget, metric, higher_is_better),
        f"{reached} with {_macs(oracle.cost, comparison.full_cost)}",
    ]
    return "; ".join(clauses) + "."


def measured_policy_sentence(measured: MeasuredPolicies, metric: str, higher_is_better: bool) -> str:
    """The same at matched time, and how long the two take when executed; empty where no time was matched.

    ``At the time of stage2.0 (0.120 ms a window, batch 256, 1 thread) routing by entropy reaches accuracy 61.2% against 62.0% for
    the fixed exit (-0.8 points [-1.9, 0.2]): neither wins; random exits reach 58.3%; executed, it takes 8% more time than the
    fixed exit.``
    """
    budget = measured.at_matched_time
    if budget is None:
        return ""
    threads = f"{measured.threads} thread{'s' * (measured.threads != 1)}"
    clauses = [
        f"At the {time_of(budget.exit)} ({format_number(budget.budget)} ms a window, batch {measured.batch:,}, {threads}) "
        + _match(budget, metric, higher_is_better)
    ]
    if len(measured.executed) >= 2 and measured.executed[0].milliseconds > 0:
        fixed, routed = measured.executed[:2]
        clauses.append(f"executed, it takes {_longer(routed.milliseconds / fixed.milliseconds - 1)} the fixed exit")
    return "; ".join(clauses) + "."


def policy_line(task: TaskResult) -> str | None:
    """A few words about the routed policy, for a terminal; None where the task has no policies.

    ``at the cost of stage2.0 routing by entropy: -0.8 points [-1.9, 0.2] against the fixed exit, neither wins; 3 warnings in the report``
    """
    if task.policies is None:
        return None
    budget, warnings = task.policies.budgets[task.policies.chosen], len(task.policies.warnings)
    if routed_row(budget) is None:
        line = f"at {cost_of(budget.exit)} no policy keeps to the budget"
    else:
        difference = f"{format_gain(budget.gain, task.metric)} against {_fixed_name(budget)}, {verdict_words(budget, task.metric)}"
        line = f"at {cost_of(budget.exit)} routing by {policy_name(budget.routed)}: {difference}"
    return line + (f"; {warnings} warning{'s' * (warnings != 1)} in the report" if warnings else "")


def time_of(exit: str) -> str:
    """A budget of time in words, without an article."""
    return "time asked for" if exit == "asked" else f"time of {exit}"


def verdict_words(budget: BudgetRow, metric: str) -> str:
    """``routing wins``; where neither does, within which bound the two are equivalent: ``neither wins, equal within 1.3 points``."""
    bound = format_equivalence(budget.gain, metric) if budget.verdict == "neither" else ""
    return _VERDICTS[budget.verdict] + (f", equal within {bound}" if bound else "")


def policy_name(name: str) -> str:
    """The name of a row in words: ``learned_halting per exit`` is learned halting with a threshold per exit."""
    words = name.replace("_", " ")
    criterion = words.removesuffix(" per exit")
    return words if criterion == words else f"{criterion} with a threshold per exit"


def routed_row(budget: BudgetRow) -> PolicyRow | None:
    """The policy that a user would deploy; None where no policy keeps to the budget."""
    return next((row for row in budget.policies if row.name == budget.routed), None)


def certificate_sentences(certified: Certified, shifts: Sequence[ShiftRow], metric: str) -> list[str]:
    """The guarantee in words: what was asked, what came of it, for whom it holds and what a shift makes of it."""
    risk, groups = certified.risk.replace("_", " "), f"{certified.groups:,} calibration groups"
    promise = f"the {risk}, mean over groups, is at most {certified.level:.3g}"
    if certified.delta is not None:
        promise = f"with a probability of at least {format_percent(1 - certified.delta)} {promise}"
    else:
        promise = f"on average over calibrations {promise}"
    how = f"{certified.method.replace('_', ' ')} on {groups} ({certified.windows:,} windows) that were used for nothing else"
    criterion = policy_name(certified.criterion)
    tested = f"{certified.thresholds:,} threshold{'s' * (certified.thresholds != 1)} tested"
    if certified.threshold is None:
        return [
            f"Asked: {promise}. Not certified by {how}: of {tested} none that lets windows leave passes, "
            f"so that every window must go to full depth."
        ]
    told = [
        f"Certified: {promise}. By {how}; windows leave where {criterion} reaches {format_number(certified.threshold)}, "
        f"the last that passes of {tested} from the safest on."
    ]
    risks = [
        f"{value:.3f} on {where}"
        for value, where in ((certified.calibration_risk, "calibration"), (certified.test_risk, "test"))
        if value is not None
    ]
    clauses = [f"the risk is {' and '.join(risks)}"] if risks else []
    if certified.score is not None:
        full = format_score(certified.full_score, metric)
        clauses.append(
            f"{metric_label(metric)} is {format_score(certified.score, metric)} against {full} at full depth"
        )
    if certified.macs_saved_fraction is not None:
        clauses.append(f"it takes {_change(certified.macs_saved_fraction, 'fewer', 'MACs')}")
    if clauses:
        told.append(f"With it {'; '.join(clauses)}.")
    told.append(
        "Test groups were drawn as the calibration groups were."
        if certified.exchangeable
        else "Test groups were not drawn as the calibration groups were: the guarantee does not speak of them."
    )
    moved = [f"{row.risk:.3f} on {row.name}" for row in shifted(shifts) if row.risk is not None]
    measured = f"the risk under shift is {', '.join(moved)}" if moved else "it was not measured under shift here"
    told.append(f"Shift voids the guarantee; {measured}.")
    return told


def instability_sentence(comparison: PolicyComparison, metric: str) -> str:
    """How much the routed policy moves when validation groups are drawn again; empty where that was not asked."""
    one = comparison.instability
    if one is None:
        return ""
    low, high = (format_score(bound, metric) for bound in one.score_ci95)
    macs = " to ".join(format_count(bound) for bound in one.cost_ci95)
    thresholds = " to ".join(format_number(bound) for bound in one.threshold_ci95)
    return (
        f"Fitted again to validation groups drawn again ({one.resamples:,} times), 95% of first thresholds are {thresholds} "
        f"({format_percent(one.threshold_spread)} of the certainty's own spread), of test scores {low} to {high}, of mean MACs {macs}."
    )


def verdict_counts(runs: Iterable[Results]) -> VerdictCounts:
    """Count the verdicts of all tasks that have policies and count for claims."""
    tasks = [task for run in runs for task in run.tasks.values() if task.no_claim is None]
    compared = [task.policies for task in tasks if task.policies is not None]
    timed = [task.measured.policies for task in tasks if task.measured.policies is not None]
    return VerdictCounts(
        tasks=_tally(one.budgets[one.chosen] for one in compared),
        budgets=_tally(budget for one in compared for budget in one.budgets),
        timed=_tally(one.at_matched_time for one in timed if one.at_matched_time is not None),
    )


def verdict_sentence(counts: VerdictCounts) -> str:
    """The counts in words; empty where no task has policies.

    ``On 12 tasks, at the MACs of each one's budget, the fixed exit wins on 3, routing on 2, neither on 7; at all 84 budgets of these
    tasks 10, 12 and 62; at matched time on 12 tasks 4, 1 and 7. A win is a 95% interval clear of zero, not corrected for the number
    of comparisons: where nothing differs, each side wins about 2.5% of them by chance.``
    """
    tasks, budgets, timed = counts.tasks, counts.budgets, counts.timed
    if not tasks.total:
        return ""
    clauses = [
        f"On {tasks.total:,} task{'s' * (tasks.total != 1)}, at the MACs of each one's budget, the fixed exit wins on {tasks.fixed:,}, "
        f"routing on {tasks.routing:,}, neither on {tasks.neither:,}",
        f"at all {budgets.total:,} budgets of these tasks {budgets.fixed:,}, {budgets.routing:,} and {budgets.neither:,}",
    ]
    if timed.total:
        many = f"{timed.total:,} task{'s' * (timed.total != 1)}"
        clauses.append(f"at matched time on {many} {timed.fixed:,}, {timed.routing:,} and {timed.neither:,}")
    shaky = tasks.by_window + budgets.by_window + timed.by_window
    scope = (
        f" Of these wins {tasks.by_window:,}, {budgets.by_window:,} and {timed.by_window:,} are over the windows, or blocks of windows, of fewer "
        "than eight groups, and say nothing of new ones."
    )
    return (
        "; ".join(clauses)
        + f".{scope if shaky else ''} A win is a 95% interval clear of zero, not corrected for the number of comparisons: "
        "where nothing differs, each side wins about 2.5% of them by chance."
    )


def _tally(budgets: Iterable[BudgetRow]) -> Tally:
    rows = list(budgets)
    counts = Counter(row.verdict for row in rows)
    by_window = sum(row.verdict != "neither" and row.gain.unit != "group" for row in rows)
    return Tally(counts["fixed"], counts["routing"], counts["neither"], by_window)


def _match(budget: BudgetRow, metric: str, higher_is_better: bool) -> str:
    """What routing and the fixed exit reach, who wins, and what random exits reach."""
    fixed = format_score(budget.fixed.test.mean, metric)
    routed, name = routed_row(budget), _fixed_name(budget)
    if routed is None:
        return f"no policy keeps to the budget; {name} reaches {metric_label(metric)} {fixed}"
    difference = ("" if is_bounded(metric) else "gain ") + format_gain(budget.gain, metric)
    scope = "" if budget.gain.unit == "group" else f" over the {budget.gain.unit}s of few groups only"
    score = format_score(routed.test.mean, metric)
    random = format_score(budget.random.test.mean, metric)
    no_worse = not is_better(routed.test.mean, budget.random.test.mean, higher_is_better)
    return (
        f"routing by {policy_name(budget.routed)} reaches {metric_label(metric)} {score} against {fixed} for {name} "
        f"({difference}{scope}): {verdict_words(budget, metric)}; "
        + (f"random exits do as well: {random}" if no_worse else f"random exits reach {random}")
    )


def _fixed_name(budget: BudgetRow) -> str:
    """The fixed exit, named where it is not the one that gave the budget."""
    exits = budget.fixed.exits
    return f"the fixed exit {exits[-1]}" if exits and exits[-1] != budget.exit else "the fixed exit"


def _macs(cost: float, full: float | None) -> str:
    if not full:
        return f"{format_count(cost)} MACs"
    return "full depth" if cost == full else _change(1 - cost / full, "fewer", "MACs")


def _change(saved: float, word: str, noun: str) -> str:
    return f"{format_percent(abs(saved))} {word if saved >= 0 else 'more'} {noun}"


def _longer(fraction: float) -> str:
    if abs(fraction) < 0.005:
        return "as long as"
    return f"{format_percent(abs(fraction))} {'more' if fraction > 0 else 'less'} time than"
