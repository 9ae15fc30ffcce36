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
from offramp.simulation.waveforms import Waveforms

Waveform = Callable[[int, int, Generator], Waveforms]
"""``(count, samples, generator)`` to so many waveforms."""


def am(count: int, samples: int, generator: Generator) -> Waveforms:
    """Double-sideband amplitude modulation with carrier, modulation index 0.2 to 0.6."""
    envelope = 1 + uniform(0.2, 0.6, (count, 1), generator) * message(count, samples, generator)
    return Waveforms.of(torch.complex(envelope, torch.zeros_like(envelope)))


def radar(count: int, samples: int, generator: Generator) -> Waveforms:
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
    return Waveforms.of(torch.polar((within < 0.5) / duty.sqrt(), phase))


def noise(count: int, samples: int, generator: Generator) -> Waveforms:
    """Nothing is transmitted: the receiver hears noise alone."""
    return Waveforms.of(torch.zeros(count, samples, dtype=torch.complex64, device=generator.device))


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
NOISE = SIGNAL_TYPES.index("noise")
FAMILIES: dict[str, tuple[str, ...]] = {
    "phase": ("bpsk", "qpsk", "8psk", "16psk", "32psk", "64psk"),
    "quadrature amplitude": ("16apsk", "32apsk", "16qam", "64qam", "256qam"),
    "amplitude": ("4pam", "ook"),
    "spread": ("dsss",),
    "multicarrier": MULTICARRIER,
    "frequency": ("2fsk", "4fsk", "cpfsk", "gmsk"),
    "chirp": ("lora",),
    "analogue": ("fm", "am"),
    "radar": ("radar",),
    "noise": ("noise",),
}
"""Signal types by what carries their information."""
CONSTANT_ENVELOPE = (*FAMILIES["frequency"], *FAMILIES["chirp"], "fm", "radar")
"""An amplifier only scales them (radar: while it sends)."""


def family_of(kind: Tensor) -> Tensor:
    """Index into ``FAMILIES`` of every signal type: int64 of any shape to the same."""
    names = list(FAMILIES)
    family = {name: names.index(family) for family, members in FAMILIES.items() for name in members}
    return torch.tensor([family[name] for name in SIGNAL_TYPES], device=kind.device)[kind]


def transmissions(kind: Tensor, samples: int, generator: Generator) -> Waveforms:
    """One transmission per row of ``kind``, int64 ``(N,)``, indices into ``SIGNAL_TYPES``; zeros for ``noise``."""
    out = Waveforms.of(torch.empty(len(kind), samples, dtype=torch.complex64, device=kind.device))
    samples_per_symbol, rolloff = out.samples_per_symbol.clone(), out.rolloff.clone()

    def put(rows: Tensor, made: Waveforms) -> None:
        out.signal[rows] = made.signal
        samples_per_symbol[rows], rolloff[rows] = made.samples_per_symbol, made.rolloff

    first_multicarrier = len(SINGLE_CARRIER)
    first_other = first_multicarrier + len(MULTICARRIER)
    rows = (kind < first_multicarrier).nonzero().flatten()
    if len(rows):
        put(rows, single_carrier(kind[rows], samples, generator))
    rows = ((kind >= first_multicarrier) & (kind < first_other)).nonzero().flatten()
    if len(rows):
        put(rows, Waveforms.of(multicarrier(kind[rows] > first_multicarrier, samples, generator)))
    for number, waveform in enumerate(OTHERS.values(), start=first_other):
        rows = (kind == number).nonzero().flatten()
        if len(rows):
            put(rows, waveform(len(rows), samples, generator))
    return Waveforms(out.signal, samples_per_symbol, rolloff)


def draw_kinds(count: int, generator: Generator, with_noise: bool = True) -> Tensor:
    """Signal types drawn uniformly: int64 ``(count,)``."""
    return integers(len(SIGNAL_TYPES) - (not with_noise), (count,), generator)
