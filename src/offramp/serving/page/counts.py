"""What a server has counted so far: plain numbers, by worker, as whoever serves the page collects them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from offramp.errors import OfframpError
from offramp.runtime.engine import ServiceLevel

WorkerState = Literal["starting", "ready", "draining"]


@dataclass(frozen=True)
class LatencyBuckets:
    """A histogram of latencies as Prometheus keeps it.

    Attributes:
        bounds: Upper bounds of the buckets in seconds, ascending, without the last one, which is infinite.
        cumulative: How many requests took at most each bound, and last how many there were: one more than ``bounds``.

    Raises:
        OfframpError: The bounds do not ascend, or the counts fall or are of another number.
    """

    bounds: tuple[float, ...] = ()
    cumulative: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in pairwise(self.bounds))
        counted = all(a <= b for a, b in pairwise(self.cumulative))
        if not ascending or not counted or len(self.cumulative) != len(self.bounds) + 1:
            raise OfframpError(
                f"latency buckets need ascending bounds and one more count, none smaller than the one before, "
                f"not {self.bounds} and {self.cumulative}"
            )

    @property
    def count(self) -> int:
        """Of all requests."""
        return self.cumulative[-1]


@dataclass(frozen=True)
class SliceCounts:
    """Of one slice in one worker.

    Attributes:
        requests: Received, those refused among them.
        refused: Of these, by reason.
        latency: From arrival to answer, of those answered.
        steps: By how many exits load has moved the slice towards the input, now.
    """

    requests: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    latency: LatencyBuckets = LatencyBuckets()
    steps: int = 0


@dataclass(frozen=True)
class SegmentCounts:
    """Of one segment in one worker.

    Attributes:
        waiting: Windows in its queue, now.
        batches: That it ran.
        windows: In these.
    """

    waiting: int = 0
    batches: int = 0
    windows: int = 0


@dataclass(frozen=True)
class WorkerCounts:
    """Of one process since it started.

    Attributes:
        number: Of the worker, from 0.
        pid: Of its process. Number, process and start tell a worker from its successor.
        started: Unix time in seconds.
        state: Whether it takes requests.
        memory_bytes: Resident, now.
        left: Windows answered, by task and the exit where they left.
        classes: Windows answered, by task and the label that was most probable.
        slices: By name.
        segments: By name, in order of depth.
    """

    number: int
    pid: int
    started: float
    state: WorkerState = "ready"
    memory_bytes: int = 0
    left: Mapping[tuple[str, str], int] = field(default_factory=dict)
    classes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    slices: Mapping[str, SliceCounts] = field(default_factory=dict)
    segments: Mapping[str, SegmentCounts] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskFacts:
    """What a task is.

    Attributes:
        name: Unique.
        kind: ``classification`` or ``regression``.
        exits: Where its windows may leave.
        takes_recordings: Whether its windows are I/Q, so that a recording can be dropped for it.
    """

    name: str
    kind: str
    exits: tuple[str, ...]
    takes_recordings: bool


@dataclass(frozen=True)
class TaskDrift:
    """What the drift monitors say of one task.

    Attributes:
        state: ``learning`` until enough recordings were seen, then ``steady`` or ``alarm``; ``uncalibrated`` where there never is an alarm.
        p_values: By monitor, e.g. ``exits``, ``confidence``, ``features``.
        level: Below which a p value is an alarm, after the correction for several monitors.
        recordings: Seen so far.
        since: When the alarm was raised, Unix time in seconds; None without one.
    """

    state: Literal["learning", "steady", "alarm", "uncalibrated"]
    p_values: Mapping[str, float]
    level: float
    recordings: int
    since: float | None = None


@dataclass(frozen=True)
class TaskAgreement:
    """How often early exits of one task agree with full depth, as far as the sample that was finished to full depth tells.

    Attributes:
        low: Lower end of the confidence sequence, valid at any time.
        high: Its upper end.
        estimate: Share of the sample that agrees; None where nothing was checked yet.
        checked: Size of the sample.
        promised: The agreement that the certificate promises; None without one.
        certificate: What becomes of it by what was seen; ``holds`` as long as nothing else is known.
    """

    low: float
    high: float
    estimate: float | None
    checked: int
    promised: float | None = None
    certificate: Literal["none", "holds", "renewed", "withdrawn"] = "none"


@dataclass(frozen=True)
class Snapshot:
    """A whole server at one time.

    Attributes:
        time: Unix time in seconds.
        title: What is served, e.g. the name of the bundle.
        version: Of Offramp.
        encoder: Its name.
        exits: All exits of the encoder in order of depth; the last is full depth.
        policies: Names of the policies that tasks have.
        tasks: In the order in which they are shown.
        levels: The dials of the slices.
        workers: All that live.
        drift: By task; none for tasks that are not watched.
        agreement: By task; none for tasks without shadow.
        most_recording_bytes: Size of the largest recording that may be dropped.
    """

    time: float
    title: str
    version: str
    encoder: str
    exits: tuple[str, ...]
    policies: tuple[str, ...]
    tasks: tuple[TaskFacts, ...]
    levels: Mapping[str, ServiceLevel]
    workers: tuple[WorkerCounts, ...]
    drift: Mapping[str, TaskDrift] = field(default_factory=dict)
    agreement: Mapping[str, TaskAgreement] = field(default_factory=dict)
    most_recording_bytes: int = 64 * 2**20
