"""OFDM and single-carrier DFT-spread OFDM with several numerologies.

Sources: Proakis and Salehi, "Digital Communications" (5th ed.), sec. 11.2; DFT spreading: 3GPP TS 38.211, sec. 6.3.1.4.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from offramp.simulation.constellations import CONSTELLATIONS
from offramp.simulation.draws import choice, uniform

NUMEROLOGIES = ((32, 1 / 2), (64, 1 / 2), (64, 3 / 4), (128, 1 / 2), (128, 3 / 4))
"""Bins of the transform and the share of them that is occupied, around the carrier."""


def multicarrier(spread: Tensor, samples: int, generator: Generator) -> Tensor:
    """One signal per row of ``spread``, bool ``(N,)``: DFT-spread where true, else OFDM; complex64 ``(N, samples)``, unit power.

    16-QAM or QPSK on every occupied bin, a cyclic prefix of 1/4, 1/8 or 1/16 of the transform, random timing.
    """
    out = torch.empty(len(spread), samples, dtype=torch.complex64, device=generator.device)
    kind = choice(torch.arange(len(NUMEROLOGIES)), (len(spread),), generator)
    for number, (bins, share) in enumerate(NUMEROLOGIES):
        rows = (kind == number).nonzero().flatten()
        if len(rows):
            out[rows] = _numerology(spread[rows], bins, int(bins * share), samples, generator)
    return out


def _numerology(spread: Tensor, bins: int, occupied: int, samples: int, generator: Generator) -> Tensor:
    count, symbols = len(spread), samples // bins + 2
    shape = (count, symbols, occupied)
    dense = uniform(0, 1, (count, 1, 1), generator) < 0.5
    data = torch.where(
        dense,
        choice(CONSTELLATIONS["16qam"], shape, generator),
        choice(CONSTELLATIONS["qpsk"], shape, generator),
    )
    data = torch.where(spread[:, None, None], torch.fft.fft(data, norm="ortho"), data)
    spectrum = torch.zeros(count, symbols, bins, dtype=torch.complex64, device=generator.device)
    spectrum[..., torch.arange(-(occupied // 2), occupied - occupied // 2, device=generator.device) % bins] = data
    body = torch.fft.ifft(spectrum, norm="ortho") * math.sqrt(bins / occupied)
    prefix = bins // choice(torch.tensor([4, 8, 16]), (count, 1), generator)
    period = bins + prefix
    time = torch.arange(samples, device=generator.device) + (uniform(0, 1, (count, 1), generator) * period).long()
    position = (time % period - prefix) % bins
    signal: Tensor = body.flatten(1).gather(1, time // period * bins + position)
    return signal
