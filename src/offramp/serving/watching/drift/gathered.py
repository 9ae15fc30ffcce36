"""What is seen of one task's answers under one policy: windows become recordings, and the last recordings are compared with the reference."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from offramp.serving.watching.drift.blocks import Array, Layout
from offramp.serving.watching.drift.critical import critical_value, false_alarm_rate
from offramp.serving.watching.drift.ranks import HORIZONS, ReferenceRanks, largest_shift
from offramp.serving.watching.drift.status import MonitorStatus

Recent = OrderedDict[str, Array]
FROM_FEATURES = ("features", "feature spread")
"""Monitors, the last ones, that need features."""
MOST_SOURCES = 1024
"""Whose recordings are not whole yet; of more, those that were silent longest are forgotten."""


class PolicyWatch:
    """Gathers and compares. Not safe for several threads by itself."""

    def __init__(self, layout: Layout, summaries: Array, recording: NDArray[np.int64], rate: float) -> None:
        """Compare with a reference.

        Args:
            layout: What blocks are summarised by.
            summaries: Of the reference's blocks ``(B, D)``.
            recording: Of each of them, ``(B,)``.
            rate: False alarms per recording that there may be on average, over all D numbers.
        """
        self.layout = layout
        self._ranks = ReferenceRanks(summaries, recording)
        self._names = [(monitor, number) for monitor, numbers in layout.monitors.items() for number in numbers]
        self._threshold = critical_value(rate / len(self._names), self._ranks.recordings)
        self._monitors = {
            monitor: np.asarray([number for number, (own, _) in enumerate(self._names) if own == monitor])
            for monitor in layout.monitors
        }
        by_answers = sum(len(numbers) for monitor, numbers in layout.monitors.items() if monitor not in FROM_FEATURES)
        self._parts = (slice(0, by_answers), slice(by_answers, None))
        self.forget()

    def forget(self) -> None:
        """Begin with nothing seen."""
        self.recordings = 0
        self.alarmed: dict[str, float] = {}
        """By monitor, when it alarmed."""
        self._recent: tuple[Recent, Recent] = (OrderedDict(), OrderedDict())
        """Scores of the latest recording of each source, the latest last: of the answers, and of the features, which some come without."""
        self._open: OrderedDict[str, Array] = OrderedDict()
        """Rows of windows that are no whole recording yet, by source."""

    @property
    def waiting(self) -> int:
        """Windows that are no whole recording yet."""
        return sum(map(len, self._open.values()))

    @property
    def sources(self) -> int:
        """Different ones among the last recordings."""
        return len(self._recent[0])

    def add(self, source: str, rows: Array, at: float) -> None:
        """See windows of a source, as :meth:`Layout.rows` has them; whole recordings are compared."""
        before = self._open.pop(source, None)
        rows = rows if before is None else np.concatenate([before, rows])
        size = self.layout.size
        whole = len(rows) - len(rows) % size
        for start in range(0, whole, size):
            self._compare(source, self.layout.summary(rows[start : start + size]), at)
        if whole < len(rows):
            self._open[source] = rows[whole:].copy()
            if len(self._open) > MOST_SOURCES:
                self._open.popitem(last=False)

    def status(self, policy: str) -> list[MonitorStatus]:
        """All monitors; ``policy`` is the name of the policy."""
        shifts, horizons = self._shifts()
        found = []
        for monitor, numbers in self._monitors.items():
            most = numbers[np.argmax(shifts[numbers])]
            rate = len(self._names) * false_alarm_rate(float(shifts[most]), self._ranks.recordings)
            found.append(
                MonitorStatus(
                    name=monitor,
                    policy=policy,
                    statistic=float(shifts[most]),
                    number=self._names[most][1],
                    recordings=int(horizons[most]),
                    p_value=min(1.0, rate),
                    threshold=self._threshold,
                    alarmed_since=self.alarmed.get(monitor),
                )
            )
        return found

    def _compare(self, source: str, summary: Array, at: float) -> None:
        self.recordings += 1
        scores = self._ranks.scores(summary[None])[0]
        for recent, part in zip(self._recent, self._parts, strict=True):
            if np.isnan(scores[part]).any():  # a window came without features
                continue
            recent.pop(source, None)
            recent[source] = scores[part]
            if len(recent) > HORIZONS[-1]:
                recent.popitem(last=False)
        over = self._shifts()[0] > self._threshold
        if over.any():
            for monitor, numbers in self._monitors.items():
                if over[numbers].any():
                    self.alarmed.setdefault(monitor, at)

    def _shifts(self) -> tuple[Array, NDArray[np.int64]]:
        """How far each number is from the reference, and over how many recordings."""
        found = []
        for recent, part in zip(self._recent, self._parts, strict=True):
            width = len(self._names[part])
            scores = np.stack(list(recent.values())) if recent else np.empty((0, width))
            found.append(largest_shift(scores, self._ranks.recordings))
        shifts, horizons = zip(*found, strict=True)
        return np.concatenate(shifts), np.concatenate(horizons)
