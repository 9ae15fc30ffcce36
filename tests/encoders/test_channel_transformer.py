"""The channel transformer: its places by index, its positions, its blocks by formula, and what a head on its tokens predicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from offramp.costs import exit_costs
from offramp.encoders.base import StagedEncoder
from offramp.encoders.channel_transformer import SLOTS, ChannelTransformer, channel_places, unit_power
from offramp.encoders.check import check_encoder
from offramp.encoders.registry import load_encoder
from offramp.errors import EncoderError


def small(seed: int = 0) -> StagedEncoder:
    return load_encoder("channel-transformer", weights="random", seed=seed, width=24, depth=2, heads=3).eval()


def channels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(2, 16, 8, 12), (2, 3, 5, 7), (2, 1, 4, 4)])
def test_keeps_the_contract(shape: tuple[int, ...]) -> None:
    check_encoder(small(), shape)


def test_a_place_holds_the_values_of_its_antennas_and_subcarriers() -> None:
    x = channels(2, 2, 3, 8, 12)
    places, grid = channel_places(x)
    assert grid == (2, 3)
    for row in range(2):
        for column in range(3):
            expected = x[:, :, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(2, -1)
            assert torch.equal(places[:, 3 * row + column], expected)


def test_missing_antennas_and_subcarriers_are_silent_ones() -> None:
    x = channels(2, 2, 3, 5, 6)
    padded = torch.zeros(2, 2, 3, 8, 8)
    padded[..., :5, :6] = x
    assert torch.equal(channel_places(x)[0], channel_places(padded)[0])


def test_a_single_channel_is_the_newest_slot_after_silence() -> None:
    x = channels(2, 2, 8, 8)
    encoder = small()
    places, _ = encoder.begin(x)
    expected, _ = channel_places(unit_power(x.unsqueeze(2)))
    assert torch.equal(places.view(2, 4, 2, SLOTS, 16)[:, :, :, -1].flatten(2), expected)
    assert not places.view(2, 4, 2, SLOTS, 16)[:, :, :, :-1].any()


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e4])
def test_the_level_of_a_channel_does_not_matter(factor: float) -> None:
    x, encoder = channels(3, 2, 4, 8, 8), small()
    with torch.no_grad():
        taps, scaled = encoder.taps(x), encoder.taps(factor * x)
    for name, tap in taps.items():
        torch.testing.assert_close(scaled[name], tap, rtol=1e-4, atol=1e-5)


def test_the_embedding_is_a_linear_map_of_a_place_and_its_position() -> None:
    encoder = small()
    x = channels(2, 2, SLOTS, 8, 8)
    weights = encoder.state_dict()
    x = x[:1] / x[:1].square().sum(1).mean().sqrt()
    with torch.no_grad():
        tokens = encoder.states(x, ["embedding"])["embedding"][0].double().numpy()
    weight, bias = (weights[f"stages.0.proj.{part}"].double().numpy() for part in ("weight", "bias"))
    for row in range(2):
        for column in range(2):
            values = x[0, :, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].double().numpy().reshape(-1)
            frequency = 10000 ** (-np.arange(6) / 6)
            position = np.concatenate([f(axis * frequency) for axis in (row, column) for f in (np.sin, np.cos)])
            np.testing.assert_allclose(tokens[2 * row + column], weight @ values + bias + position, atol=1e-5)


def test_the_default_tap_is_mean_and_deviation_of_normalised_tokens() -> None:
    encoder, x = small(), channels(3, 2, 4, 8, 12)
    with torch.no_grad():
        tap = encoder.taps(x, ["block2"])["block2"].numpy()
        tokens = encoder.states(x, ["block2"])["block2"].double().numpy()
    centred = tokens - tokens.mean(-1, keepdims=True)
    normal = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6)
    expected = np.concatenate([normal.mean(1), np.sqrt(normal.var(1) + 1e-6)], axis=1)
    np.testing.assert_allclose(tap, expected, atol=1e-5)
    assert tap.shape == (3, encoder.exits[-1].width) == (3, 48)


def test_a_target_lies_at_the_places_of_its_antennas_and_subcarriers() -> None:
    encoder = small()
    future = channels(2, 4, 8, 12)
    positions = encoder.target_positions(tuple(future.shape), 6)
    assert sorted(positions.ravel()) == list(range(future.numel()))
    flat = future.reshape(-1).numpy()
    for row in range(2):
        for column in range(3):
            expected = future[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].numpy().ravel()
            assert np.array_equal(flat[positions[3 * row + column]], expected)


@pytest.mark.parametrize(("shape", "places"), [((2, 4, 8, 12), 5), ((2, 4, 6, 16), 6), ((8,), 2), ((2, 8, 12), 6)])
def test_other_targets_are_refused(shape: tuple[int, ...], places: int) -> None:
    with pytest.raises(EncoderError, match="heads on tokens of channel-transformer predict channels"):
        small().target_positions(shape, places)


@pytest.mark.parametrize("shape", [(2, 17, 8, 8), (3, 4, 8, 8), (2, 4), (2, 4, 300, 8), (2, 1, 1, 1, 1)])
def test_other_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(EncoderError, match="this encoder takes \\(N, 2, slots >= 1 and <= 16, antennas"):
        small().taps(torch.zeros(1, *shape))


@pytest.mark.parametrize(("slots", "antennas", "subcarriers"), [(16, 16, 32), (1, 5, 9)])
def test_macs_by_hand(slots: int, antennas: int, subcarriers: int) -> None:
    encoder = load_encoder("channel-transformer", weights="random", width=24, depth=2, heads=3)
    places = -(-antennas // 4) * -(-subcarriers // 4)
    embedding = places * 2 * SLOTS * 16 * 24
    block = places * 24 * 24 * (3 + 1 + 4 + 4) + 2 * places**2 * 24
    costs = exit_costs(encoder, (2, slots, antennas, subcarriers), measure=False)
    assert [cost.macs for cost in costs.values()] == [embedding, embedding + block, embedding + 2 * block]


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(EncoderError, match="width=30"):
        ChannelTransformer(width=30)


def test_pretraining_predicts_better_than_the_last_slot() -> None:
    """A rotating phase per antenna and subcarrier, as one path with Doppler gives: the least squares head on a few hundred windows."""
    encoder = load_encoder("channel-transformer").eval()
    rng = np.random.default_rng(0)
    speed, angle, delay = rng.uniform(-0.12, 0.12, (3, 400))
    time, antenna, subcarrier = np.ogrid[:20, :8, :8]
    phase = [
        2 * np.pi * (s * time + 4 * a * antenna + d * subcarrier) for s, a, d in zip(speed, angle, delay, strict=True)
    ]
    whole = np.exp(1j * np.array(phase))
    parts = torch.from_numpy(np.stack([whole.real, whole.imag], axis=1)).float()
    with torch.no_grad():
        tokens = encoder.taps(parts[:, :, :16], ["block6"], "tokens")["block6"].double().numpy()
    target = parts[:, :, 16:].reshape(400, -1).double().numpy()[:, encoder.target_positions((2, 4, 8, 8), 4)]
    rows, goal = tokens[:300].reshape(-1, tokens.shape[2]), target[:300].reshape(-1, target.shape[2])
    design = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    weight = np.linalg.solve(design.T @ design + 1e-3 * np.eye(design.shape[1]), design.T @ goal)
    predicted = np.concatenate([tokens[300:], np.ones((*tokens[300:].shape[:2], 1))], axis=2) @ weight
    persistence = np.repeat(parts[300:, :, 15:16], 4, axis=2).reshape(100, -1).numpy()
    last = persistence[:, encoder.target_positions((2, 4, 8, 8), 4)]
    error, trivial = (np.square(guess - target[300:]).sum() for guess in (predicted, last))
    assert error < 0.2 * trivial
