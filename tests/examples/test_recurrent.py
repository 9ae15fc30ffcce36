"""The recurrent predictor: shapes, what it learns, early stopping, reproducibility."""

from __future__ import annotations

import numpy as np
import torch
from predictors.linear import persistence
from predictors.recurrent import GRUPredictor, fit_gru, predict


def waves(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One wave per window that turns by a tenth of a cycle per slot, either way: past ``(count, 2, 8, 2, 4)``, future of 2 slots."""
    rng = np.random.default_rng(seed)
    shift = rng.choice([-0.1, 0.1], (count, 1, 1, 1))
    phase = rng.uniform(0, 1, (count, 1, 2, 4)) + shift * np.arange(10)[None, :, None, None]
    channel = np.stack([np.cos(2 * np.pi * phase), np.sin(2 * np.pi * phase)], axis=1).astype(np.float32)
    return channel[:, :, :8], channel[:, :, 8:]


def error(predicted: np.ndarray, future: np.ndarray) -> float:
    return float(np.square(predicted - future).sum() / np.square(future).sum())


def test_antennas_share_their_weights() -> None:
    model = GRUPredictor(subcarriers=4, slots=3, hidden=8)
    past = torch.randn(5, 2, 8, 6, 4)
    future = model(past)
    assert future.shape == (5, 2, 3, 6, 4)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(model(past[:, :, :, order]), future[:, :, :, order])


def test_it_learns_what_persistence_cannot_know() -> None:
    past, future = waves(200, 1)
    model = fit_gru(waves(400, 0), waves(100, 2), hidden=32, epochs=25)
    assert error(predict(model, past), future) < 0.1
    assert error(persistence(past, 2), future) > 0.7


def test_the_best_epoch_is_kept_and_training_stops() -> None:
    """Validation on the negative of what is trained on gets worse with every epoch."""
    training, (past, future) = waves(64, 0), waves(64, 1)
    seen: list[float] = []
    model = fit_gru(training, (past, -future), epochs=30, patience=3, on_epoch=lambda epoch, score: seen.append(score))
    assert len(seen) == int(np.argmin(seen)) + 1 + 3
    assert len(seen) < 30
    assert error(predict(model, past), -future) == np.float32(min(seen))


def test_a_seed_is_a_model_and_the_callers_randomness_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, again, other = (fit_gru(waves(32, 0), waves(16, 1), seed, hidden=8, epochs=2) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    past, _ = waves(8, 2)
    np.testing.assert_array_equal(predict(first, past), predict(again, past))
    assert not np.array_equal(predict(first, past), predict(other, past))
