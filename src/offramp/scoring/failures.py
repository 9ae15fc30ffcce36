"""Ways in which exits fail, each as a number.

Source of overthinking: Kaya, Hong and Dumitras, "Shallow-Deep Networks" (ICML 2019, arXiv 1810.07052).
"""

from __future__ import annotations

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


def _check(**arrays: NDArray[Any]) -> None:
    shapes = {name: f"{name} {array.shape} ({array.dtype})" for name, array in arrays.items()}
    first, *others = arrays.values()
    if first.ndim != 1 or not len(first) or any(array.shape != first.shape for array in others):
        raise DataError(f"one bool per window is needed, and at least one window, not {', '.join(shapes.values())}")
    if any(array.dtype != np.bool_ for array in arrays.values()):
        raise DataError(f"one bool per window is needed, not {', '.join(shapes.values())}")
