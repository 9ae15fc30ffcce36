"""Which of 8 beams does a phased array send on? Only its elements' amplifiers and filters give it away.

One fixed array of 8 elements with 2-bit phase shifters has a fixed codebook of 8 beams. The receiver, one antenna at a random
departure angle, sees a sum of the elements' signals with phases that depend on beam and angle. All elements send at equal power,
and the received power is normalised, so that with equal elements (``mismatch: false``) every beam looks like every other: the
sum is then one waveform times one complex number.

Source of the task: Polese, Restuccia, Melodia, "DeepBeam: Deep Waveform Learning for Coordination-Free Beam Management in mmWave
Networks" (MobiHoc 2021, arXiv 2012.14350).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from offramp.schema.tasks import SyntheticSpec
from offramp.simulation.channel import add_noise, steering, to_iq
from offramp.simulation.constellations import CONSTELLATIONS
from offramp.simulation.draws import choice, complex_normal, integers, seeded, uniform
from offramp.simulation.impairments import amplify, draw_receivers, receive
from offramp.simulation.pulses import PULSE_HALF_SPAN, ROLLOFFS, linear_train
from offramp.simulation.scenarios.scene import Scenario, Scene
from offramp.simulation.windows import MAX_ANGLE

BEAMS = 8
ELEMENTS = 8
SAMPLES_PER_SYMBOL = 2
FILTER_TAPS = 6
FILTER_SPREAD = 0.4
"""Standard deviation of an element's later filter taps; the nominal filter is a single one."""
ARRAY_STREAM = 1 << 43
"""Keeps the draw of the array apart from those of windows."""


def _make(spec: SyntheticSpec, count: int, block: int) -> Scene:
    """Columns: ``beam`` (int64), ``angle`` (float32, departure in degrees from broadside), ``snr_db`` (float32)."""
    generator = seeded(spec.seed, block)
    beam = integers(BEAMS, (count,), generator)
    angle = uniform(-MAX_ANGLE, MAX_ANGLE, (count,), generator)
    length = FILTER_TAPS - 1 + spec.samples
    time = torch.arange(length) / SAMPLES_PER_SYMBOL + uniform(0, 1, (count, 1), generator)
    symbols = choice(
        CONSTELLATIONS["16qam"], (count, length // SAMPLES_PER_SYMBOL + 2 * PULSE_HALF_SPAN + 2), generator
    )
    payload = linear_train(symbols, time, torch.full((count,), ROLLOFFS.index(0.35)))
    sent = radiate(payload, beam, angle, spec)
    snr = uniform(*spec.snr_db, (count,), generator)
    iq = to_iq(receive(add_noise(sent[:, None], snr, generator), draw_receivers(count, generator), generator))
    return Scene(iq, {"beam": beam.numpy(), "angle": angle.numpy(), "snr_db": snr.numpy()})


def radiate(payload: Tensor, beam: Tensor, angle: Tensor, spec: SyntheticSpec) -> Tensor:
    """What leaves the array towards ``angle`` on ``beam``: ``(N, FILTER_TAPS - 1 + samples)`` to ``(N, samples)``."""
    generator = seeded(spec.seed, ARRAY_STREAM)
    codebook = torch.polar(torch.ones(BEAMS, ELEMENTS), math.pi / 2 * integers(4, (BEAMS, ELEMENTS), generator))
    spread = 1.0 if spec.mismatch else 0.0
    smoothness = 2 + spread * uniform(-0.7, 0.7, (ELEMENTS,), generator)
    saturation = torch.pow(10.0, (3 + spread * uniform(-3, 3, (ELEMENTS,), generator)) / 20)
    taps = spread * FILTER_SPREAD * complex_normal((ELEMENTS, FILTER_TAPS), generator)
    taps[:, 0] = 1
    weight = codebook[beam] * steering(ELEMENTS, angle)
    total = torch.zeros(len(payload), payload.shape[1] - FILTER_TAPS + 1, dtype=torch.complex64)
    for element in range(ELEMENTS):
        # A phase shift commutes with the amplifier and the filter, so that it may be applied last.
        amplified = amplify(payload, smoothness[element].expand(len(payload)), saturation[element].expand(len(payload)))
        filtered = torch.einsum("nst,t->ns", amplified.unfold(1, FILTER_TAPS, 1).flip(2), taps[element])
        total += weight[:, element, None] * filtered
    return total


BEAM = Scenario(_make, "beam", {"beam": tuple(f"beam{i}" for i in range(BEAMS))})
