"""Channel and radios against theory: SNR, steering, fading statistics, image rejection, amplifier, phase noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import j0

from offramp.simulation.channel import (
    MAX_DELAY,
    Paths,
    add_noise,
    drifted,
    fading,
    propagate,
    rician_paths,
    steering,
    to_iq,
    unit_power,
)
from offramp.simulation.draws import complex_normal, seeded
from offramp.simulation.impairments import amplify, imbalance, oscillator
from offramp.simulation.signal_types import draw_kinds, transmissions


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 15.0])
def test_noise_has_the_stated_power(snr_db: float) -> None:
    generator = seeded(0, 0)
    signal = 3 * transmissions(draw_kinds(64, generator, with_noise=False), 1024, generator).signal
    clean = signal[:, None].expand(-1, 2, -1)
    noise = add_noise(clean, torch.full((64,), snr_db), seeded(1, 0)) - unit_power(clean)
    measured = -10 * torch.log10(noise.abs().square().mean((1, 2)))
    assert float(measured.mean()) == pytest.approx(snr_db, abs=0.1)
    np.testing.assert_allclose(unit_power(clean).abs().square().mean((1, 2)), 1, atol=1e-4)


def test_where_nothing_is_sent_noise_alone_is_received() -> None:
    received = add_noise(torch.zeros(4, 2, 512, dtype=torch.complex64), torch.full((4,), 10.0), seeded(0, 0))
    np.testing.assert_allclose(received.abs().square().mean((1, 2)), 0.1, rtol=0.15)


def test_steering_phase_of_a_half_wavelength_array() -> None:
    angle = torch.tensor([-60.0, 0.0, 30.0])
    response = steering(4, angle).numpy()
    for row, degrees in enumerate([-60, 0, 30]):
        # path difference of half a wavelength times sin(angle): 180 degrees of phase times sin(angle)
        step = np.exp(1j * np.deg2rad(180 * np.sin(np.deg2rad(degrees))))
        np.testing.assert_allclose(response[row], step ** np.arange(4), atol=1e-5)


def test_propagation_sums_delayed_paths() -> None:
    generator = seeded(0, 0)
    signal = complex_normal((2, MAX_DELAY + 50), generator)
    gain = complex_normal((2, 3), generator)
    delay = torch.tensor([[0, 3, 8], [0, 1, 5]])
    angle = torch.tensor([[10.0, -40.0, 70.0], [-5.0, 0.0, 30.0]])
    received = propagate(signal, Paths(gain, delay, angle), 3).numpy()
    for row in range(2):
        for antenna in range(3):
            expected = sum(
                complex(gain[row, p])
                * np.exp(1j * np.pi * antenna * np.sin(np.deg2rad(float(angle[row, p]))))
                * signal[row, MAX_DELAY - int(delay[row, p]) :][:50].numpy()
                for p in range(3)
            )
            np.testing.assert_allclose(received[row, antenna], expected, atol=1e-4)


@pytest.mark.parametrize("k_db", [0.0, 6.0, 15.0])
def test_rician_paths_have_unit_power_and_the_stated_k_factor(k_db: float) -> None:
    paths = rician_paths(torch.zeros(40_000), torch.full((40_000,), k_db), 3, seeded(0, 0))
    direct = paths.gain[:, 0].abs().square()
    scattered = paths.gain[:, 1:].abs().square().sum(1)
    assert float(direct.std()) < 1e-6
    assert float((direct + scattered).mean()) == pytest.approx(1, abs=0.02)
    assert 10 * math.log10(float(direct.mean() / scattered.mean())) == pytest.approx(k_db, abs=0.15)
    # the sum of independent complex normal paths is Rayleigh: its power is exponential, E[p^2] = 2 E[p]^2
    power = paths.gain[:, 1:].sum(1).abs().square()
    assert float(power.square().mean() / power.mean().square()) == pytest.approx(2, abs=0.6)
    assert int(paths.delay.max()) <= MAX_DELAY
    assert int(paths.delay[:, 0].max()) == 0


def test_a_drifted_channel_keeps_its_line_of_sight_and_most_of_its_scatterers() -> None:
    before = rician_paths(torch.zeros(20_000), torch.full((20_000,), 6.0), 3, seeded(0, 0))
    after = drifted(before, 0.9, seeded(1, 0))
    assert torch.equal(after.gain[:, 0], before.gain[:, 0])
    first, second = before.gain[:, 1:].flatten(), after.gain[:, 1:].flatten()
    correlation = (first * second.conj()).mean().real / first.abs().square().mean()
    assert float(correlation) == pytest.approx(0.9, abs=0.02)
    assert float(second.abs().square().mean() / first.abs().square().mean()) == pytest.approx(1, abs=0.05)


def test_fading_follows_jakes() -> None:
    doppler, count = 0.01, 4000
    gain = fading(count, 200, torch.full((count,), doppler), torch.zeros(count), seeded(0, 0))
    power = gain.abs().square()
    assert float(power.mean()) == pytest.approx(1, abs=0.05)
    # Rayleigh amplitude: its mean square over its squared mean is 4/pi
    assert float(power.mean() / gain.abs().mean().square()) == pytest.approx(4 / math.pi, abs=0.05)
    for lag in (10, 38, 60, 100):
        measured = (gain[:, lag:] * gain[:, :-lag].conj()).mean().real
        assert float(measured) == pytest.approx(j0(2 * math.pi * doppler * lag), abs=0.05)


def test_fading_with_a_steady_path_has_the_rician_spread() -> None:
    count, k = 20_000, 4.0
    power = fading(count, 1, torch.full((count,), 0.01), torch.full((count,), k), seeded(0, 0))[:, 0].abs().square()
    assert float(power.mean()) == pytest.approx(1, abs=0.03)
    assert float(power.var()) == pytest.approx((1 + 2 * k) / (1 + k) ** 2, rel=0.06)


@pytest.mark.parametrize(("gain_db", "skew_degrees"), [(1.0, 0.0), (0.0, 5.0), (0.5, -3.0)])
def test_image_rejection_ratio(gain_db: float, skew_degrees: float) -> None:
    tone = torch.exp(2j * math.pi * 5 / 64 * torch.arange(64))[None].to(torch.complex64)
    skewed = imbalance(tone, torch.tensor([gain_db]), torch.deg2rad(torch.tensor([skew_degrees])))
    spectrum = np.abs(np.fft.fft(skewed[0].numpy())) ** 2
    measured = 10 * math.log10(spectrum[5] / spectrum[-5])
    g, phi = 10 ** (gain_db / 20), math.radians(skew_degrees)
    expected = 10 * math.log10((1 + g * g + 2 * g * math.cos(phi)) / (1 + g * g - 2 * g * math.cos(phi)))
    assert measured == pytest.approx(expected, abs=0.02)


def test_imbalance_is_a_gain_and_a_skew_of_the_quadrature_branch() -> None:
    """For real input the I branch is untouched: ``x -> x`` on I with mu + nu = 1 + j g sin(skew)."""
    real = torch.ones(1, 4, dtype=torch.complex64)
    skewed = imbalance(real, torch.tensor([2.0]), torch.tensor([0.1]))
    assert complex(skewed[0, 0]) == pytest.approx(1 + 1j * 10**0.1 * math.sin(0.1), abs=1e-5)
    skewed = imbalance(1j * real, torch.tensor([2.0]), torch.tensor([0.1]))
    assert complex(skewed[0, 0]) == pytest.approx(1j * 10**0.1 * math.cos(0.1), abs=1e-5)


def test_the_amplifier_is_linear_when_small_and_saturates() -> None:
    amplitude = torch.tensor([[0.01, 1.5, 100.0]]).to(torch.complex64) * np.exp(0.7j)
    out = amplify(amplitude, torch.tensor([2.0]), torch.tensor([1.5]))
    np.testing.assert_allclose(np.angle(out), 0.7, atol=1e-6)
    np.testing.assert_allclose(out.abs()[0], [0.01, 1.5 / 2**0.25, 1.5], rtol=1e-4)


def test_the_oscillator_turns_and_wanders_as_stated() -> None:
    count, samples = 2000, 400
    offset, step = torch.full((count,), 0.01), torch.full((count,), 0.02)
    phase = np.unwrap(np.angle(oscillator(offset, step, samples, seeded(0, 0)).numpy()))
    turned = phase[:, -1] - phase[:, 0]
    assert turned.mean() == pytest.approx(2 * math.pi * 0.01 * (samples - 1), abs=0.05)
    assert turned.std() == pytest.approx(0.02 * math.sqrt(samples - 1), rel=0.1)
    assert np.abs(np.exp(1j * phase[:, 0]).mean()) < 0.1


def test_iq_axes() -> None:
    signal = torch.complex(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 4.0]]]))
    assert to_iq(signal).tolist() == [[[[1.0, 2.0]], [[3.0, 4.0]]]]
