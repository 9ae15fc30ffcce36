"""Heads for one row of features: every seed and every regularisation strength, chosen on validation, scored on test."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Head
from offramp.data.dataset import Dataset
from offramp.data.splits import Draw, Split
from offramp.errors import DataError
from offramp.heads.attention import fit_attention
from offramp.heads.logistic import fit_logistic
from offramp.heads.mlp import fit_mlp
from offramp.heads.ridge import fit_ridge
from offramp.heads.rows import FeatureRows, Rows
from offramp.heads.tokens import fit_tokens
from offramp.schema.tasks import TaskSpec
from offramp.scoring.metrics import METRICS, Array, Metric, reshaping
from offramp.scoring.resampling import Units

STRENGTHS = {
    "logistic": (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
    "ridge": (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
    "mlp": (10.0, 1.0, 1e-1, 1e-2),
}
"""The grids, strongest first, so that a tie goes to the stronger."""
SCORING_ROWS = 8192
SCORING_VALUES = 1 << 23
"""Windows are scored in blocks of at most so many rows, and so many features or outputs."""


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
        """The task's metric; it takes outputs and targets ``(N, dimensions)``, also where it looks at the target's own shape."""
        metric = METRICS[self.task.metric_name]
        return reshaping(metric, self.dataset.target_shape) if metric.shaped else metric

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
        val_heads: Per seed, the head that was scored on each of the draw's validation folds: the seed's own, or where shots are
            cross-validated those that did not see the fold.
    """

    name: str
    heads: tuple[Head, ...]
    strengths: tuple[float, ...]
    val_sums: Array
    test_sums: Array
    val_heads: tuple[tuple[Head, ...], ...]


@dataclass(frozen=True, eq=False)
class _FittedDraw:
    """One seed's part of a :class:`FittedExit`."""

    head: Head
    strength: float
    val_sums: Array
    val_heads: tuple[Head, ...]


def fit_exit(
    problem: Problem,
    name: str,
    features: FeatureRows,
    draws: Sequence[Draw] | None = None,
    positions: NDArray[np.int64] | None = None,
) -> FittedExit:
    """Fit heads on one feature matrix for all seeds and strengths.

    Args:
        problem: The task with its data and split.
        name: Of the exit or control.
        features: ``(N, width)`` float32, rows in the order of the data set; ``(N, positions, width)`` for heads on tokens.
        draws: Seeds to fit; all of the split's if None.
        positions: For heads on tokens: see :func:`offramp.heads.tokens.target_positions`.
    """
    fitted = _fit_draws(problem, features, draws or problem.split.draws, positions)
    test = problem.split.test
    statistics = head_statistics(problem, [of_draw.head for of_draw in fitted], features, test)
    test_sums = [problem.test_units.sums(of_seed, test) for of_seed in statistics]
    return FittedExit(
        name,
        tuple(of_draw.head for of_draw in fitted),
        tuple(of_draw.strength for of_draw in fitted),
        np.stack([of_draw.val_sums for of_draw in fitted]),
        np.stack(test_sums),
        tuple(of_draw.val_heads for of_draw in fitted),
    )


