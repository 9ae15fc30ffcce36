"""Symbol alphabets of linear modulations, each of unit mean power."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def psk(order: int) -> Tensor:
    """Phase-shift keying: ``order`` points on the unit circle."""
    return torch.polar(torch.ones(order), 2 * math.pi * torch.arange(order) / order)


def qam(order: int) -> Tensor:
    """Square quadrature amplitude modulation; ``order`` a power of 4."""
    side = math.isqrt(order)
    levels = torch.arange(side, dtype=torch.float32) * 2 - (side - 1)
    return _unit(torch.complex(*torch.meshgrid(levels, levels, indexing="ij")).flatten())


def pam(order: int) -> Tensor:
    """Pulse amplitude modulation: real, equally spaced, symmetric."""
    return _unit((torch.arange(order, dtype=torch.float32) * 2 - (order - 1)).to(torch.complex64))


def on_off() -> Tensor:
    """On-off keying: carrier or nothing."""
    return _unit(torch.tensor([0.0, 1.0]).to(torch.complex64))


def apsk(points: tuple[int, ...], radii: tuple[float, ...]) -> Tensor:
    """Amplitude and phase-shift keying: rings of equally spaced points, as in ETSI EN 302 307-1 (DVB-S2), sec. 5.4."""
    rings = [
        radius * torch.polar(torch.ones(count), 2 * math.pi * (torch.arange(count) + 0.5) / count)
        for count, radius in zip(points, radii, strict=True)
    ]
    return _unit(torch.cat(rings))


def _unit(points: Tensor) -> Tensor:
    return points / points.abs().square().mean().sqrt()


CONSTELLATIONS: dict[str, Tensor] = {
    "bpsk": psk(2),
    "qpsk": psk(4),
    "8psk": psk(8),
    "16psk": psk(16),
    "32psk": psk(32),
    "64psk": psk(64),
    "16apsk": apsk((4, 12), (1.0, 2.85)),
    "32apsk": apsk((4, 12, 16), (1.0, 2.72, 4.87)),
    "16qam": qam(16),
    "64qam": qam(64),
    "256qam": qam(256),
    "4pam": pam(4),
    "ook": on_off(),
}
