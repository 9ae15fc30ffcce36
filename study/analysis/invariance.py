"""How little features change when a transmission is seen through another augmentation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.inputs import Array, centred, matching_features
from offramp.errors import DataError

BLOCK = 1024
"""Rows whose similarities are held at once: 80 MB for 10,000 windows."""
TIE = 1e-12
"""Cosines this close are equal up to rounding."""


def intraclass_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Share of the features' variance that the transmission explains: 1 for invariant features, 0 where views are unrelated.

    ICC(1) of the one-way random-effects model with two views per transmission, ``(MSB - MSW) / (MSB + MSW)``, mean squares
    between and within transmissions summed over features: a feature counts by its variance, and rotations change nothing.
    In [-1, 1], because the estimate of a share near 0 may fall below it.

    Source: Shrout and Fleiss, "Intraclass correlations" (Psychological Bulletin 1979), ICC(1,1).

    Args:
        first: Features of one view of each transmission, ``(N, width)``.
        second: Features of another view of each, same shape and order.

    Raises:
        DataError: Shapes differ, values are not finite, or every feature is constant.
    """
    one, other = _two_views(first, second)
    n = len(one)
    both = centred(np.concatenate([one, other]))
    one, other = both[:n], both[n:]
    between = np.square(one + other).sum() / 2 / (n - 1)
    within = np.square(one - other).sum() / 2 / n
    if between + within == 0:
        raise DataError("every feature is constant: the share of variance explained needs features that vary")
    return float((between - within) / (between + within))


def retrieval_accuracy(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Share of first views whose nearest second view, by cosine similarity, belongs to the same transmission; chance is 1 / N.

    Equally near views share the hit, so that collapsed features score chance. Compare values at the same N only.

    Args:
        first: Features of one view of each transmission, ``(N, width)``.
        second: Features of another view of each, same shape and order.

    Raises:
        DataError: Shapes differ or values are not finite.
    """
    one, other = (_directions(view) for view in _two_views(first, second))
    hits = 0.0
    for start in range(0, len(one), BLOCK):
        cosines = one[start : start + BLOCK] @ other.T
        nearest = cosines >= cosines.max(1, keepdims=True) - TIE
        hits += float((np.diagonal(nearest, offset=start) / nearest.sum(1)).sum())
    return hits / len(one)


def _two_views(first: NDArray[np.floating], second: NDArray[np.floating]) -> tuple[Array, Array]:
    one, other = matching_features(first, second)
    if one.shape != other.shape:
        raise DataError(f"views have {one.shape[1]} and {other.shape[1]} features: take both at the same exit")
    return one, other


def _directions(features: Array) -> Array:
    """Rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length == 0, 1, length)
