"""Linear modulations: random symbols of an alphabet under pulses of random rate, roll-off and timing.

Source: Proakis and Salehi, "Digital Communications" (5th ed.), ch. 3 and 9; direct-sequence spreading: ch. 12.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from offramp.simulation.constellations import CONSTELLATIONS
from offramp.simulation.draws import choice, integers, log_uniform, uniform
from offramp.simulation.pulses import PULSE_HALF_SPAN, RECTANGULAR, ROLLOFFS, linear_train
from offramp.simulation.waveforms import Waveforms

SAMPLES_PER_SYMBOL = (2.0, 16.0)
SPREADING_LENGTHS = (7, 11, 13, 15, 31)
"""Chips per data symbol of a spread signal."""
SINGLE_CARRIER = (*CONSTELLATIONS, "dsss")
"""Signal types made here; ``dsss`` is BPSK data spread by a random periodic binary code."""

_ALPHABETS = torch.zeros(len(CONSTELLATIONS), max(map(len, CONSTELLATIONS.values())), dtype=torch.complex64)
_ROLLOFFS = torch.tensor([*ROLLOFFS, torch.nan])
_ORDERS = torch.tensor([len(points) for points in CONSTELLATIONS.values()])
for _row, _points in enumerate(CONSTELLATIONS.values()):
    _ALPHABETS[_row, : len(_points)] = _points


def symbol_clock(count: int, samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Time in symbols ``(count, samples)`` at a random rate (2 to 16 samples a symbol, log-uniform) and timing; and the rate."""
    samples_per_symbol = log_uniform(*SAMPLES_PER_SYMBOL, (count, 1), generator)
    time = torch.arange(samples, device=generator.device) / samples_per_symbol + uniform(0, 1, (count, 1), generator)
    return time, samples_per_symbol


def single_carrier(kind: Tensor, samples: int, generator: Generator) -> Waveforms:
    """One signal per row of ``kind``, int64 ``(N,)``, indices into ``SINGLE_CARRIER``.

    Pulses are root-raised-cosine with a roll-off of 0.15 to 0.5; in one of five signals, rectangular.
    """
    count = len(kind)
    time, samples_per_symbol = symbol_clock(count, samples, generator)
    shape = integers(len(ROLLOFFS), (count,), generator)
    shape[uniform(0, 1, (count,), generator) < 0.2] = RECTANGULAR
    symbols = _symbols(kind, int(samples / SAMPLES_PER_SYMBOL[0]) + 2 * PULSE_HALF_SPAN + 2, generator)
    return Waveforms(linear_train(symbols, time, shape), samples_per_symbol[:, 0], _ROLLOFFS.to(kind.device)[shape])


def _symbols(kind: Tensor, length: int, generator: Generator) -> Tensor:
    spread = kind == len(CONSTELLATIONS)
    alphabet = kind.masked_fill(spread, 0)
    order = _ORDERS.to(kind.device)[alphabet, None]
    number = (torch.rand((len(kind), length), generator=generator, device=kind.device) * order).long()
    symbols = _ALPHABETS.to(kind.device)[alphabet[:, None], number]
    rows = spread.nonzero().flatten()
    if len(rows):
        period = choice(torch.tensor(SPREADING_LENGTHS), (len(rows), 1), generator)
        chip = torch.arange(length, device=kind.device)
        code = choice(torch.tensor([-1.0, 1.0]), (len(rows), max(SPREADING_LENGTHS)), generator)
        symbols[rows] = symbols[rows].gather(1, chip // period) * code.gather(1, chip % period)
    return symbols
