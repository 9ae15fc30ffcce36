"""How often the shift of recent recordings is large by chance: critical values, and the rate of false alarms at each.

The law of ranks is the same whatever is ranked, so that one table serves all data. ``benchmarks/drift_critical_values.py`` made it from a million
streams for each number of recordings. Between its entries, and beyond its last, logarithms of the rate go in straight lines: over the square of
the shift, which is how the tail of a normal distribution falls and scores of ranks fall faster, and over one by the number of recordings.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FIRST, STEP = 2.5, 0.25
"""Shifts of the columns, in standard deviations."""
WITHOUT_END = 1_000_000
"""Recordings of a reference that leaves nothing to chance."""
LOG_RATES: dict[int, tuple[float, ...]] = {
    8: (-6.63, -8.13, -9.09, -11.04, -12.78, -15.47),
    9: (-6.69, -7.85, -8.79, -9.97, -11.73, -13.21, -16.06),
    10: (-6.42, -7.0, -8.43, -9.39, -10.52, -12.49, -14.04),
    11: (-6.3, -7.04, -8.21, -9.07, -10.26, -11.93, -13.29, -15.17),
    12: (-6.11, -6.78, -7.39, -8.9, -9.94, -11.13, -12.75, -14.06, -15.81),
    13: (-6.03, -6.66, -7.45, -8.73, -9.63, -10.7, -11.76, -13.68, -15.34),
    14: (-5.87, -6.71, -7.47, -8.58, -9.43, -10.49, -11.75, -13.22, -14.58, -16.23),
    15: (-5.86, -6.53, -7.22, -7.86, -9.31, -10.26, -11.37, -12.4, -14.3, -15.75),
    16: (-5.8, -6.43, -7.09, -7.9, -9.18, -10.18, -11.23, -12.45, -13.96, -15.22),
    18: (-5.66, -6.26, -6.95, -7.68, -8.35, -9.88, -10.89, -11.88, -13.13, -14.81, -16.03),
    20: (-5.58, -6.19, -6.84, -7.58, -8.42, -9.69, -10.64, -11.62, -12.91, -14.21, -15.41),
    24: (-5.45, -6.04, -6.74, -7.45, -8.26, -8.98, -10.34, -11.28, -12.4, -13.63, -14.75, -16.36),
    32: (-5.24, -5.84, -6.48, -7.22, -7.95, -8.89, -9.65, -10.94, -11.93, -12.95, -14.03, -15.23),
    48: (-5.01, -5.6, -6.24, -6.94, -7.7, -8.53, -9.42, -10.46, -11.6, -12.6, -13.61, -14.76, -16.23),
    64: (-4.88, -5.47, -6.11, -6.81, -7.56, -8.39, -9.29, -10.25, -11.29, -12.41, -13.44, -14.49, -15.55),
    96: (-4.74, -5.33, -5.97, -6.68, -7.44, -8.26, -9.15, -10.1, -11.11, -12.19, -13.2, -14.8, -15.75),
    128: (-4.65, -5.25, -5.9, -6.6, -7.37, -8.21, -9.11, -10.07, -11.11, -12.21, -13.38, -14.7, -15.75),
    192: (-4.57, -5.17, -5.82, -6.53, -7.31, -8.15, -9.06, -10.03, -11.08, -12.17, -13.29, -14.4, -15.7),
    256: (-4.52, -5.12, -5.78, -6.49, -7.27, -8.12, -9.03, -10.02, -11.07, -12.17, -13.3, -14.48, -15.49),
    512: (-4.44, -5.05, -5.71, -6.43, -7.22, -8.07, -8.99, -9.98, -11.03, -12.16, -13.39, -14.65, -16.03),
    1000000: (-4.37, -4.98, -5.64, -6.37, -7.16, -8.02, -8.95, -9.95, -11.03, -12.2, -13.37, -14.62, -16.1),
}
"""By recordings of the reference, the natural logarithm of false alarms per recording at each shift, as far as it was seen often enough."""


def false_alarm_rate(shift: float, recordings: int) -> float:
    """False alarms per recording where an alarm is a shift above this one, of one number, at most 1.

    Args:
        shift: As :func:`offramp.serving.watching.drift.ranks.largest_shift` gives it.
        recordings: Of the reference, eight or more.
    """
    squares, rates = _row(recordings)
    place = min(max(int(np.searchsorted(squares, shift**2)), 1), len(squares) - 1)
    slope = (rates[place] - rates[place - 1]) / (squares[place] - squares[place - 1])
    return float(min(1.0, np.exp(rates[place] + slope * (shift**2 - squares[place]))))


def critical_value(rate: float, recordings: int) -> float:
    """The shift above which one number is so many times per recording, without a change; see :func:`false_alarm_rate`."""
    squares, rates = _row(recordings)
    place = min(max(int(np.searchsorted(-rates, -np.log(rate))), 1), len(squares) - 1)
    slope = (rates[place] - rates[place - 1]) / (squares[place] - squares[place - 1])
    return float(np.sqrt(max(0.0, squares[place] + (np.log(rate) - rates[place]) / slope)))


@lru_cache
def _row(recordings: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared shifts and log rates, both as long as they are known for a reference of so many recordings."""
    known = list(LOG_RATES)
    few, many = next(pair for pair in pairwise(known) if recordings <= pair[1])
    weight = (1 / max(recordings, known[0]) - 1 / many) / (1 / few - 1 / many)
    count = min(len(LOG_RATES[few]), len(LOG_RATES[many]))
    rates = weight * np.asarray(LOG_RATES[few][:count]) + (1 - weight) * np.asarray(LOG_RATES[many][:count])
    return np.asarray([(FIRST + STEP * column) ** 2 for column in range(count)], np.float64), rates
