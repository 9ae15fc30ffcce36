"""Recordings at another sample rate: scipy's polyphase filter, window by window, without reading more than a window needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError

MAX_FACTOR = 100
"""Rates are changed by at most this factor."""
MAX_TERM = 10_000
"""Largest whole number in the smaller half of the fraction that stands for the quotient of two rates."""
ALIKE = 1e-5
"""Rates that differ by less, relatively, are one rate; and so close must a fraction come to a quotient. A crystal is off by more."""
REACH = 10
"""Samples, at the lower of both rates, on either side of a sample that take part in it: the length that scipy's filter has."""


def same_rate(one: float, other: float) -> bool:
    """Whether two rates, Hz, are one but for rounding."""
    return math.isclose(one, other, rel_tol=ALIKE)


def rate_change(old: float, new: float) -> Fraction:
    """Samples at the new rate, Hz, per sample at the old one, as a fraction of whole numbers.

    Raises:
        DataError: The rates are farther apart than ``MAX_FACTOR``, or no fraction comes within ``ALIKE``.
    """
    if same_rate(old, new):
        return Fraction(1)
    if not 1 / MAX_FACTOR <= new / old <= MAX_FACTOR:
        raise DataError(f"{old:.10g} and {new:.10g} samples per second are more than a factor of {MAX_FACTOR} apart")
    exact = Fraction(new) / Fraction(old)
    near = exact.limit_denominator(MAX_TERM) if exact < 1 else 1 / (1 / exact).limit_denominator(MAX_TERM)
    if not same_rate(float(near), new / old):
        raise DataError(
            f"{old:.10g} and {new:.10g} samples per second are not in a ratio of whole numbers up to {MAX_TERM:,}"
        )
    return near


def read_at_rate(
    read: Callable[[int, int], NDArray[Any]], within: tuple[int, int], start: int, count: int, change: Fraction
) -> NDArray[Any]:
    """Samples at another rate, of which the first falls on sample ``start`` of the recording.

    Args:
        read: First sample and number of samples -> ``(samples, channels)`` at the recording's own rate.
        within: First sample and end of what the filter may see; beyond are zeros.
        start: Where to begin, at the recording's own rate.
        count: Samples wanted, at the new rate.
        change: From :func:`rate_change`.

    Returns:
        ``(count, channels)``.
    """
    up, down = change.numerator, change.denominator
    reach = math.ceil(REACH * max(up, down) / up)
    lead = math.ceil(reach / down) * down  # a multiple, so that a new sample falls on ``start``
    first = max(start - lead, within[0])
    stop = min(start + math.ceil(count / change) + reach, within[1])
    samples = read(first, stop - first)
    before = np.zeros((first - (start - lead), samples.shape[1]), samples.dtype)
    from scipy.signal import resample_poly  # takes most of a second to import, and few recordings need it

    resampled = resample_poly(np.concatenate((before, samples)), up, down, axis=0, window=_filter(max(up, down)))
    skipped = lead // down * up
    return np.asarray(resampled[skipped : skipped + count])


@lru_cache(8)
def _filter(rate: int) -> NDArray[np.float64]:
    """The low-pass that scipy designs anew at every call."""
    from scipy.signal import firwin

    return np.asarray(firwin(2 * REACH * rate + 1, 1 / rate, window=("kaiser", 5.0)))
