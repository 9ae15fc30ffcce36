"""Ridge regression for a whole grid of strengths from one eigendecomposition (Hastie et al., "Elements of Statistical Learning", 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from offramp.bundle import Head
from offramp.heads.logistic import fold_standardisation
from offramp.heads.rows import Rows

SPREAD_VALUES = 1 << 23
"""The spread of targets is computed on as many columns at a time as hold about this many values (64 MB)."""


def fit_ridge(rows: Rows, targets: NDArray[np.float32], strengths: Sequence[float]) -> tuple[Head, ...]:
    """Minimise ``mean |y - x W - b|^2 + strength |W|^2`` in standardised features and targets, per strength.

    Args:
        rows: Training rows.
        targets: float32 ``(rows.count, dimensions)``, any unit.
        strengths: The grid.

    Returns:
        One linear :class:`Head` per strength, in the targets' unit.
    """
    centre = targets.mean(0, dtype=np.float64)
    spread = np.maximum(_deviation(targets), 1e-12)
    values, basis = torch.linalg.eigh(rows.covariance().double())
    correlation = torch.zeros(rows.width, targets.shape[1], dtype=torch.float64)
    for where, block in rows:
        standard = torch.from_numpy((targets[where] - centre) / spread).float()
        correlation += (block[:, :-1].T @ standard).double()
    rotated = basis.T @ (correlation / rows.count)
    heads = []
    for strength in strengths:
        weight = basis @ (rotated / (values.clamp_min(0) + strength)[:, None]) * torch.from_numpy(spread)
        heads.append(fold_standardisation(rows, torch.cat([weight, torch.from_numpy(centre)[None]])))
    return tuple(heads)


def _deviation(targets: NDArray[np.float32]) -> NDArray[np.float64]:
    """Standard deviation of each column, in double precision, without a copy of all values in it."""
    step = max(2, SPREAD_VALUES // len(targets))
    parts = [targets[:, at : at + step].std(0, dtype=np.float64) for at in range(0, targets.shape[1], step)]
    return np.concatenate(parts)
