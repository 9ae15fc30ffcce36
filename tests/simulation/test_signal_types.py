"""Waveforms against theory: pulses without intersymbol interference, constellations, envelopes, spectra, error rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import erfc
from torch import Tensor

from offramp.simulation.channel import add_noise
from offramp.simulation.constellations import CONSTELLATIONS
from offramp.simulation.draws import seeded
from offramp.simulation.frequency import cpfsk, gaussian_keyed, lora
from offramp.simulation.multicarrier import multicarrier
from offramp.simulation.pulses import (
    PULSE_HALF_SPAN,
    RECTANGULAR,
    ROLLOFFS,
    gaussian_frequency_pulse,
    linear_train,
    root_raised_cosine,
)
from offramp.simulation.signal_types import SIGNAL_TYPES, draw_kinds, transmissions

CONSTANT_ENVELOPE = ("2fsk", "4fsk", "cpfsk", "gmsk", "lora", "fm")


def signals(name: str, count: int, samples: int, seed: int = 0) -> Tensor:
    return transmissions(torch.full((count,), SIGNAL_TYPES.index(name)), samples, seeded(seed, 0)).signal


@pytest.mark.parametrize("name", SIGNAL_TYPES)
def test_every_signal_type_is_finite_and_near_unit_power(name: str) -> None:
    waveform = signals(name, 300, 512)
    assert waveform.shape == (300, 512)
    assert waveform.dtype == torch.complex64
    assert torch.isfinite(torch.view_as_real(waveform)).all()
    power = float(waveform.abs().square().mean())
    assert power == 0 if name == "noise" else 0.9 < power < 1.25
    if name in CONSTANT_ENVELOPE:
        np.testing.assert_allclose(waveform.abs().numpy(), 1, atol=1e-4)


@pytest.mark.parametrize("name", SIGNAL_TYPES)
def test_waveforms_differ_between_rows_and_blocks(name: str) -> None:
    if name == "noise":
        pytest.skip("silence is silence")
    first, second = signals(name, 8, 256), signals(name, 8, 256, seed=1)
    assert not torch.allclose(first[0], first[1])
    assert not torch.allclose(first, second)
    assert torch.equal(first, signals(name, 8, 256))


def test_signal_types_are_drawn_uniformly_and_noise_can_be_left_out() -> None:
    drawn = torch.bincount(draw_kinds(25_000, seeded(0, 0)), minlength=len(SIGNAL_TYPES))
    assert ((drawn - 1000).abs() < 5 * math.sqrt(1000)).all()
    assert SIGNAL_TYPES[-1] == "noise"
    assert int(draw_kinds(5000, seeded(0, 0), with_noise=False).max()) == len(SIGNAL_TYPES) - 2


@pytest.mark.parametrize("name", CONSTELLATIONS)
def test_constellations_have_unit_power_and_distinct_points(name: str) -> None:
    points = CONSTELLATIONS[name]
    assert float(points.abs().square().mean()) == pytest.approx(1, abs=1e-5)
    distance = (points[:, None] - points).abs() + 9 * torch.eye(len(points))
    assert float(distance.min()) > 0.05
    if name != "ook":
        assert abs(complex(points.mean())) < 1e-6


def test_minimum_distance_of_square_qam() -> None:
    for order in (16, 64, 256):
        points = CONSTELLATIONS[f"{order}qam"]
        distance = (points[:, None] - points).abs() + 9 * torch.eye(order)
        assert float(distance.min()) == pytest.approx(math.sqrt(6 / (order - 1)), rel=1e-4)


def test_root_raised_cosine_has_unit_energy_and_no_intersymbol_interference() -> None:
    offsets = torch.arange(-40, 40, 1 / 64, dtype=torch.float64)
    for rolloff in (0.15, 0.25, 0.5):
        pulse = root_raised_cosine(offsets, torch.tensor(rolloff, dtype=torch.float64)).numpy()
        assert np.square(pulse).sum() / 64 == pytest.approx(1, abs=2e-3)
        for symbols in (1, 2, 5):
            assert (pulse[64 * symbols :] * pulse[: -64 * symbols]).sum() / 64 == pytest.approx(0, abs=2e-3)


def matched_filter(received: np.ndarray, sps: int, rolloff: float) -> np.ndarray:
    """Correlate with the pulse, written out by NumPy, and read one sample per symbol."""
    span = np.arange(-PULSE_HALF_SPAN * sps, PULSE_HALF_SPAN * sps + 1) / sps
    pulse = root_raised_cosine(torch.tensor(span), torch.tensor(rolloff, dtype=torch.float64)).numpy() / sps
    return np.stack([np.convolve(row, pulse, mode="same") for row in received])


@pytest.mark.parametrize("shape", [0, 3, len(ROLLOFFS) - 1])
def test_a_matched_filter_gives_the_symbols_back(shape: int) -> None:
    sps, count = 8, 200
    generator = seeded(0, 0)
    symbols = CONSTELLATIONS["qpsk"][torch.randint(4, (1, count + 2 * PULSE_HALF_SPAN), generator=generator)]
    time = torch.arange(count * sps)[None] / sps
    signal = linear_train(symbols, time.float(), torch.tensor([shape]))
    decided = matched_filter(signal.numpy(), sps, ROLLOFFS[shape])[0, ::sps]
    # symbol k is centred on time k - PULSE_HALF_SPAN + 1
    sent = symbols[0, PULSE_HALF_SPAN - 1 : PULSE_HALF_SPAN - 1 + count].numpy()
    middle = slice(2 * PULSE_HALF_SPAN, -2 * PULSE_HALF_SPAN)
    interference = np.abs(decided - sent)[middle]
    # what is left is the truncation of the pulse at 6 symbols
    assert np.sqrt(np.square(interference).mean()) < (0.03 if ROLLOFFS[shape] < 0.2 else 0.01)


def test_a_rectangular_train_holds_each_symbol_for_one_symbol() -> None:
    symbols = torch.arange(40, dtype=torch.float32).to(torch.complex64)[None]
    time = torch.arange(0, 20, 0.25)[None]
    held = linear_train(symbols, time, torch.tensor([RECTANGULAR]))
    np.testing.assert_allclose(held[0].real, np.floor(time[0]) + PULSE_HALF_SPAN - 1, atol=1e-5)


@pytest.mark.parametrize("es_n0_db", [4.0, 7.0, 10.0])
def test_symbol_error_rate_of_qpsk_is_the_textbook_one(es_n0_db: float) -> None:
    sps, shape, rows, count = 4, 5, 50, 1000
    generator = seeded(3, 0)
    number = torch.randint(4, (rows, count + 2 * PULSE_HALF_SPAN), generator=generator)
    time = (torch.arange(count * sps) / sps).expand(rows, -1)
    signal = linear_train(CONSTELLATIONS["qpsk"][number], time, torch.full((rows,), shape))
    # Es/N0 = SNR * samples per symbol, by the definition of the SNR in the whole sampled band
    snr_db = torch.full((rows,), es_n0_db - 10 * math.log10(sps))
    received = add_noise(signal[:, None], snr_db, generator)[:, 0]
    decided = matched_filter(received.numpy(), sps, ROLLOFFS[shape])[:, ::sps]
    sent = number[:, PULSE_HALF_SPAN - 1 : PULSE_HALF_SPAN - 1 + count].numpy()
    guess = np.abs(decided[..., None] - CONSTELLATIONS["qpsk"].numpy()).argmin(-1)
    middle = slice(PULSE_HALF_SPAN, -PULSE_HALF_SPAN)
    measured = (guess != sent)[:, middle].mean()
    q = 0.5 * erfc(math.sqrt(10 ** (es_n0_db / 10)) / math.sqrt(2))
    expected = 2 * q - q * q  # Proakis and Salehi, eq. 4.3-15
    assert measured == pytest.approx(expected, rel=0.1, abs=4 * math.sqrt(expected / (rows * count)))


def test_gaussian_pulse_has_unit_area_and_the_stated_bandwidth() -> None:
    x = torch.arange(-8, 8, 1 / 256, dtype=torch.float64)
    for bandwidth in (0.3, 0.5):
        pulse = gaussian_frequency_pulse(x, torch.tensor(bandwidth, dtype=torch.float64)).numpy()
        assert pulse.sum() / 256 == pytest.approx(1, abs=1e-6)
        # transfer function of the filter alone: that of the pulse over the sinc of the rectangle; half power at B T
        at_edge = np.abs((pulse * np.exp(-2j * np.pi * bandwidth * x.numpy())).sum() / 256)
        assert at_edge / np.sinc(bandwidth) == pytest.approx(math.sqrt(0.5), abs=1e-3)


def test_gaussian_keying_of_equal_bits_is_a_steady_tone() -> None:
    time = torch.arange(0, 10, 0.1)[None]
    frequency = gaussian_keyed(torch.ones(1, 40), time, torch.tensor([[0.3]]))
    np.testing.assert_allclose(frequency.numpy(), 1, atol=1e-3)


def test_minimum_shift_keying_turns_a_quarter_per_symbol() -> None:
    """Every phase step over one symbol is +-90 degrees: at any rate the fourth power, lag one symbol, is steady."""
    phase = np.unwrap(np.angle(cpfsk(50, 512, seeded(0, 0)).signal.numpy()))
    step = np.abs(np.diff(phase))
    # one deviation per row: the frequency is +-1/4 of the symbol rate (but where a bit changes within a sample)
    common = np.median(step, axis=1, keepdims=True)
    assert (np.abs(step - common) < 1e-3).mean() > 0.7
    rate = common / (np.pi / 2)
    assert (rate > 1 / 16.1).all()
    assert (rate < 1 / 1.9).all()


def test_lora_sweeps_up_and_wraps_within_its_band() -> None:
    frequency = np.diff(np.unwrap(np.angle(lora(40, 1024, seeded(0, 0)).signal.numpy()))) / (2 * np.pi)
    assert np.abs(frequency).max() < 0.26
    rising = (np.diff(frequency) > 0).mean(axis=1)
    assert (rising > 0.95).all()


def test_ofdm_repeats_its_prefix_and_dft_spreading_lowers_the_peaks() -> None:
    ofdm = multicarrier(torch.zeros(400, dtype=torch.bool), 1024, seeded(0, 0))
    spread = multicarrier(torch.ones(400, dtype=torch.bool), 1024, seeded(0, 0))

    def prefix_correlation(x: Tensor) -> Tensor:
        lags = [(x[:, lag:] * x[:, :-lag].conj()).mean(1).abs() for lag in (32, 64, 128)]
        return torch.stack(lags).amax(0)

    other = (ofdm[:, 45:] * ofdm[:, :-45].conj()).mean(1).abs()
    assert prefix_correlation(ofdm).median() > 2 * other.median()

    def kurtosis(x: Tensor) -> float:
        return float(x.abs().pow(4).mean() / x.abs().square().mean().square())

    assert kurtosis(ofdm) == pytest.approx(2, abs=0.1)  # a sum of many carriers is nearly Gaussian
    assert kurtosis(spread) < 1.85


def test_spread_signals_repeat_their_code() -> None:
    """Squaring removes the data of BPSK, so what repeats is the code: unlike plain BPSK, the code's sign pattern recurs."""
    spread, plain = signals("dsss", 200, 1024), signals("bpsk", 200, 1024)

    def recurrence(x: Tensor) -> Tensor:
        products = torch.stack(
            [(x[:, lag:] * x[:, :-lag]).real.unfold(1, 64, 64).mean(2).abs().mean(1) for lag in range(14, 300)]
        )
        return products.amax(0)

    assert recurrence(spread).median() > 1.3 * recurrence(plain).median()
