"""The summary table, one row per task, as text: what HTML, terminal and Markdown show alike."""

from __future__ import annotations

from dataclasses import dataclass

from offramp.report.exits.sentences import best_simple_control, controls_score, is_useless
from offramp.report.numbers import (
    MISSING,
    format_count,
    format_difference,
    format_gain_interval,
    format_percent,
    format_score,
    metric_label,
    time_saved,
)
from offramp.schema.results import Results, TaskResult

WINDOW_MARK = "†"
WINDOW_NOTE = (
    f"{WINDOW_MARK} Fewer than eight test groups: the interval is over windows, and says nothing about new groups."
)
USELESS_MARK = "‡"
USELESS_NOTE = f"{USELESS_MARK} Of no use: does not beat the best constant answer."
BEATS_MARK = "*"
BEATS_NOTE = f"{BEATS_MARK} Better than the full encoder after Holm's correction across tasks."


@dataclass(frozen=True)
class SummaryRow:
    """A task's row, formatted; ``exit`` with a mark where it is of no use. ``gain`` is chosen against full, positive when better; ``same`` where chosen is full."""

    task: str
    shift: str
    metric: str
    exit: str
    macs: str
    macs_saved: str
    time_saved: str
    chosen: str
    full: str
    gain: str
    gain_interval: str
    random: str
    simple: str
    simple_name: str
    simulated: bool


def summary_rows(results: Results) -> list[SummaryRow]:
    """One row per task, in the order of the suite."""
    return [summary_row(name, task) for name, task in results.tasks.items()]


def summary_row(name: str, task: TaskResult) -> SummaryRow:
    """The row of one task."""
    gain, metric = task.gain_over_full, task.metric
    same = task.chosen.exit == task.full.exit
    marks = BEATS_MARK * gain.significant + WINDOW_MARK * (gain.unit == "window")
    simple = best_simple_control(task.controls, task.higher_is_better)
    return SummaryRow(
        task=name,
        shift=task.shift,
        metric=metric_label(metric),
        exit=task.chosen.exit + USELESS_MARK * is_useless(task.controls),
        macs=format_count(task.chosen.macs),
        macs_saved=format_percent(task.chosen.macs_saved_fraction),
        time_saved=format_percent(time_saved(task.measured, task.chosen.exit, task.full.exit)),
        chosen=format_score(task.chosen.test.mean, metric),
        full=format_score(task.full.test.mean, metric),
        gain="same" if same else format_difference(gain, metric).removesuffix(" points"),
        gain_interval="" if same else format_gain_interval(gain, metric) + marks,
        random=_control_score(task, "random_encoder"),
        simple=_control_score(task, simple),
        simple_name=simple or "",
        simulated=task.simulated,
    )


def summary_notes(results: Results) -> list[str]:
    """What the marks in the table mean."""
    tasks = results.tasks
    notes = []
    if any(task.gain_over_full.significant for task in tasks.values()):
        notes.append(BEATS_NOTE)
    if any(task.gain_over_full.unit == "window" for task in tasks.values()):
        notes.append(WINDOW_NOTE)
    if any(is_useless(task.controls) for task in tasks.values()):
        notes.append(USELESS_NOTE)
    return notes


def simulated_tasks(results: Results) -> list[str]:
    """Names of the tasks whose data is simulated."""
    return [name for name, task in results.tasks.items() if task.simulated]


def _control_score(task: TaskResult, control: str | None) -> str:
    if control is None or control not in task.controls:
        return MISSING
    return format_score(controls_score(task.controls, control), task.metric)
