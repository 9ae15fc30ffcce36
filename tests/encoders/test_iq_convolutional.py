"""What both convolutional encoders of raw I/Q promise about their input."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offramp.encoders.base import StagedEncoder
from offramp.encoders.registry import load_encoder
from offramp.errors import EncoderError

both = pytest.mark.parametrize("name", ["iq-resnet", "iq-shufflenet"])


@cache
def full(name: str) -> StagedEncoder:
    return load_encoder(name, weights="random").eval()


def window(antennas: int, samples: int, count: int = 2) -> Tensor:
    return torch.randn(count, 2, antennas, samples, generator=torch.Generator().manual_seed(antennas * 1000 + samples))


@both
@settings(max_examples=20, deadline=None)
@given(decibels=st.floats(-120, 120))
def test_the_gain_of_the_receiver_does_not_matter(name: str, decibels: float) -> None:
    x = window(2, 96)
    with torch.no_grad():
        expected = full(name).taps(x)
        for exit_name, tap in full(name).taps(x * 10 ** (decibels / 20)).items():
            torch.testing.assert_close(tap, expected[exit_name], rtol=1e-4, atol=1e-5)


@both
def test_windows_are_scaled_one_by_one_to_unit_power(name: str) -> None:
    x = window(4, 80, count=3) * torch.tensor([1e-4, 1.0, 1e5])[:, None, None, None]
    (scaled,) = full(name).begin(x)
    torch.testing.assert_close(scaled.square().sum(1).mean((1, 2)), torch.ones(3))
    ratio = scaled / x
    torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio), rtol=1e-5, atol=0)


@both
def test_silence_stays_silent_and_finite(name: str) -> None:
    (scaled,) = full(name).begin(torch.zeros(1, 2, 1, 64))
    assert torch.equal(scaled, torch.zeros(1, 2, 1, 64))
    with torch.no_grad():
        assert all(tap.isfinite().all() for tap in full(name).taps(torch.zeros(1, 2, 1, 64)).values())


@both
@pytest.mark.parametrize("shape", [(2, 1, 63), (2, 0, 64), (1, 1, 64)])
def test_a_window_below_the_minimum_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(EncoderError, match="antennas >= 1, time >= 64"):
        full(name).taps(torch.zeros(1, *shape))


@both
def test_unknown_pooling_is_named(name: str) -> None:
    with pytest.raises(EncoderError, match=f"unknown pooling 'max': {name} has default, tokens"):
        full(name).taps(window(1, 64), ["stem"], pooling="max")
