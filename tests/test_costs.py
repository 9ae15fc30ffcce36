"""Costs: heads, batch axes, latency and bad input; the MACs of every encoder are in tests/encoders/test_macs.py."""

import time

import numpy as np
import pytest
import torch
from bundles import small_shufflenet
from torch import nn

from offramp.costs import exit_costs, measure_latency, time_interleaved
from offramp.errors import EncoderError
from offramp.heads.modules import TokenHead


def test_every_exit_is_counted_in_order_of_depth():
    encoder = small_shufflenet()
    costs = exit_costs(encoder, (2, 3, 100), measure=False)
    assert list(costs) == [exit.name for exit in encoder.exits]
    assert [cost.params for cost in costs.values()] == [exit.params for exit in encoder.exits]
    assert all(cost.latency_ms is None for cost in costs.values())


def test_grouped_convolutions_count_by_group():
    encoder = small_shufflenet()
    depthwise = 8 * 9  # stage 2's first unit: 8 channels in, a 3 x 3 kernel each, on 1 x 16 positions
    stem, unit = list(exit_costs(encoder, (2, 1, 64), measure=False).values())[:2]
    pointwise_side, entry, pointwise_main = 16 * 4 * 8, 32 * 4 * 8, 16 * 4 * 4
    assert unit.macs - stem.macs == 16 * depthwise + pointwise_side + entry + 16 * 4 * 9 + pointwise_main


def test_heads_are_counted_and_a_batch_axis_of_one_is_accepted():
    encoder = small_shufflenet()
    head = nn.Sequential(nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))
    plain = exit_costs(encoder, (1, 2, 2, 64), measure=False)
    costs = exit_costs(encoder, (2, 2, 64), {"stem": head}, measure=False)
    assert costs["stem"].macs - plain["stem"].macs == 8 * 7 + 7 * 3
    assert costs["stem"].params - plain["stem"].params == 8 * 7 + 7 + 7 * 3 + 3
    assert costs["conv5"] == plain["conv5"]


def test_a_head_on_tokens_counts_at_every_position():
    encoder = small_shufflenet()
    positions = {
        name: tokens.shape[1] for name, tokens in encoder.taps(torch.zeros(1, 2, 2, 64), pooling="tokens").items()
    }
    layers = {exit.name: nn.Linear(exit.width, 128 // positions[exit.name]) for exit in encoder.exits}
    heads = {name: TokenHead(layer, np.arange(128).reshape(positions[name], -1)) for name, layer in layers.items()}
    plain = exit_costs(encoder, (2, 2, 64), measure=False)
    costs = exit_costs(encoder, (2, 2, 64), heads, seconds=0.001, pooling="tokens")
    for exit in encoder.exits:
        values = 128 // positions[exit.name]
        assert costs[exit.name].macs - plain[exit.name].macs == positions[exit.name] * exit.width * values
        assert costs[exit.name].params - plain[exit.name].params == exit.width * values + values
        assert costs[exit.name].latency_ms is not None
    assert len(set(positions.values())) > 2


def test_latency_leaves_encoder_and_threads_as_they_were():
    encoder = small_shufflenet().train()
    before, threads = encoder.fingerprint(), torch.get_num_threads()
    costs = exit_costs(encoder, (2, 1, 64), {"stem": nn.Linear(8, 3)}, seconds=0.01)
    for cost in costs.values():
        assert cost.latency_ms is not None
        assert 0 < cost.latency_ms.p50 <= cost.latency_ms.p95 <= cost.latency_ms.p99
    assert (encoder.fingerprint(), encoder.training, torch.get_num_threads()) == (before, True, threads)


def test_latency_is_in_milliseconds_and_calls_alternate():
    order: list[str] = []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    calls = {"a": lambda: call("a", 0.002), "b": lambda: call("b", 0)}
    assert 2 <= measure_latency(calls, seconds=0, repeats=5)["a"].p50 < 20
    order.clear()
    times = time_interleaved(calls, seconds=0, repeats=5)
    rounds = [order[i : i + 2] for i in range(len(order) - 10, len(order), 2)]
    assert all(sorted(each) == ["a", "b"] for each in rounds)
    assert rounds.count(["a", "b"]) not in (0, 5)
    assert times["a"].shape == (5,)


@pytest.mark.parametrize(
    ("shape", "heads", "message"),
    [
        ((2, 1, 63), {}, r"this encoder takes \(N, 2, antennas >= 1, time >= 64\)"),
        ((2, 2, 1, 64), {}, "does not fit"),
        ((2, 1, 64), {"stage9": nn.Linear(1, 1)}, "unknown exit 'stage9'"),
        ((2, 1, 64), {"stem": nn.Linear(9, 1)}, "does not take taps of width 8"),
    ],
)
def test_bad_input(shape: tuple[int, ...], heads: dict[str, nn.Module], message: str):
    with pytest.raises(EncoderError, match=message):
        exit_costs(small_shufflenet(), shape, heads, measure=False)
