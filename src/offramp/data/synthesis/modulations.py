"""Complex baseband waveforms of common signal types, generated many at a time on any torch device.

Every function takes ``(count, samples, generator)`` and returns complex64 ``(count, samples)`` of about unit power. Symbol
rate, pulse shape and timing are drawn anew for every waveform. Definitions follow Proakis and Salehi, "Digital
Communications" (5th ed.): root-raised-cosine pulses, continuous-phase modulation, OFDM; chirp spread spectrum follows Vangelista,
"Frequency Shift Chirp Modulation: The LoRa Modulation" (IEEE SPL 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

PULSE_HALF_SPAN = 5
"""Symbols on either side that a pulse reaches."""

Waveform = Callable[[int, int, Generator], Tensor]


def uniform(low: float, high: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform float32 draws on the generator's device."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


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


def _square_qam(order: int) -> Tensor:
    side = math.isqrt(order)
    levels = torch.arange(side, dtype=torch.float32) * 2 - (side - 1)
    return torch.complex(*torch.meshgrid(levels, levels, indexing="ij")).flatten()


def _psk(order: int) -> Tensor:
    return torch.polar(torch.ones(order), 2 * math.pi * torch.arange(order) / order)


def _symbol_clock(count: int, samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Time in symbols ``(count, samples)`` with random rate (2 to 16 samples a symbol, log-uniform) and timing; and the rate."""
    samples_per_symbol = torch.exp2(uniform(1.0, 4.0, (count, 1), generator))
    time = torch.arange(samples, device=generator.device) / samples_per_symbol + uniform(0, 1, (count, 1), generator)
    return time, samples_per_symbol


def _draw(values: Tensor, shape: tuple[int, ...], generator: Generator) -> Tensor:
    values = values.to(generator.device)
    return values[torch.randint(len(values), shape, generator=generator, device=generator.device)]


