"""What is looked at of the windows of one recording: a few numbers per block of them, the same of the reference as of what comes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import TaskReference
from offramp.bundle.reference import PolicyAnswers

Array = NDArray[np.float64]

MOST_OF_BLOCK = 64
FEWEST_RECORDINGS = 8
"""With fewer nothing can be said of how recordings differ."""
UNGROUPED_BLOCKS, FEWEST_OF_UNGROUPED, MOST_OF_UNGROUPED = 64, 4, 32
FEWEST_FOR_SPREAD = 4
"""Windows in a block whose features' spread is looked at."""
TINY = 1e-6
DIGITS = 3
"""Numbers that agree so far are the same: what back ends and batch sizes change must not move a rank. Projections are of standardised numbers."""


@dataclass(frozen=True)
class Layout:
    """Which numbers a block of a task under one policy is summarised by.

    Attributes:
        classes: Of the task; 0 for regression.
        values: Numbers that an answer of a regression is projected to.
        exits: That the policy consults.
        features: Numbers that the features are projected to.
        size: Windows of a block.
    """

    classes: int
    values: int
    exits: tuple[str, ...]
    features: int
    size: int

    @property
    def answers_width(self) -> int:
        """Columns of a window's row in front of the features."""
        return 1 + (2 if self.classes else self.values)

    @property
    def monitors(self) -> dict[str, tuple[str, ...]]:
        """By monitor, what its numbers are, in the order of :meth:`summary`."""
        several = self.size > 1
        found: dict[str, tuple[str, ...]] = {}
        if self.classes:
            found["confidence"] = ("mean", *(("spread",) if several else ()))
            shares = tuple(f"share of class {number}" for number in range(self.classes))
            found["classes"] = (*shares, *(("largest share",) if several else ()))
        else:
            spreads = tuple(f"spread of value {number}" for number in range(self.values)) if several else ()
            found["values"] = (*(f"mean of value {number}" for number in range(self.values)), *spreads)
        if len(self.exits) > 1:
            found["exits"] = tuple(f"share up to {exit}" for exit in self.exits[:-1])
        found["features"] = tuple(f"mean of component {number}" for number in range(self.features))
        if self.size >= FEWEST_FOR_SPREAD:
            found["feature spread"] = tuple(f"spread of component {number}" for number in range(self.features))
        return found

    def rows(self, answers: PolicyAnswers, features: NDArray[np.float32] | None) -> Array:
        """One row per window, float64 ``(N, columns)``: where it left, what was answered, and its projected features, NaN without."""
        told = [answers.left, answers.confidence, answers.predicted, answers.values]
        columns = [part.reshape(len(part), -1).astype(np.float64) for part in told if part is not None]
        seen = np.full((len(answers.left), self.features), np.nan) if features is None else features.astype(np.float64)
        return np.concatenate([*columns, seen], axis=1)

    def summary(self, rows: Array) -> Array:
        """The numbers of a block ``(D,)``, rounded, from its rows ``(size, columns)``; NaN for features that one of its windows lacks."""
        told, features = rows[:, 1 : self.answers_width], rows[:, self.answers_width :]
        several = self.size > 1
        parts: list[Array] = []
        if self.classes:
            confidence, predicted = told[:, 0], told[:, 1].astype(np.int64)
            shares = np.bincount(predicted, minlength=self.classes) / len(rows)
            parts += [np.asarray([confidence.mean(), confidence.std()][: 1 + several]), shares]
            parts += [shares.max(keepdims=True)] if several else []
        else:
            parts += [told.mean(axis=0), *([told.std(axis=0)] if several else [])]
        if len(self.exits) > 1:
            parts.append(np.mean(rows[:, :1] <= np.arange(len(self.exits) - 1), axis=0))
        parts.append(features.mean(axis=0))
        if self.size >= FEWEST_FOR_SPREAD:
            parts.append(np.log(features.std(axis=0) + TINY))
        return np.asarray(np.round(np.concatenate(parts), DIGITS), np.float64)


def block_size(reference: TaskReference) -> int:
    """Windows that make a recording: what three of four recordings of the reference have, at most 64.

    Where the data tells no recordings apart, windows count as drawn one by one, and so many of them are put together that there are 64 blocks.
    """
    if not reference.grouped:
        return int(np.clip(len(reference.groups) // UNGROUPED_BLOCKS, FEWEST_OF_UNGROUPED, MOST_OF_UNGROUPED))
    sizes = np.sort(np.bincount(reference.groups)) if len(reference.groups) else np.ones(1, np.int64)
    smallest = sizes[min(len(sizes) // 4, max(0, len(sizes) - FEWEST_RECORDINGS))]
    return int(np.clip(smallest, 1, MOST_OF_BLOCK))


def reference_blocks(reference: TaskReference, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Whole blocks of neighbouring windows of one recording: their windows, int64 ``(B, size)``, and the recording of each, ``(B,)``."""
    count = len(reference.groups)
    if not reference.grouped:
        blocks = np.arange(count // size * size).reshape(-1, size)
        return blocks, np.arange(len(blocks))
    starts = np.flatnonzero(np.diff(reference.groups, prepend=-1))
    whole = np.diff(starts, append=count) // size
    first = [start + size * np.arange(blocks) for start, blocks in zip(starts, whole, strict=True)]
    windows = np.concatenate([np.empty(0, np.int64), *first])[:, None] + np.arange(size)
    long_enough = whole[whole > 0]
    return windows, np.repeat(np.arange(len(long_enough)), long_enough)
