"""Training a network on a task with a teacher: a narrow one from scratch, or a pruned one to recover.

Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531). Narrow networks have the
architecture, depth and exits of the encoder and a fraction of its widths, as the width multiplier of MobileNets (arXiv 1704.04861).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from alternatives.pruning import kept_width
from offramp.bundle import Head
from offramp.encoders.base import StagedEncoder, seeded
from offramp.encoders.registry import random_encoder
from offramp.errors import EncoderError
from offramp.heads.modules import head_module
from offramp.scoring.metrics import Metric
from offramp.training.config import rate_share

TEMPERATURE = 2.0
TEACHER_SHARE = 0.5
"""Of the loss; the labels have the rest."""
BATCH = 64
WEIGHT_DECAY = 1e-2
FROM_SCRATCH, RECOVERY = 2e-3, 1e-3
"""Peak learning rates."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a network learns a task from.

    Attributes:
        inputs: Windows by index as the network takes them, ``(n,)`` int64 to float32 ``(n, *shape)``.
        targets: Of all windows: classes int64 ``(N,)``, or values float32 ``(N, dimensions)``.
        teacher: Logits or values of the teacher, float32 ``(N, outputs)``; those of ``train`` are used.
        train: Indices of the training windows.
        val: Indices of the windows on which the best epoch is chosen.
        metric: By which it is chosen.
    """

    inputs: Callable[[NDArray[np.int64]], NDArray[np.float32]]
    targets: NDArray[Any]
    teacher: NDArray[np.float32]
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    metric: Metric

    def loss(self, outputs: Tensor, indices: NDArray[np.int64]) -> Tensor:
        """Half towards the teacher, half towards the labels.

        Classification: cross-entropies, that with the teacher at temperature 2 and times its square; labels are weighted by class
        where the metric is ``balanced_accuracy``. Regression: squared errors over the variance of the training targets.
        """
        teacher = torch.from_numpy(self.teacher[indices])
        targets = torch.from_numpy(self.targets[indices])
        if self.metric.kind == "classification":
            soft = TEMPERATURE**2 * functional.cross_entropy(outputs / TEMPERATURE, (teacher / TEMPERATURE).softmax(1))
            hard = functional.cross_entropy(outputs, targets, weight=self._class_weights(outputs.shape[1]))
        else:
            scale = 1 / max(float(self.targets[self.train].var()), 1e-12)
            soft, hard = (scale * functional.mse_loss(outputs, wanted) for wanted in (teacher, targets))
        return TEACHER_SHARE * soft + (1 - TEACHER_SHARE) * hard

    def score(self, network: nn.Module) -> float:
        """On validation."""
        batches = np.array_split(self.val, math.ceil(len(self.val) / 256))
        with torch.inference_mode():
            outputs = [network.eval()(torch.from_numpy(self.inputs(batch))).numpy() for batch in batches]
        return self.metric(np.concatenate(outputs), self.targets[self.val])

    def _class_weights(self, classes: int) -> Tensor | None:
        if self.metric.name != "balanced_accuracy":
            return None
        counts = np.bincount(self.targets[self.train], minlength=classes)
        return torch.from_numpy(len(self.train) / (classes * np.maximum(counts, 1))).float()


@dataclass(frozen=True)
class Taught:
    """A network with the weights of its best epoch, 0 being the network as it was given, and its validation score there."""

    network: nn.Module
    epoch: int
    val: float


def teach(network: nn.Module, lesson: Lesson, epochs: int, learning_rate: float, seed: int = 0) -> Taught:
    """Train all weights of a network, in place: AdamW in batches of 64, one cycle; the best epoch on validation is kept."""
    rng = np.random.default_rng(seed)
    network.requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY)
    batches = math.ceil(len(lesson.train) / BATCH)
    sign = lesson.metric.sign
    best = Taught(network, 0, lesson.score(network))
    kept = copy.deepcopy(network.state_dict())
    for epoch in range(epochs):
        network.train()
        for number, batch in enumerate(np.array_split(rng.permutation(lesson.train), batches)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * rate_share(epoch * batches + number, epochs * batches)
            loss = lesson.loss(network(torch.from_numpy(lesson.inputs(batch))), batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        score = lesson.score(network)
        if sign * score > sign * best.val:
            best = Taught(network, epoch + 1, score)
            kept = copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    network.eval().requires_grad_(False)
    return best


def narrower(encoder: StagedEncoder, fraction: float, seed: int = 0) -> StagedEncoder:
    """An encoder with random weights, the same architecture and exits, and this fraction of its widths.

    Raises:
        EncoderError: The architecture has no widths that are known to scale.
    """
    return random_encoder(type(encoder), narrower_config(encoder, fraction), seed)


def narrower_config(encoder: StagedEncoder, fraction: float) -> dict[str, Any]:
    """Constructor arguments with this fraction of the widths.

    Channels of convolutions become multiples of 16. Transformers keep the width of their attention heads, rounded up to a multiple
    of 4, and have fewer of them.
    """
    config = dict(encoder.config)
    if {"channels", "repeats"} <= set(config):
        return config | {"channels": [kept_width(width, 1 - fraction) for width in config["channels"]]}
    if not {"width", "heads"} <= set(config):
        raise EncoderError(f"no narrower {encoder.architecture} can be built: its configuration names no widths")
    of_head = 4 * math.ceil(config["width"] / config["heads"] / 4)
    heads = max(1, round(fraction * config["width"] / of_head))
    width = heads * of_head
    hidden = {"hidden": config["hidden"] * width // config["width"]} if "hidden" in config else {}
    return config | {"width": width, "heads": heads} | hidden


def untrained_like(head: Head, inputs: int, seed: int = 0) -> nn.Module:
    """A head of the same form with random weights, for taps of another width."""
    widths = [inputs, *(len(bias) for _, bias in head.layers)]
    layers = [
        (np.zeros((after, before), np.float32), np.zeros(after, np.float32)) for before, after in pairwise(widths)
    ]
    with seeded(seed):
        module = head_module(Head(tuple(layers), head.positions))
        for part in module.modules():
            if isinstance(part, nn.Linear):
                part.reset_parameters()
    return module
