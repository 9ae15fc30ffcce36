"""Labelled windows: signal type, radios, paths, direction and SNR drawn independently."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from offramp.simulation.channel import MAX_DELAY, Paths, add_noise, propagate, rician_paths, to_iq
from offramp.simulation.draws import seeded, uniform
from offramp.simulation.impairments import Receiver, draw_receivers, draw_transmitters, receive, transmit
from offramp.simulation.signal_types import NOISE, draw_kinds, transmissions

MAX_ANGLE = 60.0
"""Directions are drawn uniformly from -60 to 60 degrees."""
K_FACTOR_DB = (6.0, 20.0)
"""The line of sight is at least 6 dB above the scattered paths, so that the direction stays defined."""
SCATTERERS = 3
WINDOW_STREAM = 1 << 40
"""Keeps labelled windows apart from the views that an encoder was pretrained on, whatever the two seeds."""
ANGLE_SECTORS = 8
"""The angle task as classes: equal sectors of 15 degrees."""


@dataclass(frozen=True)
class SyntheticWindows:
    """Simulated received windows with all that is known about them.

    Attributes:
        iq: float32 ``(N, 2, antennas, samples)``.
        modulation: int64 ``(N,)``, index into ``SIGNAL_TYPES``.
        angle: float32 ``(N,)``, direction of the line of sight in degrees from broadside; without meaning for noise.
        snr_db: float32 ``(N,)``; without meaning for noise.
    """

    iq: Tensor
    modulation: Tensor
    angle: Tensor
    snr_db: Tensor

    @property
    def sector(self) -> Tensor:
        """int64 ``(N,)``: which of the equal sectors the angle lies in; -1 for noise, which comes from nowhere."""
        sector = ((self.angle + MAX_ANGLE) / (2 * MAX_ANGLE) * ANGLE_SECTORS).long().clamp(0, ANGLE_SECTORS - 1)
        return sector.masked_fill(self.modulation == NOISE, -1)


def synthetic_windows(
    count: int,
    antennas: int,
    samples: int,
    snr_db: tuple[float, float],
    seed: int,
    block: int = 0,
    with_noise: bool = True,
) -> SyntheticWindows:
    """Draw windows: signal type, radios, paths, direction and SNR independently and uniformly.

    Args:
        count: Windows.
        antennas: Antennas of the array.
        samples: Length of a window.
        snr_db: Range of the SNR in the whole sampled band.
        seed: Of the data set.
        block: Numbers independent blocks of one data set, so that a large set is made piece by piece and any piece again.
        with_noise: Whether noise alone is one of the signal types; leave it out where the direction is asked for.
    """
    generator = seeded(seed, block + WINDOW_STREAM)
    modulation = draw_kinds(count, generator, with_noise)
    sent = transmissions(modulation, MAX_DELAY + samples, generator)
    signal = transmit(sent.signal, draw_transmitters(count, generator))
    angle, paths = line_of_sight(count, generator)
    snr = uniform(*snr_db, (count,), generator)
    iq = received(signal, paths, draw_receivers(count, generator), antennas, snr, generator)
    return SyntheticWindows(iq, modulation, angle, snr)


def line_of_sight(count: int, generator: Generator) -> tuple[Tensor, Paths]:
    """Directions in degrees ``(count,)``, and paths whose line of sight comes from there."""
    angle = uniform(-MAX_ANGLE, MAX_ANGLE, (count,), generator)
    return angle, rician_paths(angle, uniform(*K_FACTOR_DB, (count,), generator), SCATTERERS, generator)


def received(
    signal: Tensor, paths: Paths, receivers: Receiver, antennas: int, snr_db: Tensor, generator: Generator
) -> Tensor:
    """What the receivers make of complex64 ``(N, MAX_DELAY + samples)``: float32 ``(N, 2, antennas, samples)``."""
    noisy = add_noise(propagate(signal, paths, antennas), snr_db, generator)
    return to_iq(receive(noisy, receivers, generator))
