"""MIMO-OFDM channels over time from the models of 3GPP TR 38.901, drawn by sionna (extra ``sim``).

One base station with a uniform linear array, half a wavelength between its antennas, vertically polarised elements with the
pattern of TR 38.901, table 7.3-1; one user with an omnidirectional antenna, moving horizontally at constant speed. The carrier is at
3.5 GHz. The channel is taken at 32 frequencies that divide 10 MHz equally, once per slot of 0.5 ms: that of 30 kHz subcarrier spacing,
which is usual at this carrier. At 120 km/h the Doppler shift reaches 389 Hz. The next slot is then within the coherence time and
four slots are beyond it, while at 3 km/h hardly anything changes.

* ``cdl-a`` to ``cdl-c`` (no line of sight), ``cdl-d``, ``cdl-e`` (line of sight): link-level models, section 7.7.1. The angles are those
  of the tables, turned by the direction of the user; the delay spread is drawn.
* ``umi-nlos``, ``umi-los``: street canyon, section 7.5. The base station is 10 m high, the user outdoors at 1.5 m. Base station and
  user share a clock, so that delays include the propagation delay.

Sources: 3GPP TR 38.901; sionna (https://nvlabs.github.io/sionna). No spatial consistency: over the 2 cm to 1.3 m of a drop, angles and
delays stay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, get_args

import torch
from torch import Generator, Tensor

from offramp.errors import DataError
from offramp.schema.tasks import ChannelModel
from offramp.simulation.draws import integers, log_uniform, uniform

CARRIER_HZ = 3.5e9
SLOT_SECONDS = 0.5e-3
BANDWIDTH_HZ = 10e6
SUBCARRIERS = 32
DELAY_SPREAD = (30e-9, 300e-9)
"""RMS delay spread of the CDL models in seconds: from "short" to "long" of TR 38.901, table 7.7.3-1."""
MAX_ANGLE = math.radians(60)
"""Users are in the sector of the base station, up to 60 degrees from broadside."""
DISTANCE = (10.0, 200.0)
"""From the base station on the ground, metres; users are equally dense everywhere in the sector."""
BASE_STATION_HEIGHT, USER_HEIGHT = 10.0, 1.5
SPEED_OF_LIGHT = 299_792_458.0
MODELS: tuple[ChannelModel, ...] = get_args(ChannelModel)


@dataclass(frozen=True)
class Drops:
    """Users moving along tracks.

    Attributes:
        channel: complex64 ``(n, slots, antennas, 32)``; its scale means nothing.
        location: Where the user is on the ground, metres, float32 ``(n, 2)``: ahead of the array and to its left. NaN for CDL models,
            which have no geometry.
    """

    channel: Tensor
    location: Tensor


def simulate_drops(model: ChannelModel, speed: Tensor, antennas: int, slots: int, generator: Generator) -> Drops:
    """One drop of a model for every speed.

    Args:
        model: One of ``MODELS``.
        speed: Metres per second, float32 ``(n,)``; every user heads in a random direction.
        antennas: Of the base station.
        slots: How many, one after another.
        generator: Source of all randomness, sionna's included.

    Raises:
        DataError: sionna is not installed.
    """
    tr38901 = _sionna("sionna.phy.channel.tr38901")
    config = _sionna("sionna.phy").config
    count = len(speed)
    heading = uniform(-math.pi, math.pi, (count,), generator)
    velocity = torch.stack((speed * heading.cos(), speed * heading.sin(), torch.zeros(count)), dim=1)
    direction = uniform(-MAX_ANGLE, MAX_ANGLE, (count,), generator)
    # sionna seeds torch's own generator too, which is not ours to change
    with torch.random.fork_rng(devices=[]):
        config.seed = int(integers(2**31, (1,), generator))
        arrays = _arrays(tr38901, antennas)
        if model.startswith("cdl"):
            spread = log_uniform(*DELAY_SPREAD, (count,), generator)
            return _cdl(tr38901, model, arrays, velocity, direction, spread, slots)
        low, high = DISTANCE
        distance = uniform(low**2, high**2, (count,), generator).sqrt()
        location = distance[:, None] * torch.stack((direction.cos(), direction.sin()), dim=1)
        return _umi(tr38901, model == "umi-los", arrays, velocity, location, slots)


def _cdl(
    tr38901: ModuleType,
    model: str,
    arrays: dict[str, Any],
    velocity: Tensor,
    direction: Tensor,
    spread: Tensor,
    slots: int,
) -> Drops:
    turned = torch.zeros(len(velocity), 3)
    turned[:, 0] = -direction
    cdl = tr38901.CDL(
        model[-1].upper(),
        delay_spread=1.0,
        carrier_frequency=CARRIER_HZ,
        direction="downlink",
        ut_velocity=velocity,
        bs_orientation=turned,
        device="cpu",
        **arrays,
    )
    gains, delays = cdl(len(velocity), slots, 1 / SLOT_SECONDS)
    channel = _frequency_response(gains, delays[:, 0, 0] * spread[:, None])
    return Drops(channel, torch.full((len(velocity), 2), math.nan))


def _umi(
    tr38901: ModuleType, line_of_sight: bool, arrays: dict[str, Any], velocity: Tensor, location: Tensor, slots: int
) -> Drops:
    count = len(velocity)
    umi = tr38901.UMi(
        CARRIER_HZ,
        o2i_model="low",
        direction="downlink",
        enable_pathloss=False,
        enable_shadow_fading=False,
        device="cpu",
        **arrays,
    )
    user = torch.cat((location, torch.full((count, 1), USER_HEIGHT)), dim=1)
    base_station = torch.tensor([0.0, 0.0, BASE_STATION_HEIGHT]).expand(count, 3)
    umi.set_topology(
        ut_loc=user[:, None],
        bs_loc=base_station[:, None],
        ut_orientations=torch.zeros(count, 1, 3),
        bs_orientations=torch.zeros(count, 1, 3),
        ut_velocities=velocity[:, None],
        in_state=torch.zeros(count, 1, dtype=torch.bool),
        los=line_of_sight,
    )
    gains, delays = umi(slots, 1 / SLOT_SECONDS)
    propagation = (user - base_station).norm(dim=1, keepdim=True) / SPEED_OF_LIGHT
    return Drops(_frequency_response(gains, delays[:, 0, 0] + propagation), location)


def _frequency_response(gains: Tensor, delays: Tensor) -> Tensor:
    """Paths ``(n, 1, 1, 1, antennas, paths, slots)`` with delays ``(n, paths)`` to the channel ``(n, slots, antennas, 32)``."""
    frequency = (torch.arange(SUBCARRIERS) - (SUBCARRIERS - 1) / 2) * (BANDWIDTH_HZ / SUBCARRIERS)
    turns = delays[:, :, None] * frequency
    rotation = torch.polar(torch.ones_like(turns), -2 * math.pi * turns)
    return torch.einsum("napt,npf->ntaf", gains[:, 0, 0, 0], rotation)


def _arrays(tr38901: ModuleType, antennas: int) -> dict[str, Any]:
    common = {
        "num_rows_per_panel": 1,
        "polarization": "single",
        "polarization_type": "V",
        "carrier_frequency": CARRIER_HZ,
        "device": "cpu",
    }
    return {
        "bs_array": tr38901.PanelArray(num_cols_per_panel=antennas, antenna_pattern="38.901", **common),
        "ut_array": tr38901.PanelArray(num_cols_per_panel=1, antenna_pattern="omni", **common),
    }


def _sionna(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise DataError("channels are drawn by sionna, which is not installed: pip install offramp[sim]") from error
