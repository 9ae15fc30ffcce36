"""When samples were taken."""

from __future__ import annotations

import bisect
import threading

import numpy as np
from numpy.typing import NDArray

UNKNOWN = np.datetime64("NaT", "ns")


class StreamClock:
    """Times of samples: the last one that is known, and what has passed since by the sample rate.

    One thread says what is known, another asks; it asks in the order of the samples.
    """

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._times: list[np.datetime64] = []
        self._lock = threading.Lock()

    def note(self, first: int, time: np.datetime64) -> None:
        """When sample ``first`` was taken, ``datetime64[ns]`` in UTC; NaT where that is not known from here on."""
        with self._lock:
            self._firsts.append(first)
            self._times.append(time)

    def times(self, samples: NDArray[np.int64], rate: float | None) -> list[str | float | None]:
        """ISO 8601 in UTC; else seconds since sample 0; None without a rate, Hz."""
        if rate is None:
            return [None] * len(samples)
        with self._lock:
            passed = bisect.bisect_right(self._firsts, int(samples[0])) - 1 if len(samples) else 0
            if passed > 0:  # what lies before is not asked for any more
                del self._firsts[:passed], self._times[:passed]
            firsts, times = np.array(self._firsts, np.int64), np.array(self._times, "datetime64[ns]")
        anchor = np.searchsorted(firsts, samples, side="right") - 1
        at = np.full(len(samples), UNKNOWN)
        noted = anchor >= 0
        since = samples[noted] - firsts[anchor[noted]]
        at[noted] = times[anchor[noted]] + np.round(since * (1e9 / rate)).astype("timedelta64[ns]")
        texts, seconds = np.datetime_as_string(at).tolist(), (samples / rate).tolist()
        return [second if text == "NaT" else f"{text}Z" for text, second in zip(texts, seconds, strict=True)]
