"""Pulse shapes, and trains of them at any symbol rate: ``sum_k symbols[k] pulse(time - k)``."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

PULSE_HALF_SPAN = 6
"""Symbols on either side that a pulse reaches."""
ROLLOFFS = tuple(0.15 + 0.05 * step for step in range(8))
"""Roll-offs of the tabulated root-raised-cosine pulses, 0.15 to 0.5."""
RECTANGULAR = len(ROLLOFFS)
"""Row of the table that holds the rectangular pulse, one symbol long."""
STEPS = 1024
"""Offsets per symbol in the table: the nearest one is off by 1/2048 of a symbol, an error of less than -60 dB."""


def root_raised_cosine(x: Tensor, rolloff: Tensor) -> Tensor:
    """Unit-energy root-raised-cosine pulse at offsets ``x`` in symbols; broadcasts. Source: Proakis and Salehi, sec. 9.2."""
    # The closed form is 0/0 at x = 0 and at |x| = 1/(4 rolloff): there its limits stand in.
    at_zero = x.abs() < 1e-3
    at_edge = ((4 * rolloff * x).abs() - 1).abs() < 1e-3
    regular = torch.where(at_zero | at_edge, 2 / rolloff, x)
    numerator = torch.sin(math.pi * regular * (1 - rolloff)) + 4 * rolloff * regular * torch.cos(
        math.pi * regular * (1 + rolloff)
    )
    value = numerator / (math.pi * regular * (1 - (4 * rolloff * regular).square()))
    quarter = math.pi / (4 * rolloff)
    edge = rolloff / math.sqrt(2) * ((1 + 2 / math.pi) * torch.sin(quarter) + (1 - 2 / math.pi) * torch.cos(quarter))
    return torch.where(at_zero, 1 - rolloff + 4 * rolloff / math.pi, torch.where(at_edge, edge, value))


@lru_cache(4)
def _linear_pulses(device: torch.device) -> Tensor:
    """Pulses at every tabulated offset: ``(shapes * STEPS, 2 PULSE_HALF_SPAN)``, one column per neighbouring symbol."""
    fraction = (torch.arange(STEPS, dtype=torch.float64) + 0.5) / STEPS
    offsets = fraction[:, None] - torch.arange(-PULSE_HALF_SPAN + 1, PULSE_HALF_SPAN + 1)
    shapes = [root_raised_cosine(offsets, torch.tensor(rolloff, dtype=torch.float64)) for rolloff in ROLLOFFS]
    shapes.append(((offsets >= 0) & (offsets < 1)).double())
    return torch.cat(shapes).float().to(device)


def linear_train(symbols: Tensor, time: Tensor, shape: Tensor) -> Tensor:
    """A linearly modulated signal.

    Args:
        symbols: complex64 ``(N, K)``; symbol k is centred on time ``k - PULSE_HALF_SPAN + 1``.
        time: Time of every sample in symbols, float32 ``(N, samples)``, not negative.
        shape: Pulse of every row, int64 ``(N,)``: an index into ``ROLLOFFS``, or ``RECTANGULAR``.

    Returns:
        complex64 ``(N, samples)``; unit symbol energy gives unit power.
    """
    whole = time.floor()
    step = ((time - whole) * STEPS).long().clamp_(max=STEPS - 1)
    taps = _linear_pulses(time.device)[step + STEPS * shape[:, None]]
    neighbours = torch.view_as_real(symbols).unfold(1, 2 * PULSE_HALF_SPAN, 1)
    rows = torch.arange(len(symbols), device=time.device)[:, None]
    near = neighbours[rows, whole.long()]
    return torch.view_as_complex(torch.einsum("nsct,nst->nsc", near, taps).contiguous())


def gaussian_frequency_pulse(x: Tensor, bandwidth_time: Tensor) -> Tensor:
    """A rectangular frequency pulse one symbol long behind a Gaussian filter of 3 dB bandwidth x symbol time as given.

    Unit area; broadcasts over ``x`` in symbols. Source: 3GPP TS 45.004, sec. 2.4; Murota and Hirade (1981).
    """
    scale = math.pi * bandwidth_time * math.sqrt(2 / math.log(2))
    return 0.5 * (torch.erf(scale * (x + 0.5)) - torch.erf(scale * (x - 0.5)))
