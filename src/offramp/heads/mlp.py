"""A small multilayer perceptron per regularisation strength, all strengths trained side by side on the same minibatches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.bundle import Head
from offramp.heads.modules import MLP_HIDDEN as HIDDEN
from offramp.heads.rows import Rows, StandardisedTargets

EPOCHS = 40
MINIBATCH = 256
LEARNING_RATE = 2e-3


def fit_mlp(
    rows: Rows,
    targets: NDArray[Any],
    outputs: int,
    strengths: Sequence[float],
    seed: int,
    sample_weights: NDArray[np.float32] | None = None,
) -> tuple[Head, ...]:
    """One hidden layer of 128 ReLU units, trained with AdamW and a cosine schedule for 40 epochs.

    Args:
        rows: Training rows.
        targets: int64 ``(rows.count,)`` for cross-entropy, float ``(rows.count, outputs)`` for squared error.
        outputs: Classes or target dimensions.
        strengths: Decoupled weight decays; each gets its own network, all from the same initial weights.
        seed: Of initial weights and minibatches.
        sample_weights: float32 ``(rows.count,)`` of mean 1; None for equal weights.

    Returns:
        One two-layer :class:`Head` per strength, with the standardisation folded in.
    """
    generator = torch.Generator().manual_seed(seed)
    goal = StandardisedTargets.of(targets, outputs)
    weight = torch.from_numpy(sample_weights) if sample_weights is not None else torch.ones(rows.count)
    features = torch.cat([block for _, block in rows])
    first = torch.randn(rows.width + 1, HIDDEN, generator=generator) / math.sqrt(rows.width)
    second = torch.randn(HIDDEN + 1, outputs, generator=generator) / math.sqrt(HIDDEN)
    count = len(strengths)
    parameters = [t.expand(count, -1, -1).clone().requires_grad_() for t in (first, second)]
    decay = torch.tensor(strengths)[:, None, None]
    optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    steps_per_epoch = math.ceil(rows.count / MINIBATCH)
    total = EPOCHS * steps_per_epoch
    for step in range(total):
        if step % steps_per_epoch == 0:
            order = torch.randperm(rows.count, generator=generator)
        picked = order[(step % steps_per_epoch) * MINIBATCH :][:MINIBATCH]
        rate = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / total))
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = _losses(parameters, features[picked], goal.wanted[picked], weight[picked])
        optimiser.zero_grad()
        torch.autograd.backward(loss.sum())
        optimiser.step()
        with torch.no_grad():
            for parameter in parameters:
                parameter[:, :-1] *= 1 - rate * decay
    return tuple(
        _fold(rows, first.detach().numpy(), second.detach().numpy(), goal.centre, goal.spread)
        for first, second in zip(*parameters, strict=True)
    )


def _losses(parameters: list[Tensor], features: Tensor, goal: Tensor, weight: Tensor) -> Tensor:
    """Mean loss of each network, ``(strengths,)``."""
    hidden = torch.relu(torch.matmul(features, parameters[0]))
    out = torch.matmul(hidden, parameters[1][:, :-1]) + parameters[1][:, -1:]
    if goal.ndim == 1:
        expanded = goal.expand(len(out), -1)
        per_sample = torch.nn.functional.cross_entropy(out.flatten(0, 1), expanded.flatten(), reduction="none")
        return (per_sample.view(len(out), -1) * weight).mean(1)
    return ((out - goal).square().mean(2) * weight).mean(1)


def _fold(
    rows: Rows,
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    centre: NDArray[np.float64],
    spread: NDArray[np.float64],
) -> Head:
    standard = rows.standardisation
    inner = first[:-1].astype(np.float64) * standard.scale[:, None]
    inner_bias = first[-1] - standard.mean @ inner
    outer = second[:-1] * spread
    outer_bias = second[-1] * spread + centre

    def layer(
        matrix: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.ascontiguousarray(matrix.T, dtype=np.float32), bias.astype(np.float32)

    return Head((layer(inner, inner_bias), layer(outer, outer_bias)))
