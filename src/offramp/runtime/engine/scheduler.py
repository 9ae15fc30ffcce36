"""Which waiting windows run next, and together. Knows nothing of clocks, threads or networks, so that a plan can be made with it too.

Every segment has a queue. Windows of different requests, tasks and depths meet in it, and what survives an exit waits in the next queue:

1. Whoever would miss its deadline if it waited for one more batch goes first, the more important before the less, in a batch no larger than it can bear.
2. Else the deepest queue that fills a batch: deep segments are expensive, and stay full.
3. Else the shallowest queue with anything in it: shallow answers leave before deep work starts, and survivors gather behind.

Within a queue the more important goes first, then the earlier deadline.
"""

from __future__ import annotations

import heapq
import math
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


@dataclass(frozen=True)
class NextSegment:
    """What to run next.

    Attributes:
        rank: The lower the sooner, also among several passes.
        segment: Of the pass.
    """

    rank: tuple[int, int, float]
    segment: int


@dataclass
class PassQueue(Generic[J]):
    """The queues of the segments of one pass.

    Attributes:
        timing: Of its segments.
        most: Windows of a batch; less where a smaller one makes windows as cheap. A job of more than this runs alone.
    """

    timing: SegmentTiming
    most: int
    _waiting: list[list[tuple[int, float, int, J]]] = field(init=False)
    _windows: list[dict[int, int]] = field(init=False)
    """By segment and priority."""
    _order: Iterator[int] = field(default_factory=counting, init=False)

    def __post_init__(self) -> None:
        self._waiting = [[] for _ in self.timing.seconds]
        self._windows = [{} for _ in self._waiting]
        self._full = [min(self.most, self.timing.worth_waiting_for(index)) for index in range(len(self._waiting))]

    def add(self, job: J) -> None:
        """Let a job wait for its next segment."""
        heapq.heappush(self._waiting[job.segment], (job.priority, job.deadline, next(self._order), job))
        of_segment = self._windows[job.segment]
        of_segment[job.priority] = of_segment.get(job.priority, 0) + job.count

    def __len__(self) -> int:
        return sum(sum(of_segment.values()) for of_segment in self._windows)

    def backlog(self, priority: float = math.inf) -> float:
        """Seconds that what waits and is at least so important will take at the pace of full batches, if nothing leaves early."""
        seconds, ahead = 0.0, 0
        for index, of_segment in enumerate(self._windows):
            ahead += sum(windows for level, windows in of_segment.items() if level <= priority)
            if ahead:
                seconds += self.timing.of(index, self._full[index]) * ahead / self._full[index]
        return seconds

    def choose(self, now: float) -> NextSegment | None:
        """The segment to run next; None if nothing waits."""
        patience = max(self.timing.of(index, full) for index, full in enumerate(self._full))
        urgent, full, first = [], None, None
        for index, queue in enumerate(self._waiting):
            if not queue:
                continue
            job = queue[0][-1]
            spare = job.deadline - now - self.timing.up_to(index, job.last, job.count)
            if spare <= patience:
                urgent.append(NextSegment((0, job.priority, spare), index))
            if sum(self._windows[index].values()) >= self._full[index]:
                full = index
            first = index if first is None else first
        if urgent:
            return min(urgent, key=lambda choice: choice.rank)
        if full is not None:
            return NextSegment((1, 0, -self.backlog()), full)
        return None if first is None else NextSegment((2, 0, -self.backlog()), first)

    def take(self, choice: NextSegment, now: float) -> tuple[Batch[J], list[J]]:
        """A batch for a segment, and those that nobody waits for any more or whose deadline has passed: they are never computed."""
        segment, windows = choice.segment, 0
        queue, most = self._waiting[segment], self._full[segment]
        jobs: list[J] = []
        dropped: list[J] = []
        while queue:
            job = queue[0][-1]
            if not job.wanted or job.deadline <= now:
                dropped.append(job)
            elif jobs and (
                windows + job.count > most or self._too_long(segment, windows + job.count, jobs[0], choice, now)
            ):
                break
            else:
                jobs.append(job)
                windows += job.count
            heapq.heappop(queue)
            self._windows[segment][job.priority] -= job.count
        return Batch(segment, jobs), dropped

    def _too_long(self, segment: int, windows: int, first: J, choice: NextSegment, now: float) -> bool:
        """Whether a batch of so many windows would make an urgent job late."""
        if choice.rank[0]:
            return False
        rest = self.timing.up_to(segment + 1, first.last, first.count)
        return now + self.timing.of(segment, windows) + rest > first.deadline

    def clear(self) -> Iterable[J]:
        """All that waits, taken out."""
        everything = [entry[-1] for queue in self._waiting for entry in queue]
        self.__post_init__()
        return everything
