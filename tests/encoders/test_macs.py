"""Multiply-accumulate operations of every exit against formulas that are worked out from the architecture by hand.

A convolution takes output positions x kernel x inputs per group x outputs, a linear layer positions x inputs x outputs, attention
over L tokens of width d twice L x L x d: once for the scores, once for the mean of the values. Norms, scales and sums take none.
"""

from __future__ import annotations

from itertools import accumulate
from math import ceil
from typing import Any

import pytest
import torch

from offramp.costs import exit_costs
from offramp.encoders.amc_ssl import AmcSsl
from offramp.encoders.base import StagedEncoder
from offramp.encoders.iq_resnet import IQResNet, IQResNetBase, IQResNetSmall
from offramp.encoders.iq_shufflenet import IQShuffleNet
from offramp.encoders.lwm import LWM, LWM11
from offramp.encoders.wavesfm import WavesFM


def counted(architecture: type[StagedEncoder], shape: tuple[int, ...], **config: Any) -> list[int]:
    """What the product counts, exit by exit; sizes are enough for that, so that there are no weights."""
    with torch.device("meta"):
        encoder = architecture(**config)
    return [cost.macs for cost in exit_costs(encoder, shape, measure=False).values()]


def convolution(positions: int, kernel: int, inputs: int, outputs: int) -> int:
    return positions * kernel * inputs * outputs


def depthwise(positions: int, kernel: int, channels: int) -> int:
    return positions * kernel * channels


def linear(positions: int, inputs: int, outputs: int) -> int:
    return positions * inputs * outputs


def attention(tokens: int, width: int, inner: int) -> int:
    """Query, key, value and output projections, scores and mixing."""
    return 4 * linear(tokens, width, inner) + 2 * tokens * tokens * inner


def feed_forward(tokens: int, width: int, hidden: int) -> int:
    return 2 * linear(tokens, width, hidden)


def shufflenet(antennas: int, time: int) -> list[int]:
    """ShuffleNetV2 x0.5: antennas halve at stages 3 and 4, time at the stem and at every stage, both rounded up."""
    height, width = antennas, ceil(time / 2)
    macs, inputs = [convolution(height * width, 3 * 3, 2, 24)], 24
    for stage, outputs, units in ((2, 48, 4), (3, 96, 8), (4, 192, 4)):
        half, before = outputs // 2, height * width
        height, width = height if stage == 2 else ceil(height / 2), ceil(width / 2)
        after = height * width
        side = depthwise(after, 9, inputs) + convolution(after, 1, inputs, half)
        main = convolution(before, 1, inputs, half) + depthwise(after, 9, half) + convolution(after, 1, half, half)
        plain = 2 * convolution(after, 1, half, half) + depthwise(after, 9, half)
        macs += [side + main] + [plain] * (units - 1)
        inputs = outputs
    return list(accumulate([*macs, convolution(height * width, 1, 192, 1024)]))


def resnet(antennas: int, time: int) -> list[int]:
    """IQ-ResNet: time halves at the stem, at mixing and at every stage, rounded up; behind mixing there is one antenna."""
    time = ceil(time / 2)
    macs = [convolution(antennas * time, 7, 2, 24)]
    time = ceil(time / 2)
    macs.append(convolution(antennas * time, 3 * 3, 24, 32))
    for inputs, outputs in ((32, 64), (64, 96), (96, 160)):
        time = ceil(time / 2)
        second = convolution(time, 3, outputs, outputs)
        macs += [convolution(time, 3, inputs, outputs) + second + convolution(time, 1, inputs, outputs), 2 * second]
    return list(accumulate(macs))


def separable_resnet(antennas: int, time: int, channels: tuple[int, ...], units: tuple[int, ...]) -> list[int]:
    """The same with two separable mixing units, the first of which halves time, the second of which keeps the map."""
    stem, mixed, *wide = channels
    time = ceil(time / 2)
    macs = [convolution(antennas * time, 7, 2, stem)]
    time = ceil(time / 2)
    for inputs in (stem, mixed):
        positions = antennas * time
        macs.append(depthwise(positions, 3 * 3, inputs) + convolution(positions, 1, inputs, mixed))
    for inputs, outputs, count in zip((mixed, *wide), wide, units, strict=False):
        time = ceil(time / 2)
        second = convolution(time, 3, outputs, outputs)
        macs.append(convolution(time, 3, inputs, outputs) + second + convolution(time, 1, inputs, outputs))
        macs += [2 * second] * (count - 1)
    return list(accumulate(macs))


def amc_ssl(antennas: int, time: int) -> list[int]:
    """Three convolutions that halve time, rounded up, then two layers on its positions and a linear layer: for each antenna by itself."""
    macs = []
    for inputs, outputs, kernel in ((2, 64, 9), (64, 128, 7), (128, 128, 5)):
        time = ceil(time / 2)
        macs.append(convolution(time, kernel, inputs, outputs))
    layer = attention(time, 128, 128) + feed_forward(time, 128, 256)
    return list(accumulate(antennas * each for each in [*macs, layer, layer, linear(1, 128, 128)]))


