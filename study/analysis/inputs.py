"""Features, views, labels and scores, checked once and turned into float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError

Array = NDArray[np.float64]


def feature_matrix(features: NDArray[Any], name: str = "features", fewest: int = 2) -> Array:
    """The features float64 ``(N, width)``.

    Raises:
        DataError: They are not finite real numbers of that shape, or have fewer than ``fewest`` rows.
    """
    matrix = real_array(features, name)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise DataError(f"{name} have shape {matrix.shape}: give one row of features per window, (N, width)")
    if len(matrix) < fewest:
        raise DataError(f"{name} have {len(matrix)} rows: at least {fewest} windows are needed")
    return matrix


def matching_features(first: NDArray[Any], second: NDArray[Any], fewest: int = 2) -> tuple[Array, Array]:
    """Two feature matrices of the same windows, in the same order.

    Raises:
        DataError: As :func:`feature_matrix`, or their numbers of rows differ.
    """
    one, other = (
        feature_matrix(first, "the first features", fewest),
        feature_matrix(second, "the second features", fewest),
    )
    if len(one) != len(other):
        raise DataError(f"{len(one)} and {len(other)} rows of features: give both for the same windows")
    return one, other


def centred(matrix: Array) -> Array:
    """The columns without their mean, divided by the largest magnitude left, so that products neither overflow nor vanish.

    Constant columns become exactly zero: subtracting a rounded mean would leave noise that a spectrum takes for a direction.
    """
    shifted = matrix - matrix.mean(0)
    shifted[:, np.ptp(matrix, axis=0) == 0] = 0
    scaled: Array = shifted / (np.abs(shifted).max() or 1.0)
    return scaled


def classes_of(labels: NDArray[Any], count: int) -> tuple[NDArray[np.int64], int]:
    """Classes int64 ``(N,)`` numbered without gaps among those present, and how many there are.

    Raises:
        DataError: The labels are not integers or names, not one per row of features, or all the same.
    """
    given = np.asarray(labels)
    if given.dtype.kind not in "iubUS":
        raise DataError(
            f"labels are {given.dtype}: give integers or names (log_me_regression takes numbers to predict)"
        )
    if given.shape != (count,):
        raise DataError(f"labels have shape {given.shape} for {count} rows of features: give one label per row")
    present, index = np.unique(given, return_inverse=True)
    if len(present) < 2:
        raise DataError("all labels are the same: give windows of at least two classes")
    return index.astype(np.int64), len(present)


def real_array(values: NDArray[Any], name: str) -> Array:
    """The values float64.

    Raises:
        DataError: They are not finite real numbers.
    """
    given = np.asarray(values)
    if given.dtype.kind not in "fiub":
        raise DataError(f"{name} are {given.dtype}: give real numbers")
    array = given.astype(np.float64)
    if not np.isfinite(array).all():
        raise DataError(f"{name} hold NaN or infinity: remove or correct those rows")
    return array
