"""The linear predictor as side features, against the one in NumPy."""

from __future__ import annotations

import numpy as np
import torch
from predictors.beside import linear_prediction as beside
from predictors.linear import linear_prediction

from offramp.encoders.channel_transformer import ChannelTransformer


def test_the_same_answer_place_by_place() -> None:
    rng = np.random.default_rng(0)
    time = np.arange(16)
    turns = rng.uniform(-0.1, 0.1, (3, 2, 1)) * time
    paths = rng.standard_normal((3, 2, 8, 16))
    channels = np.einsum("npt,npas->ntas", np.exp(2j * np.pi * turns), paths)
    past = np.stack([channels.real, channels.imag], axis=1).astype(np.float32)
    past += 0.05 * rng.standard_normal(past.shape).astype(np.float32)
    expected = linear_prediction(past, 4)
    positions = ChannelTransformer(width=32, depth=1, heads=2).target_positions((2, 4, 8, 16), 8)
    got = beside(torch.from_numpy(past)).numpy()
    assert got.shape == (3, 8, 128)
    np.testing.assert_allclose(got, expected.reshape(3, -1)[:, positions], atol=1e-4)
