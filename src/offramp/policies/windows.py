"""What the heads of one seed say about some windows at every exit, and how good that is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.policies.simulation import Outputs
from offramp.scoring.metrics import Array, Metric

AS_GOOD = 0.01
"""For regression: an answer that loses this much more than another is as good; of the targets' spread where losses are distances."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Outputs of every exit for N windows, and their targets.

    Attributes:
        exits: All exits, in order of depth.
        outputs: Per exit ``(N, outputs)`` float32.
        targets: Labels ``(N,)`` or values ``(N, dimensions)``.
        metric: The task's.
    """

    exits: tuple[str, ...]
    outputs: Outputs
    targets: NDArray[Any]
    metric: Metric

    @property
    def count(self) -> int:
        return len(self.targets)

    @cached_property
    def statistics(self) -> Array:
        """The metric's statistics at every exit, ``(E, N, q)``."""
        return np.stack([self.metric.statistics(self.outputs[exit], self.targets) for exit in self.exits])

    @cached_property
    def losses(self) -> Array:
        """What every exit's answer loses on each window, ``(E, N)``.

        What the window's own score lacks to 1, where the metric grows with the quality: for accuracies, 1 for a wrong answer; nothing
        where there is nothing to gain. Otherwise the distance to the target.
        """
        if self.metric.higher_is_better:
            score = self.metric.score(self.statistics)
            return np.where(np.isnan(score), 0.0, np.maximum(0.0, 1.0 - score))
        return np.stack(
            [np.linalg.norm(self.outputs[exit].astype(np.float64) - self.targets, axis=1) for exit in self.exits]
        )

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Which exits are right about which windows, bool ``(E, N)``; for regression, as good as full depth."""
        if self.metric.kind == "classification":
            right: NDArray[np.bool_] = self.losses == 0
            return right
        scale = 1.0 if self.metric.higher_is_better else float(np.sqrt(np.var(self.targets, axis=0).sum()))
        as_good: NDArray[np.bool_] = self.losses <= self.losses[-1] + AS_GOOD * scale
        return as_good

    def subset(self, indices: NDArray[np.int64], exits: tuple[str, ...] | None = None) -> Windows:
        """Some of the windows, repeated where an index is; with the outputs of some exits if they are named."""
        exits = exits or self.exits
        outputs = {exit: self.outputs[exit][indices] for exit in exits}
        return Windows(exits, outputs, self.targets[indices], self.metric)
