"""What the report shows of policies beside fixed exits: tables and pictures of one task, as text and SVG."""

from __future__ import annotations

from dataclasses import dataclass

from offramp.report.numbers import (
    MISSING,
    format_count,
    format_equivalence,
    format_gain,
    format_interval,
    format_number,
    format_percent,
    format_score,
    metric_heading,
)
from offramp.report.policies.plots import policy_figures
from offramp.report.policies.text import certificate_sentences, instability_sentence, policy_name, routed_row, time_of
from offramp.report.policies.warnings import cost_of
from offramp.report.svg import Plot
from offramp.schema.results import (
    BudgetRow,
    MeasuredPolicies,
    MeasuredRow,
    PolicyComparison,
    PolicyRow,
    ReliabilityRow,
    Score,
    ShiftRow,
    TaskResult,
)

_VERDICTS = {"fixed": "fixed exit", "routing": "routing", "neither": "neither"}


@dataclass(frozen=True)
class PolicyTableRow:
    """A named row of a table; ``detail`` stands small under the name."""

    name: str
    cells: list[str]
    detail: str = ""
    strong: bool = False


@dataclass(frozen=True)
class PolicyTable:
    """A table, formatted; ``open`` where it needs no unfolding."""

    title: str
    header: list[str]
    rows: list[PolicyTableRow]
    note: str = ""
    open: bool = False


@dataclass(frozen=True)
class PolicyView:
    """What the page shows of a task's policies."""

    anchor: str
    sentences: list[str]
    warnings: list[str]
    chosen: PolicyTable
    plots: list[Plot]
    certificate: list[str]
    tables: list[PolicyTable]


def policy_view(anchor: str, task: TaskResult) -> PolicyView | None:
    """The view of one task; None where it has no policies."""
    comparison, measured = task.policies, task.measured.policies
    if comparison is None:
        return None
    certified = comparison.certified
    instability = instability_sentence(comparison, task.metric)
    tables = [
        _budgets(task, comparison),
        *([_measured(task, measured)] if measured and measured.rows + measured.executed else []),
        *([_matched_time(task, measured.at_matched_time)] if measured and measured.at_matched_time else []),
        *([_reliability(comparison.reliability)] if comparison.reliability else []),
        *([_shifts(task, comparison.shifts)] if comparison.shifts else []),
    ]
    return PolicyView(
        anchor=anchor,
        sentences=[text for text in (comparison.sentence, measured.sentence if measured else "", instability) if text],
        warnings=comparison.warnings,
        chosen=_chosen(task, comparison),
        plots=policy_figures(anchor, task, comparison),
        certificate=certificate_sentences(certified, comparison.shifts, task.metric) if certified else [],
        tables=tables,
    )


def _chosen(task: TaskResult, comparison: PolicyComparison) -> PolicyTable:
    """All ways to decide at the chosen budget, in the order of what they are for: fixed, routed, others, random, oracle."""
    budget = comparison.budgets[comparison.chosen]
    table = _ways(task, budget, comparison.oracle, comparison.full_cost)
    return PolicyTable(f"At {cost_of(budget.exit)}: {format_count(budget.budget)} MACs", *table, open=True)


def _verdict(budget: BudgetRow, metric: str) -> str:
    """Who wins; where neither does, within which bound the two are equivalent."""
    bound = format_equivalence(budget.gain, metric) if budget.verdict == "neither" else ""
    return _VERDICTS[budget.verdict] + (f", within {bound}" if bound else "")


def _matched_time(task: TaskResult, budget: BudgetRow) -> PolicyTable:
    header, rows, note = _ways(task, budget, None, None)
    header = ["Milliseconds" if name == "Mean MACs" else name for name in header]
    return PolicyTable(f"At the {time_of(budget.exit)}: {format_number(budget.budget)} ms a window", header, rows, note)


def _ways(
    task: TaskResult, budget: BudgetRow, oracle: PolicyRow | None, full: float | None
) -> tuple[list[str], list[PolicyTableRow], str]:
    routed = routed_row(budget)
    last = task.exits[-1].exit
    rows = [("fixed exit", budget.fixed, ", ".join(budget.fixed.exits))]
    if routed is not None:
        rows.append((policy_name(routed.name), routed, f"routed; {_consulted(routed.exits)}"))
    rows += [(policy_name(row.name), row, _consulted(row.exits)) for row in budget.policies if row is not routed]
    rows.append(("random exits", budget.random, "in the shares of the routed policy"))
    if oracle is not None:
        rows.append(("oracle", oracle, "out of reach"))
    of_cost = format_count if oracle is not None else format_number
    cells = [
        PolicyTableRow(
            name,
            [
                _score(row.test, task.metric),
                _gain(row, budget, task.metric),
                of_cost(row.cost),
                *([format_percent(1 - row.cost / full)] if full else []),
                format_percent(_left_early(row, last)),
            ],
            detail,
            strong=row is routed,
        )
        for name, row, detail in rows
    ]
    header = ["", f"{metric_heading(task.metric)} on test [95%]", "Against the fixed exit [95%]", "Mean MACs"]
    header += [*(["Saved"] if full else []), "Left before full depth"]
    note = "Every policy keeps to the budget on validation; costs and scores are of test windows, every head consulted counts."
    return header, cells, note


