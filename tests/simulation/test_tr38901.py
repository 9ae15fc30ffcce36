"""Simulated channels against closed formulas on the tables of TR 38.901."""

from __future__ import annotations

import math
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy.special import j0

from offramp.errors import DataError
from offramp.simulation import tr38901
from offramp.simulation.draws import seeded
from offramp.simulation.tr38901 import (
    BANDWIDTH_HZ,
    BASE_STATION_HEIGHT,
    CARRIER_HZ,
    MODELS,
    SLOT_SECONDS,
    SPEED_OF_LIGHT,
    SUBCARRIERS,
    USER_HEIGHT,
    simulate_drops,
)

needs_sionna = pytest.mark.skipif(find_spec("sionna") is None, reason="sionna is not installed")
HALF = [0.0447, 0.1413, 0.2492, 0.3715, 0.5129, 0.6797, 0.8844, 1.1481, 1.5195, 2.1551]
OFFSETS = np.outer(HALF, [1, -1]).ravel()
"""Table 7.5-3: angles of the 20 rays of a cluster whose spread is 1 degree."""


def drops(model: str, count: int, speed: float = 30.0, antennas: int = 2, slots: int = 8, seed: int = 0) -> np.ndarray:
    assert model in MODELS
    return simulate_drops(model, torch.full((count,), speed), antennas, slots, seeded(seed, 0)).channel.numpy()


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> float:
    """Users straight ahead, one delay spread, so that closed formulas hold; the delay spread."""
    monkeypatch.setattr(tr38901, "MAX_ANGLE", 0.0)
    monkeypatch.setattr(tr38901, "DELAY_SPREAD", (100e-9, 100e-9))
    return 100e-9


def table(model: str) -> dict[str, np.ndarray]:
    """Clusters of a model without line of sight: delay in delay spreads, mean power behind the element pattern, zenith of arrival.

    The pattern is that of table 7.3-1, its maximum aside. Departure angles in azimuth and zenith are coupled at random, so that the mean
    over both spreads counts.
    """
    from sionna.phy.channel.tr38901 import models

    stored = models.load_json(models.parameter_file(f"CDL-{model}.json", "19.2"))
    azimuth = np.array(stored["aod"])[:, None, None] + stored["cASD"] * OFFSETS[:, None]
    zenith = np.array(stored["zod"])[:, None, None] + stored["cZSD"] * OFFSETS
    azimuth = (azimuth + 180) % 360 - 180
    horizontal = np.minimum(12 * (azimuth / 65) ** 2, 30)
    vertical = np.minimum(12 * ((zenith - 90) / 65) ** 2, 30)
    pattern = 10 ** (-np.minimum(horizontal + vertical, 30) / 10)
    power = 10 ** (np.array(stored["powers"]) / 10) * pattern.mean((1, 2))
    arrival = np.array(stored["zoa"])[:, None] + stored["cZSA"] * OFFSETS
    return {"delay": np.array(stored["delays"]), "power": power / power.sum(), "arrival": np.deg2rad(arrival)}


@needs_sionna
@pytest.mark.parametrize("model", ["a", "b", "c"])
def test_correlation_over_time_is_that_of_the_doppler(model: str, fixed: float) -> None:
    """A uniform heading makes each ray's autocorrelation J0(2 pi f_D lag sin(zenith)), whatever its azimuth."""
    speed = 120 / 3.6
    channel = drops(f"cdl-{model}", 1500, speed)
    measured = (channel[:, :1].conj() * channel).mean((0, 2, 3))
    known = table(model.upper())
    phase = 2 * np.pi * speed * CARRIER_HZ / SPEED_OF_LIGHT * SLOT_SECONDS * np.arange(8)
    rays = j0(phase[:, None, None] * np.sin(known["arrival"])).mean(-1)
    expected = rays @ known["power"]
    assert np.abs(measured / measured[0] - expected).max() < 0.06
    assert abs(expected).min() < 0.2, "within the window the channel changes"


@needs_sionna
@pytest.mark.parametrize("model", ["a", "b", "c"])
def test_correlation_over_frequency_is_that_of_the_delays(model: str, fixed: float) -> None:
    channel = drops(f"cdl-{model}", 1500, slots=1)
    measured = (channel[..., :1].conj() * channel).mean((0, 1, 2))
    known = table(model.upper())
    spacing = BANDWIDTH_HZ / SUBCARRIERS * np.arange(SUBCARRIERS)
    expected = np.exp(-2j * np.pi * spacing[:, None] * known["delay"] * fixed) @ known["power"]
    assert np.abs(measured / measured[0] - expected).max() < 0.08


@needs_sionna
def test_lines_of_sight_fade_less() -> None:
    def fading(model: str) -> float:
        power = np.square(np.abs(drops(model, 300, antennas=2, slots=1)))[:, 0]
        return float((power.std((1, 2)) / power.mean((1, 2))).mean())

    assert max(fading("cdl-d"), fading("umi-los")) < 0.75 * min(fading("cdl-a"), fading("umi-nlos"))


@needs_sionna
def test_slow_users_keep_their_channel_and_fast_ones_lose_it() -> None:
    """Clean persistence over four slots, by hand: 2 (1 - J0(2 pi f_D 2 ms)) is -21 dB at 3 km/h and above 0 dB at 120 km/h."""

    def lost(speed_kmh: float) -> float:
        channel = drops("cdl-c", 300, speed_kmh / 3.6, slots=5)
        error = np.square(np.abs(channel[:, 4] - channel[:, 0])).sum() / np.square(np.abs(channel[:, 4])).sum()
        return float(10 * np.log10(error))

    assert -26 < lost(3) < -18
    assert lost(120) > 0


@needs_sionna
def test_the_array_and_the_clock_tell_where_the_user_is() -> None:
    made = simulate_drops("umi-los", torch.full((200,), 1.0), 16, 1, seeded(1, 0))
    channel, location = made.channel[:, 0].numpy(), made.location.numpy()
    distance = np.hypot(*location.T)
    assert (distance >= 10).all()
    assert (distance <= 200).all()
    azimuth = np.arctan2(location[:, 1], location[:, 0])
    assert np.abs(azimuth).max() <= math.radians(60) + 1e-6
    neighbours = np.angle((channel[:, :-1].conj() * channel[:, 1:]).sum((1, 2)))
    three_dimensional = np.hypot(distance, BASE_STATION_HEIGHT - USER_HEIGHT)
    error = neighbours / np.pi - np.sin(azimuth) * distance / three_dimensional
    assert np.median(np.abs(error)) < 0.03
    step = np.angle((channel[..., :-1].conj() * channel[..., 1:]).sum((1, 2)))
    delay = -step / (2 * np.pi * BANDWIDTH_HZ / SUBCARRIERS)
    assert np.median(np.abs(delay * SPEED_OF_LIGHT - three_dimensional)) < 5
    assert (delay * SPEED_OF_LIGHT > three_dimensional - 1).mean() > 0.9, "other paths are longer"


@needs_sionna
def test_models_of_links_have_no_location() -> None:
    assert simulate_drops("cdl-a", torch.ones(2), 2, 1, seeded(0, 0)).location.isnan().all()


@needs_sionna
def test_a_seed_is_a_channel_and_the_callers_randomness_is_left_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first = drops("umi-nlos", 3)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(drops("umi-nlos", 3), first)
    assert not np.array_equal(drops("umi-nlos", 3, seed=1), first)


def test_without_sionna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sionna.phy.channel.tr38901", None)
    with pytest.raises(DataError, match=r"pip install offramp\[sim\]"):
        drops("cdl-a", 1)
