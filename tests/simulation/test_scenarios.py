"""The out-of-distribution scenarios: standards' waveforms against their definitions, and chance where nothing differs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from offramp.data.formats import open_table
from offramp.schema.tasks import DataSpec, SyntheticSpec
from offramp.simulation.channel import steering
from offramp.simulation.draws import complex_normal, seeded
from offramp.simulation.impairments import amplify
from offramp.simulation.scenarios import SCENARIOS, beam, fingerprint, interference, rml2016


def windows_of(scenario: str, count: int = 2048, **settings: object) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    spec = SyntheticSpec.model_validate(
        {"scenario": scenario, "windows": count, "antennas": 1, "samples": 256, "snr_db": (25, 25)} | settings
    )
    table = open_table(DataSpec(synthetic=spec))
    iq = table.windows.read(np.arange(count))
    return iq[:, 0, 0] + 1j * iq[:, 1, 0], table.columns


def occupied(signal: Tensor, rate_mhz: float) -> tuple[float, float]:
    """Edges of the band that holds 99% of the power, in MHz."""
    power = np.square(np.abs(np.fft.fft(signal.numpy()))).mean(0)
    frequency = np.fft.fftfreq(signal.shape[1], 1 / rate_mhz)
    order = np.argsort(frequency)
    share = np.cumsum(power[order]) / power.sum()
    return tuple(frequency[order][np.searchsorted(share, [0.005, 0.995])])  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("technology", "half_width"),
    [("bluetooth", (0.3, 0.6)), ("802.15.4", (0.9, 1.8))],
)
def test_narrow_technologies_have_their_bandwidth(technology: str, half_width: tuple[float, float]) -> None:
    low, high = occupied(interference.waveform(technology, 200, 2048, seeded(0, 0)), interference.RATE_MHZ)
    assert half_width[0] < high < half_width[1]
    assert -half_width[1] < low < -half_width[0]


def test_wireless_lan_fills_its_bandwidth() -> None:
    _, ofdm = occupied(interference.wifi_ofdm(200, 2048, seeded(0, 0)), interference.RATE_MHZ)
    assert 7.8 < ofdm < 8.6  # 26.5 bins of 312.5 kHz
    _, spread = occupied(interference.barker(200, 2048, seeded(0, 0)), interference.RATE_MHZ)
    assert 5.0 < spread < 8.25  # 11 Mchip/s, roll-off 0.5


def test_the_barker_code_has_the_autocorrelation_it_is_known_for() -> None:
    code = interference.BARKER.real.numpy()
    correlation = np.correlate(code, code, "full")
    assert correlation[10] == 11
    assert set(np.delete(correlation, 10)) <= {0, -1}


def test_chip_sequences_of_802_15_4() -> None:
    """The table of the standard: symbol 1 is symbol 0 shifted by 4 chips, symbol 8 has the odd chips inverted."""
    chips = interference.chips_802_15_4()
    assert "".join(map(str, chips[1].tolist())) == "11101101100111000011010100100010"
    assert "".join(map(str, chips[8].tolist())) == "10001100100101100000011101111011"
    signs = chips * 2.0 - 1
    cross = (signs @ signs.T - 32 * torch.eye(16)).abs()
    assert float(cross.max()) <= 8


def test_offset_qpsk_with_half_sines_has_a_constant_envelope() -> None:
    envelope = interference.offset_qpsk(50, 2048, seeded(0, 0)).abs()
    np.testing.assert_allclose(envelope, 1, atol=1e-3)


def test_bluetooth_deviates_as_its_modulation_index_says() -> None:
    phase = np.unwrap(np.angle(interference.bluetooth(50, 4096, seeded(0, 0)).numpy()))
    deviation = np.abs(np.diff(phase)).max(axis=1) / (2 * np.pi) * interference.RATE_MHZ
    assert (deviation < 0.35 / 2 + 0.005).all()
    assert (deviation > 0.28 / 2 * 0.95).all()


def test_the_receivers_band_keeps_what_is_inside_and_nothing_else() -> None:
    time = torch.arange(640) / interference.RATE_MHZ
    inside, outside = (torch.exp(2j * torch.pi * f * time)[None].to(torch.complex64) for f in (3.0, 7.0))
    kept = interference.receiver_band(inside)
    assert kept.shape == (1, 160)
    np.testing.assert_allclose(kept[0], torch.exp(2j * torch.pi * 3.0 * time[::4]), atol=1e-3)
    assert float(interference.receiver_band(outside).abs().max()) < 1e-3


def test_emitters_are_where_their_names_say() -> None:
    signal, columns = windows_of("interference", samples=128)
    frequency = np.fft.fftfreq(128, 1 / interference.BAND_MHZ)
    for number, (name, centre) in enumerate(interference.CENTRES_MHZ.items()):
        if name.startswith("802.11"):
            continue
        power = np.square(np.abs(np.fft.fft(signal[columns["emitter"] == number]))).mean(0)
        assert frequency[power.argmax()] == pytest.approx(centre, abs=0.7), name


@pytest.mark.parametrize("name", rml2016.MODULATIONS)
def test_every_modulation_of_rml2016_has_unit_power(name: str) -> None:
    signal = rml2016.waveform(name, 300, 512, seeded(0, 0))
    assert float(signal.abs().square().mean()) == pytest.approx(1, abs=0.1)
    if name in ("cpfsk", "gfsk", "wbfm"):
        np.testing.assert_allclose(signal.abs(), 1, atol=1e-4)
    if name == "am-ssb":
        spectrum = torch.fft.fft(signal).abs().square().mean(0)
        assert float(spectrum[256:].sum() / spectrum.sum()) < 1e-6


def test_rml2016_has_even_snr_and_the_stated_noise() -> None:
    _, columns = windows_of("rml2016", samples=128, snr_db=(-20, 18))
    assert set(columns["snr_db"]) == set(range(-20, 19, 2))
    noisy, _ = windows_of("rml2016", samples=128, snr_db=(-20, -20))
    assert np.square(np.abs(noisy)).mean() == pytest.approx(1 + 100, rel=0.05)


def test_fractional_delays_of_rml2016_delay() -> None:
    """Without fading and with one path the multipath is that delay: checked through its group delay on a tone."""
    tone = torch.exp(2j * torch.pi * 8 / 256 * torch.arange(256))[None].to(torch.complex64)
    received = rml2016.multipath(tone.expand(3000, -1), seeded(0, 0))[:, 128] / tone[:, 128]
    weights = np.array(rml2016.MAGNITUDES)
    # independent Rician paths: the powers add; K = 4 in each leaves random steady phases, so that the mean is nil
    assert float(received.abs().square().mean()) == pytest.approx(np.square(weights).sum(), rel=0.06)
    assert abs(complex(received.mean())) < 0.1


def features(signal: np.ndarray) -> np.ndarray:
    """Spectrum, amplitude moments and image terms: what differing hardware shows in."""
    signal = signal / np.sqrt(np.square(np.abs(signal)).mean(1, keepdims=True))
    amplitude = np.abs(signal)
    parts = [np.log(np.square(np.abs(np.fft.fft(signal.reshape(len(signal), -1, 64)))).mean(1))]
    parts += [np.stack([(amplitude**p).mean(1) for p in (1, 3, 4, 6)], 1)]
    for lag in range(4):
        shifted = signal[:, lag:]
        parts.append(np.abs((shifted * signal[:, : shifted.shape[1]]).mean(1))[:, None])
    return np.concatenate(parts, 1)


@pytest.mark.parametrize("scenario", ["fingerprint", "beam"])
def test_hardware_can_be_told_apart_and_without_mismatch_it_cannot(scenario: str) -> None:
    accuracy = {}
    for mismatch in (True, False):
        signal, columns = windows_of(scenario, count=6144, samples=512, mismatch=mismatch, seed=5)
        target = columns[SCENARIOS[scenario].target]
        rows, fit = features(signal), np.arange(6144) < 4096
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(rows[fit], target[fit])
        accuracy[mismatch] = (model.predict(rows[~fit]) == target[~fit]).mean()
    # 8 classes; sessions of 32 windows make the fingerprint's test set one of 64 independent draws
    assert accuracy[False] < (0.22 if scenario == "fingerprint" else 0.16)
    assert accuracy[True] > accuracy[False] + 0.06


def test_sessions_have_one_transmitter_each_and_fill_blocks() -> None:
    _, columns = windows_of("fingerprint", samples=64)
    assert len(np.unique(columns["session"])) == 2048 // fingerprint.SESSION_WINDOWS
    for session in np.unique(columns["session"]):
        assert len(np.unique(columns["transmitter"][columns["session"] == session])) == 1


def test_nominal_transmitters_are_all_alike_and_others_are_not() -> None:
    payload = complex_normal((1, 130), seeded(0, 0)).expand(8, -1)
    for mismatch, alike in ((False, True), (True, False)):
        spec = SyntheticSpec(scenario="fingerprint", mismatch=mismatch)
        sent = fingerprint.send(payload, torch.arange(8), spec)
        assert sent.shape == (8, 128)
        assert torch.allclose(sent, sent[:1].expand(8, -1), atol=1e-6) == alike


def test_an_array_of_equal_elements_sends_one_waveform_times_one_number() -> None:
    payload = complex_normal((1, 133), seeded(0, 0)).expand(8, -1)
    angle = torch.full((8,), 20.0)
    equal = beam.radiate(payload, torch.arange(8), angle, SyntheticSpec(scenario="beam", antennas=1, mismatch=False))
    alone = amplify(payload[:1, beam.FILTER_TAPS - 1 :], torch.tensor([2.0]), torch.tensor([10 ** (3 / 20)]))
    ratio = equal / alone
    np.testing.assert_allclose(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3)
    assert steering(beam.ELEMENTS, angle).abs().sum() == pytest.approx(8 * beam.ELEMENTS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scenario": "beam"}, "scenario beam has one antenna: set antennas: 1"),
        ({"scenario": "signals", "mismatch": False}, "leave it out of scenario signals"),
        ({"snr_db": (5, -5)}, "give the lower end first"),
        ({"scenario": "rml2016", "antennas": 1, "snr_db": (5, 5.5)}, "even numbers of dB"),
        ({"scenario": "radar"}, "'signals', 'directions', 'rml2016'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SyntheticSpec.model_validate(settings)
