"""Ways in which exits fail, each as a number, and bootstrap draws of whole groups to see how far such numbers move.

Sources: overthinking: Kaya, Hong and Dumitras, "Shallow-Deep Networks" (ICML 2019, arXiv 1810.07052). Draws of groups: Field and Welsh,
"Bootstrapping clustered data" (JRSS B 2007).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError


def premature(early: NDArray[np.bool_], right: NDArray[np.bool_], full_right: NDArray[np.bool_]) -> float:
    """Share of all windows that left early and wrong although full depth is right.

    Args:
        early: ``(N,)`` left before the last exit.
        right: ``(N,)`` the answer given is right.
        full_right: ``(N,)`` the last exit's answer is right.

    Raises:
        DataError: Not three bool arrays of the same length, or no windows.
    """
    _check(early=early, right=right, full_right=full_right)
    return float((early & ~right & full_right).mean())


def overconfidence(
    confidence: NDArray[np.floating], right: NDArray[np.bool_], early: NDArray[np.bool_]
) -> float | None:
    """Mean confidence minus share right of the windows that left early: above 0 the early exits promise too much.

    Args:
        confidence: ``(N,)`` probability of the answer given.
        right: ``(N,)`` it is right.
        early: ``(N,)`` left before the last exit.

    Returns:
        In [-1, 1]; None where none left early.

    Raises:
        DataError: Arrays of different lengths, no windows, or a confidence of a window that left early is NaN.
    """
    _check(right=right, early=early)
    if confidence.shape != early.shape:
        raise DataError(f"confidence has the shape {confidence.shape}, early {early.shape}: give one per window")
    if not early.any():
        return None
    if np.isnan(confidence[early]).any():
        raise DataError("confidence: NaN for a window that left early; check the heads and the encoder's weights")
    return float(confidence[early].mean(dtype=np.float64) - right[early].mean())


def overthinking(right: NDArray[np.bool_]) -> float:
    """Share of windows that some earlier exit answers rightly and the last one wrongly.

    Args:
        right: ``(exits, N)`` from shallow to deep.

    Raises:
        DataError: Not a bool array ``(exits, N)`` with windows and exits.
    """
    if right.ndim != 2 or not right.size or right.dtype != np.bool_:
        raise DataError(f"right has the shape {right.shape} ({right.dtype}): give (exits, N) of bool, not empty")
    return float((right[:-1].any(0) & ~right[-1]).mean())


def resampled_units(units: NDArray[np.integer], resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Bootstrap draws of whole units, such as recordings, whose windows are not independent.

    Args:
        units: ``(N,)`` unit of each window, any integers.
        resamples: Number of draws.
        seed: The same draws for the same seed and units.

    Yields:
        Indices of the windows of as many units as there are, drawn with replacement; the length varies with their sizes.

    Raises:
        DataError: There are no windows.
    """
    if units.ndim != 1 or not len(units):
        raise DataError(f"units has the shape {units.shape}: give one per window, and at least one window")
    order = np.argsort(units, kind="stable")
    _, starts, sizes = np.unique(units[order], return_index=True, return_counts=True)
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = rng.integers(len(sizes), size=len(sizes))
        length = sizes[drawn]
        begins = np.cumsum(length) - length
        yield order[np.arange(length.sum()) + np.repeat(starts[drawn] - begins, length)]


def interval(values: Sequence[float] | NDArray[np.floating]) -> tuple[float, float]:
    """95% percentile interval of resampled values; those that are NaN do not count.

    Raises:
        DataError: None is a number.
    """
    draws = np.asarray(values, dtype=np.float64)
    if np.isnan(draws).all():
        raise DataError("interval: no resample gave a number; the groups are too few or too small")
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _check(**arrays: NDArray[Any]) -> None:
    shapes = {name: f"{name} {array.shape} ({array.dtype})" for name, array in arrays.items()}
    first, *others = arrays.values()
    if first.ndim != 1 or not len(first) or any(array.shape != first.shape for array in others):
        raise DataError(f"one bool per window is needed, and at least one window, not {', '.join(shapes.values())}")
    if any(array.dtype != np.bool_ for array in arrays.values()):
        raise DataError(f"one bool per window is needed, not {', '.join(shapes.values())}")
