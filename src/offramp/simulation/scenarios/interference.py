"""Which technology sends on which channel of a 10 MHz band at 2.4 GHz? 15 classes, 12.8 microseconds each.

Ten Bluetooth channels (1 MHz apart), two of IEEE 802.15.4 (5 MHz apart), three of IEEE 802.11b or g (5 MHz apart, wider than the band).

Source of the task: Schmidt, Block, Meier, "Wireless Interference Identification with Convolutional Neural Networks" (IEEE INDIN 2017,
arXiv 1703.00737). Sources of the waveforms: IEEE 802.11-2020, sec. 15 (Barker DSSS, 11 Mchip/s) and 17 (OFDM, 52 of 64
bins in 20 MHz); IEEE 802.15.4-2020, sec. 12 (O-QPSK, 2 Mchip/s); Bluetooth Core 5.3, vol. 2 part A (GFSK, 1 Msymbol/s, BT 0.5).
Differences: 802.11b at 1 Mbit/s alone; bursts are longer than a window.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from offramp.schema.tasks import SyntheticSpec
from offramp.simulation.channel import MAX_DELAY, add_noise, propagate, rician_paths, to_iq
from offramp.simulation.constellations import CONSTELLATIONS
from offramp.simulation.draws import choice, integers, seeded, uniform
from offramp.simulation.frequency import from_frequency, gaussian_keyed
from offramp.simulation.impairments import oscillator
from offramp.simulation.pulses import PULSE_HALF_SPAN, ROLLOFFS, linear_train
from offramp.simulation.scenarios.scene import Scenario, Scene
from offramp.simulation.windows import SCATTERERS

BAND_MHZ = 10
OVERSAMPLING = 4
RATE_MHZ = BAND_MHZ * OVERSAMPLING
"""Waveforms are made at 40 MHz, filtered to the receiver's 10 MHz and decimated."""
CENTRES_MHZ = {
    **{f"bluetooth {offset:+.1f} MHz": offset for offset in (-4.5, -3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 4.5)},
    **{f"802.15.4 {offset:+.1f} MHz": offset for offset in (-2.5, 2.5)},
    **{f"802.11b/g {offset:+.1f} MHz": offset for offset in (-5.0, 0.0, 5.0)},
}
MAX_CARRIER_OFFSET_MHZ = 0.05
"""20 parts per million at 2.4 GHz."""
BARKER = torch.tensor([1, -1, 1, 1, -1, 1, 1, 1, -1, -1, -1]).to(torch.complex64)
CHIPS_802_15_4 = torch.tensor([int(chip) for chip in "11011001110000110101001000101110"])
MARGIN = 32
"""Decimated samples on either side of a window: the filter's edges stay outside."""


def _make(spec: SyntheticSpec, count: int, block: int) -> Scene:
    """Columns: ``emitter`` (int64), ``snr_db`` (float32, in the 10 MHz band)."""
    generator = seeded(spec.seed, block)
    kind = integers(len(CENTRES_MHZ), (count,), generator)
    samples = OVERSAMPLING * (MAX_DELAY + spec.samples + 2 * MARGIN)
    signal = torch.empty(count, samples, dtype=torch.complex64)
    for number, name in enumerate(CENTRES_MHZ):
        rows = (kind == number).nonzero().flatten()
        signal[rows] = waveform(name.split()[0], len(rows), samples, generator)
    centre = torch.tensor(list(CENTRES_MHZ.values()))[kind]
    centre = centre + uniform(-MAX_CARRIER_OFFSET_MHZ, MAX_CARRIER_OFFSET_MHZ, (count,), generator)
    tuned = signal * oscillator(centre / RATE_MHZ, torch.zeros(count), samples, generator)
    heard = receiver_band(tuned)[:, MARGIN:-MARGIN]
    paths = rician_paths(torch.zeros(count), uniform(3, 20, (count,), generator), SCATTERERS, generator)
    snr = uniform(*spec.snr_db, (count,), generator)
    iq = to_iq(add_noise(propagate(heard, paths, 1), snr, generator))
    return Scene(iq, {"emitter": kind.numpy(), "snr_db": snr.numpy()})


