"""Heads as torch modules."""

from __future__ import annotations

import torch
from torch import nn

from offramp.bundle import Head

MLP_HIDDEN = 128
"""Hidden units of the head kind ``mlp``."""


def untrained_head(kind: str, inputs: int, outputs: int) -> nn.Module:
    """A head of the right size for counting costs: ``(N, inputs)`` to ``(N, outputs)``."""
    if kind == "mlp":
        return nn.Sequential(nn.Linear(inputs, MLP_HIDDEN), nn.ReLU(), nn.Linear(MLP_HIDDEN, outputs))
    return nn.Linear(inputs, outputs)


def head_module(head: Head) -> nn.Sequential:
    """A head as linear layers with ReLU between: taps float32 ``(N, inputs)`` to ``(N, outputs)``. The weights are copied."""
    modules: list[nn.Module] = []
    for weight, bias in head.layers:
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
        modules += [nn.ReLU(), linear] if modules else [linear]
    return nn.Sequential(*modules)
