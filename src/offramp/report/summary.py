"""The summary of a run as text: a sentence, and a table with one row per task; what HTML, terminal and Markdown show alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from offramp.report.exits.sentences import best_simple_control, controls_score, is_useless
from offramp.report.numbers import (
    MISSING,
    format_count,
    format_difference,
    format_equivalence,
    format_gain_interval,
    format_percent,
    format_score,
    metric_label,
    time_saved,
)
from offramp.schema.results import ExitRow, Gain, Results, RunSummary, TaskResult

WINDOW_MARK = "†"
WINDOW_NOTE = f"{WINDOW_MARK} Fewer than eight test groups: the interval is over blocks of them, or over windows, and says nothing about new groups."
USELESS_MARK = "‡"
USELESS_NOTE = f"{USELESS_MARK} Of no use: does not beat the best constant answer."
BEATS_MARK = "*"
BEATS_NOTE = f"{BEATS_MARK} Better than the full encoder after Holm's correction across tasks."
NO_CLAIM_MARK = "§"
BEST = "best on validation"


@dataclass(frozen=True)
class ExitCells:
    """What the table says of one exit; ``gain`` is against full depth, positive when better, ``same`` at full depth itself.

    ``within`` is the bound of equivalence, empty where the interval is clear of zero.
    """

    exit: str
    macs: str
    macs_saved: str
    time_saved: str
    score: str
    gain: str
    gain_interval: str
    within: str


@dataclass(frozen=True)
class SummaryRow:
    """A task's row, formatted: the chosen exit, with a mark where it is of no use, and the best on validation where it is another one.

    ``saving`` says whether the saving is confirmed on test, empty where nothing is saved; ``same_best`` whether the chosen exit is the
    best on validation.
    """

    task: str
    shift: str
    metric: str
    chosen: ExitCells
    best: ExitCells | None
    same_best: bool
    saving: str
    full: str
    random: str
    simple: str
    simple_name: str
    simulated: bool


def run_summary(tasks: Mapping[str, TaskResult]) -> RunSummary:
    """A run in a few numbers. An exit that does not beat a constant answer saves nothing."""
    counted = [task for task in tasks.values() if task.no_claim is None]
    early = [task for task in counted if task.chosen.exit != task.full.exit and not is_useless(task.controls)]
    ood = [task for task in counted if task.shift != "id"]
    return RunSummary(
        tasks=len(counted),
        left_out=[name for name, task in tasks.items() if task.no_claim is not None],
        mean_macs_saved_fraction=float(
            np.sum([task.chosen.macs_saved_fraction for task in early]) / max(1, len(counted))
        ),
        leave_early=len(early),
        confirmed=sum(task.saving_confirmed is True for task in early),
        ood_tasks=len(ood),
        ood_beats_full=sum(task.gain_over_full.significant for task in ood),
    )


def summary_sentence(results: Results) -> str:
    """What a run gives in all.

    ``5 of 6 tasks leave before the end, which saves 61% of the MACs on average over all 6; savings confirmed on test: 4 of 5.
    The chosen exit beats full depth on 2 of 4 OOD tasks after Holm's correction.``
    """
    found = run_summary(results.tasks)
    if not found.tasks:
        return "No task of this run counts for a claim."
    alone = found.tasks == 1
    many = "The task" if alone else f"{found.leave_early} of {found.tasks} tasks"
    if not found.leave_early:
        told = "The task runs to the end" if alone else f"{many} leave before the end"
    else:
        saved = format_percent(found.mean_macs_saved_fraction)
        told = f"{many} leave{'s' * (found.leave_early == 1)} before the end, which saves {saved} of the MACs"
        told += "" if alone else f" on average over all {found.tasks}"
        if any(task.saving_confirmed is not None for task in results.tasks.values()):
            told += f"; savings confirmed on test: {found.confirmed} of {found.leave_early}"
    if found.ood_tasks:
        many = f"{found.ood_tasks} OOD task{'s' * (found.ood_tasks != 1)}"
        told += f". The chosen exit beats full depth on {found.ood_beats_full} of {many} after Holm's correction"
    return told + "."


def summary_rows(results: Results) -> list[SummaryRow]:
    """One row per task, in the order of the suite."""
    return [summary_row(name, task) for name, task in results.tasks.items()]


def summary_row(name: str, task: TaskResult) -> SummaryRow:
    """The row of one task."""
    simple = best_simple_control(task.controls, task.higher_is_better)
    confirmed = {True: "confirmed", False: "not confirmed", None: ""}[task.saving_confirmed]
    best = task.best
    same_best = best is not None and best.exit == task.chosen.exit
    return SummaryRow(
        task=name + NO_CLAIM_MARK * (task.no_claim is not None),
        shift=task.shift,
        metric=metric_label(task.metric),
        chosen=_cells(task, task.chosen, task.gain_over_full, USELESS_MARK * is_useless(task.controls)),
        best=_cells(task, best, best.gain_over_full) if best and not same_best else None,
        same_best=same_best,
        saving=confirmed,
        full=format_score(task.full.test.mean, task.metric),
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
    if any(task.gain_over_full.unit != "group" for task in tasks.values()):
        notes.append(WINDOW_NOTE)
    if any(is_useless(task.controls) for task in tasks.values()):
        notes.append(USELESS_NOTE)
    notes += [
        f"{NO_CLAIM_MARK} {name} counts for no claim and no summary: {task.no_claim.rstrip('.')}."
        for name, task in tasks.items()
        if task.no_claim is not None
    ]
    return notes


def simulated_tasks(results: Results) -> list[str]:
    """Names of the tasks whose data is simulated."""
    return [name for name, task in results.tasks.items() if task.simulated]


def _cells(task: TaskResult, row: ExitRow, gain: Gain, mark: str = "") -> ExitCells:
    same, metric = row.exit == task.full.exit, task.metric
    marks = BEATS_MARK * gain.significant + WINDOW_MARK * (gain.unit != "group")
    return ExitCells(
        exit=row.exit + mark,
        macs=format_count(row.macs),
        macs_saved=format_percent(row.macs_saved_fraction),
        time_saved=format_percent(time_saved(task.measured, row.exit, task.full.exit)),
        score=format_score(row.test.mean, metric),
        gain="same" if same else format_difference(gain, metric).removesuffix(" points"),
        gain_interval="" if same else format_gain_interval(gain, metric) + marks,
        within="" if same else format_equivalence(gain, metric),
    )


def _control_score(task: TaskResult, control: str | None) -> str:
    if control is None or control not in task.controls:
        return MISSING
    return format_score(controls_score(task.controls, control), task.metric)
