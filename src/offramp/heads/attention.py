"""Heads that look where it matters: a learned query weighs the positions of a stage, a linear layer answers from the weighted mean.

Source: attention pooling with one query (Lee et al., "Set Transformer", arXiv 1810.00825, section 3.2, with one seed and no value projection).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from offramp.bundle import Head
from offramp.heads.logistic import fit_logistic
from offramp.heads.ridge import fit_ridge
from offramp.heads.rows import FeatureRows, Rows, StandardisedTargets

EPOCHS = 20
LEAST_STEPS = 500
MINIBATCH = 128
LEARNING_RATE = 1e-2
MEASURED_WINDOWS = 2048
"""Windows whose tokens are standardised by, at most."""


class _Means:
    """Token taps ``(N, positions, width)`` as their means over positions ``(N, width)``."""

    def __init__(self, tokens: FeatureRows) -> None:
        self._tokens = tokens
        self.shape: tuple[int, ...] = (tokens.shape[0], tokens.shape[2])

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(self._tokens[indices].mean(1), dtype=np.float32)


def fit_attention(
    tokens: FeatureRows,
    windows: NDArray[np.int64],
    targets: NDArray[Any],
    outputs: int,
    strengths: Sequence[float],
    seed: int,
    sample_weights: NDArray[np.float32] | None = None,
) -> tuple[Head, ...]:
    """One query and one linear layer per strength, trained side by side on the same minibatches with Adam and a cosine schedule.

    They start from the linear heads on the mean over positions, with a query of zero, which is that mean.

    Args:
        tokens: Taps ``(N, positions, width)``; they are read minibatch by minibatch.
        windows: Indices of the windows to fit on, int64 ``(n,)``.
        targets: int64 ``(n,)`` for cross-entropy, float32 ``(n, outputs)`` for squared error.
        outputs: Classes or target dimensions.
        strengths: Of the squared weights, query included, in standardised features: ``loss + strength / 2 |.|^2``.
        seed: Of the minibatches.
        sample_weights: float32 ``(n,)`` of mean 1; None for equal weights.

    Returns:
        One :class:`Head` with a query per strength, with the standardisation folded in.
    """
    start = _linear_start(tokens, windows, targets, outputs, strengths, sample_weights)
    mean, scale = _standardisation(tokens, windows)
    goal = StandardisedTargets.of(targets, outputs)
    centre, spread = goal.centre, goal.spread
    weight = torch.from_numpy(sample_weights) if sample_weights is not None else torch.ones(len(windows))
    inverse = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1), 0)
    matrices = torch.tensor(np.stack([(head.layers[0][0] * inverse).T / spread for head in start]), dtype=torch.float32)
    biases = torch.tensor(
        np.stack([(head.layers[0][0] @ mean + head.layers[0][1] - centre) / spread for head in start]),
        dtype=torch.float32,
    )
    queries = torch.zeros(len(strengths), len(mean))
    parameters = [part.requires_grad_() for part in (queries, matrices, biases)]
    decay = torch.tensor(strengths)
    optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    per_epoch = math.ceil(len(windows) / MINIBATCH)
    steps = max(LEAST_STEPS, EPOCHS * per_epoch)
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(windows), generator=generator)
        picked = order[(step % per_epoch) * MINIBATCH :][:MINIBATCH].sort().values
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        block = torch.from_numpy((tokens[windows[picked.numpy()]] - mean) * scale)
        loss = _losses(parameters, block, goal.wanted[picked], weight[picked])
        penalty = 0.5 * decay * (queries.square().sum(1) + matrices.square().sum((1, 2)))
        optimiser.zero_grad()
        torch.autograd.backward((loss + penalty).sum())
        optimiser.step()
    heads = []
    for query, matrix, bias in zip(*(part.detach().double().numpy() for part in parameters), strict=True):
        outer = scale[:, None] * matrix * spread
        layer = (np.ascontiguousarray(outer.T, np.float32), (bias * spread + centre - mean @ outer).astype(np.float32))
        heads.append(Head((layer,), query=(query * scale / math.sqrt(len(mean))).astype(np.float32)))
    return tuple(heads)


def _losses(parameters: Sequence[Tensor], tokens: Tensor, goal: Tensor, weight: Tensor) -> Tensor:
    """Mean loss of each strength, ``(strengths,)``."""
    queries, matrices, biases = parameters
    share = torch.softmax(tokens @ queries.T / math.sqrt(tokens.shape[2]), dim=1)
    pooled = torch.einsum("nps,npw->snw", share, tokens)
    out = torch.baddbmm(biases[:, None], pooled, matrices)
    if goal.ndim == 1:
        losses = functional.cross_entropy(out.flatten(0, 1), goal.repeat(len(out)), reduction="none").view(len(out), -1)
    else:
        losses = (out - goal).square().mean(2)
    return (losses * weight).mean(1)


def _linear_start(
    tokens: FeatureRows,
    windows: NDArray[np.int64],
    targets: NDArray[Any],
    outputs: int,
    strengths: Sequence[float],
    sample_weights: NDArray[np.float32] | None,
) -> tuple[Head, ...]:
    rows = Rows(_Means(tokens), windows)
    if np.issubdtype(targets.dtype, np.floating):
        return fit_ridge(rows, targets, strengths)
    weights = np.ones(len(windows), np.float32) if sample_weights is None else sample_weights
    (heads,) = fit_logistic(rows, targets, outputs, strengths, weights[:, None])
    return heads


def _standardisation(
    tokens: FeatureRows, windows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and inverse deviation of the features over windows and positions; a constant feature has scale 0."""
    sample = tokens[windows[:: math.ceil(len(windows) / MEASURED_WINDOWS)]].reshape(-1, tokens.shape[2])
    mean, deviation = sample.mean(0, dtype=np.float64), sample.std(0, dtype=np.float64)
    constant = deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-6)
    scale = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
    return mean.astype(np.float32), scale.astype(np.float32)
