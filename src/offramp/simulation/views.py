"""Pairs of views of one transmission, for pretraining, with what the generator drew for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Generator, Tensor

from offramp.simulation.channel import MAX_DELAY, Paths, drifted, to_iq
from offramp.simulation.draws import complex_normal, seeded, uniform
from offramp.simulation.impairments import (
    Receiver,
    Transmitter,
    draw_receivers,
    draw_transmitters,
    oscillator,
    transmit,
)
from offramp.simulation.signal_types import (
    CONSTANT_ENVELOPE,
    NOISE,
    SIGNAL_TYPES,
    draw_kinds,
    family_of,
    transmissions,
)
from offramp.simulation.waveforms import Waveforms
from offramp.simulation.windows import line_of_sight, received

VIEW_CORRELATION = 0.9
"""Share of the scatterers' gains that the second view of a transmission keeps, with views that share the channel."""
CARRIER_JITTER = 0.002
"""Cycles per sample by which the carrier of a ``crop`` view is moved at most."""
ADDED_NOISE_DB = (5.0, 25.0)
"""Power of a received window over that of the noise that is added to it in a ``crop`` view."""


@dataclass(frozen=True)
class Drawn:
    """What the generator drew for N views; NaN, or -1 for a class, where a quantity has no meaning.

    Noise alone has only a signal type, a family, antennas and a receiver's I/Q imbalance. Symbol timing is drawn, but a crop
    of many symbols has no one value of it that an average over time could keep; there is no Doppler in a view.

    Attributes:
        signal_type: int64 ``(N,)``, index into ``SIGNAL_TYPES``.
        family: int64 ``(N,)``, index into ``FAMILIES``.
        antennas: int64 ``(N,)``.
        snr_db: float32 ``(N,)``, as all below: in the whole sampled band.
        samples_per_symbol: Of a spread signal per chip; NaN for signals without a train of symbols.
        rolloff: Of root-raised-cosine pulses; NaN for all others.
        carrier_offset: Cycles per sample.
        delay_spread: Root mean square over the paths' powers, samples.
        k_factor_db: Power of the line of sight over that of all scattered paths.
        angle: Of the line of sight, degrees from broadside; NaN with one antenna.
        phase_noise: Standard deviation of the phase step between samples, radians.
        transmitter_gain_db: I/Q gain imbalance.
        transmitter_skew: I/Q phase imbalance, radians.
        saturation_db: Output limit of the amplifier over the signal's mean power (back-off); NaN for a constant envelope.
        receiver_gain_db: I/Q gain imbalance.
        receiver_skew: I/Q phase imbalance, radians.
    """

    signal_type: Tensor
    family: Tensor
    antennas: Tensor
    snr_db: Tensor
    samples_per_symbol: Tensor
    rolloff: Tensor
    carrier_offset: Tensor
    delay_spread: Tensor
    k_factor_db: Tensor
    angle: Tensor
    phase_noise: Tensor
    transmitter_gain_db: Tensor
    transmitter_skew: Tensor
    saturation_db: Tensor
    receiver_gain_db: Tensor
    receiver_skew: Tensor


@dataclass(frozen=True)
class Views:
    """Two views of each of N transmissions: first all first ones, then all second ones.

    Attributes:
        iq: float32 ``(2 N, 2, antennas, samples)``.
        drawn: What is known about each.
    """

    iq: Tensor
    drawn: Drawn


@dataclass(frozen=True)
class _Heard:
    """One view of each transmission: what it passed through, and what arrived."""

    paths: Paths
    receiver: Receiver
    snr_db: Tensor
    iq: Tensor


