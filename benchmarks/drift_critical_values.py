"""Makes the table of :mod:`offramp.serving.watching.drift.critical`: how often the drift statistic is large where nothing changes.

Reference and stream are drawn from the same continuous distribution, which one does not matter: the statistic knows ranks alone. A stream begins with
nothing seen, and anew behind each alarm, as a monitor does that is reset. Its alarms are counted over 256 recordings, behind 64 that may fill the
windows. A reference that happens to be odd alarms again and again, and counts as often. Prints one line of JSON: for each number of reference
recordings the false alarms per recording at each threshold, natural logarithms.
"""

from __future__ import annotations

import argparse
import json
import math
import time

import numpy as np
from numpy.typing import NDArray

from offramp.serving.watching.drift.critical import FIRST, STEP, WITHOUT_END
from offramp.serving.watching.drift.ranks import HORIZONS, normal_score

RECORDINGS = (8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 24, 32, 48, 64, 96, 128, 192, 256, 512, WITHOUT_END)
THRESHOLDS = np.arange(FIRST, 7, STEP)
STREAM = 256
FEWEST = 20
"""Streams with an alarm that a rate is estimated from."""
DRAWS_AT_ONCE = 2_000_000
Array = NDArray[np.float64]


def false_alarms(
    recordings: int, streams: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """At each threshold the false alarms of many streams, each with a reference of its own, and in how many of the streams they are."""
    step = DRAWS_AT_ONCE // (STREAM + HORIZONS[-1])
    counts = [_counted(_shifts(recordings, min(step, streams - start), rng)) for start in range(0, streams, step)]
    alarms, alarmed = np.sum(counts, axis=0)
    return alarms, alarmed


def _shifts(recordings: int, streams: int, rng: np.random.Generator) -> Array:
    """At each recording of each stream, the shift over each horizon, ``(horizons, recordings, streams)``; zero where there are fewer recordings."""
    scores = normal_score(
        np.arange(recordings + 1) / recordings, recordings
    )  # of a number between two of the reference's
    length = STREAM + HORIZONS[-1]
    drawn = rng.random((streams, length))
    if recordings == WITHOUT_END:  # the distribution itself
        below = (drawn * recordings).astype(np.int64)
    else:  # what a new recording's chance is to fall between two of the reference's: spacings of uniform numbers
        ends = np.cumsum(rng.exponential(size=(streams, recordings + 1)), axis=1)
        ends /= ends[:, -1:]
        row = np.arange(streams)[:, None]
        below = np.searchsorted((ends + row).ravel(), (drawn + row).ravel()).reshape(drawn.shape) - row * (
            recordings + 1
        )
    sums = np.cumsum(scores[np.clip(below, 0, recordings)], axis=1).T
    sums = np.concatenate([np.zeros((1, streams)), sums])
    shifts = np.zeros((len(HORIZONS), length, streams), np.float32)
    for number, horizon in enumerate(HORIZONS):
        spread = math.sqrt(horizon * (1 + horizon / recordings))
        shifts[number, horizon - 1 :] = np.abs(sums[horizon:] - sums[:-horizon]) / spread
    return shifts


def _counted(shifts: Array) -> NDArray[np.int64]:
    """Alarms at each threshold, and streams with any, ``(2, thresholds)``."""
    largest = shifts.max(axis=(0, 1))
    found = np.zeros((2, len(THRESHOLDS)), np.int64)
    for number, threshold in enumerate(THRESHOLDS):
        over = shifts[:, :, largest > threshold] > threshold
        since = np.zeros(over.shape[2], np.int64)  # recordings that were seen since the start or the last alarm
        alarms = np.zeros_like(since)
        for at in range(over.shape[1]):
            since += 1
            alarm = np.zeros(len(since), np.bool_)
            for horizon, above in zip(HORIZONS, over[:, at], strict=True):
                alarm |= above & (since >= horizon)
            since[alarm] = 0
            if at >= HORIZONS[-1]:
                alarms += alarm
        found[:, number] = alarms.sum(), np.count_nonzero(alarms)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000_000, help="for each number of recordings")
    parser.add_argument("--seconds", type=float, default=math.inf, help="no further row is begun after these")
    arguments = parser.parse_args()
    began, rows = time.monotonic(), {}
    for recordings in RECORDINGS:
        if time.monotonic() - began > arguments.seconds:
            break
        counts = false_alarms(recordings, arguments.streams, np.random.default_rng(recordings))
        rows[recordings] = [
            round(math.log(alarms / arguments.streams / STREAM), 2)
            for alarms, alarmed in zip(*counts, strict=True)
            if alarmed >= FEWEST
        ]
    print(json.dumps({"benchmark": "drift_critical_values", "streams": arguments.streams, "table": rows}))


if __name__ == "__main__":
    main()
