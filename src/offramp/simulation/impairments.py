"""What imperfect radios do to a signal: carrier and phase errors, I/Q imbalance, amplifier compression, DC offset.

Sources: Schenk, "RF Imperfections in High-rate Wireless Systems" (2008), ch. 4 and 5 (phase noise, I/Q imbalance); Rapp, "Effects of
HPA-Nonlinearity on a 4-DPSK/OFDM-Signal" (1991) (amplifier).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from offramp.simulation.draws import complex_normal, log_uniform, uniform

MAX_CARRIER_OFFSET = 0.02
"""Carrier frequency offsets are drawn uniformly from -0.02 to 0.02 cycles per sample."""


@dataclass(frozen=True)
class Transmitter:
    """Imperfections of N transmitters.

    Attributes:
        gain_db: I/Q gain imbalance, dB, ``(N,)``.
        skew: I/Q phase imbalance, radians, ``(N,)``.
        smoothness: Rapp's p, ``(N,)``: 2 is soft, 10 a hard limiter.
        saturation: Output limit of the amplifier relative to the signal's RMS amplitude, ``(N,)``.
    """

    gain_db: Tensor
    skew: Tensor
    smoothness: Tensor
    saturation: Tensor


@dataclass(frozen=True)
class Receiver:
    """Imperfections of N receivers, relative to the transmitters they listen to.

    Attributes:
        carrier_offset: Cycles per sample, ``(N,)``.
        phase_noise: Standard deviation of the phase step from one sample to the next, radians, ``(N,)``.
        gain_db: I/Q gain imbalance, dB, ``(N,)``.
        skew: I/Q phase imbalance, radians, ``(N,)``.
        offset: DC offset relative to the received RMS amplitude, complex64 ``(N,)``.
    """

    carrier_offset: Tensor
    phase_noise: Tensor
    gain_db: Tensor
    skew: Tensor
    offset: Tensor


def draw_transmitters(count: int, generator: Generator) -> Transmitter:
    """I/Q imbalance up to 1 dB and 5 degrees; amplifiers from 2 to 12 dB above the mean power."""
    return Transmitter(
        gain_db=uniform(-1, 1, (count,), generator),
        skew=torch.deg2rad(uniform(-5, 5, (count,), generator)),
        smoothness=uniform(1.5, 4, (count,), generator),
        saturation=torch.pow(10.0, uniform(2, 12, (count,), generator) / 20),
    )


def draw_receivers(count: int, generator: Generator) -> Receiver:
    """Carrier offsets up to 2% of the sampling rate, phase noise of 0.001 to 0.02 radians a sample, imbalance as above."""
    return Receiver(
        carrier_offset=uniform(-MAX_CARRIER_OFFSET, MAX_CARRIER_OFFSET, (count,), generator),
        phase_noise=log_uniform(1e-3, 2e-2, (count,), generator),
        gain_db=uniform(-1, 1, (count,), generator),
        skew=torch.deg2rad(uniform(-5, 5, (count,), generator)),
        offset=0.05 * complex_normal((count,), generator),
    )


def transmit(signal: Tensor, radio: Transmitter) -> Tensor:
    """I/Q imbalance, then the amplifier: complex64 ``(N, samples)`` of about unit power to the same."""
    return amplify(imbalance(signal, radio.gain_db, radio.skew), radio.smoothness, radio.saturation)


def receive(signal: Tensor, radio: Receiver, generator: Generator) -> Tensor:
    """Carrier offset, a random phase and phase noise (one oscillator for all antennas), I/Q imbalance and DC offset.

    Noise belongs before it, or its effect on the SNR is below 0.1 dB.

    Args:
        signal: complex64 ``(N, A, samples)`` of unit mean power.
        radio: N receivers.
        generator: Source of phase and phase noise.
    """
    rotated = signal * oscillator(radio.carrier_offset, radio.phase_noise, signal.shape[2], generator)[:, None]
    return imbalance(rotated, radio.gain_db, radio.skew) + radio.offset[:, None, None]


def oscillator(carrier_offset: Tensor, phase_noise: Tensor, samples: int, generator: Generator) -> Tensor:
    """A rotating carrier of random phase whose phase also walks at random (a free-running oscillator): ``(N, samples)``.

    The walk has independent normal steps of standard deviation ``phase_noise``: a Lorentzian line of width ``phase_noise^2 / (2
    pi)`` cycles per sample between its half-power points.
    """
    count = len(carrier_offset)
    time = torch.arange(samples, device=generator.device)
    steps = torch.randn((count, samples), generator=generator, device=generator.device) * phase_noise[:, None]
    phase = 2 * math.pi * (carrier_offset[:, None] * time + uniform(0, 1, (count, 1), generator)) + steps.cumsum(1)
    return torch.polar(torch.ones_like(phase), phase)


def imbalance(signal: Tensor, gain_db: Tensor, skew: Tensor) -> Tensor:
    """I/Q imbalance ``(N, ...)``: ``mu x + nu conj(x)`` with ``mu = (1 + g e^{j skew}) / 2``, ``nu = (1 - g e^{-j skew}) / 2``.

    The image is rejected by ``|mu / nu|^2``.
    """
    gain = torch.pow(10.0, gain_db / 20)
    shape = (-1, *[1] * (signal.ndim - 1))
    direct = ((1 + torch.polar(gain, skew)) / 2).view(shape)
    image = ((1 - torch.polar(gain, -skew)) / 2).view(shape)
    return direct * signal + image * signal.conj()


def amplify(signal: Tensor, smoothness: Tensor, saturation: Tensor) -> Tensor:
    """Rapp's amplifier ``(N, samples)``: amplitude r becomes ``r / (1 + (r / saturation)^(2p))^(1/(2p))``, the phase stays."""
    twice = 2 * smoothness[:, None]
    ratio = signal.abs() / saturation[:, None]
    return signal * torch.pow(1 + torch.pow(ratio, twice), -1 / twice)
