"""What is claimed, and whether it holds by the stored scores: each rule stands in its claim."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from plan import COUNTED
from summary import TOLERANCE, Saving, Study

FEW, MANY = 10, 500
LEAST_OVER_RANDOM = {FEW: 0.05, MANY: 0.03}
"""What pretraining must add at the best exit of each, on both ID tasks, to be called worth having."""
PAPER_SAVING = 0.93
ID = tuple(task for task in COUNTED if task.shift == "id")
OOD = tuple(task for task in COUNTED if task.shift != "id")


@dataclass(frozen=True)
class Claim:
    """A claim, whether it holds here, and the numbers that say so."""

    text: str
    holds: bool
    evidence: str


def claims(study: Study, savings: dict[str, Saving]) -> list[Claim]:
    """The paper's claims, and those of this project about its own pretraining; of the tasks that count."""
    largest = max(COUNTED, key=lambda task: savings[task.name].macs)
    saved = savings[largest.name]
    gains = {budget: study.gains_that_hold(budget) for budget in (FEW, MANY)}
    winners = {budget: [task.name for task in OOD if gains[budget][task.name]] for budget in gains}
    over_random = {
        (task.name, budget): study.over_random(task.name, budget) for task in COUNTED for budget in (FEW, MANY)
    }
    wanted = [
        over_random[task.name, budget].mean >= LEAST_OVER_RANDOM[budget] and over_random[task.name, budget].low > 0
        for task in ID
        for budget in (FEW, MANY)
    ]
    transfers = [task.name for task in OOD if over_random[task.name, MANY].low > 0]
    depths = {
        kind: float(np.mean([study.depth(task, MANY) for task in tasks])) for kind, tasks in (("ID", ID), ("OOD", OOD))
    }
    width = {task.name: study.over_full(task.name, MANY, probe="equal_width") for task in OOD}
    helped = [task for task in COUNTED if over_random[task.name, MANY].low > 0]
    return [
        Claim(
            f"An early exit saves up to {PAPER_SAVING:.0%} of the FLOPs",
            saved.macs >= PAPER_SAVING,
            f"the largest saving without being worse by more than {TOLERANCE:.0%} is {saved.macs:.0%} of the MACs and {saved.time:.0%} of the time "
            f"({largest.name}, {saved.difference} points); the mean over tasks is {np.mean([savings[task.name].macs for task in COUNTED]):.0%}",
        ),
        Claim(
            "It does so on a task for which pretraining is of use",
            any(savings[task.name].macs >= PAPER_SAVING for task in helped),
            "MACs saved on the tasks where pretrained weights beat random ones: "
            + ", ".join(f"{task.name} {savings[task.name].macs:.0%}" for task in helped),
        ),
        Claim(
            "Intermediate exits beat the full encoder on unseen tasks",
            len(winners[MANY]) == len(OOD),
            f"with {MANY} labels per class on {listed(winners[MANY])} of {len(OOD)} OOD tasks (Holm over all {len(COUNTED)}), with {FEW} on "
            f"{listed(winners[FEW])}",
        ),
        Claim(
            "The gain is not a matter of width",
            all(one.low > 0 for name, one in width.items() if name in winners[MANY]) and bool(winners[MANY]),
            "chosen exit minus full encoder when both keep 24 principal components: "
            + ", ".join(f"{name} {width[name]}" for name in (winners[MANY] or width)),
        ),
        Claim(
            "Tasks that were not pretrained for prefer earlier exits",
            depths["OOD"] < depths["ID"],
            f"chosen exits need {depths['ID']:.0%} of the MACs on ID tasks, {depths['OOD']:.0%} on OOD tasks, at {MANY} labels per class",
        ),
        Claim(
            "Pretraining is worth it for ID tasks: 5 points at 10 labels and 3 at 500, best exit of each",
            all(wanted),
            "; ".join(f"{task.name} {over_random[task.name, FEW]} and {over_random[task.name, MANY]}" for task in ID),
        ),
        Claim(
            "Pretraining helps OOD tasks too",
            len(transfers) == len(OOD),
            f"above random weights on {listed(transfers)} at {MANY} labels: "
            + "; ".join(f"{task.name} {over_random[task.name, MANY]}" for task in OOD),
        ),
    ]


def listed(names: list[str]) -> str:
    """Names with commas."""
    return ", ".join(names) if names else "none"
