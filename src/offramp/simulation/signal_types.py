"""The signal types of the generator: complex baseband waveforms, many at a time on any torch device.

Symbol rate, pulse shape, timing, numerology and every other parameter are drawn anew for each waveform.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from offramp.simulation.draws import integers, uniform
from offramp.simulation.frequency import cpfsk, fm, fsk2, fsk4, gmsk, lora, message
from offramp.simulation.multicarrier import multicarrier
from offramp.simulation.single_carrier import SINGLE_CARRIER, single_carrier

Waveform = Callable[[int, int, Generator], Tensor]
"""``(count, samples, generator)`` to complex64 ``(count, samples)`` of about unit power."""


def am(count: int, samples: int, generator: Generator) -> Tensor:
    """Double-sideband amplitude modulation with carrier, modulation index 0.2 to 0.6."""
    envelope = 1 + uniform(0.2, 0.6, (count, 1), generator) * message(count, samples, generator)
    return torch.complex(envelope, torch.zeros_like(envelope))


def radar(count: int, samples: int, generator: Generator) -> Tensor:
    """Pulsed radar: every 48 to 192 samples a pulse of 10 to 40% duty, a linear chirp over up to 1/4 of the band or plain.

    Source: Richards, "Fundamentals of Radar Signal Processing" (2nd ed.), sec. 4.6.
    """
    period = torch.exp2(uniform(math.log2(48), math.log2(192), (count, 1), generator))
    duty = uniform(0.1, 0.4, (count, 1), generator)
    sweep = uniform(-0.25, 0.25, (count, 1), generator) * (uniform(0, 1, (count, 1), generator) < 0.7)
    position = (torch.arange(samples, device=generator.device) / period + uniform(0, 1, (count, 1), generator)) % 1
    within = position / duty - 0.5
    # A pulse of L samples that sweeps s cycles per sample turns by s L within^2 / 2 from its middle.
    phase = math.pi * sweep * period * duty * within.square()
    return torch.polar((within < 0.5) / duty.sqrt(), phase)


def noise(count: int, samples: int, generator: Generator) -> Tensor:
    """Nothing is transmitted: the receiver hears noise alone."""
    return torch.zeros(count, samples, dtype=torch.complex64, device=generator.device)


MULTICARRIER = ("ofdm", "dft-s-ofdm")
OTHERS: dict[str, Waveform] = {
    "2fsk": fsk2,
    "4fsk": fsk4,
    "cpfsk": cpfsk,
    "gmsk": gmsk,
    "lora": lora,
    "fm": fm,
    "am": am,
    "radar": radar,
    "noise": noise,
}
SIGNAL_TYPES: tuple[str, ...] = (*SINGLE_CARRIER, *MULTICARRIER, *OTHERS)
"""``noise`` is the last."""


def transmissions(kind: Tensor, samples: int, generator: Generator) -> Tensor:
    """One transmission per row of ``kind``, int64 ``(N,)``, indices into ``SIGNAL_TYPES``.

    Returns:
        complex64 ``(N, samples)``, each of about unit power; zeros for ``noise``.
    """
    out = torch.empty(len(kind), samples, dtype=torch.complex64, device=kind.device)
    first_multicarrier = len(SINGLE_CARRIER)
    first_other = first_multicarrier + len(MULTICARRIER)
    rows = (kind < first_multicarrier).nonzero().flatten()
    if len(rows):
        out[rows] = single_carrier(kind[rows], samples, generator)
    rows = ((kind >= first_multicarrier) & (kind < first_other)).nonzero().flatten()
    if len(rows):
        out[rows] = multicarrier(kind[rows] > first_multicarrier, samples, generator)
    for number, waveform in enumerate(OTHERS.values(), start=first_other):
        rows = (kind == number).nonzero().flatten()
        if len(rows):
            out[rows] = waveform(len(rows), samples, generator)
    return out


def draw_kinds(count: int, generator: Generator, with_noise: bool = True) -> Tensor:
    """Signal types drawn uniformly: int64 ``(count,)``."""
    return integers(len(SIGNAL_TYPES) - (not with_noise), (count,), generator)
