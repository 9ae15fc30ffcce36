"""Recent recordings against those of the reference, by ranks alone.

The two-sample test with normal scores (van der Waerden, "Order tests for the two-sample problem", Indagationes Mathematicae 1952) on moving windows of
several lengths: a number is replaced by the normal quantile of its rank among the reference's, and the scores of the last 4, 8, ... recordings are
summed. As long as the recordings of both are drawn alike and apart from each other, the law of the ranks is known whatever is ranked, with a
reference of eight recordings as with one of a thousand: nothing has to be estimated for a threshold to hold. Against a shift of normal
numbers it is as good as the t test (Chernoff and Savage, Annals of Mathematical Statistics 1958), and no single recording can raise an alarm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]

HORIZONS = (4, 8, 16, 32, 64)
"""Recordings that are compared with the reference at a time: short ones see large changes early, long ones see small changes at all."""


def normal_score(share: Array, recordings: int) -> Array:
    """Normal quantile of the share of a reference's recordings that lie below a number, ``(...)``; finite for 0 and 1."""
    return np.asarray(ndtri((recordings * share + 0.5) / (recordings + 1)), np.float64)


class ReferenceRanks:
    """Ranks numbers among those of the reference; each of its recordings weighs the same, however many blocks it has."""

    def __init__(self, blocks: Array, recording: NDArray[np.int64]) -> None:
        """Take the summaries of the reference's blocks ``(B, D)``, and the recording of each ``(B,)``."""
        counts = np.bincount(recording)
        weights = 1 / counts[recording] / len(counts)
        order = np.argsort(blocks, axis=0, kind="stable")
        self.recordings = len(counts)
        self._sorted = np.take_along_axis(blocks, order, axis=0).T
        self._below = np.concatenate([np.zeros((blocks.shape[1], 1)), np.cumsum(weights[order].T, axis=1)], axis=1)
        self._centre = np.zeros(blocks.shape[1])
        self._centre = weights @ self.scores(blocks)

    def scores(self, blocks: Array) -> Array:
        """Normal scores ``(n, D)`` of blocks' summaries ``(n, D)``, zero on average over the reference; ties have the middle of their ranks."""
        share = np.empty(blocks.shape)
        for number, (ordered, below) in enumerate(zip(self._sorted, self._below, strict=True)):
            low, high = (np.searchsorted(ordered, blocks[:, number], side) for side in ("left", "right"))
            share[:, number] = (below[low] + below[high]) / 2
        scores = normal_score(share, self.recordings) - self._centre
        scores[np.isnan(blocks)] = np.nan
        return scores


def largest_shift(recent: Array, recordings: int) -> tuple[Array, NDArray[np.int64]]:
    """How far the last recordings lie from the reference.

    Args:
        recent: Normal scores ``(n, D)``, the latest last.
        recordings: Of the reference.

    Returns:
        For each of the D numbers the largest absolute shift over all horizons that are full, in standard deviations, and at which
        horizon, int64; zeros where there are fewer than four recordings.
    """
    found, horizon = np.zeros(recent.shape[1]), np.zeros(recent.shape[1], np.int64)
    sums = np.cumsum(recent[::-1], axis=0)
    for length in HORIZONS:
        if length > len(recent):
            break
        # the sum of the scores varies, and so does what the reference's own recordings happened to be
        shift = np.abs(sums[length - 1]) / np.sqrt(length * (1 + length / recordings))
        horizon = np.where(shift > found, length, horizon)
        found = np.maximum(shift, found)
    return found, horizon
