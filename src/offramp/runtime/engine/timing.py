"""How long segments take, by batch: measured once, then what scheduling, admission and planning reckon with."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offramp.runtime.execution import Segments

BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Of windows, that are timed."""
NEARLY_BEST = 1.1
"""A batch is worth waiting for as long as it makes a window cheaper by more than this factor."""


@dataclass(frozen=True)
class SegmentTiming:
    """Seconds of every segment of a pass, heads not included.

    Attributes:
        batches: Increasing numbers of windows.
        seconds: By segment, of a batch of each of these sizes.
    """

    batches: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]

    def of(self, segment: int, windows: int) -> float:
        """Seconds of a batch: straight lines between the sizes that were measured, and on from the last one in proportion."""
        if windows >= self.batches[-1]:
            return self.seconds[segment][-1] * windows / self.batches[-1]
        return float(np.interp(windows, self.batches, self.seconds[segment]))

    def up_to(self, first: int, last: int, windows: int) -> float:
        """Seconds of all segments from one to another, both included."""
        return sum(self.of(segment, windows) for segment in range(first, last + 1))

    def worth_waiting_for(self, segment: int) -> int:
        """The smallest batch that makes a window nearly as cheap as the best one does: larger ones only wait longer."""
        each = [seconds / batch for seconds, batch in zip(self.seconds[segment], self.batches, strict=True)]
        best = min(each)
        return next(batch for batch, cost in zip(self.batches, each, strict=True) if cost <= NEARLY_BEST * best)

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {"batches": list(self.batches), "seconds": [list(each) for each in self.seconds]}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> SegmentTiming:
        """From what :meth:`to_dict` gave."""
        return cls(tuple(stored["batches"]), tuple(tuple(each) for each in stored["seconds"]))


def measure(
    segments: Segments, count: int, window: Any, batches: Sequence[int] = BATCHES, repeats: int = 3
) -> SegmentTiming:
    """Time every segment on copies of one window.

    Args:
        segments: An encoder cut at exits.
        count: How many pieces it has.
        window: One input of the back end, a batch of one.
        batches: Numbers of windows.
        repeats: The median of so many.
    """
    seconds: list[list[float]] = [[] for _ in range(count)]
    with segments.running():
        for batch in batches:
            tries: list[list[float]] = [[] for _ in range(count)]
            for _ in range(repeats + 1):
                state = segments.begin(segments.repeated(window, batch))
                for index in range(count):
                    started = time.perf_counter()
                    state, _ = segments.advance(index - 1, index, state, ())
                    tries[index].append(time.perf_counter() - started)
            for index in range(count):
                seconds[index].append(float(np.median(tries[index][1:])))  # the first one warms up
    return SegmentTiming(tuple(batches), tuple(tuple(each) for each in seconds))
