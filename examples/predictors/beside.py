"""The linear predictor's own answer as side features for heads on the tokens of ``channel-transformer``.

In a suite: ``head: {pooling: tokens, side: "predictors.beside:linear_prediction"}``, and ``offramp run SUITE --import predictors.beside`` from
this folder. The same least squares as :func:`predictors.linear.linear_prediction`, in torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from predictors.linear import ORDER, RIDGE

SLOTS_AHEAD = 4
PATCH = 4
"""Antennas and subcarriers of one place of ``channel-transformer``."""


def linear_prediction(x: Tensor) -> Tensor:
    """Past channels ``(N, 2, slots, antennas, subcarriers)`` float32 to the next four slots, place by place: ``(N, places, 128)``."""
    count, _, length, antennas, subcarriers = x.shape
    rows = torch.complex(x[:, 0], x[:, 1]).flatten(2)
    gram = (rows.conj() @ rows.transpose(1, 2)).to(torch.complex128)
    ridge = (RIDGE / length * gram.diagonal(dim1=1, dim2=2).real.sum(1)).clamp_min(torch.finfo(x.dtype).tiny)
    ahead = [_extrapolated(rows, gram, ridge, distance) for distance in range(1, SLOTS_AHEAD + 1)]
    future = torch.view_as_real(torch.stack(ahead, dim=1).view(count, SLOTS_AHEAD, antennas, subcarriers))
    places = future.permute(0, 4, 1, 2, 3).reshape(
        count, 2, SLOTS_AHEAD, antennas // PATCH, PATCH, subcarriers // PATCH, PATCH
    )
    return places.permute(0, 3, 5, 1, 2, 4, 6).reshape(count, -1, 2 * SLOTS_AHEAD * PATCH**2)


def _extrapolated(rows: Tensor, gram: Tensor, ridge: Tensor, distance: int) -> Tensor:
    """The slot so far behind the last one, complex64 ``(N, antennas x subcarriers)``."""
    ends = range(ORDER - 1, rows.shape[1] - distance)
    normal = torch.stack([gram[:, end - ORDER + 1 : end + 1, end - ORDER + 1 : end + 1] for end in ends]).sum(0)
    wanted = torch.stack([gram[:, end - ORDER + 1 : end + 1, end + distance] for end in ends]).sum(0)
    loaded = normal + (len(ends) * ridge)[:, None, None] * torch.eye(ORDER, dtype=normal.dtype, device=rows.device)
    weights = torch.linalg.solve(loaded, wanted[..., None])[..., 0].to(rows.dtype)
    return (weights[:, None] @ rows[:, -ORDER:])[:, 0]
