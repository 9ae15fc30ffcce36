"""Signals of constant envelope: frequency-shift keying, chirps, frequency modulation.

Sources: Proakis and Salehi, "Digital Communications" (5th ed.), sec. 3.3 (continuous-phase modulation); Vangelista, "Frequency
Shift Chirp Modulation: The LoRa Modulation" (IEEE Signal Processing Letters 24, 2017).
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from offramp.simulation.draws import choice, integers, uniform
from offramp.simulation.pulses import PULSE_HALF_SPAN, gaussian_frequency_pulse
from offramp.simulation.single_carrier import SAMPLES_PER_SYMBOL, symbol_clock
from offramp.simulation.waveforms import Waveforms


def from_frequency(cycles_per_sample: Tensor, generator: Generator) -> Tensor:
    """A carrier of unit amplitude and random phase that follows a frequency ``(N, samples)``."""
    # Wrapped in double precision: the phase of a long signal outgrows what float32 resolves.
    turns = cycles_per_sample.double().cumsum(1) + uniform(0, 1, (len(cycles_per_sample), 1), generator)
    phase = (2 * math.pi * (turns - turns.floor())).float()
    return torch.polar(torch.ones_like(phase), phase)


def _levels(order: int, count: int, samples: int, generator: Generator) -> Tensor:
    length = int(samples / SAMPLES_PER_SYMBOL[0]) + 2 * PULSE_HALF_SPAN + 2
    return choice(torch.arange(order) * 2.0 - (order - 1), (count, length), generator)


def _keyed(order: int, index: Tensor, count: int, samples: int, generator: Generator) -> Waveforms:
    time, samples_per_symbol = symbol_clock(count, samples, generator)
    # At few samples a symbol the outer tones would leave the sampled band.
    samples_per_symbol = samples_per_symbol * (order / 2)
    level = _levels(order, count, samples, generator).gather(1, (time / (order / 2)).long())
    return Waveforms.of(from_frequency(index / 2 * level / samples_per_symbol, generator), samples_per_symbol[:, 0])


def fsk2(count: int, samples: int, generator: Generator) -> Waveforms:
    """Binary frequency-shift keying with continuous phase and a modulation index of 0.8 to 1.6."""
    return _keyed(2, uniform(0.8, 1.6, (count, 1), generator), count, samples, generator)


def fsk4(count: int, samples: int, generator: Generator) -> Waveforms:
    """Quaternary frequency-shift keying with continuous phase and a modulation index of 0.6 to 1.2."""
    return _keyed(4, uniform(0.6, 1.2, (count, 1), generator), count, samples, generator)


def cpfsk(count: int, samples: int, generator: Generator) -> Waveforms:
    """Binary continuous-phase frequency-shift keying of index 0.5 (minimum-shift keying)."""
    return _keyed(2, torch.full((count, 1), 0.5, device=generator.device), count, samples, generator)


def gaussian_keyed(levels: Tensor, time: Tensor, bandwidth_time: Tensor) -> Tensor:
    """Frequency of Gaussian-filtered keying in units of half the deviation: ``(N, samples)`` from levels ``(N, K)``."""
    # The Gaussian pulse of a bandwidth-time product of 0.3 and more is below 1e-4 beyond 1.5 symbols.
    whole = time.floor()
    frequency = torch.zeros_like(time)
    for offset in range(-1, 3):
        index = whole.long() + offset + PULSE_HALF_SPAN
        frequency += levels.gather(1, index) * gaussian_frequency_pulse(time - whole - offset, bandwidth_time)
    return frequency


def gmsk(count: int, samples: int, generator: Generator) -> Waveforms:
    """Gaussian minimum-shift keying: index 0.5, bandwidth-time product 0.3 to 0.5."""
    time, samples_per_symbol = symbol_clock(count, samples, generator)
    levels = _levels(2, count, samples, generator)
    frequency = gaussian_keyed(levels, time, uniform(0.3, 0.5, (count, 1), generator))
    return Waveforms.of(from_frequency(0.25 * frequency / samples_per_symbol, generator), samples_per_symbol[:, 0])


def lora(count: int, samples: int, generator: Generator) -> Waveforms:
    """LoRa: each symbol sweeps the band once from a cyclically shifted start.

    Spreading factor 5 to 7, bandwidth 1/2 to 1/8 of the sampled band: 64 to 1,024 samples a symbol.
    """
    chips = torch.exp2(5.0 + integers(3, (count, 1), generator))
    bandwidth = torch.exp2(-1.0 - integers(3, (count, 1), generator))
    time = torch.arange(samples, device=generator.device) * bandwidth / chips + uniform(0, 1, (count, 1), generator)
    shift = (uniform(0, 1, (count, samples // 64 + 2), generator) * chips).floor() / chips
    frequency = bandwidth * ((time + shift.gather(1, time.long())) % 1 - 0.5)
    return Waveforms.of(from_frequency(frequency, generator), (chips / bandwidth)[:, 0])


def message(count: int, samples: int, generator: Generator) -> Tensor:
    """A band-limited real message of unit power: eight tones at random frequencies below a random bandwidth."""
    bandwidth = torch.exp2(uniform(-8.0, -5.0, (count, 1), generator))
    time = torch.arange(samples, device=generator.device)
    total = torch.zeros(count, samples, device=generator.device)
    for _ in range(8):
        frequency = bandwidth * uniform(0.1, 1.0, (count, 1), generator)
        total += torch.cos(2 * math.pi * (frequency * time + uniform(0, 1, (count, 1), generator)))
    return total / 2


def fm(count: int, samples: int, generator: Generator) -> Waveforms:
    """Frequency modulation with a deviation of 0.01 to 0.08 cycles per sample."""
    deviation = uniform(0.01, 0.08, (count, 1), generator)
    return Waveforms.of(from_frequency(deviation * message(count, samples, generator), generator))
