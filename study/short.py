"""A short version of the study, from the results of one run: what of the paper's claims holds in it.

python study/short.py runs/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from offramp.report.loading import load_results
from offramp.report.numbers import format_difference, format_gain_interval, format_percent
from offramp.schema.results import Gain, Results, TaskResult


def gain_over(task: TaskResult, control: str) -> Gain | None:
    """The chosen exit against a control's, if the run had that control."""
    return task.controls[control].gain if control in task.controls else None


def claims(results: Results) -> list[str]:
    """One sentence per claim, of the tasks that count."""
    tasks = {name: task for name, task in results.tasks.items() if task.no_claim is None}
    left_out = [f"{name} ({task.no_claim})" for name, task in results.tasks.items() if task.no_claim is not None]
    ood = {name: task for name, task in tasks.items() if task.shift not in ("id", "unknown")}
    most = max(tasks, key=lambda name: tasks[name].chosen.macs_saved_fraction)
    better = [name for name, task in ood.items() if task.gain_over_full.significant]
    needs = [
        1 - float(np.mean([task.chosen.macs_saved_fraction for name, task in tasks.items() if (name in ood) == out]))
        for out in (False, True)
    ]
    worth = [name for name in tasks if (gain := gain_over(tasks[name], "random_encoder")) and gain.ci95[0] > 0]
    return [
        f"Up to 93% fewer FLOPs: here up to {tasks[most].chosen.macs_saved_fraction:.0%} ({most}).",
        f"Intermediate exits beat the full encoder on unseen tasks: here on {len(better)} of {len(ood)} ({', '.join(better) or 'none'}).",
        f"Unseen tasks leave earlier: here ID tasks need {needs[0]:.0%} of the MACs, OOD tasks {needs[1]:.0%}.",
        f"Pretraining pays: here on {len(worth)} of {len(tasks)} tasks against random weights ({', '.join(worth) or 'none'}).",
        *([f"Not counted: {', '.join(left_out)}."] if left_out else []),
    ]


def main() -> None:
    """Print the table and the claims."""
    results = load_results(Path(sys.argv[1]))
    gained = ("gain over\nfull", "over random\nweights", "over features\nby hand")
    table = Table("task\nshift", "leave at\nMACs saved", *gained, box=None)
    for name, task in results.tasks.items():
        over_full = None if task.chosen.exit == task.full.exit else task.gain_over_full
        gains = [over_full, gain_over(task, "random_encoder"), gain_over(task, "handmade")]
        cells = [
            f"{format_difference(gain, task.metric)}\n[dim]{escape(format_gain_interval(gain, task.metric))}[/]"
            if gain
            else ""
            for gain in gains
        ]
        leave = f"{task.chosen.exit}\n[dim]{format_percent(task.chosen.macs_saved_fraction)}[/]"
        table.add_row(f"{name}\n[dim]{task.shift}[/]", leave, *cells)
    console = Console()
    console.print("\nThe paper's claims in this run (the study: docs/study.md)\n", highlight=False)
    console.print(table)
    for claim in claims(results):
        console.print(f"- {claim}", highlight=False)


if __name__ == "__main__":
    main()
