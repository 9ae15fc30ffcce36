"""What a stream came to, in numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from offramp.serving.stream.chunks import GapReason, StreamGap

REMEMBERED = 2**16
"""Windows whose delays are kept."""
SILENT: tuple[GapReason, ...] = ("setting", "slot")
"""Reasons for which nothing is missing."""


@dataclass(frozen=True)
class StreamStatus:
    """How a stream is doing now.

    Attributes:
        seconds: Since it began.
        samples: Taken in.
        windows: Answered.
        waiting: Samples taken in and not yet cut.
        dropped: Samples dropped here because answers were behind.
    """

    seconds: float
    samples: int
    windows: int
    waiting: int
    dropped: int


@dataclass(frozen=True)
class StreamReport:
    """What a stream came to.

    Attributes:
        seconds: That it took.
        samples: Taken in.
        windows: Answered.
        unusable: Windows that no answer can be given for, such as those with NaN.
        gaps: By reason, how many gaps and how many samples are known to be missing in them; some may be missing that nobody counted.
        delay_ms: From the arrival of a window's last sample to its answer, p50 and p99 of the last 65,536 windows; None without any.
        cut_off: Whether there were more samples when it was asked to stop.
    """

    seconds: float
    samples: int
    windows: int
    unusable: int
    gaps: dict[GapReason, tuple[int, int]]
    delay_ms: tuple[float, float] | None
    cut_off: bool

    @property
    def lost(self) -> int:
        """Samples that are known to be missing."""
        return sum(lost for _, lost in self.gaps.values())

    @property
    def sentence(self) -> str:
        """All of it on one line."""
        parts = [f"{self.samples:,} samples in {self.seconds:.1f} s, {self.windows:,} windows answered"]
        if self.unusable:
            parts.append(f"{self.unusable:,} unusable")
        if self.gaps:
            number = sum(count for count, _ in self.gaps.values())
            shown = ", ".join(f"{lost:,} {reason} in {count:,}" for reason, (count, lost) in self.gaps.items())
            parts.append(f"{self.lost:,} samples lost in {number:,} gap{'s' if number > 1 else ''} ({shown})")
        if self.delay_ms is not None:
            parts.append(f"delay p50 {self.delay_ms[0]:.2f} ms, p99 {self.delay_ms[1]:.2f} ms")
        return "; ".join(parts)


class StreamCounts:
    """Counts while a stream runs."""

    def __init__(self) -> None:
        self.windows = 0
        self.unusable = 0
        self.gaps: dict[GapReason, tuple[int, int]] = {}
        self._delays: deque[float] = deque(maxlen=REMEMBERED)

    def add_gap(self, gap: StreamGap) -> bool:
        """Count a gap; False if nothing is missing in it."""
        if gap.reason in SILENT and gap.lost == 0:
            return False
        count, lost = self.gaps.get(gap.reason, (0, 0))
        self.gaps[gap.reason] = (count + 1, lost + (gap.lost or 0))
        return True

    def add_delays(self, seconds: Iterable[float]) -> None:
        """Delays of answered windows."""
        self._delays.extend(seconds)

    @property
    def dropped(self) -> int:
        """Samples dropped here."""
        return self.gaps.get("behind", (0, 0))[1]

    def delay_ms(self) -> tuple[float, float] | None:
        """p50 and p99."""
        if not self._delays:
            return None
        p50, p99 = np.quantile(np.array(self._delays), (0.5, 0.99)) * 1e3
        return float(p50), float(p99)
