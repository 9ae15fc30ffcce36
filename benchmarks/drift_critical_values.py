"""Makes the table of :mod:`offramp.serving.watching.drift.critical`: how often the drift statistic is large where nothing changes.

Reference and stream are drawn from the same continuous distribution, which one does not matter: the statistic knows ranks alone. A stream of 256
recordings comes behind 64 that fill the windows. One line of JSON: for each number of reference recordings the false alarms per recording at each
threshold, natural logarithms.
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
"""Streams above a threshold that a rate is estimated from."""
DRAWS_AT_ONCE = 2_000_000


def maxima(recordings: int, streams: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The largest statistic of each of many streams, each with a reference of its own."""
    longest = max(HORIZONS)
    scores = normal_score(
        np.arange(recordings + 1) / recordings, recordings
    )  # of a number between two of the reference's
    found = []
    step = DRAWS_AT_ONCE // (STREAM + longest)
    for start in range(0, streams, step):
        count = min(step, streams - start)
        drawn = rng.random((count, STREAM + longest))
        if recordings == WITHOUT_END:  # the distribution itself
            below = (drawn * recordings).astype(np.int64)
        else:  # what a new recording's chance is to fall between two of the reference's: spacings of uniform numbers
            ends = np.cumsum(rng.exponential(size=(count, recordings + 1)), axis=1)
            ends /= ends[:, -1:]
            row = np.arange(count)[:, None]
            below = np.searchsorted((ends + row).ravel(), (drawn + row).ravel()).reshape(drawn.shape) - row * (
                recordings + 1
            )
        sums = np.cumsum(scores[np.clip(below, 0, recordings)], axis=1)
        sums = np.concatenate([np.zeros((count, 1)), sums], axis=1)
        largest = np.zeros(count)
        for horizon in HORIZONS:
            moved = sums[:, longest + 1 :] - sums[:, longest + 1 - horizon : -horizon]
            spread = math.sqrt(horizon * (1 + horizon / recordings))
            largest = np.maximum(largest, np.abs(moved).max(axis=1) / spread)
        found.append(largest)
    return np.concatenate(found)


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
        largest = np.sort(maxima(recordings, arguments.streams, np.random.default_rng(recordings)))
        above = len(largest) - np.searchsorted(largest, THRESHOLDS, side="right")
        rows[recordings] = [
            round(math.log(-math.log1p(-count / len(largest)) / STREAM), 2)
            for count in above
            if FEWEST <= count < len(largest)
        ]
    print(json.dumps({"benchmark": "drift_critical_values", "streams": arguments.streams, "table": rows}))


if __name__ == "__main__":
    main()
