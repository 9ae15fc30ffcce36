"""Views, and what the generator says it drew for them, against what can be measured on the views themselves."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from offramp.simulation.channel import MAX_DELAY, add_noise, drifted, propagate, rician_paths, to_iq
from offramp.simulation.draws import seeded, uniform
from offramp.simulation.impairments import draw_receivers, draw_transmitters, receive, transmit
from offramp.simulation.signal_types import (
    CONSTANT_ENVELOPE,
    FAMILIES,
    SIGNAL_TYPES,
    draw_kinds,
    family_of,
    transmissions,
)
from offramp.simulation.views import VIEWS, Drawn, Views, view_pairs
from offramp.simulation.windows import K_FACTOR_DB, MAX_ANGLE

SIGNALS_WITHOUT_SYMBOLS = ("ofdm", "dft-s-ofdm", "fm", "am", "radar", "noise")
EVERY_KIND = pytest.mark.parametrize("views", list(VIEWS))


def received(iq: Tensor) -> Tensor:
    """Complex ``(N, antennas, samples)``."""
    return torch.complex(iq[:, 0], iq[:, 1])


def of_types(drawn: Drawn, names: tuple[str, ...]) -> Tensor:
    return torch.isin(drawn.signal_type, torch.tensor([SIGNAL_TYPES.index(name) for name in names]))


def correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])


def halves(values: Tensor) -> tuple[Tensor, Tensor]:
    first, second = values.chunk(2)
    return first, second


@pytest.mark.parametrize(("seed", "antennas", "samples"), [(0, 4, 256), (1, 1, 128), (2, 3, 192)])
def test_views_that_share_the_channel_are_drawn_in_the_order_that_encoders_were_pretrained_with(
    seed: int, antennas: int, samples: int
) -> None:
    """The shipped encoders' data, drawn by hand: a change of the order would change them all."""
    count, length, block = 50, MAX_DELAY + samples, 7
    generator = seeded(seed, block)
    sent = transmissions(draw_kinds(count, generator), 2 * length + samples // 8, generator)
    signal = transmit(sent.signal, draw_transmitters(count, generator))
    angle = uniform(-MAX_ANGLE, MAX_ANGLE, (count,), generator)
    paths = rician_paths(angle, uniform(*K_FACTOR_DB, (count,), generator), 3, generator)
    receivers = draw_receivers(count, generator)
    later = drifted(paths, 0.9, generator)
    expected = []
    for start, seen in ((0, paths), (length + samples // 8, later)):
        snr = uniform(-6, 20, (count,), generator)
        noisy = add_noise(propagate(signal[:, start : start + length], seen, antennas), snr, generator)
        expected.append(to_iq(receive(noisy, receivers, generator)))
    assert torch.equal(view_pairs(count, antennas, samples, (-6, 20), seed, block).iq, torch.cat(expected))


@EVERY_KIND
def test_there_is_a_value_for_every_view_that_has_one(views: str) -> None:
    made = view_pairs(300, 2, 128, (-6, 20), 0, 0, views=views)
    drawn, noise = made.drawn, of_types(made.drawn, ("noise",))
    assert made.iq.isfinite().all()
    assert {len(getattr(drawn, field.name)) for field in fields(Drawn)} == {600}
    assert (drawn.antennas == 2).all()
    for name in ("signal_type", "family", "antennas"):
        assert getattr(drawn, name).dtype == torch.int64
        assert (getattr(drawn, name) >= 0).all()
    absent = {
        "samples_per_symbol": of_types(drawn, SIGNALS_WITHOUT_SYMBOLS),
        "saturation_db": of_types(drawn, ("noise", *CONSTANT_ENVELOPE)),
        "receiver_gain_db": torch.zeros_like(noise),
        "receiver_skew": torch.zeros_like(noise),
    }
    for field in fields(Drawn)[3:]:
        values = getattr(drawn, field.name)
        assert values.dtype == torch.float32
        if field.name != "rolloff":
            assert torch.equal(values.isnan(), absent.get(field.name, noise)), field.name
    shaped = drawn.rolloff.isfinite()
    assert not (shaped & ~of_types(drawn, SIGNAL_TYPES[: SIGNAL_TYPES.index("ofdm")])).any()
    assert 0.7 < shaped[of_types(drawn, SIGNAL_TYPES[: SIGNAL_TYPES.index("ofdm")])].float().mean() < 0.9


def test_one_antenna_sees_no_direction() -> None:
    assert view_pairs(20, 1, 64, (0, 0), 0, 0).drawn.angle.isnan().all()


def test_every_signal_type_is_in_one_family() -> None:
    assert sorted(sum(FAMILIES.values(), ())) == sorted(SIGNAL_TYPES)
    family = family_of(torch.arange(len(SIGNAL_TYPES)))
    assert all(name in list(FAMILIES.values())[index] for name, index in zip(SIGNAL_TYPES, family, strict=True))


@EVERY_KIND
def test_what_is_shared_is_shared_and_nothing_else(views: str) -> None:
    drawn = view_pairs(200, 4, 128, (-6, 20), 1, 0, views=views).drawn
    of_sender = {"signal_type", "family", "antennas", "samples_per_symbol", "rolloff", "saturation_db"}
    of_sender |= {"transmitter_gain_db", "transmitter_skew"}
    of_receiver = {"angle", "phase_noise", "receiver_gain_db", "receiver_skew"}
    shared = {
        "same": of_sender | of_receiver | {"carrier_offset"},
        "crop": of_sender | of_receiver | {"delay_spread", "k_factor_db"},
        "redrawn": of_sender,
    }[views]
    for field in fields(Drawn):
        one, two = halves(getattr(drawn, field.name).nan_to_num(0.0))
        assert torch.equal(one, two) == (field.name in shared), field.name


@EVERY_KIND
def test_the_angle_is_that_of_the_phase_between_antennas(views: str) -> None:
    made = view_pairs(300, 8, 256, (40, 40), 2, 0, views=views)
    x = received(made.iq)
    phase = (x[:, 1:] * x[:, :-1].conj()).sum((1, 2)).angle()
    known = made.drawn.angle.isfinite() & (made.drawn.snr_db > 15)
    assert known.sum() > 50
    error = torch.rad2deg(torch.asin((phase / math.pi).clamp(-1, 1))) - made.drawn.angle
    assert error[known].abs().median() < 5


@EVERY_KIND
def test_the_carrier_offset_is_that_of_a_carrier(views: str) -> None:
    """Amplitude modulation with its carrier is a tone, modulated slowly."""
    made = view_pairs(2000, 1, 256, (40, 40), 3, 0, views=views)
    rows = of_types(made.drawn, ("am",)) & (made.drawn.snr_db > 15)
    x = received(made.iq)[rows, 0]
    spectrum = torch.fft.fft(x, 8 * 256).abs()
    tone = torch.fft.fftfreq(8 * 256)[spectrum.argmax(1)]
    assert rows.sum() > 20
    assert (tone - made.drawn.carrier_offset[rows]).abs().median() < 5e-4


@EVERY_KIND
def test_the_snr_is_that_of_antennas_that_hear_the_same(views: str) -> None:
    """One path from broadside, about: what two antennas share is signal, what they do not is noise."""
    made = view_pairs(4000, 2, 256, (0, 15), 4, 0, views=views)
    drawn = made.drawn
    rows = (drawn.angle.abs() < 3) & (drawn.k_factor_db > 18)
    one, two = received(made.iq)[rows].unbind(1)
    noise = (one - two).abs().square().mean(1) / 2
    signal = (one * two.conj()).real.mean(1)
    measured = 10 * (signal / noise).log10()
    assert rows.sum() > 20
    assert (measured - drawn.snr_db[rows]).median().abs() < 1
    assert correlation(measured, drawn.snr_db[rows]) > 0.9


def test_the_symbol_rate_is_that_of_the_envelope() -> None:
    """The squared envelope of a linear modulation has a line at the symbol rate (Gardner's)."""
    made = view_pairs(3000, 1, 1024, (40, 40), 5, 0)
    drawn = made.drawn
    rows = of_types(drawn, ("qpsk",)) & (drawn.rolloff > 0.35) & (drawn.samples_per_symbol > 2.5)
    power = received(made.iq)[rows, 0].abs().square()
    spectrum = torch.fft.rfft(power - power.mean(1, keepdim=True)).abs()
    spectrum[:, : 1024 // 20] = 0
    rate = torch.fft.rfftfreq(1024)[spectrum.argmax(1)]
    expected = 1 / drawn.samples_per_symbol[rows]
    assert rows.sum() > 20
    assert ((rate - expected).abs() < 0.004).float().mean() > 0.7


def test_noise_of_the_phase_and_back_off_have_their_ranges() -> None:
    drawn = view_pairs(2000, 2, 64, (0, 0), 6, 0).drawn
    for name, low, high in (
        ("phase_noise", 1e-3, 2e-2),
        ("saturation_db", 2, 12),
        ("rolloff", 0.15, 0.5),
        ("transmitter_gain_db", -1, 1),
        ("receiver_gain_db", -1, 1),
        ("transmitter_skew", -math.radians(5), math.radians(5)),
        ("carrier_offset", -0.02, 0.02),
        ("angle", -60, 60),
    ):
        values = getattr(drawn, name)
        values = values[values.isfinite()]
        assert low - 1e-5 <= values.min() < low + 0.1 * (high - low), name
        assert high + 1e-5 >= values.max() > high - 0.1 * (high - low), name


def test_the_paths_of_a_view_say_its_delay_spread() -> None:
    drawn = view_pairs(2000, 2, 64, (0, 0), 6, 0).drawn
    known = drawn.delay_spread.isfinite()
    # All scattered power at one delay d, a share p of the whole: a spread of d sqrt(p (1 - p)), and d is at most 8 samples.
    share = 1 / (1 + torch.pow(10.0, drawn.k_factor_db[known] / 10))
    assert (drawn.delay_spread[known] <= MAX_DELAY * (share * (1 - share)).sqrt() + 1e-4).all()
    assert correlation(drawn.delay_spread[known].clamp_min(1e-3).log(), drawn.k_factor_db[known]) < -0.3


def test_a_crop_is_one_window_twice() -> None:
    made: Views = view_pairs(100, 2, 256, (30, 30), 7, 0, views="crop")
    one, two = received(made.iq).chunk(2)
    offset = made.drawn.carrier_offset.chunk(2)
    difference = (offset[1] - offset[0]).nan_to_num(0.0)[:, None, None]
    time = torch.arange(256.0)
    turned = one * torch.polar(torch.ones(100, 1, 256), 2 * math.pi * difference * time)
    known = made.drawn.snr_db.chunk(2)[0].isfinite()
    alike = (turned * two.conj()).sum((1, 2)).abs() / (turned.norm(dim=(1, 2)) * two.norm(dim=(1, 2)))
    assert alike[known].median() > 0.9
