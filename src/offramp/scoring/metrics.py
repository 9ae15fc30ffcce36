"""Scores as functions of sums over samples, so that a bootstrap over groups is exact and costs one matrix product.

A metric maps every sample to a row of statistics; a score is a function of the rows' sum. Accuracy, for instance, has the rows
``(correct, 1)`` and the score ``sum[0] / sum[1]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError
from offramp.schema.metrics import METRIC_INFO, MetricInfo
from offramp.scoring.beams import as_complex, genie_efficiency, spectral_efficiency

SNR_DB = 10.0
"""At which ``mrt_efficiency`` scores precoders; beam gains hold the SNR that they are scored at."""
SMALLEST, OCTAVES, BINS_PER_OCTAVE = 2.0**-7, 20, 8
"""Quantiles of distances are read off a histogram with bins of an eighth of an octave, from 0.8 cm to 8.2 km if the unit is the metre."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Metric(MetricInfo):
    """A score of predictions against targets.

    Attributes:
        statistics: ``(outputs, targets) -> (N, q)`` float64. Classification: outputs ``(N, classes)`` class scores, targets ``(N,)``
            integers. Regression: both ``(N, dimensions)``.
        score: Sums of statistics ``(..., q)`` to scores ``(...)``; NaN where nothing was counted.
        shaped: Whether ``statistics`` takes outputs and targets in the target's own shape ``(N, *target_shape)``.
    """

    statistics: Callable[[NDArray[np.floating], NDArray[Any]], Array]
    score: Callable[[Array], Array]
    shaped: bool = False

    def __call__(self, outputs: NDArray[np.floating], targets: NDArray[Any]) -> float:
        """The score of predictions: see ``statistics`` for the shapes."""
        return float(self.score(self.statistics(outputs, targets).sum(0)))


def reshaping(metric: Metric, shape: tuple[int, ...]) -> Metric:
    """A metric that sees its outputs and targets ``(N, dimensions)`` as ``(N, *shape)``."""
    return replace(
        metric,
        statistics=lambda outputs, targets: metric.statistics(outputs.reshape(-1, *shape), targets.reshape(-1, *shape)),
    )


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


def _histogram(outputs: NDArray[np.floating], targets: NDArray[Any]) -> Array:
    """One-hot rows: below the smallest edge, between two edges, above the largest."""
    distance = np.maximum(_distance(outputs, targets), np.finfo(np.float64).tiny)
    bins = OCTAVES * BINS_PER_OCTAVE
    place = 1 + np.floor(BINS_PER_OCTAVE * np.log2(distance / SMALLEST))
    one_hot: Array = np.eye(bins + 2)[np.clip(place, 0, bins + 1).astype(np.int64)]
    return one_hot


def _quantile(level: float) -> Callable[[Array], Array]:
    """The distance that a share ``level`` of the windows stays below, linear within a bin; the largest edge if it lies above that."""
    edges = np.concatenate([[0.0], SMALLEST * 2 ** (np.arange(OCTAVES * BINS_PER_OCTAVE + 1) / BINS_PER_OCTAVE)])
    low, high = edges, np.append(edges[1:], edges[-1])

    def score(sums: Array) -> Array:
        reached = np.cumsum(sums, axis=-1)
        wanted = level * reached[..., -1:]
        place = (reached >= wanted).argmax(-1)
        at = place[..., None]
        inside = np.take_along_axis(sums, at, -1)[..., 0]
        missing = (wanted - np.take_along_axis(reached, at, -1))[..., 0] + inside
        share = np.divide(missing, inside, out=np.full(inside.shape, np.nan), where=inside > 0)
        quantile: Array = low[place] + share * (high - low)[place]
        return quantile

    return score


def _chosen_beam(outputs: NDArray[np.floating], targets: NDArray[Any]) -> Array:
    gains = targets.astype(np.float64)
    if (gains < 0).any():
        raise DataError("spectral_efficiency needs linear beam gains times SNR as the target, which are never negative")
    chosen = np.take_along_axis(gains, outputs.argmax(1)[:, None], axis=1)[:, 0]
    efficiency: Array = np.log2(1 + np.stack([chosen, gains.max(1)], axis=1))
    return efficiency


def _precoded(outputs: NDArray[np.floating], targets: NDArray[Any]) -> Array:
    if targets.ndim < 4 or targets.shape[1] != 2:
        raise DataError(
            f"mrt_efficiency needs channels (2, ..., antennas, subcarriers) as the target, not {targets.shape[1:]}"
        )
    channel, predicted = as_complex(targets), as_complex(outputs)
    per_slot = np.stack([spectral_efficiency(channel, predicted, SNR_DB), genie_efficiency(channel, SNR_DB)], axis=1)
    efficiency: Array = per_slot.mean(tuple(range(2, per_slot.ndim)))
    return efficiency


def _absolute(outputs: NDArray[np.floating], targets: NDArray[Any]) -> Array:
    return np.stack([_distance(outputs, targets), np.ones(len(outputs))], axis=1)


def _metric(
    name: str,
    statistics: Callable[[NDArray[np.floating], NDArray[Any]], Array],
    score: Callable[[Array], Array],
    shaped: bool = False,
) -> Metric:
    info = METRIC_INFO[name]
    return Metric(name, info.kind, info.sign, info.bounded, statistics, score, shaped)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _metric("accuracy", _accuracy, _ratio),
        _metric("balanced_accuracy", _per_class, _mean_recall),
        _metric("top3_accuracy", _top3, _ratio),
        _metric("mean_error", _absolute, _ratio),
        _metric("rmse", _squared, lambda sums: np.sqrt(_ratio(sums))),
        _metric("median_error", _histogram, _quantile(0.5)),
        _metric("p90_error", _histogram, _quantile(0.9)),
        _metric("nmse_db", _against_power, _decibel),
        _metric("spectral_efficiency", _chosen_beam, _ratio),
        _metric("mrt_efficiency", _precoded, _ratio, shaped=True),
    )
}
"""What each is:

* ``balanced_accuracy``: mean recall over the classes present.
* ``mean_error``, ``rmse``, ``median_error``, ``p90_error``: of the Euclidean distance, in the target's unit. The last two are read off a
  histogram, since a quantile is no function of sums: they lie in the same bin, 9% wide, as the exact quantile.
* ``nmse_db``: sum of squared errors over sum of squared targets, dB.
* ``spectral_efficiency``: targets and outputs ``(N, beams)`` are linear beam gains times SNR; the beam of the largest output is used.
  ``sum log2(1 + gain of that beam) / sum log2(1 + gain of the best)``, so that 1 is the genie's choice.
* ``mrt_efficiency``: targets and outputs ``(N, 2, ..., antennas, subcarriers)`` are channels, real and imaginary. What maximum-ratio
  transmission on the predicted channel reaches at 10 dB, over what it reaches on the true one; see :mod:`offramp.scoring.beams`.
"""
