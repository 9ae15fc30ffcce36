"""What is let in, and when a slice of the traffic moves to shallower exits and back. The engine and its plan reckon with the same rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from offramp.runtime.engine.levels import ServiceLevel
from offramp.runtime.engine.scheduler import Job, PassQueue

HIGH, LOW = 0.5, 0.1
"""Shares of a level's budget: more work than the first is too much, less than the second is little."""
SETTLE = 0.25
"""Share of the budget between two steps down: what the last step brought must show first."""
CALM_S = 1.0
"""Seconds between two steps back: load that comes in bursts does not make answers flicker."""

J = TypeVar("J", bound=Job)


class LoadControl:
    """Counts by how many exits a slice is moved towards the input; with hysteresis."""

    def __init__(self, level: ServiceLevel) -> None:
        """Start where nothing is moved."""
        moves = level.under_load == "shallower" and level.budget_ms is not None
        self._budget = (level.budget_ms or 0.0) / 1e3 if moves else None
        self._changed = float("-inf")
        self.steps = 0

    def observe(self, backlog: float, now: float, most: int) -> None:
        """Take note of the seconds of work that wait; ``most`` steps at most."""
        if self._budget is None:
            return
        since = now - self._changed
        if backlog > HIGH * self._budget and since >= SETTLE * self._budget and self.steps < most:
            self.steps, self._changed = self.steps + 1, now
        elif backlog < LOW * self._budget and since >= CALM_S and self.steps:
            self.steps, self._changed = self.steps - 1, now


@dataclass(frozen=True)
class Outlook:
    """What a request meets.

    Attributes:
        waiting: Windows that wait already.
        backlog: Seconds that they will take, and the rest of the batch that is being computed.
        own: Seconds that the request takes by itself.
    """

    waiting: int
    backlog: float
    own: float

    def in_time(self, budget: float) -> bool:
        """Whether it can be answered within so many seconds."""
        return self.backlog + self.own <= budget


def outlook(queues: Iterable[PassQueue[J]], jobs: Sequence[tuple[PassQueue[J], J]], running: float) -> Outlook:
    """What the jobs of a request meet in all queues of an engine, with ``running`` seconds left of the batch that is being computed."""
    listed = list(queues)
    own = sum(queue.timing.up_to(0, job.last, job.count) for queue, job in jobs)
    return Outlook(sum(map(len, listed)), running + sum(queue.backlog for queue in listed), own)


def next_queue(queues: Iterable[PassQueue[J]], now: float) -> tuple[PassQueue[J], int] | None:
    """The queue with the least time to spare, of equals the one with the most work, and the segment to run; None if nothing waits."""
    waiting = [
        (urgent[0], -queue.backlog, number, queue)
        for number, queue in enumerate(queues)
        if (urgent := queue.urgency(now)) is not None
    ]
    if not waiting:
        return None
    queue = min(waiting)[-1]
    segment = queue.choose(now)
    assert segment is not None
    return queue, segment