def receiver_band(signal: Tensor) -> Tensor:
    """An ideal filter of 10 MHz, then decimation by 4: ``(N, 4 S)`` to ``(N, S)``."""
    spectrum = torch.fft.fft(signal)
    keep = signal.shape[1] // OVERSAMPLING
    inside = torch.cat([spectrum[:, : keep // 2], spectrum[:, -(keep - keep // 2) :]], 1)
    narrow: Tensor = torch.fft.ifft(inside)
    return narrow / OVERSAMPLING


def waveform(technology: str, count: int, samples: int, generator: Generator) -> Tensor:
    """Baseband signals at 40 MHz, complex64 ``(count, samples)``: ``bluetooth``, ``802.15.4`` or ``802.11b/g`` (half of each)."""
    if technology == "bluetooth":
        return bluetooth(count, samples, generator)
    if technology == "802.15.4":
        return offset_qpsk(count, samples, generator)
    spread = uniform(0, 1, (count, 1), generator) < 0.5
    return torch.where(spread, barker(count, samples, generator), wifi_ofdm(count, samples, generator))


def bluetooth(count: int, samples: int, generator: Generator) -> Tensor:
    """Gaussian frequency-shift keying, 1 Msymbol/s, BT 0.5, modulation index 0.28 to 0.35."""
    time = torch.arange(samples) / RATE_MHZ + uniform(0, 1, (count, 1), generator)
    bits = choice(torch.tensor([-1.0, 1.0]), (count, samples // RATE_MHZ + 2 * PULSE_HALF_SPAN + 2), generator)
    index = uniform(0.28, 0.35, (count, 1), generator)
    return from_frequency(index / 2 * gaussian_keyed(bits, time, torch.full((count, 1), 0.5)) / RATE_MHZ, generator)


def chips_802_15_4() -> Tensor:
    """The 16 sequences of 32 chips, int64 ``(16, 32)``: cyclic shifts by 4, and those with the odd chips inverted."""
    shifted = torch.stack([CHIPS_802_15_4.roll(4 * symbol) for symbol in range(8)])
    inverted = shifted.clone()
    inverted[:, 1::2] = 1 - inverted[:, 1::2]
    return torch.cat([shifted, inverted])


def offset_qpsk(count: int, samples: int, generator: Generator) -> Tensor:
    """IEEE 802.15.4 at 2 Mchip/s: even chips on I, odd ones on Q half a microsecond later, half-sine pulses."""
    symbols = samples // (16 * RATE_MHZ) + 3
    chips = chips_802_15_4()[integers(16, (count, symbols), generator)].flatten(1) * 2.0 - 1
    time = torch.arange(samples) / RATE_MHZ + uniform(0, 16, (count, 1), generator)
    late = time + 0.5
    in_phase = chips[:, 0::2].gather(1, time.long()) * torch.sin(math.pi * (time % 1))
    quadrature = chips[:, 1::2].gather(1, late.long()) * torch.sin(math.pi * (late % 1))
    return torch.complex(in_phase, quadrature)


def barker(count: int, samples: int, generator: Generator) -> Tensor:
    """IEEE 802.11b at 1 Mbit/s: BPSK spread by the Barker code of 11 chips, 11 Mchip/s."""
    time = torch.arange(samples) * 11 / RATE_MHZ + uniform(0, 11, (count, 1), generator)
    length = samples * 11 // RATE_MHZ + 11 + 2 * PULSE_HALF_SPAN + 2
    chip = torch.arange(length)
    bits = choice(CONSTELLATIONS["bpsk"], (count, length // 11 + 1), generator)
    return linear_train(bits[:, chip // 11] * BARKER[chip % 11], time, torch.full((count,), ROLLOFFS.index(0.5)))


def wifi_ofdm(count: int, samples: int, generator: Generator) -> Tensor:
    """IEEE 802.11g: 52 of 64 bins over 20 MHz, QPSK, a guard interval of 1/4, sampled at twice that rate."""
    bins, prefix = 128, 32
    symbols = samples // (bins + prefix) + 2
    spectrum = torch.zeros(count, symbols, bins, dtype=torch.complex64)
    occupied = torch.cat([torch.arange(1, 27), torch.arange(bins - 26, bins)])
    spectrum[..., occupied] = choice(CONSTELLATIONS["qpsk"], (count, symbols, 52), generator)
    body = torch.fft.ifft(spectrum, norm="ortho") * math.sqrt(bins / 52)
    stream = torch.cat([body[..., -prefix:], body], -1).flatten(1)
    start = integers(bins + prefix, (count, 1), generator)
    return stream.gather(1, start + torch.arange(samples))


INTERFERENCE = Scenario(_make, "emitter", {"emitter": tuple(CENTRES_MHZ)})
