"""Simulated I/Q as an encoder takes it: as it is, or as images that show spectrograms."""

from __future__ import annotations

import torch
from torch import Tensor

from offramp.encoders.base import StagedEncoder

BINS = 64
FRAMES = 64


def as_input(encoder: StagedEncoder, iq: Tensor) -> Tensor:
    """I/Q float32 ``(N, 2, antennas, samples)`` for an encoder of I/Q; spectrograms of it for one whose input has channels.

    An encoder of a fixed number of channels sees the spectrograms of so many antennas.
    """
    if encoder.input.layout[1] != "channels":
        return iq
    return spectrogram_images(iq[:, :, : encoder.input.shape[0]])


def spectrogram_images(iq: Tensor) -> Tensor:
    """What the transform ``spectrogram`` with ``frames: 64`` makes of windows, on the windows' own device.

    Args:
        iq: float32 ``(N, 2, antennas, samples)``, samples >= 127.

    Returns:
        Log power in natural units, float32 ``(N, antennas, 64, 64)``, frequency by time.
    """
    samples = iq.shape[3]
    power = iq.square().sum(1, keepdim=True).mean((2, 3), keepdim=True)
    scaled = iq * torch.rsqrt(power.clamp_min(torch.finfo(iq.dtype).tiny))
    signal = torch.complex(scaled[:, 0], scaled[:, 1])
    taper = torch.hann_window(BINS, device=iq.device)
    frames = signal.unfold(-1, BINS, (samples - BINS) // (FRAMES - 1))[:, :, :FRAMES]
    spectrum = torch.fft.fftshift(torch.fft.fft(frames * taper, dim=-1), dim=-1)
    level = (spectrum.abs().square() / taper.square().sum() + 1e-6).log()
    images: Tensor = level.transpose(2, 3).contiguous()
    return images
