"""What is kept of a stage's positions, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_encoder

from offramp.encoders.iq_resnet import IQResNet
from offramp.encoders.pooling import LEVELS, neighbours, quantiles, statistics
from offramp.encoders.taps import tap_shapes

TOKENS = torch.randn(5, 37, 3, generator=torch.Generator().manual_seed(0))


def test_statistics_are_mean_and_standard_deviation() -> None:
    expected = np.concatenate([TOKENS.numpy().mean(1), TOKENS.numpy().std(1)], axis=1)
    np.testing.assert_allclose(statistics(TOKENS).numpy(), expected, atol=1e-6)


def test_quantiles_are_linear_between_positions() -> None:
    expected = np.concatenate(list(np.quantile(TOKENS.numpy(), LEVELS, axis=1)), axis=1)
    np.testing.assert_allclose(quantiles(TOKENS).numpy(), expected, atol=1e-6)


def test_one_position_is_all_that_there_is() -> None:
    one = TOKENS[:, :1]
    np.testing.assert_allclose(statistics(one).numpy()[:, :3], one[:, 0].numpy())
    np.testing.assert_allclose(statistics(one).numpy()[:, 3:], 0, atol=1e-5)
    np.testing.assert_allclose(quantiles(one).numpy(), np.tile(one[:, 0].numpy(), 5))


@pytest.mark.parametrize(("pooling", "times"), [("statistics", 2), ("quantiles", 5)])
@torch.no_grad()
def test_every_exit_of_an_encoder_has_them(pooling: str, times: int) -> None:
    encoder = tiny_encoder().eval()
    x = torch.randn(4, 2, 2, 64)
    taps, plain = encoder.taps(x, pooling=pooling), encoder.taps(x)
    for exit in encoder.exits:
        assert taps[exit.name].shape == (4, times * exit.width)
        assert tap_shapes(encoder, (2, 2, 64), pooling)[exit.name] == (times * exit.width,)
        torch.testing.assert_close(encoder.truncate(exit.name, pooling)(x), taps[exit.name])
        if pooling == "statistics":
            torch.testing.assert_close(taps[exit.name][:, : exit.width], plain[exit.name], atol=1e-6, rtol=1e-5)


def test_products_of_neighbouring_antennas() -> None:
    maps = torch.randn(3, 5, 2, 11, generator=torch.Generator().manual_seed(1))
    values = maps.numpy()
    expected = np.concatenate([(values[:, lag:] * values[:, :-lag]).mean((1, 3)) for lag in (1, 2, 3)], axis=1)
    np.testing.assert_allclose(neighbours(maps).numpy(), expected, atol=1e-6)
    assert neighbours(maps[:, :1]).shape == (3, 0)
    assert neighbours(maps[:, :2]).shape == (3, 2)


@torch.no_grad()
def test_second_order_where_antennas_are_apart_and_statistics_elsewhere() -> None:
    encoder = IQResNet(channels=(4, 6, 8), repeats=(1,)).eval()
    x = torch.randn(4, 2, 3, 64)
    second, plain, states = (
        encoder.taps(x, pooling="second_order"),
        encoder.taps(x, pooling="statistics"),
        encoder.states(x),
    )
    assert second["stem"].shape == (4, 2 * 4 + 2 * 4)
    torch.testing.assert_close(second["stem"][:, :8], plain["stem"])
    torch.testing.assert_close(second["stem"][:, 8:], neighbours(states["stem"].transpose(1, 2)))
    torch.testing.assert_close(second["mixing"], plain["mixing"])
