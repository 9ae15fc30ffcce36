"""The document of ``GET /status``: made from the counts of all workers now and some seconds ago, so that rates and quantiles are of late."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any

from offramp.serving.page.counts import (
    LatencyBuckets,
    SegmentCounts,
    SliceCounts,
    Snapshot,
    TaskAgreement,
    TaskDrift,
    TaskFacts,
    WorkerCounts,
    WorkerState,
)

SCHEMA = 1
LATE_S = 10.0
"""Over how many seconds rates and quantiles are taken."""
APART_S = 1.0
"""Least time between two snapshots that are compared."""

Pairs = Sequence[tuple[WorkerCounts, WorkerCounts | None]]
"""Every worker that lives, and what it had counted before; None where it started since."""


@dataclass(frozen=True)
class TaskStatus:
    """One task: its facts, and what it answered since the start.

    Attributes:
        name: Of the task.
        kind: ``classification`` or ``regression``.
        exits: Where its windows may leave, in order of depth.
        takes_recordings: Whether a recording can be dropped for it.
        left: Windows answered, by exit.
        classes: Windows answered, by label.
        drift: What its monitors say; None where it is not watched.
        agreement: With full depth; None without shadow.
    """

    name: str
    kind: str
    exits: tuple[str, ...]
    takes_recordings: bool
    left: dict[str, int]
    classes: dict[str, int]
    drift: TaskDrift | None
    agreement: TaskAgreement | None


@dataclass(frozen=True)
class SliceStatus:
    """One slice: its dials, and how it does.

    Attributes:
        name: Of the slice.
        budget_ms: Its budget; None without one. This and the next four are what ``PUT /slices/NAME`` takes.
        priority: The lower the more important.
        exit: Where its windows leave; None for each task's own exit.
        policy: By which they leave; None for a fixed exit.
        under_load: ``refuse`` or ``shallower``.
        steps: By how many exits load has moved it, the most of any worker.
        requests: Since the start, those refused among them.
        requests_per_s: Of late.
        refused: Since the start, by reason.
        refused_per_s: Of late.
        p50_ms: Of the latency of late, from the buckets; None where nothing was answered.
        p99_ms: The same.
    """

    name: str
    budget_ms: float | None
    priority: int
    exit: str | None
    policy: str | None
    under_load: str
    steps: int
    requests: int
    requests_per_s: float
    refused: dict[str, int]
    refused_per_s: float
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class SegmentStatus:
    """One segment.

    Attributes:
        name: Of the segment.
        waiting: Windows in its queues, now.
        batch: Windows per batch, of late; None where none ran.
        windows_per_s: Of late.
    """

    name: str
    waiting: int
    batch: float | None
    windows_per_s: float


@dataclass(frozen=True)
class WorkerStatus:
    """One process."""

    number: int
    pid: int
    state: WorkerState
    uptime_s: float
    memory_bytes: int
    requests_per_s: float


@dataclass(frozen=True)
class ServerStatus:
    """What the page shows.

    Attributes:
        schema: Of this document.
        time: When it was made, Unix time in seconds.
        interval_s: Seconds that what is said of late goes back.
        state: ``starting`` until every worker is ready, ``draining`` as soon as one does.
        title: What is served.
        version: Of Offramp.
        encoder: Its name.
        uptime_s: Of the worker that has lived longest.
        exits: All exits of the encoder in order of depth; the last is full depth.
        policies: That slices can be set to.
        requests: Since the start.
        requests_per_s: Of late.
        refused: Since the start, by reason.
        refused_per_s: Of late, by reason.
        tasks: In the order in which they are shown.
        slices: The more important first.
        segments: In order of depth.
        workers: By number.
        most_recording_bytes: Size of the largest recording that may be dropped.
    """

    schema: int
    time: float
    interval_s: float
    state: WorkerState
    title: str
    version: str
    encoder: str
    uptime_s: float
    exits: tuple[str, ...]
    policies: tuple[str, ...]
    requests: int
    requests_per_s: float
    refused: dict[str, int]
    refused_per_s: dict[str, float]
    tasks: tuple[TaskStatus, ...]
    slices: tuple[SliceStatus, ...]
    segments: tuple[SegmentStatus, ...]
    workers: tuple[WorkerStatus, ...]
    most_recording_bytes: int

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class RecentSnapshots:
    """The snapshots of late, for whatever number of pages that ask whenever they like, from any thread."""

    def __init__(self) -> None:
        """Start with none."""
        self._kept: deque[Snapshot] = deque()
        self._lock = threading.Lock()

    def status(self, snapshot: Snapshot) -> ServerStatus:
        """What is to be said now; compared with the oldest snapshot of the last ``LATE_S`` seconds, or the newest before."""
        with self._lock:
            return make_status(snapshot, self._before(snapshot))

    def _before(self, snapshot: Snapshot) -> Snapshot | None:
        kept = self._kept
        while len(kept) > 1 and snapshot.time - kept[0].time > LATE_S and snapshot.time - kept[1].time >= APART_S:
            kept.popleft()
        before = kept[0] if kept and snapshot.time - kept[0].time >= APART_S else None
        if not kept or snapshot.time - kept[-1].time >= APART_S:
            kept.append(snapshot)
        return before


def make_status(snapshot: Snapshot, before: Snapshot | None = None) -> ServerStatus:
    """The status of a server.

    Args:
        snapshot: Of now.
        before: Of some seconds ago; None to look back to the start. A worker counts from its own start where it is not in it.
    """
    earlier = {_identity(worker): worker for worker in before.workers} if before is not None else {}
    workers = sorted(snapshot.workers, key=lambda worker: worker.number)
    pairs = [(worker, earlier.get(_identity(worker))) for worker in workers]
    started = min((worker.started for worker in workers), default=snapshot.time)
    uptime = max(0.0, snapshot.time - started)
    interval = snapshot.time - before.time if before is not None else uptime
    reasons = _keys(of.refused for worker in workers for of in worker.slices.values())
    slices = [_slice(name, snapshot, pairs, interval) for name in snapshot.levels]
    return ServerStatus(
        schema=SCHEMA,
        time=snapshot.time,
        interval_s=interval,
        state=_state(workers),
        title=snapshot.title,
        version=snapshot.version,
        encoder=snapshot.encoder,
        uptime_s=uptime,
        exits=snapshot.exits,
        policies=snapshot.policies,
        requests=_total(workers, _requests),
        requests_per_s=_rate(pairs, interval, _requests),
        refused={reason: _total(workers, _refused_for(reason)) for reason in reasons},
        refused_per_s={reason: _rate(pairs, interval, _refused_for(reason)) for reason in reasons},
        tasks=tuple(_task(task, snapshot, workers) for task in snapshot.tasks),
        slices=tuple(sorted(slices, key=lambda each: each.priority)),
        segments=tuple(_segment(name, pairs, interval) for name in _keys(worker.segments for worker in workers)),
        workers=tuple(
            WorkerStatus(
                worker.number,
                worker.pid,
                worker.state,
                max(0.0, snapshot.time - worker.started),
                worker.memory_bytes,
                _rate([(worker, old)], interval, _requests),
            )
            for worker, old in pairs
        ),
        most_recording_bytes=snapshot.most_recording_bytes,
    )


def quantile(buckets: LatencyBuckets, share: float) -> float | None:
    """A quantile in seconds from the buckets of a histogram, linear within a bucket, as Prometheus' ``histogram_quantile`` has it.

    Args:
        buckets: Of the histogram.
        share: In (0, 1].

    Returns:
        None where nothing was counted; the largest bound where the quantile lies beyond it.
    """
    if buckets.count == 0:
        return None
    rank = share * buckets.count
    below, lower = 0, 0.0
    for bound, reached in zip(buckets.bounds, buckets.cumulative, strict=False):
        if reached >= rank and reached > below:
            return lower + (bound - lower) * (rank - below) / (reached - below)
        below, lower = reached, bound
    return lower


def gained(now: LatencyBuckets, before: LatencyBuckets) -> LatencyBuckets:
    """What came to a histogram; all of it where it began anew with other bounds."""
    if now.bounds != before.bounds:
        return now
    buckets = zip(_each_bucket(now), _each_bucket(before), strict=True)
    return LatencyBuckets(now.bounds, tuple(accumulate(max(0, a - b) for a, b in buckets)))


def _each_bucket(buckets: LatencyBuckets) -> list[int]:
    """How many lie in each bucket alone."""
    return [b - a for a, b in pairwise((0, *buckets.cumulative))]


def added(histograms: Iterable[LatencyBuckets]) -> LatencyBuckets:
    """Several histograms of the same bounds as one; those without bounds have counted nothing and are left out."""
    listed = [each for each in histograms if each.bounds]
    if not listed:
        return LatencyBuckets()
    return LatencyBuckets(
        listed[0].bounds, tuple(sum(column) for column in zip(*(each.cumulative for each in listed), strict=True))
    )


def _identity(worker: WorkerCounts) -> tuple[int, int, float]:
    return worker.number, worker.pid, worker.started


def _state(workers: Sequence[WorkerCounts]) -> WorkerState:
    states = {worker.state for worker in workers}
    if "draining" in states:
        return "draining"
    return "ready" if states == {"ready"} else "starting"


def _task(task: TaskFacts, snapshot: Snapshot, workers: Sequence[WorkerCounts]) -> TaskStatus:
    def summed(exit_or_label: Callable[[WorkerCounts], Mapping[tuple[str, str], int]]) -> dict[str, int]:
        found: dict[str, int] = {}
        for worker in workers:
            for (name, key), count in exit_or_label(worker).items():
                if name == task.name:
                    found[key] = found.get(key, 0) + count
        return found

    depth = {exit: number for number, exit in enumerate(snapshot.exits)}
    left = summed(lambda worker: worker.left)
    exits = sorted({*task.exits, *left}, key=lambda exit: (depth.get(exit, -1), exit))
    return TaskStatus(
        name=task.name,
        kind=task.kind,
        exits=tuple(exits),
        takes_recordings=task.takes_recordings,
        left={exit: left.get(exit, 0) for exit in exits},
        classes=summed(lambda worker: worker.classes),
        drift=snapshot.drift.get(task.name),
        agreement=snapshot.agreement.get(task.name),
    )


def _slice(name: str, snapshot: Snapshot, pairs: Pairs, interval: float) -> SliceStatus:
    workers = [worker for worker, _ in pairs]

    def of(worker: WorkerCounts) -> SliceCounts:
        return worker.slices.get(name, SliceCounts())

    latency = added(gained(of(worker).latency, of(old).latency if old else LatencyBuckets()) for worker, old in pairs)
    level = snapshot.levels[name]
    return SliceStatus(
        name=name,
        budget_ms=level.budget_ms,
        priority=level.priority,
        exit=level.exit,
        policy=level.policy,
        under_load=level.under_load,
        steps=max((of(worker).steps for worker in workers), default=0),
        requests=_total(workers, lambda worker: of(worker).requests),
        requests_per_s=_rate(pairs, interval, lambda worker: of(worker).requests),
        refused={
            reason: sum(of(worker).refused.get(reason, 0) for worker in workers)
            for reason in _keys(of(worker).refused for worker in workers)
        },
        refused_per_s=_rate(pairs, interval, lambda worker: sum(of(worker).refused.values())),
        p50_ms=_milliseconds(quantile(latency, 0.5)),
        p99_ms=_milliseconds(quantile(latency, 0.99)),
    )


def _segment(name: str, pairs: Pairs, interval: float) -> SegmentStatus:
    def of(worker: WorkerCounts) -> SegmentCounts:
        return worker.segments.get(name, SegmentCounts())

    batches = _gain(pairs, lambda worker: of(worker).batches)
    windows = _gain(pairs, lambda worker: of(worker).windows)
    return SegmentStatus(
        name=name,
        waiting=_total([worker for worker, _ in pairs], lambda worker: of(worker).waiting),
        batch=windows / batches if batches else None,
        windows_per_s=windows / interval if interval > 0 else 0.0,
    )


def _requests(worker: WorkerCounts) -> int:
    return sum(each.requests for each in worker.slices.values())


def _refused_for(reason: str) -> Callable[[WorkerCounts], int]:
    return lambda worker: sum(each.refused.get(reason, 0) for each in worker.slices.values())


def _total(workers: Sequence[WorkerCounts], count: Callable[[WorkerCounts], int]) -> int:
    return sum(map(count, workers))


def _gain(pairs: Pairs, count: Callable[[WorkerCounts], int]) -> int:
    return sum(max(0, count(worker) - (count(old) if old else 0)) for worker, old in pairs)


def _rate(pairs: Pairs, interval: float, count: Callable[[WorkerCounts], int]) -> float:
    return _gain(pairs, count) / interval if interval > 0 else 0.0


def _keys(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Of all, each once, in the order in which they are met."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds
