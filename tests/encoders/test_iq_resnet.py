"""IQ-ResNet: its size, its exits, the map it leaves of any window, its stages against plain references, and what survives mixing."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from offramp.costs import exit_costs
from offramp.encoders.base import StagedEncoder
from offramp.encoders.check import check_encoder
from offramp.encoders.iq_resnet import IQResNet, MixingUnit, ResidualUnit
from offramp.encoders.registry import load_encoder
from offramp.encoders.storage import save_encoder
from offramp.export import fold_batchnorm
from offramp.export.graph import onnx_bytes, open_session

NAMES = ["stem", "mixing", *(f"stage{stage}.{unit}" for stage in (1, 2, 3) for unit in (0, 1))]
WIDTHS = [24, 32, 64, 64, 96, 96, 160, 160]


@cache
def full() -> StagedEncoder:
    return load_encoder("iq-resnet", weights="random").eval()


@cache
def tiny() -> IQResNet:
    encoder = load_encoder("iq-resnet", weights="random", channels=[8, 8, 8, 12, 16], repeats=[2, 2, 2]).eval()
    assert isinstance(encoder, IQResNet)
    return settled(encoder)


@cache
def tiny_separable() -> IQResNet:
    encoder = load_encoder("iq-resnet-small", weights="random", channels=[6, 8, 8, 12, 16]).eval()
    assert isinstance(encoder, IQResNet)
    return settled(encoder)


def settled(module: nn.Module) -> nn.Module:
    """With parameters and statistics of BatchNorm that change what passes, as after training."""
    generator = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return module


def window(antennas: int, samples: int, count: int = 2) -> Tensor:
    return torch.randn(count, 2, antennas, samples, generator=torch.Generator().manual_seed(antennas * 1000 + samples))


def params_by_hand() -> list[int]:
    """Convolution weights and two numbers per channel of a BatchNorm, cumulated over stem, mixing and six units."""
    sizes = [2 * 24 * 7 + 2 * 24, 24 * 32 * 9 + 2 * 32]
    for inputs, width in ((32, 64), (64, 96), (96, 160)):
        side = inputs * width + 2 * width
        first = inputs * width * 3 + 2 * width
        plain = width * width * 3 + 2 * width
        sizes += [side + first + plain, plain + plain]
    return [sum(sizes[: i + 1]) for i in range(len(sizes))]


def test_exits_and_parameters() -> None:
    assert [e.name for e in full().exits] == NAMES
    assert [e.width for e in full().exits] == WIDTHS
    assert [e.params for e in full().exits] == params_by_hand()
    assert params_by_hand()[-1] == pytest.approx(455_000, rel=0.005)


@pytest.mark.parametrize("shape", [(2, 1, 64), (2, 1, 128), (2, 3, 100), (2, 4, 256), (2, 8, 1024)])
def test_the_contract_holds_for_windows_of_any_size(shape: tuple[int, ...]) -> None:
    check_encoder(tiny(), shape)


@pytest.mark.parametrize("shape", [(2, 1, 64), (2, 3, 100), (2, 4, 256)])
def test_the_contract_holds_with_separable_mixing(shape: tuple[int, ...]) -> None:
    check_encoder(tiny_separable(), shape)


def test_mixing_units_are_exits() -> None:
    names = [exit.name for exit in tiny_separable().exits]
    assert names == ["stem", "mixing.0", "mixing.1", *NAMES[2:]]
    with torch.no_grad():
        states = tiny_separable().states(window(3, 70))
    assert [tuple(states[name].shape[1:]) for name in names[:4]] == [(6, 3, 35), (8, 3, 18), (8, 1, 18), (8, 1, 9)]


def shares(encoder: StagedEncoder) -> list[float]:
    """Of the operations at every exit, with 4 antennas and 256 samples."""
    macs = [cost.macs for cost in exit_costs(encoder, (2, 4, 256), measure=False).values()]
    return [each / macs[-1] for each in macs]


@pytest.mark.parametrize(
    ("name", "params", "exits"), [("iq-resnet-small", 426_000, 9), ("iq-resnet-base", 1_975_600, 14)]
)
def test_there_are_useful_exits_before_a_quarter_of_the_operations(name: str, params: int, exits: int) -> None:
    encoder = load_encoder(name, weights="random")
    assert encoder.exits[-1].params == pytest.approx(params, rel=0.005)
    assert len(shares(encoder)) == exits
    for wanted in (0.05, 0.10, 0.15, 0.20):
        assert min(abs(share - wanted) for share in shares(encoder)) < 0.04


def test_exits_of_the_base_size_cost_nearly_the_same() -> None:
    steps = [after - before for before, after in pairwise(shares(load_encoder("iq-resnet-base", weights="random")))]
    assert max(steps) < 0.13
    assert min(steps[2:]) > 0.05


def test_weights_from_before_there_were_mixing_units_are_todays_network(tmp_path: Path) -> None:
    save_encoder(tiny(), tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["config"].pop("mixing_units") == 0
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert load_encoder(tmp_path).fingerprint() == tiny().fingerprint()


def positions(antennas: int, samples: int, exit: str) -> tuple[int, int]:
    """Height and width of the map: time shrinks to a half at the stem, at mixing and at every stage."""
    halvings = {"stem": 1, "mixing": 2}.get(exit) or 2 + int(exit[5])
    return antennas if exit == "stem" else 1, ceil(samples / 2**halvings)


@settings(max_examples=25, deadline=None)
@given(antennas=st.integers(1, 9), samples=st.integers(64, 150))
@example(antennas=1, samples=64)
@example(antennas=64, samples=65)
def test_any_window_leaves_the_map_that_the_strides_promise(antennas: int, samples: int) -> None:
    x = window(antennas, samples)
    with torch.no_grad():
        tokens, taps, states = tiny().taps(x, pooling="tokens"), tiny().taps(x), tiny().states(x)
    for exit in tiny().exits:
        height, width = positions(antennas, samples, exit.name)
        assert states[exit.name].shape == (2, exit.width, height, width), exit.name
        assert tokens[exit.name].shape == (2, height * width, exit.width), exit.name
        torch.testing.assert_close(tokens[exit.name].mean(1), taps[exit.name])


def test_tokens_of_the_stem_come_antenna_by_antenna() -> None:
    with torch.no_grad():
        x = window(3, 64)
        state, tokens = tiny().states(x, ["stem"])["stem"], tiny().taps(x, ["stem"], pooling="tokens")["stem"]
    assert torch.equal(tokens[:, 32 * 2 + 5], state[:, :, 2, 5])


def test_behind_mixing_cost_does_not_grow_with_antennas() -> None:
    one, eight = (exit_costs(full(), (2, antennas, 128), measure=False) for antennas in (1, 8))
    for name in NAMES[2:]:
        assert one[name].macs - one["mixing"].macs == eight[name].macs - eight["mixing"].macs
    assert eight["mixing"].macs == 8 * one["mixing"].macs == 8 * (64 * 2 * 24 * 7 + 32 * 24 * 32 * 9)


def normalise(norm: nn.Module, x: Tensor) -> Tensor:
    """BatchNorm in evaluation mode as it is written, over ``(N, channels, time)``."""
    assert isinstance(norm, nn.BatchNorm2d)
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return (x - norm.running_mean[:, None]) * scale[:, None] + norm.bias[:, None]


def test_the_stem_sees_one_antenna_at_a_time() -> None:
    convolution, norm, _ = tiny().stages[0]
    with torch.no_grad():
        (scaled,) = tiny().begin(window(3, 70))
        found = tiny().states(window(3, 70), ["stem"])["stem"]
        for antenna in range(3):
            plain = functional.conv1d(scaled[:, :, antenna], convolution.weight[:, :, 0], None, stride=2, padding=3)
            torch.testing.assert_close(found[:, :, antenna], normalise(norm, plain).clamp_min(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("antennas", [1, 2, 5])
def test_mixing_convolves_neighbours_rectifies_and_only_then_averages(antennas: int) -> None:
    convolution, norm, *_ = tiny().stages[1]
    x = window(antennas, 64)
    with torch.no_grad():
        stem, found = (tiny().states(x, [name])[name] for name in ("stem", "mixing"))
        beams = []
        for centre in range(antennas):
            beam = sum(
                functional.conv1d(stem[:, :, centre + offset], convolution.weight[:, :, offset + 1], None, 2, padding=1)
                for offset in (-1, 0, 1)
                if 0 <= centre + offset < antennas
            )
            beams.append(normalise(norm, beam).clamp_min(0))
    torch.testing.assert_close(found[:, :, 0], torch.stack(beams).mean(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("inputs", "stride"), [(8, 1), (6, 1), (6, 2)])
def test_a_mixing_unit_filters_each_channel_over_neighbours_and_then_mixes_channels(inputs: int, stride: int) -> None:
    torch.manual_seed(0)
    unit = settled(MixingUnit(inputs, 8, stride)).eval()
    x = torch.randn(3, inputs, 4, 9)
    pointwise, norm = unit.channels
    with torch.no_grad():
        weight = unit.neighbours.weight
        rows = []
        for centre in range(4):
            filtered = [
                functional.conv1d(
                    x[:, c, None, centre + offset], weight[c, :, offset + 1][None], None, stride, padding=1
                )
                for c in range(inputs)
                for offset in (-1, 0, 1)
                if 0 <= centre + offset < 4
            ]
            each = len(filtered) // inputs
            by_channel = [torch.stack(filtered[c * each : (c + 1) * each]).sum(0) for c in range(inputs)]
            mixed = torch.einsum("oc,nct->not", pointwise.weight[:, :, 0, 0], torch.cat(by_channel, 1))
            mixed = normalise(norm, mixed) + (x[:, :, centre] if (inputs, stride) == (8, 1) else 0)
            rows.append(mixed.clamp_min(0))
        torch.testing.assert_close(unit(x), torch.stack(rows, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("inputs", "stride"), [(8, 1), (6, 1), (6, 2)])
def test_a_unit_equals_the_plain_reference(inputs: int, stride: int) -> None:
    torch.manual_seed(0)
    unit = settled(ResidualUnit(inputs, 8, stride)).eval()
    x = torch.randn(3, inputs, 1, 9)
    first, first_norm, _, second, second_norm = unit.main
    with torch.no_grad():
        main = functional.conv1d(x[:, :, 0], first.weight[:, :, 0], None, stride, padding=1)
        main = functional.conv1d(normalise(first_norm, main).clamp_min(0), second.weight[:, :, 0], None, padding=1)
        side = x[:, :, 0]
        if unit.side is not None:
            projection, side_norm = unit.side
            side = normalise(side_norm, functional.conv1d(side, projection.weight[:, :, 0], None, stride))
        ours, expected = unit(x), (normalise(second_norm, main) + side).clamp_min(0)
    assert (unit.side is None) == (inputs == 8)
    assert ours.shape == (3, 8, 1, ceil(9 / stride))
    torch.testing.assert_close(ours[:, :, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "mixing", "least"), [("iq-resnet", "mixing", 0.95), ("iq-resnet-small", "mixing.1", 0.85)]
)
def test_the_direction_of_arrival_outlives_mixing(name: str, mixing: str, least: float) -> None:
    """Noise from +-20 degrees on four antennas half a wavelength apart: each antenna by itself hears the same."""
    rng = np.random.default_rng(0)
    side = np.tile([-1, 1], 150)
    phase = np.pi * np.sin(np.radians(20)) * side[:, None] * np.arange(4)
    noise = rng.standard_normal((300, 1, 64)) + 1j * rng.standard_normal((300, 1, 64))
    signal = noise * np.exp(1j * phase)[:, :, None]
    x = torch.from_numpy(np.stack([signal.real, signal.imag], axis=1)).float()
    with torch.no_grad():
        encoder = load_encoder(name, weights="random").eval()
        taps = {name: tap.double().numpy() for name, tap in encoder.taps(x, ["stem", mixing]).items()}

    def accuracy(tap: np.ndarray) -> float:
        tap = np.c_[(tap - tap.mean(0)) / (tap.std(0) + 1e-9), np.ones(300)]
        train, test = tap[:200], tap[200:]
        weights = np.linalg.solve(train.T @ train + 10 * np.eye(tap.shape[1]), train.T @ side[:200])
        return float(np.mean(np.sign(test @ weights) == side[200:]))

    assert accuracy(taps["stem"]) < 0.65
    assert accuracy(taps[mixing]) > least


@pytest.mark.parametrize("encoder", [tiny, tiny_separable])
def test_all_batchnorm_folds_away(encoder: Callable[[], IQResNet]) -> None:
    folded = fold_batchnorm(encoder())
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for name, tap in folded.taps(window(3, 100)).items():
            torch.testing.assert_close(tap, encoder().taps(window(3, 100))[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", [tiny, tiny_separable])
def test_the_exported_graph_answers_alike_for_any_batch(encoder: Callable[[], IQResNet]) -> None:
    onnx = pytest.importorskip("onnx")
    network = encoder().truncate("stage3.1")
    content = onnx_bytes(fold_batchnorm(network), (2, 3, 100), ["tap"])
    kinds = [node.op_type for node in onnx.load_from_string(content).graph.node]
    assert "BatchNormalization" not in kinds
    session = open_session(content)
    for count in (1, 5):
        x = window(3, 100, count)
        with torch.no_grad():
            expected = network(x).numpy()
        np.testing.assert_allclose(session.run(None, {"windows": x.numpy()})[0], expected, rtol=1e-4, atol=1e-5)
