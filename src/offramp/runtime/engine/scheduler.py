"""Which waiting windows run next, and together. Knows nothing of clocks, threads or networks, so that a plan can be made with it too.

Every segment has a queue. Windows of different requests, tasks and depths meet in it, and what survives an exit waits in the next queue:

1. Whoever would miss its deadline if it waited for one more batch goes first.
2. Else the deepest queue that fills a batch: deep segments are expensive, and stay full.
3. Else the shallowest queue with anything in it: shallow answers leave before deep work starts, and survivors gather behind.

Within a queue the more important goes first, then the earlier deadline.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count as counting
from typing import Generic, Protocol, TypeVar

from offramp.runtime.engine.timing import SegmentTiming


class Job(Protocol):
    """Windows of one request in one pass."""

    segment: int
    """The next one to run."""
    deadline: float
    """When the answers are due, in seconds; infinity if never."""
    priority: int
    """The lower the more important."""

    @property
    def count(self) -> int:
        """Windows that are still there."""

    @property
    def last(self) -> int:
        """The deepest segment that it may need."""

    @property
    def wanted(self) -> bool:
        """Whether anyone still waits for it."""


J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class Batch(Generic[J]):
    """Jobs that run a segment together.

    Attributes:
        segment: Of the pass.
        jobs: At least one, unless all that were looked at are in ``dropped``.
    """

    segment: int
    jobs: list[J]

    @property
    def windows(self) -> int:
        """In all."""
        return sum(job.count for job in self.jobs)


@dataclass
class PassQueue(Generic[J]):
    """The queues of the segments of one pass.

    Attributes:
        timing: Of its segments.
        most: Windows of a batch; a job of more than this runs alone.
    """

    timing: SegmentTiming
    most: int
    _waiting: list[list[tuple[int, float, int, J]]] = field(init=False)
    _windows: list[int] = field(init=False)
    _order: Iterator[int] = field(default_factory=counting, init=False)

    def __post_init__(self) -> None:
        self._waiting = [[] for _ in self.timing.seconds]
        self._windows = [0] * len(self._waiting)
        self._full = [min(self.most, self.timing.worth_waiting_for(index)) for index in range(len(self._waiting))]

    def add(self, job: J) -> None:
        """Let a job wait for its next segment."""
        heapq.heappush(self._waiting[job.segment], (job.priority, job.deadline, next(self._order), job))
        self._windows[job.segment] += job.count

    def __len__(self) -> int:
        return sum(self._windows)

    @property
    def backlog(self) -> float:
        """Seconds that all that waits will take at the pace of full batches, if nothing leaves early."""
        seconds, ahead = 0.0, 0
        for index, windows in enumerate(self._windows):
            ahead += windows
            if ahead:
                seconds += self.timing.of(index, self._full[index]) * ahead / self._full[index]
        return seconds

    def urgency(self, now: float) -> tuple[float, int] | None:
        """The least time to spare of those at the head of any queue, and which queue it is; None if nothing waits."""
        found = None
        for index, queue in enumerate(self._waiting):
            if queue:
                job = queue[0][-1]
                spare = job.deadline - now - self.timing.up_to(index, job.last, job.count)
                if found is None or spare < found[0]:
                    found = (spare, index)
        return found

    def choose(self, now: float) -> int | None:
        """The segment to run next; None if nothing waits."""
        urgent = self.urgency(now)
        if urgent is None:
            return None
        spare, index = urgent
        patience = max(self.timing.of(each, self._full[each]) for each in range(len(self._waiting)))
        if spare <= patience:
            return index
        full = [each for each, windows in enumerate(self._windows) if windows >= self._full[each]]
        if full:
            return full[-1]
        return next(each for each, windows in enumerate(self._waiting) if windows)

    def take(self, segment: int, now: float) -> tuple[Batch[J], list[J]]:
        """A batch for a segment, and those that nobody waits for any more or whose deadline has passed: they are never computed."""
        queue, windows = self._waiting[segment], 0
        jobs: list[J] = []
        dropped: list[J] = []
        while queue:
            job = queue[0][-1]
            if not job.wanted or job.deadline <= now:
                dropped.append(job)
            elif jobs and windows + job.count > self.most:
                break
            else:
                jobs.append(job)
                windows += job.count
            heapq.heappop(queue)
            self._windows[segment] -= job.count
        return Batch(segment, jobs), dropped

    def clear(self) -> Iterable[J]:
        """All that waits, taken out."""
        everything = [entry[-1] for queue in self._waiting for entry in queue]
        self.__post_init__()
        return everything
