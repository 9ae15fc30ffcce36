"""A small recurrent network that predicts channels, trained from scratch: what learning gives without pretraining.

Source: Jiang and Schotten, "Deep Learning for Fading Channel Prediction" (IEEE Open J. Commun. Soc. 2020), which finds gated recurrent units
as good as longer memories.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Parts = NDArray[np.float32]

BATCH = 16
"""Windows per step; each holds one sequence per antenna."""
LEARNING_RATE = 4e-3


class GRUPredictor(nn.Module):
    """One sequence per antenna: real and imaginary parts of all subcarriers at every slot."""

    def __init__(self, subcarriers: int, slots: int, hidden: int = 128) -> None:
        """Take the number of subcarriers and of future slots."""
        super().__init__()
        self.slots = slots
        self.recurrent = nn.GRU(2 * subcarriers, hidden, batch_first=True)
        self.output = nn.Linear(hidden, slots * 2 * subcarriers)

    def forward(self, past: Tensor) -> Tensor:
        """``(N, 2, past, antennas, subcarriers)`` float32 to ``(N, 2, slots, antennas, subcarriers)``."""
        count, parts, _, antennas, subcarriers = past.shape
        sequences = past.permute(0, 3, 2, 1, 4).flatten(3).flatten(0, 1)
        _, memory = self.recurrent(sequences)
        future: Tensor = self.output(memory[-1]).view(count, antennas, self.slots, parts, subcarriers)
        return future.permute(0, 3, 2, 1, 4)


def fit_gru(
    training: tuple[Parts, Parts],
    validation: tuple[Parts, Parts],
    seed: int = 0,
    hidden: int = 128,
    epochs: int = 30,
    patience: int = 5,
    on_epoch: Callable[[int, float], None] = lambda epoch, nmse: None,
) -> GRUPredictor:
    """Train on the squared error until validation has not improved for some epochs; the best epoch's weights are kept.

    Args:
        training: Past ``(N, 2, past, antennas, subcarriers)`` and future ``(N, 2, future, antennas, subcarriers)`` float32.
        validation: The same of other drops.
        seed: Of weights and order.
        hidden: Width of the memory.
        epochs: At most so many.
        patience: Epochs without improvement before it stops.
        on_epoch: Called with the epoch and its validation error, as a share of the power.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GRUPredictor(training[0].shape[-1], training[1].shape[2], hidden)
    order = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    best, kept, since = np.inf, copy.deepcopy(model.state_dict()), 0
    for epoch in range(epochs):
        for rows in _batches(order.permutation(len(training[0]))):
            past, future = (torch.from_numpy(part[rows]) for part in training)
            error = (model(past) - future).square().mean()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        predicted = predict(model, validation[0])
        score = float(np.square(predicted - validation[1]).sum() / np.square(validation[1]).sum())
        on_epoch(epoch, score)
        schedule.step(score)
        since = 0 if score < best else since + 1
        if score < best:
            best, kept = score, copy.deepcopy(model.state_dict())
        if since == patience:
            break
    model.load_state_dict(kept)
    return model.eval()


def predict(model: GRUPredictor, past: Parts) -> Parts:
    """Future slots of any number of windows, batch by batch."""
    with torch.inference_mode():
        return np.concatenate([model(torch.from_numpy(past[rows])).numpy() for rows in _batches(np.arange(len(past)))])


def _batches(rows: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
