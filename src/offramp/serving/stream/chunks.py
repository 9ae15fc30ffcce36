"""What a source of samples gives: stretches without a break, and what was lost before them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

GapReason = Literal["behind", "lost", "overflow", "reconnected", "restarted", "sender", "malformed", "setting", "slot"]
"""Dropped here because answers are behind; lost on the way, by the counts of the sender; lost in a buffer of this machine or of the
receiver; another connection; a counter that began anew; another sender; a datagram or message that is no whole number of samples. And
without any loss: the receiver was set anew; the next slot."""


@dataclass(frozen=True)
class StreamGap:
    """A place over which no window may reach.

    Attributes:
        reason: Why.
        lost: Samples that are missing; None where nobody knows how many.
    """

    reason: GapReason
    lost: int | None = 0


Gaps = tuple[StreamGap, ...]


def joined(first: Gaps, then: Gaps) -> Gaps:
    """Two runs of gaps one after the other, those of one reason that meet as one."""
    found = list(first)
    for gap in then:
        if found and found[-1].reason == gap.reason:
            unknown = found[-1].lost is None or gap.lost is None
            found[-1] = StreamGap(gap.reason, None if unknown else (found[-1].lost or 0) + (gap.lost or 0))
        else:
            found.append(gap)
    return tuple(found)


@dataclass(frozen=True, eq=False)
class SampleChunk:
    """Samples that follow each other.

    Attributes:
        samples: float32 I/Q ``(2, channels, n)``, n >= 1.
        first: Number of the first one since the stream began, counting those that are known to be lost.
        arrived: When the last one came in, seconds of ``time.monotonic``.
        gaps: Before the first one. Without any, it follows the last of the chunk before.
        time: When the first one was taken, UTC, ``datetime64[ns]``; NaT where that is not known from here on; None where it follows from
            what was known.
        about: What the answers shall say of windows that begin in it, by name.
    """

    samples: NDArray[np.float32]
    first: int
    arrived: float
    gaps: Gaps = ()
    time: np.datetime64 | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Samples."""
        return int(self.samples.shape[-1])

    def split(self, at: int) -> tuple[SampleChunk, SampleChunk]:
        """The first ``at`` samples, at least one, and the others, at least one."""
        head = replace(self, samples=self.samples[..., :at])
        return head, replace(self, samples=self.samples[..., at:], first=self.first + at, gaps=(), time=None)


def taken_at(samples: int, sample_rate: float | None) -> np.datetime64:
    """When the first of so many samples was taken whose last one came in just now, by the clock of this machine."""
    passed = 0 if sample_rate is None else round(samples / sample_rate * 1e9)
    return np.datetime64(time.time_ns() - passed, "ns")


class StopFlag:
    """Tells a source to take in nothing more. A signal handler may set ``asked``: that takes no lock."""

    def __init__(self) -> None:
        self.asked = False


class SampleSource(Protocol):
    """Where samples come from."""

    @property
    def name(self) -> str:
        """As in messages."""

    @property
    def channels(self) -> int:
        """Antennas."""

    @property
    def datatype(self) -> str:
        """As SigMF calls it."""

    @property
    def sample_rate(self) -> float | None:
        """Hz; None where it is not known (yet)."""

    @property
    def live(self) -> bool:
        """Whether it has no end of its own that is known: readers of the answers must not have to wait for it."""

    @property
    def slot_seconds(self) -> float | None:
        """How long a slot takes, where samples come in slots: the unit of the age of answers."""

    def chunks(self, stop: StopFlag) -> Iterator[SampleChunk]:
        """All samples until there are no more, or ``stop`` is asked for, which is noticed within .2 s.

        Raises:
            DataError: The samples cannot be used or read.
        """
