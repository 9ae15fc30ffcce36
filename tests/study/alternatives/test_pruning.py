"""Structured pruning: what carries nothing goes first, what the code fixes stays, the network that was given is left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from alternatives.pruning import feed_forward_pairs, fixed_layers, kept_width, place, prune
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from offramp.encoders.iq_shufflenet import IQShuffleNet
from offramp.encoders.lwm import LWM
from offramp.encoders.registry import random_encoder
from offramp.encoders.transformer import FeedForward
from offramp.errors import EncoderError


@given(st.integers(1, 2000), st.floats(0, 1))
def test_kept_width(width: int, fraction: float):
    kept = kept_width(width, fraction)
    assert 1 <= kept <= width
    assert kept == width or kept % 16 == 0
    assert kept == width or abs(kept - (1 - fraction) * width) <= 8 or kept == 16


def squared(inputs: Tensor) -> object:
    return lambda network: network(inputs).square().mean()


def test_hidden_units_that_carry_nothing_go_and_the_answers_stay():
    torch.manual_seed(0)
    network = nn.Sequential(FeedForward(12, 64), nn.Linear(12, 3)).eval()
    dead = torch.randperm(64)[:32]
    with torch.no_grad():
        network[0].fc2.weight[:, dead] = 0
    before = copy.deepcopy(network.state_dict())
    x = torch.randn(5, 12)
    pruned = prune(network, 0.5, x, squared(torch.randn(200, 12)))
    assert [layer.weight.shape for layer in feed_forward_pairs(pruned)[0]] == [(32, 12), (12, 32)]
    torch.testing.assert_close(pruned(x), network(x))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def convolutional(width: int, dead: Tensor) -> nn.Sequential:
    """The ``dead`` channels behind the first convolution are always zero."""
    torch.manual_seed(1)
    first, norm = nn.Conv2d(2, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
    with torch.no_grad():
        norm.weight[dead] = norm.bias[dead] = 0
    body = nn.Sequential(
        first, norm, nn.ReLU(), nn.Conv2d(width, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return nn.Sequential(body, nn.Linear(16, 4)).eval()


def test_channels_that_carry_nothing_go_and_the_answers_stay():
    network = convolutional(64, torch.arange(0, 64, 2))
    x = torch.randn(3, 2, 8, 8)
    pruned = prune(network, 0.5, x, squared(torch.randn(100, 2, 8, 8)))
    assert (pruned[0][0].out_channels, pruned[0][1].num_features, pruned[0][3].in_channels) == (32, 32, 32)
    torch.testing.assert_close(pruned(x), network(x))


def test_lwm_loses_hidden_units_alone():
    encoder = random_encoder(LWM, {"layers": 2}, 0).eval()
    network = nn.Sequential(encoder.truncate("layer2"), nn.Linear(128, 3)).eval()
    x = torch.randn(2, 2, 32, 32)
    pruned = prune(network, 0.75, x, squared(x))
    assert [first.out_features for first, _ in feed_forward_pairs(pruned)] == [64, 64]
    assert pruned(x).shape == (2, 3)
    assert [first.out_features for first, _ in feed_forward_pairs(encoder)] == [256, 256]


def test_what_a_channel_shuffle_fixes_stays():
    encoder = random_encoder(IQShuffleNet, {"channels": [32, 64, 64, 64, 64], "repeats": [2, 1, 1]}, 0).eval()
    network = nn.Sequential(encoder.truncate("stage2.1"), nn.Linear(64, 3)).eval()
    x = torch.randn(2, 2, 1, 64)
    fixed = fixed_layers(network, x)
    assert "0.prefix.stages.main.5" in fixed  # its output is interleaved with the other half
    assert "0.prefix.stages.main.0" not in fixed  # it stays inside the unit
    pruned = prune(network, 0.5, x, squared(x))
    assert pruned(x).shape == (2, 3)
    named = dict(pruned.named_modules())
    assert {layer.out_channels for name, layer in named.items() if place(name) in fixed} == {32}
    assert named["0.prefix.stages.2.main.0"].out_channels == 16


class Rigid(nn.Module):
    """Counts on eight channels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).view(x.shape[0], 8, -1).mean(2)


def test_no_free_width():
    network = nn.Sequential(Rigid(), nn.Linear(8, 3)).eval()
    x = torch.randn(2, 2, 4, 4)
    with pytest.raises(EncoderError, match="leaves no width free"):
        prune(network, 0.5, x, squared(x))
