"""In the style of RML2016.10a: 11 modulations, 128 samples, one antenna, fading and offsets, SNR in steps of 2 dB.

Source: O'Shea and West, "Radio Machine Learning Dataset Generation with GNU Radio" (GNU Radio Conference 2016), and the parameters
of its published script: 8 samples a symbol, root-raised-cosine with a roll-off of 0.35, delays of 0, 0.9 and 1.7 samples with
magnitudes 1, 0.8 and 0.3, Rician fading with K = 4, a Doppler of 1 Hz and a carrier offset of up to 500 Hz at 200 kHz. Two
differences: the analogue message is synthetic, not speech, and the sample rate offset (below 0.04 samples in a window) is left out.
The SNR range is the suite's, rounded to even numbers of dB.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from offramp.schema.tasks import SyntheticSpec
from offramp.simulation.channel import add_noise, fading, to_iq
from offramp.simulation.constellations import CONSTELLATIONS
from offramp.simulation.draws import choice, integers, seeded, uniform
from offramp.simulation.frequency import from_frequency, gaussian_keyed, message
from offramp.simulation.impairments import oscillator
from offramp.simulation.pulses import PULSE_HALF_SPAN, ROLLOFFS, linear_train
from offramp.simulation.scenarios.scene import Scenario, Scene

MODULATIONS = ("8psk", "am-dsb", "am-ssb", "bpsk", "cpfsk", "gfsk", "pam4", "qam16", "qam64", "qpsk", "wbfm")
ALPHABETS = {"8psk": "8psk", "bpsk": "bpsk", "pam4": "4pam", "qam16": "16qam", "qam64": "64qam", "qpsk": "qpsk"}
SAMPLES_PER_SYMBOL = 8
DELAYS = (0.0, 0.9, 1.7)
MAGNITUDES = (1.0, 0.8, 0.3)
K_FACTOR = 4.0
DOPPLER = 1 / 200_000
MAX_CARRIER_OFFSET = 500 / 200_000
WBFM_DEVIATION = 0.1
MARGIN = 32
"""Samples on either side of a window, so that delaying it does not wrap its other end into it."""


def _make(spec: SyntheticSpec, count: int, block: int) -> Scene:
    """Columns: ``modulation`` (int64), ``snr_db`` (float32)."""
    generator = seeded(spec.seed, block)
    kind = integers(len(MODULATIONS), (count,), generator)
    signal = torch.empty(count, spec.samples + 2 * MARGIN, dtype=torch.complex64)
    for number, name in enumerate(MODULATIONS):
        rows = (kind == number).nonzero().flatten()
        signal[rows] = waveform(name, len(rows), signal.shape[1], generator)
    low, high = (math.ceil(spec.snr_db[0] / 2), math.floor(spec.snr_db[1] / 2))
    snr = 2.0 * choice(torch.arange(low, high + 1), (count,), generator)
    offset = uniform(-MAX_CARRIER_OFFSET, MAX_CARRIER_OFFSET, (count,), generator)
    carrier = oscillator(offset, torch.zeros(count), spec.samples, generator)
    received = multipath(signal, generator)[:, MARGIN:-MARGIN] * carrier
    iq = to_iq(add_noise(received[:, None], snr, generator))
    return Scene(iq, {"modulation": kind.numpy(), "snr_db": snr.numpy()})


def waveform(name: str, count: int, samples: int, generator: Generator) -> Tensor:
    """Signals of one of ``MODULATIONS``, complex64 ``(count, samples)``, about unit power."""
    time = torch.arange(samples) / SAMPLES_PER_SYMBOL + uniform(0, 1, (count, 1), generator)
    length = samples // SAMPLES_PER_SYMBOL + 2 * PULSE_HALF_SPAN + 2
    if name in ALPHABETS:
        symbols = choice(CONSTELLATIONS[ALPHABETS[name]], (count, length), generator)
        return linear_train(symbols, time, torch.full((count,), ROLLOFFS.index(0.35)))
    if name in ("cpfsk", "gfsk"):
        bits = choice(torch.tensor([-1.0, 1.0]), (count, length), generator)
        shaped = gaussian_keyed(bits, time, torch.full((count, 1), 0.35))
        held = bits.gather(1, time.long())
        return from_frequency(0.25 * (shaped if name == "gfsk" else held) / SAMPLES_PER_SYMBOL, generator)
    sound = message(count, samples, generator)
    if name == "am-dsb":
        return torch.complex(1 + 0.5 * sound, torch.zeros_like(sound)) / math.sqrt(1.25)
    if name == "wbfm":
        return from_frequency(WBFM_DEVIATION * sound, generator)
    # Single sideband: the analytic signal, i.e. the positive frequencies of the message.
    spectrum = torch.fft.fft(sound)
    spectrum[:, samples // 2 :] = 0
    analytic: Tensor = torch.fft.ifft(spectrum)
    return math.sqrt(2) * analytic


def multipath(signal: Tensor, generator: Generator) -> Tensor:
    """The three faded, delayed copies ``(N, samples)``; fractional delays by a phase over frequency."""
    count, samples = signal.shape
    frequency = torch.fft.fftfreq(samples)
    spectrum = torch.fft.fft(signal)
    doppler, steady = torch.full((count,), DOPPLER), torch.full((count,), K_FACTOR)
    received = torch.zeros_like(signal)
    for delay, magnitude in zip(DELAYS, MAGNITUDES, strict=True):
        delayed = torch.fft.ifft(spectrum * torch.exp(-2j * math.pi * delay * frequency))
        received += magnitude * fading(count, samples, doppler, steady, generator) * delayed
    return received


RML2016 = Scenario(_make, "modulation", {"modulation": MODULATIONS})
