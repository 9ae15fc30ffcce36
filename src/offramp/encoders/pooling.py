"""How the positions of a stage become one tap: what a plain mean throws away is kept.

``statistics`` is the mean and the standard deviation over positions. ``quantiles`` are five quantiles over them, linear between the two nearest
positions (definition 7 of Hyndman and Fan, The American Statistician 1996).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MOST_LAGS = 3
"""Distance, in antennas, of what ``second_order`` multiplies."""
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
EPS = 1e-12
"""Under the root, for a gradient at zero."""


def statistics(tokens: Tensor) -> Tensor:
    """``(N, positions, width)`` float32 to ``(N, 2 width)``: mean, then standard deviation (of the population)."""
    mean = tokens.mean(1)
    spread = (tokens - mean[:, None]).square().mean(1).add(EPS).sqrt()
    return torch.cat([mean, spread], dim=1)


def quantiles(tokens: Tensor) -> Tensor:
    """``(N, positions, width)`` float32 to ``(N, 5 width)``: the quantiles 0.1, 0.25, 0.5, 0.75 and 0.9, one behind the other."""
    ordered, last = tokens.sort(dim=1).values, tokens.shape[1] - 1
    found = []
    for level in LEVELS:
        place = level * last
        low = int(place)
        high = min(low + 1, last)
        found.append(ordered[:, low] + (place - low) * (ordered[:, high] - ordered[:, low]))
    return torch.cat(found, dim=1)


def neighbours(maps: Tensor) -> Tensor:
    """Second order over antennas: for each feature the mean product of antennas that stand 1, 2 and 3 apart.

    Args:
        maps: float32 ``(N, antennas, width, positions)``.

    Returns:
        ``(N, lags x width)`` for as many lags, at most three, as there are; ``(N, 0)`` for one antenna.
    """
    lags = range(1, min(maps.shape[1], MOST_LAGS + 1))
    products = [(maps[:, lag:] * maps[:, :-lag]).mean((1, 3)) for lag in lags]
    return torch.cat([maps[:, 0, :0, 0], *products], dim=1)


OF_TOKENS: dict[str, Callable[[Tensor], Tensor]] = {"statistics": statistics, "quantiles": quantiles}
"""Poolings that every encoder has, for they are made of its tokens."""
