"""Which of 8 transmitters of one model is it? They differ in I/Q imbalance, amplifier and filter, and in nothing else.

A session is a stretch of 32 windows from one transmitter. Receiver, carrier offset, channel and SNR are drawn anew for every
session, the payload for every window, so that nothing but the transmitter's imperfections can carry over to another session. The
receivers are of laboratory grade: their I/Q imbalance is a fifth of a transmitter's. With
``mismatch: false`` all transmitters are the nominal one, and no method can do better than chance.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.schema.tasks import SyntheticSpec
from offramp.simulation.channel import MAX_DELAY, Paths, add_noise, propagate, rician_paths, to_iq
from offramp.simulation.constellations import CONSTELLATIONS
from offramp.simulation.draws import choice, complex_normal, integers, seeded, uniform
from offramp.simulation.impairments import Receiver, Transmitter, draw_receivers, receive, transmit
from offramp.simulation.pulses import PULSE_HALF_SPAN, ROLLOFFS, linear_train
from offramp.simulation.scenarios.scene import Scenario, Scene
from offramp.simulation.windows import K_FACTOR_DB, MAX_ANGLE, SCATTERERS

TRANSMITTERS = 8
SESSION_WINDOWS = 32
SAMPLES_PER_SYMBOL = 4
FILTER_TAPS = 3
FILTER_SPREAD = 0.2
"""Standard deviation of a transmitter's second and third filter tap; the nominal filter is a single one."""
RECEIVER_IMBALANCE = 0.2
DEVICE_STREAM = 1 << 42
"""Keeps the draw of transmitters apart from those of windows."""


def _make(spec: SyntheticSpec, count: int, block: int) -> Scene:
    """Columns: ``transmitter`` and ``session`` (int64), ``snr_db`` (float32)."""
    generator = seeded(spec.seed, block)
    sessions = math.ceil(count / SESSION_WINDOWS)
    session = torch.arange(count) // SESSION_WINDOWS
    transmitter = integers(TRANSMITTERS, (sessions,), generator)
    snr = uniform(*spec.snr_db, (sessions,), generator)
    receivers = draw_receivers(sessions, generator)
    angle = uniform(-MAX_ANGLE, MAX_ANGLE, (sessions,), generator)
    paths = rician_paths(angle, uniform(*K_FACTOR_DB, (sessions,), generator), SCATTERERS, generator)

    length = FILTER_TAPS - 1 + MAX_DELAY + spec.samples
    time = torch.arange(length) / SAMPLES_PER_SYMBOL + uniform(0, 1, (count, 1), generator)
    symbols = choice(CONSTELLATIONS["qpsk"], (count, length // SAMPLES_PER_SYMBOL + 2 * PULSE_HALF_SPAN + 2), generator)
    payload = linear_train(symbols, time, torch.full((count,), ROLLOFFS.index(0.35)))
    sent = send(payload, transmitter[session], spec)
    heard = propagate(sent, Paths(paths.gain[session], paths.delay[session], paths.angle[session]), spec.antennas)
    noisy = add_noise(heard, snr[session], generator)
    iq = to_iq(receive(noisy, _each(receivers, session), generator))
    columns: dict[str, NDArray[np.generic]] = {
        "transmitter": transmitter[session].numpy(),
        "session": (session + block * sessions).numpy(),
        "snr_db": snr[session].numpy(),
    }
    return Scene(iq, columns)


def send(payload: Tensor, transmitter: Tensor, spec: SyntheticSpec) -> Tensor:
    """Pass ``(N, FILTER_TAPS - 1 + samples)`` through the hardware of the transmitter of each row: ``(N, samples)``."""
    generator = seeded(spec.seed, DEVICE_STREAM)
    spread = 1.0 if spec.mismatch else 0.0
    radios = Transmitter(
        gain_db=spread * uniform(-1, 1, (TRANSMITTERS,), generator),
        skew=spread * torch.deg2rad(uniform(-5, 5, (TRANSMITTERS,), generator)),
        smoothness=2 + spread * uniform(-0.7, 0.7, (TRANSMITTERS,), generator),
        saturation=torch.pow(10.0, (4 + spread * uniform(-3, 3, (TRANSMITTERS,), generator)) / 20),
    )
    taps = spread * FILTER_SPREAD * complex_normal((TRANSMITTERS, FILTER_TAPS), generator)
    taps[:, 0] = 1
    amplified = transmit(
        payload,
        Transmitter(
            radios.gain_db[transmitter],
            radios.skew[transmitter],
            radios.smoothness[transmitter],
            radios.saturation[transmitter],
        ),
    )
    delayed = amplified.unfold(1, FILTER_TAPS, 1).flip(2)
    return torch.einsum("nst,nt->ns", delayed, taps[transmitter])


def _each(receivers: Receiver, session: Tensor) -> Receiver:
    return Receiver(
        receivers.carrier_offset[session],
        receivers.phase_noise[session],
        RECEIVER_IMBALANCE * receivers.gain_db[session],
        RECEIVER_IMBALANCE * receivers.skew[session],
        RECEIVER_IMBALANCE * receivers.offset[session],
    )


FINGERPRINT = Scenario(
    _make, "transmitter", {"transmitter": tuple(f"radio{i}" for i in range(TRANSMITTERS))}, "session"
)