def _budgets(task: TaskResult, comparison: PolicyComparison) -> PolicyTable:
    rows = []
    for index, budget in enumerate(comparison.budgets):
        routed = routed_row(budget)
        rows.append(
            PolicyTableRow(
                budget.exit,
                [
                    format_count(budget.budget),
                    _score(budget.fixed.test, task.metric),
                    _score(routed.test, task.metric) if routed else MISSING,
                    format_count(routed.cost) if routed else MISSING,
                    format_gain(budget.gain, task.metric) if routed else MISSING,
                    format_score(budget.random.test.mean, task.metric),
                    _verdict(budget, task.metric),
                ],
                policy_name(budget.routed) if routed else "no policy keeps to it",
                strong=index == comparison.chosen,
            )
        )
    header = [
        "Cost of",
        "Budget",
        "Fixed [95%]",
        "Routed [95%]",
        "Its MACs on test",
        "Gain of routing [95%]",
        "Random",
        "Wins",
    ]
    note = "Positive gains are for routing, whatever the metric. Intervals are not corrected for the number of budgets."
    return PolicyTable(f"All {len(rows)} budgets", header, rows, note, open=len(rows) <= 8)


def _measured(task: TaskResult, measured: MeasuredPolicies) -> PolicyTable:
    rows = [_measured_row(one, task.metric) for one in (*measured.rows, *measured.executed)]
    threads = f"{measured.threads} thread{'s' * (measured.threads != 1)}"
    header = [
        "Executed",
        "ms a window",
        "MACs saved",
        "Time saved",
        "Time per MACs saved",
        metric_heading(task.metric),
    ]
    note = (
        f"Batch {measured.batch:,}, {threads}, median of one run. Survivors are compacted and the batch shrinks. "
        "Savings against full depth with its head alone; the last but one is their ratio, 100% where all MACs saved are time saved."
    )
    return PolicyTable("Executed on this machine", header, rows, note)


def _measured_row(row: MeasuredRow, metric: str) -> PolicyTableRow:
    realised = row.time_saved_fraction / row.macs_saved_fraction if row.macs_saved_fraction > 0 else None
    cells = [
        format_number(row.milliseconds),
        format_percent(row.macs_saved_fraction),
        format_percent(row.time_saved_fraction),
        format_percent(realised),
        MISSING if row.score is None else format_score(row.score, metric),
    ]
    return PolicyTableRow(row.name, cells)


def _reliability(reliability: list[ReliabilityRow]) -> PolicyTable:
    rows = [
        PolicyTableRow(
            row.exit,
            [
                f"{row.temperature:.2f}",
                _arrow(row.ece_before, row.ece_after),
                _arrow(row.failure_auroc_before, row.failure_auroc_after),
                format_percent(row.survivors_share),
                MISSING
                if row.survivors_temperature is None
                else MISSING
                if row.survivors_temperature is None
                else f"{row.survivors_temperature:.2f}",
                _arrow(row.survivors_ece_before, row.survivors_ece_after),
                _three(row.survivors_ece_own),
                _three(row.survivors_failure_auroc),
            ],
        )
        for row in reliability
    ]
    header = [
        "Exit", "Temperature", "ECE", "Failure AUROC", "Windows that reach it", "Their own temperature", "Their ECE",
        "With their own", "Their failure AUROC",
    ]  # fmt: skip
    note = (
        "Before → after the temperature, on test. ECE: expected calibration error, 15 bins, 0 is best. Failure AUROC: how well confidence "
        "tells right from wrong answers, 1 is best and 0.5 is chance. Windows that reach an exit are those that the routed policy did not let leave."
    )
    return PolicyTable("How far confidence can be believed", header, rows, note)


def _shifts(task: TaskResult, shifts: list[ShiftRow]) -> PolicyTable:
    last = task.exits[-1].exit
    rows = [
        PolicyTableRow(
            row.name,
            [
                f"{row.windows:,}",
                MISSING if row.score is None else format_score(row.score, task.metric),
                MISSING if row.full_score is None else format_score(row.full_score, task.metric),
                format_count(row.cost),
                format_percent(1 - row.exit_share.get(last, 0.0)) if row.exit_share else MISSING,
                _percent(row.premature),
                _signed(row.overconfidence),
                _three(row.confidence),
                _three(row.risk),
            ],
        )
        for row in shifts
    ]
    header = [
        "Population", "Windows", "Policy", "Full depth", "Mean MACs", "Left before full depth", "Premature", "Overconfident",
        "Mean confidence", "Guarantee's risk",
    ]  # fmt: skip
    note = (
        "Of the certified policy where there is one, else of the routed one; first seed. Premature: left early and wrong where full depth is right (for "
        "regression: with a larger error than at full depth), of all windows. Overconfident: mean confidence minus share right, of those that left early."
    )
    return PolicyTable("Under shift", header, rows, note, open=True)


def _left_early(row: PolicyRow, last: str) -> float | None:
    if row.exit_share:
        return 1 - row.exit_share.get(last, 0.0)
    return float(row.exits[0] != last) if len(row.exits) == 1 else None


def _gain(row: PolicyRow, budget: BudgetRow, metric: str) -> str:
    if row is budget.fixed:
        return ""
    gain = row.gain or (budget.gain if row.name == budget.routed else None)
    return format_gain(gain, metric) if gain else ""


def _consulted(exits: list[str]) -> str:
    if len(exits) <= 3:
        return ", ".join(exits)
    return f"{len(exits)} exits, {exits[0]} to {exits[-1]}"


def _score(score: Score, metric: str) -> str:
    text = format_score(score.mean, metric)
    return f"{text} {format_interval(score.ci95, metric)}" if score.ci95 else text


def _arrow(before: float | None, after: float | None) -> str:
    return f"{_three(before)} → {_three(after)}"


def _three(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.3f}"


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}%"
