"""Makes a task's reference: what its answers and the features of some held-out windows look like; see :mod:`offramp.bundle.reference`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from offramp.bundle import BundleTask
from offramp.bundle.reference import HeldOut, PolicyAnswers, Projection, TaskReference
from offramp.policies.simulation import Outputs, simulate
from offramp.runtime.predictor import Prediction, prediction_of
from offramp.runtime.stored import policies_of

MOST_WINDOWS = 4096
"""Kept of a task."""
FEWEST_OF_GROUP = 32
"""Longer recordings are cut down to this before whole ones are left out."""
FEATURES, VALUES = 16, 4
"""Numbers that the features and the answer of a regression are projected to, at most."""
PROJECTION_ROWS = 1024
"""That a projection is fitted to."""


def kept_windows(indices: NDArray[np.int64], groups: NDArray[np.int64], grouped: bool) -> NDArray[np.int64]:
    """Which windows a reference keeps, recording by recording, in order.

    A comparison of recordings needs many of them more than it needs long ones: where there are too many windows, the middle of each recording is
    kept, and only then are recordings left out, evenly.

    Args:
        indices: Held-out windows, into the data set.
        groups: The recording of each window of the data set, ``(M,)``.
        grouped: Whether the data tells recordings apart.
    """
    indices = np.sort(indices)
    if not grouped:
        return _evenly(indices, MOST_WINDOWS)
    by_group = indices[np.argsort(groups[indices], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[by_group], prepend=-1))
    sizes = np.diff(starts, append=len(by_group))
    low, high = FEWEST_OF_GROUP, max(FEWEST_OF_GROUP, int(sizes.max(initial=0)))
    while low < high:  # the longest that all may have
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= MOST_WINDOWS else (low, middle - 1)
    starts, sizes = starts + np.maximum(sizes - low, 0) // 2, np.minimum(sizes, low)
    count = len(sizes) * MOST_WINDOWS // max(MOST_WINDOWS, int(sizes.sum()))
    while sizes[kept := _evenly(np.arange(len(sizes)), count)].sum() > MOST_WINDOWS:
        count -= 1
    return np.concatenate([by_group[:0], *(by_group[starts[each] :][: sizes[each]] for each in kept)])


def training_rows(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Some of the windows that heads learned from, to fit projections to: the reference's own must be as new to them as those to come."""
    return _evenly(np.sort(indices), PROJECTION_ROWS)


def fit_projection(rows: NDArray[np.float32], most: int) -> Projection:
    """Principal components of standardised rows ``(n, width)``, at most so many; a column that does not vary counts for nothing."""
    values = rows.astype(np.float64)
    mean, spread = values.mean(axis=0), values.std(axis=0)
    scale = np.divide(
        1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6 * np.abs(values).max(axis=0, initial=1e-12)
    )
    scaled = (values - mean) * scale
    count, width = scaled.shape
    kept = max(1, min(most, count, width))
    if width <= count:
        axes = _largest(scaled.T @ scaled, kept)
    else:  # the same from the smaller matrix
        axes = scaled.T @ _largest(scaled @ scaled.T, kept)
        axes /= np.maximum(np.linalg.norm(axes, axis=0), 1e-12)
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(kept)])
    components = (axes * np.where(signs == 0, 1, signs)).T * scale
    return Projection(mean.astype(np.float32), components.astype(np.float32))


def task_reference(
    task: BundleTask,
    exit: str,
    outputs: Outputs,
    features: NDArray[np.float32],
    projection: Projection,
    value_projection: Projection | None,
    groups: NDArray[np.int64],
    grouped: bool,
    held_out: HeldOut,
) -> TaskReference:
    """The reference of a task.

    Args:
        task: As it is stored.
        exit: Where the features were taken.
        outputs: Of the heads at every exit that a policy consults, ``(N, outputs)``.
        features: What the head at ``exit`` sees ``(N, width)``, tokens averaged.
        projection: Of the features.
        value_projection: Of the answers of a regression; None for classification.
        groups: The recording of each window, any integers, ``(N,)``; windows of one are neighbours.
        grouped: Whether the data tells recordings apart.
        held_out: Which windows these are.
    """
    answers = {
        name: answers_of(prediction_of(task, name, policy, [simulate(policy, outputs)]), value_projection)
        for name, policy in policies_of(task).items()
    }
    numbers = np.cumsum(np.concatenate([[0], np.diff(groups) != 0])) if len(groups) else groups
    return TaskReference(
        kind=task.kind,
        classes=task.heads[task.exit].outputs if task.kind == "classification" else 0,
        exit=exit,
        grouped=grouped,
        held_out=held_out,
        groups=numbers.astype(np.int32),
        features=projection(features),
        projection=projection,
        value_projection=value_projection,
        policies=answers,
    )


def remeasured(
    before: TaskReference,
    task: BundleTask,
    outputs: Outputs,
    features: NDArray[np.float32],
    groups: NDArray[np.int64],
    grouped: bool,
) -> TaskReference:
    """The reference of a task that was recalibrated with other windows, which are what is usual from now on; see :func:`task_reference`."""
    return task_reference(
        task, before.exit, outputs, features, before.projection, before.value_projection, groups, grouped, "traffic"
    )


def answers_of(prediction: Prediction, value_projection: Projection | None) -> PolicyAnswers:
    """What is compared of a prediction, of the reference's windows as of those to come."""
    left = prediction.left.astype(np.uint8)
    if prediction.kind != "classification":
        assert value_projection is not None
        return PolicyAnswers(prediction.consulted, left, values=value_projection(prediction.outputs))
    predicted = prediction.classes.astype(np.int32)
    return PolicyAnswers(prediction.consulted, left, prediction.confidence.astype(np.float32), predicted)


def first_exit(task: BundleTask) -> str:
    """The shallowest exit that any policy of a task consults: every pass of the task goes through there, and segments are cut there."""
    used = {exit for policy in policies_of(task).values() for exit in policy.exits}
    return next(exit for exit in task.heads if exit in used)


def _largest(matrix: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Eigenvectors of the largest eigenvalues, largest first, as columns."""
    size = len(matrix)
    vectors: NDArray[np.float64] = eigh(matrix, subset_by_index=(size - count, size - 1))[1][:, ::-1]
    return vectors


def _evenly(items: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    if len(items) <= most:
        return items
    return items[np.linspace(0, len(items) - 1, max(1, most)).astype(np.int64)]