def lwm() -> list[int]:
    """LWM 1.0: 128 patches and CLS; 12 heads of 5 use 60 of the 64 features."""
    layer = attention(129, 64, 60) + feed_forward(129, 64, 256)
    return list(accumulate([linear(129, 16, 64)] + [layer] * 12))


def lwm11(antennas: int, subcarriers: int) -> list[int]:
    """LWM 1.1: a token for each 4 x 4 of the padded channel, and CLS."""
    tokens = 1 + ceil(antennas / 4) * ceil(subcarriers / 4)
    layer = attention(tokens, 128, 128) + feed_forward(tokens, 128, 512)
    return list(accumulate([linear(tokens, 32, 128)] + [layer] * 12))


def wavesfm_blocks(embedding: int, tokens: int, width: int, depth: int) -> list[int]:
    """What all blocks take behind the embedding of the tokens, to which CLS comes for free."""
    block = attention(1 + tokens, width, width) + feed_forward(1 + tokens, width, 4 * width)
    return [embedding + number * block for number in range(1, depth + 1)]


def wavesfm_iq(antennas: int, time: int, width: int = 128, depth: int = 4, cap: int = 1024) -> list[int]:
    """A token per antenna and segment of 16 samples, the last one padded; whole segments up to the cap."""
    tokens = antennas * min(ceil(time / 16), cap // antennas)
    return wavesfm_blocks(convolution(tokens, 16, 2, width), tokens, width, depth)


def wavesfm_vision(height: int, width: int, channels: int | None) -> list[int]:
    """A token per 16 x 16 pixels; with an adapter, every pixel's channels become one first."""
    patches = (height // 16) * (width // 16)
    adapter = 0 if channels is None else convolution(height * width, 1, channels, 1)
    return wavesfm_blocks(adapter + convolution(patches, 16 * 16, 1, 128), patches, 128, 4)


@pytest.mark.parametrize("shape", [(4, 256), (1, 64), (90, 100), (3, 101)])
def test_iq_shufflenet(shape: tuple[int, int]) -> None:
    assert counted(IQShuffleNet, (2, *shape)) == shufflenet(*shape)


@pytest.mark.parametrize("shape", [(4, 256), (1, 64), (8, 1024), (3, 101)])
def test_iq_resnet(shape: tuple[int, int]) -> None:
    assert counted(IQResNet, (2, *shape)) == resnet(*shape)


@pytest.mark.parametrize("shape", [(4, 256), (1, 64), (8, 1024), (3, 101)])
def test_iq_resnets_with_separable_mixing(shape: tuple[int, int]) -> None:
    assert counted(IQResNetSmall, (2, *shape)) == separable_resnet(*shape, (24, 32, 48, 96, 160), (2, 2, 2))
    assert counted(IQResNetBase, (2, *shape)) == separable_resnet(*shape, (32, 56, 96, 160, 256), (4, 4, 3))


@pytest.mark.parametrize("shape", [(1, 128), (1, 1024), (4, 256), (3, 101)])
def test_amc_ssl(shape: tuple[int, int]) -> None:
    assert counted(AmcSsl, (2, *shape)) == amc_ssl(*shape)


def test_lwm_takes_one_shape() -> None:
    assert counted(LWM, (2, 32, 32)) == lwm()


@pytest.mark.parametrize("shape", [(32, 32), (8, 64), (5, 7), (1, 1), (128, 64)])
def test_lwm_11(shape: tuple[int, int]) -> None:
    assert counted(LWM11, (2, *shape)) == lwm11(*shape)


@pytest.mark.parametrize("shape", [(4, 256), (1, 128), (3, 101), (8, 3000)])
def test_wavesfm_with_signals(shape: tuple[int, int]) -> None:
    assert counted(WavesFM, (2, *shape)) == wavesfm_iq(*shape)


@pytest.mark.parametrize(("width", "depth", "cap"), [(256, 8, 1024), (512, 12, 1024), (768, 12, 256)])
def test_wavesfm_of_other_published_sizes(width: int, depth: int, cap: int) -> None:
    for shape in ((1, 1024), (8, 600)):
        assert counted(WavesFM, (2, *shape), width=width, depth=depth) == wavesfm_iq(*shape, width, depth, cap)


@pytest.mark.parametrize("shape", [(64, 64), (16, 48), (224, 224)])
@pytest.mark.parametrize("channels", [None, 3])
def test_wavesfm_with_images(shape: tuple[int, int], channels: int | None) -> None:
    given = (channels or 1, *shape)
    assert counted(WavesFM, given, modality="vision", channels=channels) == wavesfm_vision(*shape, channels)