@dataclass(frozen=True)
class _Scene:
    """Transmissions, each long enough for two crops, and how they are listened to."""

    signal: Tensor
    antennas: int
    samples: int
    snr_db: tuple[float, float]
    generator: Generator

    @property
    def count(self) -> int:
        return len(self.signal)

    def line_of_sight(self) -> Paths:
        return line_of_sight(self.count, self.generator)[1]

    def receivers(self) -> Receiver:
        return draw_receivers(self.count, self.generator)

    def hear(self, crop: int, paths: Paths, receiver: Receiver) -> _Heard:
        length = MAX_DELAY + self.samples
        start = crop * (length + self.samples // 8)
        snr = uniform(*self.snr_db, (self.count,), self.generator)
        signal = self.signal[:, start : start + length]
        return _Heard(paths, receiver, snr, received(signal, paths, receiver, self.antennas, snr, self.generator))


def view_pairs(
    count: int,
    antennas: int,
    samples: int,
    snr_db: tuple[float, float],
    seed: int,
    block: int,
    device: torch.device | str = "cpu",
    views: str = "same",
) -> Views:
    """Two views of each of ``count`` transmissions.

    What both share is what a contrastive encoder should keep; payload, timing, phase, SNR and noise always differ, but in a
    ``crop``. Signal type, symbol rate, pulse and transmitter are always shared.

    Args:
        count: Transmissions N.
        antennas: Antennas of the array.
        samples: Length of a view.
        snr_db: Range of the SNR.
        seed: Of all views.
        block: Numbers independent blocks of them.
        device: Where they are made.
        views: ``"same"``: disjoint crops heard by one receiver from one direction, scattered paths a little changed.
            ``"redrawn"``: disjoint crops; receiver, carrier offset, direction and paths drawn anew. ``"crop"``: one received
            window twice, each time with another phase, a little more carrier offset and more noise, as SimCLR (arXiv
            2002.05709) is applied to I/Q by IQFM (arXiv 2506.06718).
    """
    generator = seeded(seed, block, device)
    kind = draw_kinds(count, generator)
    sent = transmissions(kind, 2 * (MAX_DELAY + samples) + samples // 8, generator)
    transmitter = draw_transmitters(count, generator)
    heard = VIEWS[views](_Scene(transmit(sent.signal, transmitter), antennas, samples, snr_db, generator))
    drawn = [_drawn(kind, sent, transmitter, view) for view in heard]
    both = {field.name: torch.cat([getattr(one, field.name) for one in drawn]) for field in fields(Drawn)}
    return Views(torch.cat([view.iq for view in heard]), Drawn(**both))


def _same(scene: _Scene) -> tuple[_Heard, _Heard]:
    paths, receiver = scene.line_of_sight(), scene.receivers()
    later = drifted(paths, VIEW_CORRELATION, scene.generator)
    return scene.hear(0, paths, receiver), scene.hear(1, later, receiver)


def _redrawn(scene: _Scene) -> tuple[_Heard, _Heard]:
    first, second = (scene.hear(crop, scene.line_of_sight(), scene.receivers()) for crop in (0, 1))
    return first, second


def _crop(scene: _Scene) -> tuple[_Heard, _Heard]:
    heard = scene.hear(0, scene.line_of_sight(), scene.receivers())
    return _disturbed(heard, scene.generator), _disturbed(heard, scene.generator)


VIEWS: dict[str, Callable[[_Scene], tuple[_Heard, _Heard]]] = {"same": _same, "crop": _crop, "redrawn": _redrawn}


def _disturbed(heard: _Heard, generator: Generator) -> _Heard:
    """The same window with another phase, a little more carrier offset, and more noise."""
    signal = torch.complex(heard.iq[:, 0], heard.iq[:, 1])
    count, _, samples = signal.shape
    jitter = uniform(-CARRIER_JITTER, CARRIER_JITTER, (count,), generator)
    still = torch.zeros_like(jitter)
    turned = signal * oscillator(jitter, still, samples, generator)[:, None]
    power = signal.abs().square().mean((1, 2))
    added = power * torch.pow(10.0, -uniform(*ADDED_NOISE_DB, (count,), generator) / 10)
    noisy = turned + complex_normal(tuple(signal.shape), generator) * added.sqrt()[:, None, None]
    # In a received window the signal has unit power.
    noise = torch.pow(10.0, -heard.snr_db / 10) + added
    receiver = replace(heard.receiver, carrier_offset=heard.receiver.carrier_offset + jitter)
    return _Heard(heard.paths, receiver, -10 * noise.log10(), to_iq(noisy))


def _drawn(kind: Tensor, sent: Waveforms, transmitter: Transmitter, heard: _Heard) -> Drawn:
    silent = kind == NOISE
    constant = torch.isin(kind, torch.tensor([SIGNAL_TYPES.index(name) for name in CONSTANT_ENVELOPE]).to(kind.device))
    antennas = heard.iq.shape[2]
    power = heard.paths.gain.abs().square()
    angle = heard.paths.angle[:, 0]

    def of_signal(values: Tensor) -> Tensor:
        return values.masked_fill(silent, torch.nan)

    return Drawn(
        signal_type=kind,
        family=family_of(kind),
        antennas=torch.full_like(kind, antennas),
        snr_db=of_signal(heard.snr_db),
        samples_per_symbol=sent.samples_per_symbol,
        rolloff=sent.rolloff,
        carrier_offset=of_signal(heard.receiver.carrier_offset),
        delay_spread=of_signal(_delay_spread(power, heard.paths.delay)),
        k_factor_db=of_signal(10 * (power[:, 0] / power[:, 1:].sum(1)).log10()),
        angle=of_signal(angle if antennas > 1 else torch.full_like(angle, torch.nan)),
        phase_noise=of_signal(heard.receiver.phase_noise),
        transmitter_gain_db=of_signal(transmitter.gain_db),
        transmitter_skew=of_signal(transmitter.skew),
        saturation_db=of_signal(20 * transmitter.saturation.log10()).masked_fill(constant, torch.nan),
        receiver_gain_db=heard.receiver.gain_db,
        receiver_skew=heard.receiver.skew,
    )


def _delay_spread(power: Tensor, delay: Tensor) -> Tensor:
    """Root mean square delay over paths of some power, both ``(N, P)``, about their mean delay: ``(N,)``."""
    share = power / power.sum(1, keepdim=True)
    mean = (share * delay).sum(1, keepdim=True)
    return (share * (delay - mean).square()).sum(1).sqrt()
