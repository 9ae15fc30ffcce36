"""Heads for one row of features: every seed and every regularisation strength, chosen on validation, scored on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Head
from offramp.data.dataset import Dataset
from offramp.data.splits import Draw, Split
from offramp.fitting.logistic import fit_logistic
from offramp.fitting.mlp import fit_mlp
from offramp.fitting.ridge import fit_ridge
from offramp.fitting.rows import FeatureRows, Rows
from offramp.metrics import METRICS, Array, Metric
from offramp.resampling import Units
from offramp.tasks import TaskSpec

STRENGTHS = {
    "logistic": (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
    "ridge": (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
    "mlp": (10.0, 1.0, 1e-1, 1e-2),
}
"""The grids, strongest first, so that a tie goes to the stronger."""
SCORING_ROWS = 8192


@dataclass(frozen=True, eq=False)
class Problem:
    """What heads are fitted to: one task with its data, split and resampling units."""

    task: TaskSpec
    dataset: Dataset
    split: Split
    val_units: Units
    test_units: Units

    @property
    def metric(self) -> Metric:
        """The task's metric."""
        return METRICS[self.task.metric_name]

    @property
    def outputs(self) -> int:
        """Number of classes, or of target dimensions."""
        targets = self.dataset.targets
        return len(self.dataset.label_names) if self.task.kind == "classification" else int(targets.shape[1])


@dataclass(frozen=True, eq=False)
class FittedExit:
    """Heads of one exit, or of one feature row.

    Attributes:
        name: The exit.
        heads: One per seed.
        strengths: The regularisation chosen for each seed.
        val_sums: Metric statistics summed per seed and unit, ``(S, U, q)``; out of fold where shots are cross-validated.
        test_sums: The same on the test set.
    """

    name: str
    heads: tuple[Head, ...]
    strengths: tuple[float, ...]
    val_sums: Array
    test_sums: Array


def fit_exit(problem: Problem, name: str, features: FeatureRows, draws: Sequence[Draw] | None = None) -> FittedExit:
    """Fit heads on one feature matrix for all seeds and strengths.

    Args:
        problem: The task with its data and split.
        name: Of the exit or control.
        features: ``(N, width)`` float32, rows in the order of the data set.
        draws: Seeds to fit; all of the split's if None.
    """
    fitted = [_fit_seed(problem, features, draw) for draw in draws or problem.split.draws]
    test = problem.split.test
    test_sums = [problem.test_units.sums(_statistics(problem, head, features, test), test) for head, _, _ in fitted]
    return FittedExit(
        name,
        tuple(head for head, _, _ in fitted),
        tuple(strength for _, strength, _ in fitted),
        np.stack([sums for _, _, sums in fitted]),
        np.stack(test_sums),
    )


def head_outputs(head: Head, features: FeatureRows, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits or values ``(n, outputs)`` of the windows ``indices``, block by block."""
    blocks = [head(features[indices[at : at + SCORING_ROWS]]) for at in range(0, len(indices), SCORING_ROWS)]
    return np.concatenate(blocks)


def _fit_seed(problem: Problem, features: FeatureRows, draw: Draw) -> tuple[Head, float, Array]:
    """One seed's head, its strength, and validation sums per unit at that strength."""
    strengths = _strengths(problem.task)
    totals: list[Array] = [np.zeros(())] * len(strengths)
    heads: tuple[Head, ...] = ()
    for train, val in draw.folds:
        heads = _solve(problem, features, train, draw.seed, strengths)
        for number, head in enumerate(heads):
            totals[number] = totals[number] + problem.val_units.sums(_statistics(problem, head, features, val), val)
    sign = 1.0 if problem.metric.higher_is_better else -1.0
    chosen = int(np.argmax([sign * problem.metric.score(total.sum(0)) for total in totals]))
    if len(draw.folds) > 1:
        (head,) = _solve(problem, features, draw.final, draw.seed, strengths[chosen : chosen + 1])
    else:
        head = heads[chosen]
    return head, strengths[chosen], totals[chosen]


def _strengths(task: TaskSpec) -> tuple[float, ...]:
    if task.head.kind == "mlp":
        return STRENGTHS["mlp"]
    return STRENGTHS["logistic" if task.kind == "classification" else "ridge"]


def _solve(
    problem: Problem, features: FeatureRows, train: NDArray[np.int64], seed: int, strengths: Sequence[float]
) -> tuple[Head, ...]:
    rows = Rows(features, train)
    targets = problem.dataset.targets[train]
    weights = _balanced(targets, problem.outputs) if problem.metric.name == "balanced_accuracy" else None
    if problem.task.head.kind == "mlp":
        return fit_mlp(rows, targets, problem.outputs, strengths, seed, weights)
    if problem.task.kind == "classification":
        return fit_logistic(rows, targets, problem.outputs, strengths, weights)
    return fit_ridge(rows, targets, strengths)


def _balanced(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Weights of mean 1 that give every class the same total."""
    counts = np.bincount(labels, minlength=classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.asarray(weights[labels], dtype=np.float32)


def _statistics(problem: Problem, head: Head, features: FeatureRows, indices: NDArray[np.int64]) -> Array:
    return problem.metric.statistics(head_outputs(head, features, indices), problem.dataset.targets[indices])
