"""Standardised training rows of one exit, in blocks that stay in the processor's cache and within a bound of memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_VALUES = 1 << 19
"""A block holds about this many values: 2 MB."""
CACHED_VALUES = 1 << 27
"""Rows of up to this many values (512 MB) are gathered once; more are read from the bank again on every pass."""


class FeatureRows(Protocol):
    """Features by index, float32 ``(N, width)`` or ``(N, positions, width)``: a numpy array, or taps on disk."""

    shape: tuple[int, ...]

    def __getitem__(self, indices: NDArray[np.int64], /) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Standardisation:
    """``(x - mean) * scale`` per feature, float32 ``(width,)``; a constant feature has scale 0."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class StandardisedTargets:
    """Targets as gradient steps want them: values are standardised over the rows that are trained on, classes stay.

    Attributes:
        wanted: int64 ``(n,)`` classes, or float32 ``(n, outputs)`` standardised values.
        centre: What was subtracted, float64 ``(outputs,)``; zeros for classes.
        spread: What was divided by, float64 ``(outputs,)``; ones for classes.
    """

    wanted: Tensor
    centre: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def of(cls, targets: NDArray[Any], outputs: int) -> StandardisedTargets:
        """Of classes int64 ``(n,)``, or of values float ``(n, outputs)``."""
        if not np.issubdtype(targets.dtype, np.floating):
            return cls(torch.from_numpy(targets), np.zeros(outputs), np.ones(outputs))
        centre = targets.mean(0, dtype=np.float64)
        spread = np.maximum(targets.std(0, dtype=np.float64), 1e-12)
        return cls(torch.from_numpy((targets - centre) / spread).float(), centre, spread)


class Rows:
    """The rows ``indices`` of a tap matrix ``(N, width)``, standardised by their own statistics, with a last column of ones."""

    def __init__(self, taps: FeatureRows, indices: NDArray[np.int64]) -> None:
        self._taps = taps
        self._indices = indices
        self.count, self.width = len(indices), taps.shape[1]
        self._step = max(64, BLOCK_VALUES // (self.width + 1))
        self.standardisation = self._measure()
        self._cached: list[tuple[slice, Tensor]] = []

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Pairs of a slice into the rows and the block ``(rows, width + 1)`` float32."""
        if self.count * (self.width + 1) > CACHED_VALUES:
            return self._blocks()
        if not self._cached:
            self._cached = list(self._blocks())
        return iter(self._cached)

    def only(self, which: NDArray[np.int64]) -> Rows:
        """Some of the rows, standardised by their own statistics."""
        return Rows(self._taps, self._indices[which])

    def without(self, features: NDArray[np.bool_]) -> Rows:
        """The same rows with some features ``(width,)`` set to zero, so that no head uses them."""
        fewer = copy.copy(self)
        scale = np.where(features, 0, self.standardisation.scale).astype(np.float32)
        fewer.standardisation = Standardisation(self.standardisation.mean, scale)
        fewer._cached = []
        return fewer

    def covariance(self, weights: Tensor | None = None) -> Tensor:
        """Covariance of the standardised rows, float32 ``(width, width)``; weights ``(count,)`` sum to 1, equal if None."""
        moment = torch.zeros(self.width, self.width)
        mean = torch.zeros(self.width)
        for where, block in self:
            features = block[:, :-1]
            weighted = features / self.count if weights is None else features * weights[where, None]
            moment.addmm_(weighted.T, features)
            mean += weighted.sum(0)
        return moment - torch.outer(mean, mean)

    def _measure(self) -> Standardisation:
        total = np.zeros(self.width)
        squares = np.zeros(self.width)
        # Shifting by one row keeps the sum of squares exact where a feature's mean is far above its spread.
        shift = np.asarray(self._taps[self._indices[:1]][0], dtype=np.float64)
        for start in range(0, self.count, self._step):
            block = self._taps[self._indices[start : start + self._step]] - shift
            total += block.sum(0)
            squares += np.square(block).sum(0)
        mean = total / self.count
        variance = np.maximum(squares / self.count - mean**2, 0)
        mean += shift
        constant = variance <= 1e-12 * np.maximum(mean**2, 1e-12)
        scale = np.where(constant, 0.0, 1 / np.sqrt(np.where(constant, 1.0, variance)))
        return Standardisation(mean.astype(np.float32), scale.astype(np.float32))

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, self.count, self._step):
            where = slice(start, min(start + self._step, self.count))
            block = np.ones((where.stop - start, self.width + 1), dtype=np.float32)
            np.subtract(self._taps[self._indices[where]], self.standardisation.mean, out=block[:, :-1])
            block[:, :-1] *= self.standardisation.scale
            yield where, torch.from_numpy(block)
