"""How often the shift of recent recordings is large by chance: critical values, and the rate of false alarms at each.

The law of ranks is the same whatever is ranked, so that one table serves all data. ``benchmarks/drift_critical_values.py`` made it from a million
streams for each number of recordings, each with a reference of its own, counting every alarm of a monitor that is reset behind each. Between its entries, and beyond its last, logarithms of the rate go in straight lines: over the square of
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
    8: (-5.78, -7.52, -8.62, -10.68, -12.53, -15.27),
    9: (-5.89, -7.23, -8.3, -9.58, -11.43, -13.05, -16.06),
    10: (-5.64, -6.32, -7.93, -9.0, -10.22, -12.28, -13.92),
    11: (-5.54, -6.39, -7.71, -8.68, -9.95, -11.69, -13.12, -15.04),
    12: (-5.37, -6.14, -6.85, -8.5, -9.63, -10.91, -12.56, -13.94, -15.72),
    13: (-5.3, -6.03, -6.92, -8.33, -9.32, -10.47, -11.59, -13.58, -15.27),
    14: (-5.16, -6.11, -6.96, -8.19, -9.13, -10.25, -11.55, -13.09, -14.48, -16.27),
    15: (-5.18, -5.95, -6.73, -7.44, -9.0, -10.03, -11.2, -12.26, -14.2, -15.65),
    16: (-5.13, -5.86, -6.61, -7.51, -8.89, -9.94, -11.05, -12.31, -13.84, -15.17),
    18: (-5.03, -5.71, -6.5, -7.31, -8.04, -9.65, -10.72, -11.75, -13.08, -14.78, -15.99),
    20: (-4.99, -5.67, -6.41, -7.23, -8.13, -9.48, -10.47, -11.49, -12.8, -14.13, -15.43),
    24: (-4.91, -5.57, -6.35, -7.13, -8.01, -8.79, -10.2, -11.19, -12.34, -13.6, -14.75),
    32: (-4.8, -5.45, -6.16, -6.95, -7.75, -8.73, -9.53, -10.85, -11.87, -12.91, -13.99, -15.16),
    48: (-4.69, -5.32, -6.01, -6.75, -7.55, -8.42, -9.35, -10.42, -11.56, -12.56, -13.59, -14.76, -16.23),
    64: (-4.63, -5.25, -5.93, -6.66, -7.46, -8.31, -9.23, -10.22, -11.27, -12.41, -13.43, -14.46, -15.51),
    96: (-4.57, -5.18, -5.86, -6.59, -7.38, -8.22, -9.12, -10.09, -11.11, -12.19, -13.19, -14.81, -15.78),
    128: (-4.55, -5.15, -5.82, -6.54, -7.33, -8.18, -9.1, -10.06, -11.11, -12.21, -13.38, -14.71, -15.78),
    192: (-4.52, -5.12, -5.78, -6.5, -7.29, -8.14, -9.05, -10.03, -11.08, -12.17, -13.29, -14.4, -15.7),
    256: (-4.5, -5.1, -5.75, -6.48, -7.26, -8.11, -9.03, -10.02, -11.07, -12.17, -13.3, -14.48, -15.47),
    512: (-4.48, -5.07, -5.72, -6.44, -7.23, -8.08, -9.0, -9.99, -11.04, -12.16, -13.4, -14.65, -16.03),
    1000000: (-4.45, -5.04, -5.68, -6.4, -7.18, -8.03, -8.96, -9.96, -11.03, -12.21, -13.37, -14.62, -16.1),
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
