"""Heads as torch modules."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offramp.bundle import Head

MLP_HIDDEN = 128
"""Hidden units of the head kind ``mlp``."""


def untrained_head(kind: str, inputs: int, outputs: int) -> nn.Module:
    """A head of the right size for counting costs: ``(..., inputs)`` to ``(..., outputs)``."""
    if kind == "mlp":
        return nn.Sequential(nn.Linear(inputs, MLP_HIDDEN), nn.ReLU(), nn.Linear(MLP_HIDDEN, outputs))
    return nn.Linear(inputs, outputs)


class TokenHead(nn.Module):
    """One head for all positions: float32 ``(N, positions, width)`` to values in the target's own order, ``(N, dimensions)``."""

    def __init__(self, layers: nn.Module, positions: NDArray[np.int64]) -> None:
        """Take layers ``(..., width)`` to ``(..., values)`` and the entries ``(positions, values)`` that they give."""
        super().__init__()
        self.layers = layers
        self.register_buffer("order", torch.from_numpy(np.argsort(positions, axis=None)))

    def forward(self, taps: Tensor) -> Tensor:
        values: Tensor = self.layers(taps)
        return values.flatten(1).index_select(1, self.get_buffer("order"))


def head_module(head: Head) -> nn.Module:
    """A head as linear layers with ReLU between: taps float32 ``(N, inputs)`` to ``(N, outputs)``. The weights are copied.

    A head with positions takes ``(N, positions, inputs)``.
    """
    modules: list[nn.Module] = []
    for weight, bias in head.layers:
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
        modules += [nn.ReLU(), linear] if modules else [linear]
    layers = nn.Sequential(*modules)
    return layers if head.positions is None else TokenHead(layers, head.positions)
