"""Heads on tokens: one ridge regression that all positions share; a row is a window at a position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Head, is_permutation
from offramp.encoders.base import StagedEncoder
from offramp.errors import EncoderError
from offramp.heads.ridge import fit_ridge
from offramp.heads.rows import FeatureRows, Rows


class PositionRows:
    """Tokens ``(N, positions, width)`` as rows ``(N * positions, width)``: row ``n * positions + p`` is window n at position p."""

    def __init__(self, tokens: FeatureRows) -> None:
        count, self._positions, width = tokens.shape
        self._tokens = tokens
        self.shape: tuple[int, ...] = (count * self._positions, width)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        windows, positions = np.divmod(indices, self._positions)
        present, place = np.unique(windows, return_inverse=True)
        return self._tokens[present][place, positions]


def target_positions(
    encoder: StagedEncoder, target_shape: tuple[int, ...], tap_shape: tuple[int, ...]
) -> NDArray[np.int64] | None:
    """Which entries of the flattened target each position of a tap answers for, ``(positions, values)``.

    Args:
        encoder: Says so, by :meth:`StagedEncoder.target_positions`.
        target_shape: Of one window's target.
        tap_shape: Of one window's tap, ``(width,)`` or ``(positions, width)``.

    Returns:
        None for a tap without positions.

    Raises:
        EncoderError: The target cannot be divided among the positions.
    """
    if len(tap_shape) == 1:
        return None
    positions = encoder.target_positions(target_shape, tap_shape[0])
    if positions.ndim != 2 or len(positions) != tap_shape[0] or not is_permutation(positions, positions.size):
        raise EncoderError(
            f"{encoder.architecture} does not divide a target of shape {target_shape} among {tap_shape[0]} positions"
        )
    return positions


def fit_tokens(
    tokens: FeatureRows,
    windows: NDArray[np.int64],
    targets: NDArray[np.float32],
    positions: NDArray[np.int64],
    strengths: Sequence[float],
) -> tuple[Head, ...]:
    """Ridge regression on all windows and positions together, see :func:`offramp.heads.ridge.fit_ridge`.

    Args:
        tokens: Taps ``(N, positions, width)``; they are read block by block.
        windows: Indices of the windows to fit on, int64 ``(n,)``.
        targets: float32 ``(N, dimensions)``.
        positions: Which dimensions belong to each position, int64 ``(positions, values)``.
        strengths: The grid.

    Returns:
        One :class:`Head` with these positions per strength.
    """
    count, values = positions.shape
    rows = Rows(PositionRows(tokens), (windows[:, None] * count + np.arange(count)).ravel())
    heads = fit_ridge(rows, targets[windows[:, None, None], positions].reshape(-1, values), strengths)
    return tuple(replace(head, positions=positions) for head in heads)
