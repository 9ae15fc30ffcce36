"""From a transmission to what an antenna array receives: direction, carrier offset, phase, noise at a stated SNR."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor


def steer(signal: Tensor, antennas: int, angle: Tensor) -> Tensor:
    """A plane wave on a uniform linear array with half-wavelength spacing.

    Args:
        signal: complex64 ``(N, samples)``.
        antennas: Number of antennas A.
        angle: Direction from broadside in degrees, ``(N,)``.

    Returns:
        complex64 ``(N, A, samples)``; antenna a has phase ``pi a sin(angle)`` (Van Trees, "Optimum Array Processing", sec. 2.3).
    """
    element = torch.arange(antennas, device=signal.device)
    phase = math.pi * torch.sin(torch.deg2rad(angle))[:, None] * element
    return signal[:, None, :] * torch.polar(torch.ones_like(phase), phase)[:, :, None]


def offset_carrier(signal: Tensor, cycles_per_sample: Tensor, phase: Tensor) -> Tensor:
    """Rotate ``(N, samples)`` by a carrier frequency offset (cycles per sample, ``(N,)``) and a phase (radians, ``(N,)``)."""
    time = torch.arange(signal.shape[-1], device=signal.device)
    rotation = 2 * math.pi * cycles_per_sample[:, None] * time + phase[:, None]
    return signal * torch.polar(torch.ones_like(rotation), rotation)


def add_noise(signal: Tensor, snr_db: Tensor, generator: Generator) -> Tensor:
    """Add complex white Gaussian noise to ``(N, A, samples)``.

    The SNR in dB, ``(N,)``, is unit signal power over the noise power in the whole sampled band, per antenna.
    """
    noise = torch.randn(signal.shape, dtype=torch.complex64, generator=generator, device=signal.device)
    return signal + noise * torch.pow(10.0, -snr_db / 20)[:, None, None]


def to_iq(signal: Tensor) -> Tensor:
    """complex64 ``(N, A, samples)`` to float32 ``(N, 2, A, samples)``, axis 1 = I, Q."""
    return torch.stack((signal.real, signal.imag), dim=1)
