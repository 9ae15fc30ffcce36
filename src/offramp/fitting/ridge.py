"""Ridge regression for a whole grid of strengths from one eigendecomposition (Hastie et al., "Elements of Statistical Learning", 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from offramp.bundle import Head
from offramp.fitting.logistic import fold_standardisation
from offramp.fitting.rows import Rows


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
    spread = np.maximum(targets.std(0, dtype=np.float64), 1e-12)
    standard = torch.from_numpy((targets - centre) / spread)
    values, basis = torch.linalg.eigh(rows.covariance().double())
    correlation = torch.zeros(rows.width, targets.shape[1], dtype=torch.float64)
    for where, block in rows:
        correlation += (block[:, :-1].T @ standard[where].float()).double()
    rotated = basis.T @ (correlation / rows.count)
    heads = []
    for strength in strengths:
        weight = basis @ (rotated / (values.clamp_min(0) + strength)[:, None]) * torch.from_numpy(spread)
        heads.append(fold_standardisation(rows, torch.cat([weight, torch.from_numpy(centre)[None]])))
    return tuple(heads)
