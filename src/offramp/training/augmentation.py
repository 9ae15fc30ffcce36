"""What is done to views beyond what the simulated channel does: cyclic shift, amplitude, a silent antenna."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

AMPLITUDE_DB = 10.0
"""Amplitudes change by up to this much, up or down."""
SILENT_SHARE = 0.25
"""Share of windows that lose an antenna, among those of at least ``LEAST_ANTENNAS``."""
LEAST_ANTENNAS = 3


def augment(views: Tensor, generator: Generator) -> Tensor:
    """Draw a shift, an amplitude and perhaps a silent antenna for every window by itself.

    Args:
        views: float32 ``(N, 2, antennas, samples)``.
        generator: On the device of the views.

    Returns:
        The same shape. Every window is cyclically shifted by 0 to samples - 1 in time and multiplied by -10 to 10 dB; of
        windows with 3 antennas or more a quarter has one antenna set to zero.
    """
    count, _, antennas, samples = views.shape
    device = views.device
    shift = torch.randint(0, samples, (count, 1), generator=generator, device=device)
    amplitude = (2 * torch.rand(count, generator=generator, device=device) - 1) * AMPLITUDE_DB
    source = (torch.arange(samples, device=device) - shift) % samples
    shifted = views.gather(3, source[:, None, None, :].expand_as(views))
    gain = torch.pow(10.0, amplitude / 20)[:, None].expand(count, antennas)
    if antennas >= LEAST_ANTENNAS:
        silent = torch.randint(0, antennas, (count, 1), generator=generator, device=device)
        chosen = torch.rand(count, 1, generator=generator, device=device) < SILENT_SHARE
        gain = gain.masked_fill(chosen & (torch.arange(antennas, device=device) == silent), 0)
    return shifted * gain[:, None, :, None]
