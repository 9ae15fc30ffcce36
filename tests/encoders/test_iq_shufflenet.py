"""IQ-ShuffleNet: its size, its exits, the map it leaves of any window, and its units against a plain reference."""

from __future__ import annotations

from functools import cache
from math import ceil

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import tiny_encoder
from torch import Tensor, nn
from torch.nn import functional

from offramp.encoders.base import StagedEncoder
from offramp.encoders.iq_shufflenet import ShuffleUnit
from offramp.encoders.registry import load_encoder

NAMES = [
    "stem",
    *(f"stage2.{unit}" for unit in range(4)),
    *(f"stage3.{unit}" for unit in range(8)),
    *(f"stage4.{unit}" for unit in range(4)),
    "conv5",
]


@cache
def full() -> StagedEncoder:
    return load_encoder("iq-shufflenet", weights="random").eval()


@cache
def tiny() -> StagedEncoder:
    return tiny_encoder().eval()


def window(antennas: int, samples: int, count: int = 2) -> Tensor:
    return torch.randn(count, 2, antennas, samples, generator=torch.Generator().manual_seed(antennas * 1000 + samples))


def params_by_hand() -> list[int]:
    """Convolution weights and two numbers per channel of a BatchNorm, cumulated over stem, 16 units and conv5."""
    sizes, inputs = [2 * 24 * 9 + 2 * 24], 24
    for width, units in ((48, 4), (96, 8), (192, 4)):
        half = width // 2
        side = (inputs * 9 + 2 * inputs) + (inputs * half + 2 * half)
        main = (inputs * half + 2 * half) + (half * 9 + 2 * half) + (half * half + 2 * half)
        plain = (half * half + 2 * half) * 2 + (half * 9 + 2 * half)
        sizes += [side + main, *[plain] * (units - 1)]
        inputs = width
    sizes.append(192 * 1024 + 2 * 1024)
    return [sum(sizes[: i + 1]) for i in range(len(sizes))]


def test_exits_and_parameters() -> None:
    assert [e.name for e in full().exits] == NAMES
    assert len(NAMES) == 18
    assert [e.width for e in full().exits] == [24, *[48] * 4, *[96] * 8, *[192] * 4, 1024]
    assert [e.params for e in full().exits] == params_by_hand()
    assert sum(p.numel() for p in full().parameters()) == params_by_hand()[-1]
    assert params_by_hand()[-1] == pytest.approx(342_000, rel=0.005)


def positions(antennas: int, samples: int, exit: str) -> tuple[int, int]:
    """Height and width of the map: antennas halve (rounded up) at stages 3 and 4, time at the stem and every stage."""
    stage = {"stem": 1, "conv5": 4}.get(exit) or int(exit[5])
    return ceil(antennas / 2 ** max(0, stage - 2)), ceil(samples / 2**stage)


@settings(max_examples=25, deadline=None)
@given(antennas=st.integers(1, 9), samples=st.integers(64, 150))
@example(antennas=1, samples=64)
@example(antennas=90, samples=65)
def test_any_window_leaves_the_map_that_the_strides_promise(antennas: int, samples: int) -> None:
    x = window(antennas, samples)
    with torch.no_grad():
        tokens, taps, states = tiny().taps(x, pooling="tokens"), tiny().taps(x), tiny().states(x)
    for exit in tiny().exits:
        height, width = positions(antennas, samples, exit.name)
        assert states[exit.name].shape == (2, exit.width, height, width), exit.name
        assert tokens[exit.name].shape == (2, height * width, exit.width), exit.name
        torch.testing.assert_close(tokens[exit.name].mean(1), taps[exit.name])


def test_the_shortest_window_of_one_antenna_keeps_four_positions() -> None:
    with torch.no_grad():
        tokens = full().taps(window(1, 64), ["stem", "stage4.3", "conv5"], pooling="tokens")
    assert {name: t.shape[1] for name, t in tokens.items()} == {"stem": 32, "stage4.3": 4, "conv5": 4}


def test_tokens_come_antenna_by_antenna() -> None:
    with torch.no_grad():
        x = window(3, 64)
        state, tokens = tiny().states(x, ["stem"])["stem"], tiny().taps(x, ["stem"], pooling="tokens")["stem"]
    assert torch.equal(tokens[:, 32 * 2 + 5], state[:, :, 2, 5])


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """The channel shuffle as it is usually written (Ma et al., fig. 3): group by rest, transposed."""
    n, channels, height, width = x.shape
    return x.view(n, groups, channels // groups, height, width).transpose(1, 2).reshape(n, channels, height, width)


def plain_unit(unit: ShuffleUnit, x: Tensor) -> Tensor:
    """A unit layer by layer, with its own weights in eval mode: pointwise, depthwise, pointwise; concatenate; shuffle."""

    def convolve(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor, depthwise: bool) -> Tensor:
        groups = x.shape[1] if depthwise else 1
        x = functional.conv2d(x, conv.weight, None, conv.stride, 1 if depthwise else 0, 1, groups)
        shape = (1, -1, 1, 1)
        scale = norm.weight / torch.sqrt(norm.running_var + 1e-5)
        return (x - norm.running_mean.view(shape)) * scale.view(shape) + norm.bias.view(shape)

    def branch(layers: nn.Sequential, x: Tensor, kinds: str) -> Tensor:
        modules = [m for m in layers if not isinstance(m, nn.ReLU)]
        for kind, conv, norm in zip(kinds, modules[::2], modules[1::2], strict=True):
            x = convolve(conv, norm, x, kind == "d")
            x = x if kind == "d" else x.clamp_min(0)
        return x

    if unit.side is None:
        half = x.shape[1] // 2
        side, main = x[:, :half], branch(unit.main, x[:, half:], "pdp")
    else:
        side, main = branch(unit.side, x, "dp"), branch(unit.main, x, "pdp")
    return channel_shuffle(torch.cat([side, main], dim=1), 2)


@pytest.mark.parametrize("stride", [(1, 1), (1, 2), (2, 2)])
def test_a_unit_equals_the_plain_reference(stride: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = 8 if stride == (1, 1) else 6
    unit = ShuffleUnit(inputs, 8, stride).eval()
    for tensor in unit.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    x = torch.randn(2, inputs, 5, 9, generator=generator)
    with torch.no_grad():
        ours, expected = unit(x), plain_unit(unit, x)
    assert ours.shape == (2, 8, ceil(5 / stride[0]), ceil(9 / stride[1]))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    if unit.side is None:
        assert torch.equal(ours[:, ::2], x[:, :4])
