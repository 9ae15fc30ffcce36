"""How long the units of a pass take, by batch: measured once, then what scheduling, admission and planning reckon with.

A unit is what runs at once: a segment, or the whole pass from the input to an exit, for windows of which nothing is decided on the way. Of a pass with
n segments, units 0 to n - 1 are the segments, and unit n + k is the whole pass to the exit of segment k.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from offramp.runtime.execution import Segments

BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Of windows, that are timed."""
NEARLY_BEST = 1.1
"""A batch is worth waiting for as long as it makes a window cheaper by more than this factor."""
OVERHEAD_S = 1e-4
"""Of a batch beside its unit and heads: queue, decisions, answers."""
ENOUGH = 3
"""Sizes of batches that are timed in any case."""
PAYS = 0.9
"""A whole pass must take less than this share of what segments take."""


@dataclass(frozen=True)
class PassTiming:
    """Seconds of every unit of a pass, heads not included.

    Attributes:
        batches: Increasing numbers of windows, 1 the first.
        seconds: By unit, of a batch of each of these sizes.
    """

    batches: tuple[int, ...]
    seconds: tuple[tuple[float, ...], ...]

    @property
    def segments(self) -> int:
        """How many there are."""
        return len(self.seconds) // 2

    def depth(self, unit: int) -> int:
        """The segment where a unit ends."""
        return unit % self.segments

    def of(self, unit: int, windows: int) -> float:
        """Seconds of a batch: straight lines between the sizes that were measured, and on from the last one in proportion."""
        if windows > self.batches[-1]:
            return self.seconds[unit][-1] * windows / self.batches[-1]
        return self._table[unit][windows - 1] if windows else 0.0

    @cached_property
    def _table(self) -> list[list[float]]:
        sizes = np.arange(1, self.batches[-1] + 1)
        return [np.interp(sizes, self.batches, each).tolist() for each in self.seconds]

    def rest(self, unit: int, last: int, windows: int) -> float:
        """Seconds from the beginning of a unit to the end of segment ``last``, or of the unit if it is a whole pass."""
        if unit >= self.segments:
            return self.of(unit, windows)
        return sum(self.of(segment, windows) for segment in range(unit, last + 1))

    def least(self, last: int) -> float:
        """Seconds of one window to the end of segment ``last`` while nothing else runs."""
        return min(self.rest(0, last, 1), self.of(self.segments + last, 1))

    def first_unit(self, exits: Sequence[int], windows: int) -> int:
        """Where windows begin that leave at these exits and nowhere else: with the whole pass to the deepest, if it pays.

        Segments let shallow answers leave before deep work starts, and urgent windows overtake. What they cost for it depends on the encoder: the whole
        pass is taken where answers come sooner by it on average, and by a tenth at least.
        """
        whole = self.segments + max(exits)
        mean = sum(self.rest(0, exit, windows) + (exit + 1) * OVERHEAD_S for exit in exits) / len(exits)
        return whole if self.of(whole, windows) + OVERHEAD_S <= PAYS * mean else 0

    def worth_waiting_for(self, unit: int) -> int:
        """The smallest batch that makes a window nearly as cheap as the best one does: larger ones only wait longer."""
        each = [(seconds + OVERHEAD_S) / batch for seconds, batch in zip(self.seconds[unit], self.batches, strict=True)]
        best = min(each)
        return next(batch for batch, cost in zip(self.batches, each, strict=True) if cost <= NEARLY_BEST * best)


def measure(
    segments: Segments, seen: Hashable, window: Any, batches: Sequence[int] = BATCHES, repeats: int = 3
) -> PassTiming:
    """Time every unit on copies of one window, in larger and larger batches until these make windows no cheaper.

    Args:
        segments: An encoder cut at exits.
        seen: Name of a view whose taps are taken.
        window: One input of the back end, a batch of one.
        batches: Numbers of windows.
        repeats: The median of so many.
    """
    count = len(segments)
    seconds: list[list[float]] = [[] for _ in range(2 * count)]
    sizes: list[int] = []
    with segments.running():
        for batch in batches:
            tries: list[list[float]] = [[] for _ in seconds]
            for _ in range(repeats + 1):
                state = start = segments.begin(segments.repeated(window, batch))
                for index in range(count):
                    began = time.perf_counter()
                    state, _ = segments.advance(index - 1, index, state, (seen,))
                    tries[index].append(time.perf_counter() - began)
                    began = time.perf_counter()
                    segments.through(start, {index: (seen,)})
                    tries[count + index].append(time.perf_counter() - began)
            for known, found in zip(seconds, tries, strict=True):
                known.append(middle(found))
            sizes.append(batch)
            if len(sizes) >= ENOUGH and not any(_cheaper(known, sizes) for known in seconds):
                break
    return PassTiming(tuple(sizes), tuple(tuple(each) for each in seconds))


def middle(tries: Sequence[float]) -> float:
    """Median of what was measured, the first time aside, which warms up."""
    return max(float(np.median(tries[1:])), 1e-9)


def _cheaper(seconds: Sequence[float], sizes: Sequence[int]) -> bool:
    """Whether the largest batch makes a window cheaper than any smaller one by what is worth waiting for."""
    *smaller, largest = (took / size for took, size in zip(seconds, sizes, strict=True))
    return NEARLY_BEST * largest <= min(smaller)
