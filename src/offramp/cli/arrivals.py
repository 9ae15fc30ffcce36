"""The option ``--arrivals``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from offramp.errors import SuiteError

if TYPE_CHECKING:
    from offramp.runtime.engine.plan import Arrival

POISSON = "poisson:"
MOST = 2_000_000
"""Requests of a plan."""


def arrivals_of(text: str, seconds: float, slices: Sequence[str], tasks: Sequence[str], seed: int) -> list[Arrival]:
    """``poisson:RATE`` or the path of a trace as requests.

    Raises:
        SuiteError: The rate is no number above zero, or there would be too many requests.
        DataError: The trace cannot be read.
    """
    from offramp.runtime.engine.plan import poisson, read_trace

    if not text.startswith(POISSON):
        return read_trace(text)
    try:
        rate = float(text.removeprefix(POISSON))
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise SuiteError(f"--arrivals {text}: give a rate above zero in requests a second, e.g. poisson:500")
    if rate * seconds > MOST:
        raise SuiteError(
            f"--arrivals {text} for {seconds:g} s are more than {MOST:,} requests: lower the rate or --seconds"
        )
    return poisson(rate, seconds, slices, tasks, seed)
