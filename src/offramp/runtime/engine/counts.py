"""What an engine did so far and what it does now, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineCounts:
    """What an engine did since it started, in windows, which count once per pass that their tasks need.

    Attributes:
        submitted: Accepted.
        refused: Turned away at once: too much to do, or no room.
        answered: All tasks have answered.
        late: Of these, after the deadline.
        failed: Expired, cancelled, or not to be computed.
        shallower: That load moved to a shallower exit.
        computed: That segments ran for, over all segments.
        in_vain: Of these, that nobody waited for any more when the segment ended.
        batches: That segments ran.
    """

    submitted: int = 0
    refused: int = 0
    answered: int = 0
    late: int = 0
    failed: int = 0
    shallower: int = 0
    computed: int = 0
    in_vain: int = 0
    batches: int = 0


@dataclass(frozen=True)
class BatchRun:
    """A batch that ran.

    Attributes:
        number: Of the pass.
        exit: Where the unit ends.
        whole: Whether it was a whole pass from the input, not one segment.
        windows: In it.
        seconds: That it took, heads and answers included.
    """

    number: int
    exit: str
    whole: bool
    windows: int
    seconds: float


@dataclass(frozen=True)
class QueueDepth:
    """What waits for one unit of a pass.

    Attributes:
        number: Of the pass.
        exit: Where the unit ends.
        whole: Whether it is a whole pass from the input, not one segment.
        windows: That wait.
    """

    number: int
    exit: str
    whole: bool
    windows: int