def head_outputs(head: Head, features: FeatureRows, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits or values ``(n, outputs)`` of the windows ``indices``, block by block.

    Raises:
        DataError: One is not finite; the window is named.
    """
    blocks = head_blocks(head, features, indices)
    return np.concatenate([_finite_outputs(head, features[block], block, "") for block in blocks])


def validation_outputs(problem: Problem, exit: FittedExit, features: FeatureRows, seed: int) -> NDArray[np.float32]:
    """Logits or values ``(n, outputs)`` of one seed's validation windows, fold after fold, by heads that did not see the fold."""
    folds = problem.split.draws[seed].folds
    return np.concatenate(
        [head_outputs(head, features, held) for head, (_, held) in zip(exit.val_heads[seed], folds, strict=True)]
    )


def head_statistics(
    problem: Problem, heads: Sequence[Head], features: FeatureRows, indices: NDArray[np.int64]
) -> list[Array]:
    """Metric statistics ``(n, q)`` of each head on the windows ``indices``; features are read once, block by block.

    Raises:
        DataError: An output is not finite; the window is named.
    """
    targets, metric, name = problem.dataset.targets, problem.metric, problem.dataset.windows.name
    found: list[list[Array]] = [[] for _ in heads]
    for block in head_blocks(heads[0], features, indices):
        taps = features[block]
        for head, parts in zip(heads, found, strict=True):
            parts.append(metric.statistics(_finite_outputs(head, taps, block, name), targets[block]))
    return [np.concatenate(parts) for parts in found]


def check_targets(problem: Problem) -> None:
    """Raise :class:`DataError` if a regression's metric cannot score the task's targets; it says why."""
    targets = problem.dataset.targets
    if problem.task.kind == "regression":
        for block in scoring_blocks(np.arange(len(targets)), problem.outputs):
            problem.metric.statistics(targets[block], targets[block])


def scoring_blocks(indices: NDArray[np.int64], values: int) -> Iterator[NDArray[np.int64]]:
    """Indices in blocks that bound the memory of scoring windows that have so many values each."""
    step = max(1, min(SCORING_ROWS, SCORING_VALUES // values))
    return (indices[at : at + step] for at in range(0, len(indices), step))


def head_blocks(head: Head, features: FeatureRows, indices: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Indices in blocks that bound the memory of a head's features and outputs."""
    return scoring_blocks(indices, max(math.prod(features.shape[1:]), head.outputs))


def _finite_outputs(
    head: Head, taps: NDArray[np.float32], indices: NDArray[np.int64], name: str
) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        outputs = head(taps)
    finite = np.isfinite(outputs).all(axis=1)
    if not finite.all():
        where = f"{name}: " if name else ""
        raise DataError(
            f"{where}window {indices[int(np.argmin(finite))]}: the outputs of a head are not finite; scale the windows, or the target"
        )
    return outputs


def _fit_draws(
    problem: Problem, features: FeatureRows, draws: Sequence[Draw], positions: NDArray[np.int64] | None
) -> list[_FittedDraw]:
    if all(len(draw.folds) == 1 for draw in draws):
        training_sets = [draw.folds[0][0] for draw in draws]
        grids = _solve(problem, features, training_sets, draws[0].seed, _strengths(problem.task), positions)
        return [_pick(problem, features, draw, [grid]) for draw, grid in zip(draws, grids, strict=True)]
    return [_cross_validate(problem, features, draw) for draw in draws]


def _pick(problem: Problem, features: FeatureRows, draw: Draw, grids: Sequence[Sequence[Head]]) -> _FittedDraw:
    """The strength that is best on validation, over all folds; the head is that of the last fold."""
    strengths = _strengths(problem.task)
    totals = [np.zeros((problem.val_units.count, 1)) for _ in strengths]
    for (_, val), heads in zip(draw.folds, grids, strict=True):
        for number, statistics in enumerate(head_statistics(problem, heads, features, val)):
            totals[number] = totals[number] + problem.val_units.sums(statistics, val)
    sign = problem.metric.sign
    best = int(np.argmax([sign * problem.metric.score(total.sum(0)) for total in totals]))
    return _FittedDraw(grids[-1][best], strengths[best], totals[best], tuple(heads[best] for heads in grids))


def _cross_validate(problem: Problem, features: FeatureRows, draw: Draw) -> _FittedDraw:
    """Choose the strength out of fold, then fit once more on all of the draw's labels."""
    grids = list(_solve(problem, features, [train for train, _ in draw.folds], draw.seed, _strengths(problem.task)))
    picked = _pick(problem, features, draw, grids)
    ((head,),) = _solve(problem, features, [draw.final], draw.seed, [picked.strength])
    return replace(picked, head=head)


def _strengths(task: TaskSpec) -> tuple[float, ...]:
    if task.head.kind == "mlp":
        return STRENGTHS["mlp"]
    return STRENGTHS["logistic" if task.kind == "classification" else "ridge"]


def _solve(
    problem: Problem,
    features: FeatureRows,
    training_sets: Sequence[NDArray[np.int64]],
    seed: int,
    strengths: Sequence[float],
    positions: NDArray[np.int64] | None = None,
) -> Iterator[Sequence[Head]]:
    """For each training set a head per strength; where sets are solved one by one, the grid of one need be held at a time."""
    targets = problem.dataset.targets
    balanced = problem.metric.name == "balanced_accuracy"
    tokens = len(features.shape) == 3
    if problem.task.head.kind == "linear" and problem.task.kind == "classification" and not tokens:
        union = np.unique(np.concatenate(training_sets))
        weights = np.zeros((len(union), len(training_sets)), dtype=np.float32)
        for number, train in enumerate(training_sets):
            factor = _balanced(targets[train], problem.outputs) if balanced else 1.0
            weights[np.searchsorted(union, train), number] = factor
        yield from fit_logistic(Rows(features, union), targets[union], problem.outputs, strengths, weights)
        return
    for train in training_sets:
        if positions is not None:
            yield fit_tokens(features, train, targets, positions, strengths)
        elif tokens:
            factors = _balanced(targets[train], problem.outputs) if balanced else None
            yield fit_attention(features, train, targets[train], problem.outputs, strengths, seed, factors)
        elif problem.task.head.kind == "mlp":
            factors = _balanced(targets[train], problem.outputs) if balanced else None
            yield fit_mlp(Rows(features, train), targets[train], problem.outputs, strengths, seed, factors)
        else:
            yield fit_ridge(Rows(features, train), targets[train], strengths)


def _balanced(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Weights of mean 1 that give every class the same total."""
    counts = np.bincount(labels, minlength=classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.asarray(weights[labels], dtype=np.float32)
