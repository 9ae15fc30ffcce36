"""Online detectors that see windows, with the settings they were published with: for comparison.

Each takes a stream of numbers and says at which of them it alarms; behind an alarm it begins anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

Stream = NDArray[np.float64]


def adwin(stream: Stream, delta: float = 0.002, every: int = 32, fewest: int = 5, buckets: int = 5) -> list[int]:
    """Bifet and Gavalda, "Learning from time-changing data with adaptive windowing" (SDM 2007): exponential histogram, the variance bound."""
    rows: list[list[_Bucket]] = [[]]
    alarms = []
    for time, value in enumerate(stream):
        rows[0].append(_Bucket(1, float(value), 0.0))
        for level in range(len(rows)):
            if len(rows[level]) <= buckets:
                break
            if level + 1 == len(rows):
                rows.append([])
            rows[level + 1].append(rows[level].pop(0).joined(rows[level].pop(0)))
        if (time + 1) % every:
            continue
        shrunk = False
        while _cut(rows, delta, fewest):
            shrunk = True
            oldest = next(row for row in reversed(rows) if row)
            oldest.pop(0)
        if shrunk:
            alarms.append(time)
    return alarms


@dataclass(frozen=True)
class _Bucket:
    count: int
    total: float
    scatter: float

    def joined(self, other: _Bucket) -> _Bucket:
        count = self.count + other.count
        apart = self.total / self.count - other.total / other.count
        scatter = self.scatter + other.scatter + apart**2 * self.count * other.count / count
        return _Bucket(count, self.total + other.total, scatter)


def _cut(rows: list[list[_Bucket]], delta: float, fewest: int) -> bool:
    """Whether an older and a newer part of the window differ."""
    ordered = [bucket for row in reversed(rows) for bucket in row]
    whole = ordered[0]
    for bucket in ordered[1:]:
        whole = whole.joined(bucket)
    if whole.count < 2 * fewest:
        return False
    variance, corrected = whole.scatter / whole.count, math.log(2 * math.log(whole.count) / delta)
    count, total = 0, 0.0
    for bucket in ordered[:-1]:
        count, total = count + bucket.count, total + bucket.total
        others = whole.count - count
        if count < fewest or others < fewest:
            continue
        harmonic = 1 / (count - fewest + 1) + 1 / (others - fewest + 1)
        bound = math.sqrt(2 * harmonic * variance * corrected) + 2 / 3 * harmonic * corrected
        if abs(total / count - (whole.total - total) / others) > bound:
            return True
    return False


def page_hinkley(stream: Stream, delta: float = 0.005, threshold: float = 50.0, fewest: int = 30) -> list[int]:
    """Page, "Continuous inspection schemes" (Biometrika 1954), both directions."""
    alarms, mean, count = [], 0.0, 0
    up = down = least = most = 0.0
    for time, value in enumerate(stream):
        count += 1
        mean += (value - mean) / count
        up, down = up + value - mean - delta, down + value - mean + delta
        least, most = min(least, up), max(most, down)
        if count >= fewest and max(up - least, most - down) > threshold:
            alarms.append(time)
            mean, count = 0.0, 0
            up = down = least = most = 0.0
    return alarms


def kswin(stream: Stream, alpha: float = 0.005, window: int = 100, recent: int = 30, seed: int = 0) -> list[int]:
    """Raab, Heusinger and Schleif, "Reactive soft prototype computing for concept drift streams" (Neurocomputing 2020)."""
    rng, alarms, start = np.random.default_rng(seed), [], 0
    critical = _critical(recent, alpha)
    for time in range(len(stream)):
        if time + 1 - start < window:
            continue
        seen = stream[time + 1 - window : time + 1]
        old, new = np.sort(rng.choice(seen[:-recent], recent, replace=False)), np.sort(seen[-recent:])
        both = np.concatenate([old, new])
        distance = np.abs(np.searchsorted(old, both, "right") - np.searchsorted(new, both, "right")).max()
        if distance >= critical:
            alarms.append(time)
            start = time + 1 - recent
    return alarms


def _critical(size: int, alpha: float) -> int:
    """The smallest difference of two counts that two samples of one size are told apart by."""
    for steps in range(1, size + 1):
        shifted = np.concatenate([np.arange(size - steps) + 0.5, size + np.arange(steps)])
        if ks_2samp(np.arange(size), shifted).pvalue <= alpha:
            return steps
    return size + 1


def against_reference(reference: Stream, alpha: float = 0.001, windows: int = 512) -> Callable[[Stream], list[int]]:
    """scipy's ``ks_2samp`` of each ``windows`` windows against those of the reference, as if all were independent."""

    def detect(stream: Stream) -> list[int]:
        ends = range(windows, len(stream) + 1, windows)
        return [
            end - 1 for end in ends if ks_2samp(stream[end - windows : end], reference, method="asymp").pvalue <= alpha
        ]

    return detect