def _superpose(symbols: Tensor, time: Tensor, pulse: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum of pulses: ``sum_k symbols[k] pulse(time - k)``, over the symbols within the pulse's span."""
    whole = time.floor()
    out = torch.zeros(time.shape, dtype=symbols.dtype, device=time.device)
    for offset in range(-PULSE_HALF_SPAN, PULSE_HALF_SPAN + 1):
        index = (whole.long() + offset + PULSE_HALF_SPAN).clamp_max(symbols.shape[1] - 1)
        out += symbols.gather(1, index) * pulse(time - whole - offset)
    return out


def linear(constellation: Tensor) -> Waveform:
    """Linear modulation: random symbols, root-raised-cosine pulses (one in five waveforms: rectangular)."""
    constellation = constellation.to(torch.complex64)
    constellation = constellation / constellation.abs().square().mean().sqrt()

    def waveform(count: int, samples: int, generator: Generator) -> Tensor:
        time, _ = _symbol_clock(count, samples, generator)
        symbols = _draw(constellation, (count, samples // 2 + 2 * PULSE_HALF_SPAN + 2), generator)
        rolloff = uniform(0.15, 0.5, (count, 1), generator)
        rectangular = uniform(0, 1, (count, 1), generator) < 0.2

        def pulse(x: Tensor) -> Tensor:
            return torch.where(rectangular, ((x >= 0) & (x < 1)).float(), root_raised_cosine(x, rolloff))

        return _superpose(symbols, time, pulse)

    return waveform


def _from_frequency(cycles_per_sample: Tensor, generator: Generator) -> Tensor:
    phase = 2 * math.pi * (cycles_per_sample.cumsum(1) + uniform(0, 1, (len(cycles_per_sample), 1), generator))
    return torch.polar(torch.ones_like(phase), phase)


def fsk(count: int, samples: int, generator: Generator) -> Tensor:
    """Binary continuous-phase FSK with rectangular frequency pulses and a modulation index of 0.6 to 1.5."""
    time, samples_per_symbol = _symbol_clock(count, samples, generator)
    bits = _draw(torch.tensor([-1.0, 1.0]), (count, samples // 2 + 2 * PULSE_HALF_SPAN + 2), generator)
    index = uniform(0.6, 1.5, (count, 1), generator)
    return _from_frequency(index / 2 * bits.gather(1, time.long()) / samples_per_symbol, generator)


def gmsk(count: int, samples: int, generator: Generator) -> Tensor:
    """Gaussian minimum-shift keying: index 0.5, bandwidth-time product 0.3 to 0.5."""
    time, samples_per_symbol = _symbol_clock(count, samples, generator)
    bits = _draw(torch.tensor([-1.0, 1.0]), (count, samples // 2 + 2 * PULSE_HALF_SPAN + 2), generator)
    scale = math.pi * uniform(0.3, 0.5, (count, 1), generator) * math.sqrt(2 / math.log(2))

    def pulse(x: Tensor) -> Tensor:
        return 0.5 * (torch.erf(scale * (x + 0.5)) - torch.erf(scale * (x - 0.5)))

    return _from_frequency(0.25 * _superpose(bits, time, pulse) / samples_per_symbol, generator)


def ofdm(count: int, samples: int, generator: Generator) -> Tensor:
    """OFDM with 16, 32 or 64 bins, half of them occupied by QPSK, a cyclic prefix of 1/8 or 1/4, random timing."""
    out = torch.empty(count, samples, dtype=torch.complex64, device=generator.device)
    kind = torch.randint(6, (count,), generator=generator, device=generator.device)
    for number in range(6):
        rows = (kind == number).nonzero().flatten()
        if not len(rows):
            continue
        bins, prefix = 16 << (number % 3), (16 << (number % 3)) // (8 if number < 3 else 4)
        symbol_count = samples // (bins + prefix) + 2
        spectrum = torch.zeros(len(rows), symbol_count, bins, dtype=torch.complex64, device=generator.device)
        occupied = torch.arange(-(bins // 4), bins // 4, device=generator.device) % bins
        spectrum[..., occupied] = _draw(_psk(4), (len(rows), symbol_count, bins // 2), generator)
        body = torch.fft.ifft(spectrum, norm="ortho") * math.sqrt(2)
        stream = torch.cat([body[..., -prefix:], body], dim=-1).flatten(1)
        start = torch.randint(bins + prefix, (len(rows), 1), generator=generator, device=generator.device)
        out[rows] = stream.gather(1, start + torch.arange(samples, device=generator.device))
    return out


def chirp(count: int, samples: int, generator: Generator) -> Tensor:
    """Chirp spread spectrum: each symbol sweeps the band once, from a cyclically shifted start; symbols of 32 to 128 samples."""
    symbol_samples = torch.exp2(uniform(5.0, 7.0, (count, 1), generator))
    time = torch.arange(samples, device=generator.device) / symbol_samples + uniform(0, 1, (count, 1), generator)
    shift = uniform(0, 1, (count, samples // 32 + 2), generator).gather(1, time.long())
    bandwidth = uniform(0.1, 0.5, (count, 1), generator)
    return _from_frequency(bandwidth * ((time + shift) % 1 - 0.5), generator)


def _message(count: int, samples: int, generator: Generator) -> Tensor:
    """A band-limited real message of unit power: eight tones at random frequencies below a random bandwidth."""
    bandwidth = torch.exp2(uniform(-8.0, -5.0, (count, 1, 1), generator))
    frequency = bandwidth * uniform(0.1, 1.0, (count, 8, 1), generator)
    phase = frequency * torch.arange(samples, device=generator.device) + uniform(0, 1, (count, 8, 1), generator)
    return torch.cos(2 * math.pi * phase).sum(1) / 2


def am(count: int, samples: int, generator: Generator) -> Tensor:
    """Double-sideband amplitude modulation with carrier, modulation index 0.2 to 0.6."""
    envelope = 1 + uniform(0.2, 0.6, (count, 1), generator) * _message(count, samples, generator)
    return torch.complex(envelope, torch.zeros_like(envelope))


def fm(count: int, samples: int, generator: Generator) -> Tensor:
    """Frequency modulation with a deviation of 0.01 to 0.08 cycles per sample."""
    return _from_frequency(uniform(0.01, 0.08, (count, 1), generator) * _message(count, samples, generator), generator)


SIGNAL_TYPES: dict[str, Waveform] = {
    "bpsk": linear(_psk(2)),
    "qpsk": linear(_psk(4)),
    "8psk": linear(_psk(8)),
    "16qam": linear(_square_qam(16)),
    "64qam": linear(_square_qam(64)),
    "ook": linear(torch.tensor([0.0, 1.0])),
    "2fsk": fsk,
    "gmsk": gmsk,
    "ofdm": ofdm,
    "chirp": chirp,
    "am": am,
    "fm": fm,
}


def transmissions(count: int, samples: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw signal types uniformly and generate one transmission of each.

    Returns:
        Waveforms, complex64 ``(count, samples)``, each scaled to unit mean power; and their types, int64 ``(count,)``,
        indices into ``SIGNAL_TYPES``.
    """
    kinds = torch.randint(len(SIGNAL_TYPES), (count,), generator=generator, device=generator.device)
    out = torch.empty(count, samples, dtype=torch.complex64, device=generator.device)
    for number, waveform in enumerate(SIGNAL_TYPES.values()):
        rows = (kinds == number).nonzero().flatten()
        if len(rows):
            out[rows] = waveform(len(rows), samples, generator)
    power = out.abs().square().mean(1, keepdim=True)
    return out / power.clamp_min(1e-6).sqrt(), kinds
