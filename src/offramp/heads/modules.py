"""Heads as torch modules."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offramp.bundle import Head

MLP_HIDDEN = 128
"""Hidden units of the head kind ``mlp``."""


def untrained_head(kind: str, inputs: int, outputs: int, attention: bool = False) -> nn.Module:
    """A head of the right size for counting costs: ``(..., inputs)`` to ``(..., outputs)``, or from tokens with ``attention``."""
    if attention:
        return AttentionHead(nn.Linear(inputs, outputs), np.zeros(inputs, np.float32))
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


class AttentionHead(nn.Module):
    """One query weighs the positions: float32 ``(N, positions, width)`` to the layers' outputs of the weighted mean, ``(N, outputs)``."""

    def __init__(self, layers: nn.Module, query: NDArray[np.float32]) -> None:
        """Take layers ``(N, width)`` to ``(N, outputs)`` and the query ``(width,)``."""
        super().__init__()
        self.layers = layers
        self.register_buffer("query", torch.from_numpy(query.copy())[:, None])

    def forward(self, taps: Tensor) -> Tensor:
        share = torch.softmax(taps @ self.get_buffer("query"), dim=1)
        answer: Tensor = self.layers((share.transpose(1, 2) @ taps).squeeze(1))
        return answer


def head_module(head: Head) -> nn.Module:
    """A head as linear layers with ReLU between: taps float32 ``(N, inputs)`` to ``(N, outputs)``. The weights are copied.

    A head with positions or a query takes ``(N, positions, inputs)``.
    """
    modules: list[nn.Module] = []
    for weight, bias in head.layers:
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
        modules += [nn.ReLU(), linear] if modules else [linear]
    layers = nn.Sequential(*modules)
    if head.query is not None:
        return AttentionHead(layers, head.query)
    return layers if head.positions is None else TokenHead(layers, head.positions)
