"""What is let in, and when a slice of the traffic moves to shallower exits and back. The engine and its plan reckon with the same rules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from offramp.errors import BudgetTooSmall, Overloaded
from offramp.runtime.engine.levels import ServiceLevel
from offramp.runtime.engine.scheduler import Job, NextUnit, PassQueue

HIGH, LOW = 0.5, 0.1
"""Shares of a level's budget: more work than the first is too much, less than the second is little."""
SETTLE = 0.25
"""Share of the budget between two steps down: what the last step brought must show first."""
CALM_S = 1.0
"""Seconds between two steps back: load that comes in bursts does not make answers flicker."""

MEMORY_S = 1.0
"""How long a request counts as of late."""
MOST_SHARE = 0.95
HEADROOM = 0.8
"""Share of a budget that what waits may take when a request is let in: more important ones may come after it."""

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


class Pressure:
    """Which share of the time more important requests have taken of late: less important ones get the rest."""

    def __init__(self) -> None:
        """Start with none."""
        self._work: dict[int, tuple[float, float]] = {}
        """By priority, when it was last added to, and seconds of work, older ones counting less and less."""

    def add(self, priority: int, seconds: float, now: float) -> None:
        """Take note of a request that is let in."""
        self._work[priority] = (now, self._of(priority, now) + seconds)

    def share(self, priority: int, now: float) -> float:
        """Of those more important than ``priority``, at most nearly all."""
        busy = sum(self._of(level, now) for level in self._work if level < priority) / MEMORY_S
        return min(busy, MOST_SHARE)

    def _of(self, priority: int, now: float) -> float:
        since, seconds = self._work.get(priority, (now, 0.0))
        return seconds * math.exp(-max(0.0, now - since) / MEMORY_S)


@dataclass(frozen=True)
class Outlook:
    """What a request meets.

    Attributes:
        waiting: Windows that wait already and are at least as important.
        ahead: Seconds until it can begin: those that wait and are at least as important, the rest of the batch that is being computed, and
            what more important ones will take meanwhile if they go on as of late.
        own: Seconds that the request takes by itself.
    """

    waiting: int
    ahead: float
    own: float

    def in_time(self, budget: float) -> bool:
        """Whether it can be answered within so many seconds."""
        return self.ahead + self.own <= HEADROOM * budget


def outlook(
    queues: Iterable[PassQueue[J]], jobs: Sequence[tuple[PassQueue[J], J]], running: float, share: float = 0.0
) -> Outlook:
    """What the jobs of a request meet in all queues of an engine.

    Args:
        queues: All of them.
        jobs: With the queue that each goes to.
        running: Seconds left of the batch that is being computed.
        share: Of the time that more important requests take.
    """
    listed = list(queues)
    own = sum(queue.timing.rest(job.unit, job.last, job.count) for queue, job in jobs)
    priority = jobs[0][1].priority
    ahead = sum(queue.backlog(priority) for queue in listed)
    meanwhile = (running + ahead + own) * share / (1 - share)
    return Outlook(sum(queue.waiting(priority) for queue in listed), running + ahead + meanwhile, own)


def next_queue(queues: Iterable[PassQueue[J]], now: float) -> tuple[PassQueue[J], NextUnit] | None:
    """The queue to serve, and what to run of it; None if nothing waits."""
    found = [
        (choice.rank, number, queue, choice) for number, queue in enumerate(queues) if (choice := queue.choose(now))
    ]
    if not found:
        return None
    _, _, queue, choice = min(found, key=lambda each: each[:2])
    return queue, choice


def refusal(met: Outlook, windows: int, most: int | None, budget: float, slice: str) -> Overloaded:
    """Why a request is turned away: there is no room for more than ``most`` windows, or no time."""
    if most is not None and windows > most:
        return Overloaded(
            f"a request of {windows} windows, and at most {most} may wait: split it, or raise most_waiting"
        )
    if most is not None:
        return Overloaded(
            f"{met.waiting} windows wait already, and at most {most} may: ask again later, or raise most_waiting"
        )
    if met.own > HEADROOM * budget:
        return BudgetTooSmall(
            f"a budget of {1e3 * budget:.3g} ms cannot be met: this request alone takes {1e3 * met.own:.3g} ms"
        )
    return Overloaded(
        f"slice {slice!r}: {1e3 * met.ahead:.3g} ms of work wait and the request takes {1e3 * met.own:.3g} ms, which is more than "
        f"{HEADROOM:.0%} of its budget of {1e3 * budget:.3g} ms: ask again later"
    )
