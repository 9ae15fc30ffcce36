"""How long windows wait when they arrive in bursts: an arrival trace and a server that takes batches through a cascade.

Sources: the Markov-modulated Poisson process in Fischer and Meier-Hellstern, "The Markov-modulated Poisson process (MMPP) cookbook"
(Performance Evaluation 1993).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from offramp.errors import DataError

Service = Callable[[NDArray[np.int64]], float]
"""From the exits at which the windows of a batch leave, ``(n,)``, to the seconds that the batch takes."""


def bursty_arrivals(
    rate_per_s: float,
    duration_s: float,
    seed: int,
    burst_factor: float = 5.0,
    burst_share: float = 0.1,
    burst_s: float = 0.1,
) -> NDArray[np.float64]:
    """Arrival times of a Poisson process whose rate switches between quiet and burst at random, in its steady state.

    Args:
        rate_per_s: Mean rate of arrivals over all time, per second.
        duration_s: Length of the trace, seconds.
        seed: The same trace for the same seed.
        burst_factor: Rate during a burst over the rate in quiet; 1 gives a plain Poisson process.
        burst_share: Share of the time that is burst, between 0 and 1, both excluded.
        burst_s: Mean length of a burst, seconds; lengths of bursts and quiet are exponential.

    Returns:
        float64 ``(N,)`` in seconds, ascending.

    Raises:
        DataError: A rate, length or factor is not positive, or the share not between 0 and 1.
    """
    settings = {"rate_per_s": rate_per_s, "duration_s": duration_s, "burst_factor": burst_factor, "burst_s": burst_s}
    for name, value in settings.items():
        if not 0 < value < float("inf"):
            raise DataError(f"arrivals: {name} is {value:g}: give a positive number")
    if not 0 < burst_share < 1:
        raise DataError(f"arrivals: burst_share is {burst_share:g}: give a share between 0 and 1")
    rng = np.random.default_rng(seed)
    quiet_rate = rate_per_s / (1 - burst_share + burst_share * burst_factor)
    rates = (quiet_rate, quiet_rate * burst_factor)
    lengths_s = (burst_s * (1 - burst_share) / burst_share, burst_s)
    state = int(rng.random() < burst_share)
    times, expected = [0.0], [0.0]
    while times[-1] < duration_s:
        length = min(rng.exponential(lengths_s[state]), duration_s - times[-1])
        times.append(times[-1] + length if times[-1] + length < duration_s else duration_s)
        expected.append(expected[-1] + length * rates[state])
        state = 1 - state
    # arrivals are a Poisson process of rate 1 in the time that runs as fast as arrivals are expected
    count = rng.poisson(expected[-1])
    return np.interp(np.sort(rng.uniform(0, expected[-1], count)), expected, times)


def fit_stage_times(
    stage_seconds: NDArray[np.floating], batch_sizes: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fixed time of each stage and its time per window, neither negative, from measurements at two or more batch sizes.

    The sum of squared relative errors is smallest; with two sizes and times that grow less than in proportion it is zero.

    Args:
        stage_seconds: ``(sizes, stages)``, positive: a batch of that size through the stage and the head behind it.
        batch_sizes: ``(sizes,)``, at least two different ones.

    Returns:
        ``fixed_s`` and ``per_window_s``, both float64 ``(stages,)``.

    Raises:
        DataError: Shapes do not fit, a time is not positive, or there is one size only.
    """
    seconds, sizes = np.asarray(stage_seconds, dtype=np.float64), np.asarray(batch_sizes, dtype=np.float64)
    if seconds.ndim != 2 or seconds.shape[:1] != sizes.shape:
        raise DataError(
            f"stage times {seconds.shape} and batch sizes {sizes.shape} do not fit: give (sizes, stages) and (sizes,)"
        )
    if len(np.unique(sizes)) < 2 or not (sizes > 0).all():
        raise DataError(f"batch sizes {sizes.tolist()}: measure at two different ones at least")
    if not ((seconds > 0) & np.isfinite(seconds)).all():
        raise DataError("stage times: one is not a positive number of seconds; measure again")
    terms = np.stack([np.ones_like(sizes), sizes], axis=1)
    fits = np.stack([nnls(terms / column[:, None], np.ones_like(sizes))[0] for column in seconds.T])
    return fits[:, 0], fits[:, 1]


def cascade_service(fixed_s: NDArray[np.floating], per_window_s: NDArray[np.floating]) -> Service:
    """Time of a batch in a cascade: every stage that runs costs its fixed time, and its time per window for those still there.

    Args:
        fixed_s: ``(stages,)``, one stage for each exit consulted, from the exit before to this one, head included.
        per_window_s: ``(stages,)``.

    Raises:
        DataError: Shapes differ or a time is negative.
    """
    fixed, per_window = np.asarray(fixed_s, dtype=np.float64), np.asarray(per_window_s, dtype=np.float64)
    if fixed.ndim != 1 or fixed.shape != per_window.shape or not ((fixed >= 0) & (per_window >= 0)).all():
        raise DataError(f"stage times {fixed.shape} and {per_window.shape}: give two (stages,), not negative")

    def service(exits: NDArray[np.int64]) -> float:
        still_there = np.bincount(exits, minlength=len(fixed))[::-1].cumsum()[::-1]
        return float(fixed[still_there > 0].sum() + per_window @ still_there)

    return service


def queueing_latency(
    arrivals: NDArray[np.float64], exits: NDArray[np.int64], service: Service, batch_most: int = 1
) -> NDArray[np.float64]:
    """Seconds from each window's arrival until it is answered by one server that takes waiting windows in batches.

    Whenever the server is free it takes all that wait, first come, first served, at most ``batch_most``; it never waits for a batch to
    fill. All windows of a batch are answered when the batch is done.

    Args:
        arrivals: float64 ``(N,)``, ascending, seconds.
        exits: int64 ``(N,)``, index of the consulted exit at which each window leaves.
        service: Seconds that a batch takes.
        batch_most: The largest batch.

    Returns:
        float64 ``(N,)``.

    Raises:
        DataError: Arrivals are not ascending, one exit per arrival is missing, or ``batch_most`` is below 1.
    """
    if arrivals.ndim != 1 or arrivals.shape != exits.shape:
        raise DataError(f"arrivals {arrivals.shape} and exits {exits.shape} do not fit: give one exit per arrival")
    if not (np.diff(arrivals) >= 0).all():
        raise DataError("arrivals: times must ascend; sort them")
    if batch_most < 1:
        raise DataError(f"batch_most is {batch_most}: give 1 or more")
    times: list[float] = arrivals.tolist()
    done = np.empty(len(times))
    first, free = 0, -np.inf
    while first < len(times):
        start = max(free, times[first])
        behind = min(bisect.bisect_right(times, start, lo=first), first + batch_most)
        free = start + service(exits[first:behind])
        done[first:behind] = free
        first = behind
    return done - arrivals
