"""The reference that a bundle carries of each task, from windows that its heads did not learn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import BundleTask
from offramp.bundle.reference import HeldOut, TaskReference
from offramp.experiment.features import TaskFeatures
from offramp.heads.fit import FittedExit, Problem, head_outputs
from offramp.heads.rows import FeatureRows
from offramp.runtime.predictor import row_per_window
from offramp.runtime.reference import (
    FEATURES,
    VALUES,
    first_exit,
    fit_projection,
    kept_windows,
    task_reference,
    training_rows,
)
from offramp.runtime.stored import policies_of


def held_out_reference(
    problem: Problem, fitted: Sequence[FittedExit], features: TaskFeatures, task: BundleTask
) -> TaskReference:
    """What a fitted task answers to its calibration windows, or without such to the validation windows of the first seed.

    Args:
        problem: The task's data and split.
        fitted: Heads of every exit.
        features: What they see.
        task: As the bundle will hold it.
    """
    dataset, draw, exit = problem.dataset, problem.split.draws[0], first_exit(task)
    used = {name for policy in policies_of(task).values() for name in policy.exits}
    seen = {each.name: features.taps(each.name) for each in fitted if each.name in used}
    if len(problem.split.calibration):
        held_out: HeldOut = "calibration"
        kept = kept_windows(problem.split.calibration, dataset.groups, dataset.grouped)
        outputs = {
            each.name: head_outputs(each.heads[0], seen[each.name], kept) for each in fitted if each.name in used
        }
    else:
        held_out = "validation" if draw.by_group or not dataset.grouped else "trained"
        folds = [held for _, held in draw.folds]
        kept = kept_windows(np.concatenate(folds), dataset.groups, dataset.grouped)
        outputs = {
            each.name: _by_fold(each, seen[each.name], folds, kept, task.heads[each.name].outputs)
            for each in fitted
            if each.name in used
        }
    train = training_rows(draw.folds[0][0])
    values = None if task.kind == "classification" else fit_projection(dataset.targets[train], VALUES)
    return task_reference(
        task,
        exit,
        outputs,
        row_per_window(seen[exit][kept]),
        fit_projection(row_per_window(seen[exit][train]), FEATURES),
        values,
        dataset.groups[kept],
        dataset.grouped,
        held_out,
    )


def _by_fold(
    fitted: FittedExit, taps: FeatureRows, folds: Sequence[NDArray[np.int64]], kept: NDArray[np.int64], outputs: int
) -> NDArray[np.float32]:
    """Outputs of the windows ``kept``, each by the head that did not see its fold."""
    found = np.empty((len(kept), outputs), np.float32)
    for head, held in zip(fitted.val_heads[0], folds, strict=True):
        rows = np.isin(kept, held)
        if rows.any():
            found[rows] = head_outputs(head, taps, kept[rows])
    return found
