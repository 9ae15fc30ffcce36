"""Scores as functions of sums over samples, so that a bootstrap over groups is exact and costs one matrix product.

A metric maps every sample to a row of statistics; a score is a function of the rows' sum. Accuracy, for instance, has the rows
``(correct, 1)`` and the score ``sum[0] / sum[1]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A score of predictions against targets.

    Attributes:
        name: As suites name it.
        kind: The kind of task it scores.
        higher_is_better: Direction.
        bounded: Whether scores lie in [0, 1], so that an absolute tolerance makes sense.
        statistics: ``(outputs, targets) -> (N, q)`` float64. Classification: outputs ``(N, classes)`` class scores, targets ``(N,)``
            integers. Regression: both ``(N, dimensions)``.
        score: Sums of statistics ``(..., q)`` to scores ``(...)``; NaN where nothing was counted.
    """

    name: str
    kind: Literal["classification", "regression"]
    higher_is_better: bool
    bounded: bool
    statistics: Callable[[NDArray[np.floating], NDArray[Any]], Array]
    score: Callable[[Array], Array]

    def __call__(self, outputs: NDArray[np.floating], targets: NDArray[Any]) -> float:
        """The score of predictions: see ``statistics`` for the shapes."""
        return float(self.score(self.statistics(outputs, targets).sum(0)))


def _counted(hit: NDArray[Any]) -> Array:
    return np.stack([hit.astype(np.float64), np.ones(len(hit))], axis=1)


def _accuracy(outputs: NDArray[np.floating], targets: NDArray[Any]) -> Array:
    return _counted(outputs.argmax(1) == targets)


def _top3(outputs: NDArray[np.floating], targets: NDArray[Any]) -> Array:
    best = np.argsort(-outputs, axis=1, kind="stable")[:, :3]
    return _counted((best == targets[:, None]).any(1))


def _per_class(outputs: NDArray[np.floating], targets: NDArray[Any]) -> Array:
    """Correct per class, then counted per class."""
    of_class = np.eye(outputs.shape[1])[targets.astype(np.int64)]
    return np.concatenate([of_class * (outputs.argmax(1) == targets)[:, None], of_class], axis=1)


def _distance(outputs: NDArray[np.floating], targets: NDArray[Any]) -> Array:
    distance: Array = np.linalg.norm(outputs.astype(np.float64) - targets, axis=1)
    return distance


def _mean_recall(sums: Array) -> Array:
    correct, counted = np.split(sums, 2, axis=-1)
    present = counted > 0
    recall = np.divide(correct, counted, out=np.zeros_like(correct), where=present)
    classes = present.sum(-1)
    score: Array = np.divide(recall.sum(-1), classes, out=np.full(classes.shape, np.nan), where=classes > 0)
    return score


def _ratio(sums: Array) -> Array:
    ratio: Array = np.divide(sums[..., 0], sums[..., 1], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 1] > 0)
    return ratio


def _squared(outputs: NDArray[np.floating], targets: NDArray[Any]) -> Array:
    return np.stack([_distance(outputs, targets) ** 2, np.ones(len(outputs))], axis=1)


def _against_power(outputs: NDArray[np.floating], targets: NDArray[Any]) -> Array:
    power = np.square(targets.astype(np.float64)).sum(1)
    return np.stack([_distance(outputs, targets) ** 2, power], axis=1)


def _decibel(sums: Array) -> Array:
    decibel: Array = 10 * np.log10(np.maximum(_ratio(sums), 1e-30))
    return decibel


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "classification", True, True, _accuracy, _ratio),
        Metric("balanced_accuracy", "classification", True, True, _per_class, _mean_recall),
        Metric("top3_accuracy", "classification", True, True, _top3, _ratio),
        Metric(
            "mean_error",
            "regression",
            False,
            False,
            lambda o, t: np.stack([_distance(o, t), np.ones(len(o))], axis=1),
            _ratio,
        ),
        Metric("rmse", "regression", False, False, _squared, lambda sums: np.sqrt(_ratio(sums))),
        Metric("nmse_db", "regression", False, False, _against_power, _decibel),
    )
}
"""Balanced accuracy is the mean recall over the classes present; mean_error the mean Euclidean distance in the target's unit."""
