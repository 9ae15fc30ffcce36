"""What the heads of every exit say about a task's windows, seed by seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.heads.fit import FittedExit, Problem, head_outputs, validation_outputs
from offramp.heads.rows import FeatureRows
from offramp.policies.policy import Policy
from offramp.policies.simulation import Decisions, simulate
from offramp.policies.windows import Windows
from offramp.scoring.metrics import Array
from offramp.scoring.resampling import Units

Taps = Callable[[str], FeatureRows]
"""Features of one exit by its name."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Some windows of a task as the heads of one seed see them.

    Attributes:
        windows: Outputs at every exit, and targets.
        indices: Into the data set, int64 ``(N,)``.
        units: What the bootstrap resamples.
    """

    windows: Windows
    indices: NDArray[np.int64]
    units: Units

    def statistics(self, decided: Decisions, policy: Policy) -> Array:
        """Metric statistics ``(N, q)`` of the answers under a policy."""
        answers: Array = self.windows.statistics[self.answered_at(decided, policy), np.arange(self.windows.count)]
        return answers

    def answered_at(self, decided: Decisions, policy: Policy) -> NDArray[np.int64]:
        """Where each window was answered, as an index into all exits, int64 ``(N,)``."""
        return np.asarray([self.windows.exits.index(exit) for exit in policy.exits])[decided.exit]

    def sums(self, statistics: Array) -> Array:
        """Statistics summed per unit, ``(U, q)``."""
        return self.units.sums(statistics, self.indices)

    def decide(self, policy: Policy) -> Decisions:
        """Run a policy on these windows."""
        return simulate(policy, self.windows.outputs)


def validation_sample(problem: Problem, fitted: Sequence[FittedExit], taps: Taps, seed: int) -> Sample:
    """Validation windows of one seed, each seen by heads that did not learn from it."""
    outputs = {exit.name: validation_outputs(problem, exit, taps(exit.name), seed) for exit in fitted}
    indices = np.concatenate([held for _, held in problem.split.draws[seed].folds])
    return _sample(problem, fitted, outputs, indices, problem.val_units)


def final_sample(
    problem: Problem,
    fitted: Sequence[FittedExit],
    taps: Taps,
    seed: int,
    indices: NDArray[np.int64],
    units: Units,
    rows: NDArray[np.int64] | None = None,
) -> Sample:
    """Windows that no head learned from, seen by the final heads of one seed.

    Args:
        problem: The task.
        fitted: Heads of every exit.
        taps: Features.
        seed: Number of the seed.
        indices: Of the windows in the data set.
        units: Of the bootstrap.
        rows: Where their features are, if those are of other windows than the whole data set.
    """
    rows = indices if rows is None else rows
    outputs = {exit.name: head_outputs(exit.heads[seed], taps(exit.name), rows) for exit in fitted}
    return _sample(problem, fitted, outputs, indices, units)


def _sample(
    problem: Problem,
    fitted: Sequence[FittedExit],
    outputs: dict[str, NDArray[np.float32]],
    indices: NDArray[np.int64],
    units: Units,
) -> Sample:
    exits = tuple(exit.name for exit in fitted)
    return Sample(Windows(exits, outputs, problem.dataset.targets[indices], problem.metric), indices, units)
