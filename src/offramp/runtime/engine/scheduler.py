"""Which waiting windows run next, and together. Knows nothing of clocks, threads or networks, so that a plan can be made with it too.

Every unit of a pass has a queue: each segment, and the whole pass to each exit (see :mod:`~offramp.runtime.engine.timing`). Windows of different requests,
tasks and depths meet in it, and what survives the exit of a segment waits in the queue of the next one:

1. Whoever would miss its deadline if it waited for one more batch goes first, the more important before the less, in a batch no larger than it can bear.
2. Else, of the queues where the most important of all that waits is in front, the deepest that fills a batch: deep segments are expensive, and stay full.
3. Else the shallowest of them: shallow answers leave before deep work starts, and survivors gather behind.

Within a queue the more important goes first, then the earlier deadline. Whatever has no deadline is due after some multiple of the time that it takes by itself, so that
shallow requests do not hold up deep ones for ever; but nothing is given up for that.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count as counting
from typing import Generic, Protocol, TypeVar

from offramp.runtime.engine.timing import PassTiming


class Job(Protocol):
    """Windows of one request in one pass."""

    unit: int
    """The next one to run."""
    deadline: float
    """When the answers are due, in seconds; infinity if never."""
    arrived: float
    """When it came, in seconds."""
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
FAIR = 20.0
"""Times what a request takes by itself: when it is due if it has no deadline."""
BACKGROUND = 1_000_000
"""Whatever is no more important than this and has no deadline runs only where nothing else waits, in batches of its own, however long it waits."""
SURELY = 0.8
"""Times what a unit takes: with less time left than that, it is not begun."""


@dataclass(frozen=True)
class Batch(Generic[J]):
    """Jobs that run a unit together.

    Attributes:
        unit: Of the pass.
        jobs: At least one, unless all that were looked at are in ``dropped``.
    """

    unit: int
    jobs: list[J]

    @property
    def windows(self) -> int:
        """In all."""
        return sum(job.count for job in self.jobs)


@dataclass(frozen=True)
class NextUnit:
    """What to run next.

    Attributes:
        rank: The lower the sooner, also among several passes.
        unit: Of the pass.
    """

    rank: tuple[int, int, float]
    unit: int


@dataclass
class PassQueue(Generic[J]):
    """The queues of the units of one pass.

    Attributes:
        timing: Of its units.
        most: Windows of a batch; less where a smaller one makes windows as cheap. A job of more than this runs alone.
    """

    timing: PassTiming
    most: int
    _waiting: list[list[tuple[int, float, int, float, J]]] = field(init=False)
    """By unit, in heaps: priority, when due, order of arrival, seconds to the end at the pace of full batches, job."""
    _windows: list[int] = field(init=False)
    """By unit."""
    _seconds: dict[int, float] = field(init=False)
    """By priority, to the end at the pace of full batches."""
    _of_priority: dict[int, int] = field(init=False)
    """Windows."""
    _order: Iterator[int] = field(default_factory=counting, init=False)

    def __post_init__(self) -> None:
        units = range(len(self.timing.seconds))
        self._waiting = [[] for _ in units]
        self._windows = [0] * len(units)
        self._seconds, self._of_priority = {}, {}
        self._full = [min(self.most, self.timing.worth_waiting_for(unit)) for unit in units]
        self._pace = [self.timing.of(unit, full) / full for unit, full in zip(units, self._full, strict=True)]
        self._patience = max(self.timing.of(unit, full) for unit, full in zip(units, self._full, strict=True))
        self._by_depth = sorted(units, key=self.timing.depth)

    def add(self, job: J) -> None:
        """Let a job wait for its next unit."""
        seconds = job.count * self._pace_to_end(job)
        due = job.deadline
        if due == math.inf and job.priority < BACKGROUND:
            due = job.arrived + FAIR * self.timing.rest(job.unit, job.last, job.count)
        heapq.heappush(self._waiting[job.unit], (job.priority, due, next(self._order), seconds, job))
        self._windows[job.unit] += job.count
        self._seconds[job.priority] = self._seconds.get(job.priority, 0.0) + seconds
        self._of_priority[job.priority] = self._of_priority.get(job.priority, 0) + job.count

    def _pace_to_end(self, job: J) -> float:
        whole = job.unit >= self.timing.segments
        return self._pace[job.unit] if whole else sum(self._pace[job.unit : job.last + 1])

    def __len__(self) -> int:
        return sum(self._windows)

    @property
    def by_unit(self) -> tuple[int, ...]:
        """Windows that wait for each unit."""
        return tuple(self._windows)

    def waiting(self, priority: float = math.inf) -> int:
        """Windows that wait and are at least so important."""
        return sum(windows for level, windows in self._of_priority.items() if level <= priority)

    def drop_unwanted(self) -> list[J]:
        """Take out whatever nobody waits for any more."""
        dropped = []
        for unit, queue in enumerate(self._waiting):
            kept = []
            for entry in queue:
                priority, _, _, seconds, job = entry
                if job.wanted:
                    kept.append(entry)
                else:
                    self._forget(unit, priority, seconds, job)
                    dropped.append(job)
            heapq.heapify(kept)
            self._waiting[unit] = kept
        return dropped

    def _forget(self, unit: int, priority: int, seconds: float, job: J) -> None:
        self._windows[unit] -= job.count
        self._of_priority[priority] -= job.count
        self._seconds[priority] -= seconds
        if not len(self):
            self._seconds.clear()  # and what rounding left of it

    def backlog(self, priority: float = math.inf) -> float:
        """Seconds that what waits and is at least so important will take at the pace of full batches, if nothing leaves early."""
        return max(0.0, sum(seconds for level, seconds in self._seconds.items() if level <= priority))

    def choose(self, now: float) -> NextUnit | None:
        """The unit to run next; None if nothing waits."""
        urgent, full, first = [], None, None
        best = min((queue[0][0] for queue in self._waiting if queue), default=0)
        for unit in self._by_depth:
            queue = self._waiting[unit]
            if not queue:
                continue
            _, due, _, _, job = queue[0]
            spare = due - now - self.timing.rest(unit, job.last, job.count)
            if spare <= self._patience:
                urgent.append(NextUnit((0, job.priority, spare), unit))
            if queue[0][0] > best:
                continue
            if self._windows[unit] >= self._full[unit]:
                full = unit
            first = unit if first is None else first
        if urgent:
            return min(urgent, key=lambda choice: choice.rank)
        chosen = first if full is None else full
        return None if chosen is None else NextUnit((1, best, -self.backlog()), chosen)

    def expected(self, choice: NextUnit) -> float:
        """Seconds that its batch takes at most, unless a job is larger than a batch."""
        return self.timing.of(choice.unit, min(self._windows[choice.unit], self._full[choice.unit]))

    def take(self, choice: NextUnit, now: float) -> tuple[Batch[J], list[J]]:
        """A batch for a unit, and those that nobody waits for any more or that cannot be in time: they are never computed."""
        unit, windows = choice.unit, 0
        queue, most = self._waiting[unit], self._full[unit]
        jobs: list[J] = []
        dropped: list[J] = []
        while queue:
            priority, _, _, seconds, job = queue[0]
            if not job.wanted or job.deadline <= now + self.timing.of(unit, job.count) * SURELY:
                dropped.append(job)
            elif jobs and (
                windows + job.count > most
                or job.priority >= BACKGROUND > jobs[0].priority
                or self._too_long(unit, windows + job.count, jobs[0], choice, now)
            ):
                break
            else:
                jobs.append(job)
                windows += job.count
            heapq.heappop(queue)
            self._forget(unit, priority, seconds, job)
        return Batch(unit, jobs), dropped

    def _too_long(self, unit: int, windows: int, first: J, choice: NextUnit, now: float) -> bool:
        """Whether a batch of so many windows would make an urgent job late."""
        if choice.rank[0] or first.deadline == math.inf:
            return False
        alone, together = self.timing.of(unit, first.count), self.timing.of(unit, windows)
        return now + self.timing.rest(unit, first.last, first.count) - alone + together > first.deadline

    def clear(self) -> Iterable[J]:
        """All that waits, taken out."""
        everything = [entry[-1] for queue in self._waiting for entry in queue]
        self.__post_init__()
        return everything
