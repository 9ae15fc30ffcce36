"""Labelled windows, and pairs of views for contrastive pretraining, from the same generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from offramp.data.synthesis.channel import add_noise, offset_carrier, steer, to_iq
from offramp.data.synthesis.modulations import transmissions, uniform

MAX_ANGLE = 60.0
"""Directions are drawn uniformly from -60 to 60 degrees."""
MAX_CARRIER_OFFSET = 0.02
"""Carrier frequency offsets are drawn uniformly from -0.02 to 0.02 cycles per sample."""
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
        angle: float32 ``(N,)``, degrees from broadside.
        snr_db: float32 ``(N,)``.
    """

    iq: Tensor
    modulation: Tensor
    angle: Tensor
    snr_db: Tensor

    @property
    def sector(self) -> Tensor:
        """int64 ``(N,)``: which of the equal sectors the angle lies in."""
        return ((self.angle + MAX_ANGLE) / (2 * MAX_ANGLE) * ANGLE_SECTORS).long().clamp(0, ANGLE_SECTORS - 1)


def _seeded(seed: int, block: int, device: torch.device | str = "cpu") -> Generator:
    return Generator(device).manual_seed((seed * 1_000_003 + block) % 2**62)


def synthetic_windows(
    count: int, antennas: int, samples: int, snr_db: tuple[float, float], seed: int, block: int = 0
) -> SyntheticWindows:
    """Draw windows: signal type, direction, carrier offset, phase and SNR independently and uniformly.

    ``block`` numbers independent blocks of one data set, so that a large set is made piece by piece and any piece again.
    """
    generator = _seeded(seed, block + WINDOW_STREAM)
    signal, modulation = transmissions(count, samples, generator)
    angle = uniform(-MAX_ANGLE, MAX_ANGLE, (count,), generator)
    snr = uniform(*snr_db, (count,), generator)
    signal = _offset(signal, generator)
    return SyntheticWindows(to_iq(add_noise(steer(signal, antennas, angle), snr, generator)), modulation, angle, snr)


def view_pairs(
    count: int,
    antennas: int,
    samples: int,
    snr_db: tuple[float, float],
    seed: int,
    block: int,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Two views of each of ``count`` transmissions: disjoint crops under independent phase, SNR and noise.

    What both share is what the encoder shall keep: signal type, symbol rate, pulse, carrier offset, direction. Payload,
    timing, phase and noise differ.

    Returns:
        Two float32 tensors ``(count, 2, antennas, samples)``.
    """
    generator = _seeded(seed, block, device)
    gap = samples // 8
    signal, _ = transmissions(count, 2 * samples + gap, generator)
    angle = uniform(-MAX_ANGLE, MAX_ANGLE, (count,), generator)
    offset = uniform(-MAX_CARRIER_OFFSET, MAX_CARRIER_OFFSET, (count,), generator)
    views = []
    for crop in (signal[:, :samples], signal[:, samples + gap :]):
        phase = uniform(0, 2 * math.pi, (count,), generator)
        snr = uniform(*snr_db, (count,), generator)
        received = steer(offset_carrier(crop, offset, phase), antennas, angle)
        views.append(to_iq(add_noise(received, snr, generator)))
    return views[0], views[1]


def _offset(signal: Tensor, generator: Generator) -> Tensor:
    count = (len(signal),)
    return offset_carrier(
        signal,
        uniform(-MAX_CARRIER_OFFSET, MAX_CARRIER_OFFSET, count, generator),
        uniform(0, 2 * math.pi, count, generator),
    )
