"""What an engine did so far, in numbers."""

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
