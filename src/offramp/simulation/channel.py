"""From a transmission to what an antenna array receives: paths, fading, directions, and noise at a stated SNR.

Sources: Van Trees, "Optimum Array Processing", sec. 2.3 (steering); Goldsmith, "Wireless Communications", sec. 3.2 (Rician fading,
Jakes' spectrum).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from offramp.simulation.draws import complex_normal, integers, uniform

MAX_DELAY = 8
"""Samples by which the latest scattered path follows the line of sight."""


@dataclass(frozen=True)
class Paths:
    """What reaches the array: path 0 is the line of sight.

    Attributes:
        gain: complex64 ``(N, P)``; the expected total power is 1.
        delay: int64 ``(N, P)``, samples behind the line of sight, at most ``MAX_DELAY``.
        angle: float32 ``(N, P)``, degrees from broadside.
    """

    gain: Tensor
    delay: Tensor
    angle: Tensor


def rician_paths(angle: Tensor, k_factor_db: Tensor, scatterers: int, generator: Generator) -> Paths:
    """A line of sight from ``angle`` and Rayleigh-faded scatterers from anywhere.

    Args:
        angle: Direction of the line of sight, degrees, ``(N,)``.
        k_factor_db: Power of the line of sight over the expected power of all scatterers, dB, ``(N,)``.
        scatterers: Scattered paths; their expected power falls by half per 2 samples of delay.
        generator: Source of randomness.
    """
    count = len(angle)
    factor = torch.pow(10.0, k_factor_db / 10)[:, None]
    delay = integers(MAX_DELAY + 1, (count, scatterers), generator)
    profile = torch.exp2(-delay / 2.0)
    profile = profile / profile.sum(1, keepdim=True)
    scattered = complex_normal((count, scatterers), generator) * torch.sqrt(profile / (factor + 1))
    direct = torch.polar(torch.sqrt(factor / (factor + 1)), uniform(0, 2 * math.pi, (count, 1), generator))
    return Paths(
        gain=torch.cat([direct, scattered], 1),
        delay=torch.cat([torch.zeros_like(delay[:, :1]), delay], 1),
        angle=torch.cat([angle[:, None], uniform(-90, 90, (count, scatterers), generator)], 1),
    )


def drifted(paths: Paths, correlation: float, generator: Generator) -> Paths:
    """The same paths a little later: scatterers' gains keep ``correlation`` of themselves, their expected power stays."""
    scattered = paths.gain[:, 1:]
    power = scattered.abs().square().mean(1, keepdim=True).sqrt()
    fresh = complex_normal(tuple(scattered.shape), generator) * power
    later = correlation * scattered + math.sqrt(1 - correlation**2) * fresh
    return Paths(torch.cat([paths.gain[:, :1], later], 1), paths.delay, paths.angle)


def steering(antennas: int, angle: Tensor) -> Tensor:
    """Response of a uniform linear array with half-wavelength spacing to plane waves.

    Antenna a has phase ``pi a sin(angle)``.

    Args:
        antennas: Number of antennas A.
        angle: Directions from broadside in degrees, any shape.

    Returns:
        complex64 ``(*angle.shape, A)``.
    """
    phase = math.pi * torch.sin(torch.deg2rad(angle))[..., None] * torch.arange(antennas, device=angle.device)
    return torch.polar(torch.ones_like(phase), phase)


def propagate(signal: Tensor, paths: Paths, antennas: int) -> Tensor:
    """What every antenna receives.

    Args:
        signal: complex64 ``(N, MAX_DELAY + samples)``: the first samples are heard through delayed paths alone.
        paths: N sets of P paths.
        antennas: Number of antennas A.

    Returns:
        complex64 ``(N, A, samples)``.
    """
    samples = signal.shape[1] - MAX_DELAY
    delayed = signal.unfold(1, samples, 1)
    rows = torch.arange(len(signal), device=signal.device)[:, None]
    arrived = delayed[rows, MAX_DELAY - paths.delay]
    response = steering(antennas, paths.angle) * paths.gain[..., None]
    return response.transpose(1, 2) @ arrived


def fading(count: int, samples: int, doppler: Tensor, k_factor: Tensor, generator: Generator) -> Tensor:
    """Rician fading over time with Jakes' Doppler spectrum, from a sum of 16 sinusoids; unit mean power.

    Args:
        count: Realisations N.
        samples: Length.
        doppler: Largest Doppler shift, cycles per sample, ``(N,)``.
        k_factor: Power of the steady path over that of the scattered ones (a ratio, not dB), ``(N,)``.
        generator: Source of randomness.

    Returns:
        complex64 ``(N, samples)``; the scattered part has autocorrelation ``J0(2 pi doppler lag)``.
    """
    time = torch.arange(samples, device=generator.device)
    scattered = torch.zeros(count, samples, dtype=torch.complex64, device=generator.device)
    for _ in range(16):
        shift = doppler * torch.cos(uniform(0, 2 * math.pi, (count,), generator))
        gain = complex_normal((count, 1), generator) / 4
        scattered += gain * _rotation(shift[:, None] * time)
    steady_shift = doppler * torch.cos(uniform(0, 2 * math.pi, (count,), generator))
    steady = _rotation(steady_shift[:, None] * time + uniform(0, 1, (count, 1), generator))
    k_factor = k_factor[:, None]
    return steady * torch.sqrt(k_factor / (k_factor + 1)) + scattered * torch.sqrt(1 / (k_factor + 1))


def _rotation(turns: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(turns), 2 * math.pi * turns)


def unit_power(signal: Tensor) -> Tensor:
    """Scale every row to unit mean power over all its axes but the first; silence stays silence."""
    power = signal.abs().square().flatten(1).mean(1).clamp_min(1e-12)
    return signal * power.rsqrt().view(-1, *[1] * (signal.ndim - 1))


def add_noise(signal: Tensor, snr_db: Tensor, generator: Generator) -> Tensor:
    """Scale to unit power and add complex white Gaussian noise.

    Args:
        signal: complex64 ``(N, A, samples)``; where a row is silent, noise alone is left.
        snr_db: Mean power of the received signal over the noise power in the whole sampled band, both per antenna, dB, ``(N,)``.
            For a signal of symbol rate R at sampling rate F, ``Es/N0 = SNR * F / R``.
        generator: Source of randomness.
    """
    amplitude = torch.pow(10.0, -snr_db / 20)[:, None, None]
    return unit_power(signal) + complex_normal(tuple(signal.shape), generator) * amplitude


def to_iq(signal: Tensor) -> Tensor:
    """complex64 ``(N, A, samples)`` to float32 ``(N, 2, A, samples)``, axis 1 = I, Q."""
    return torch.stack((signal.real, signal.imag), dim=1)
