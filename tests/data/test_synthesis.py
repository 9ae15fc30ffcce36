from __future__ import annotations

import numpy as np
import pytest
import torch

from offramp.data.formats import open_table
from offramp.data.synthesis.channel import add_noise, steer, to_iq
from offramp.data.synthesis.modulations import SIGNAL_TYPES, root_raised_cosine, transmissions
from offramp.data.synthesis.windows import synthetic_windows, view_pairs
from offramp.tasks import DataSpec, SyntheticSpec


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 15.0])
def test_noise_has_the_stated_power(snr_db: float) -> None:
    signal, _ = transmissions(64, 1024, generator())
    clean = steer(signal, 2, torch.zeros(64))
    noise = add_noise(clean, torch.full((64,), snr_db), generator(1)) - clean
    measured = 10 * torch.log10(clean.abs().square().mean() / noise.abs().square().mean())
    assert float(measured) == pytest.approx(snr_db, abs=0.1)


def test_steering_phase_of_a_half_wavelength_array() -> None:
    signal, _ = transmissions(3, 64, generator())
    angle = torch.tensor([-60.0, 0.0, 30.0])
    received = steer(signal, 4, angle).numpy()
    for row, degrees in enumerate([-60, 0, 30]):
        # path difference of half a wavelength times sin(angle): 180 degrees of phase times sin(angle)
        step = np.exp(1j * np.deg2rad(180 * np.sin(np.deg2rad(degrees))))
        for antenna in range(4):
            np.testing.assert_allclose(received[row, antenna], signal[row].numpy() * step**antenna, atol=1e-4)


def test_root_raised_cosine_has_unit_energy_and_no_intersymbol_interference() -> None:
    offsets = torch.arange(-40, 40, 1 / 64, dtype=torch.float64)
    for rolloff in (0.15, 0.25, 0.5):
        pulse = root_raised_cosine(offsets, torch.tensor(rolloff, dtype=torch.float64)).numpy()
        assert np.square(pulse).sum() / 64 == pytest.approx(1, abs=2e-3)
        for symbols in (1, 2, 5):
            assert (pulse[64 * symbols :] * pulse[: -64 * symbols]).sum() / 64 == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize("name", SIGNAL_TYPES)
def test_every_signal_type_is_finite_and_near_unit_power(name: str) -> None:
    waveform = SIGNAL_TYPES[name](200, 512, generator())
    assert waveform.shape == (200, 512)
    assert waveform.dtype == torch.complex64
    assert torch.isfinite(torch.view_as_real(waveform)).all()
    assert 0.7 < float(waveform.abs().square().mean()) < 1.5
    if name in ("2fsk", "gmsk", "chirp", "fm"):
        np.testing.assert_allclose(waveform.abs().numpy(), 1, atol=1e-4)


def test_classes_and_angles_are_balanced() -> None:
    table = open_table(DataSpec(synthetic=SyntheticSpec(windows=6000, antennas=1, samples=64)))
    modulation = np.bincount(table.columns["modulation"], minlength=len(SIGNAL_TYPES))
    assert (np.abs(modulation - 500) < 5 * np.sqrt(500)).all()
    sector = np.bincount(table.columns["sector"], minlength=8)
    assert (np.abs(sector - 750) < 5 * np.sqrt(750)).all()
    angle = table.columns["angle"]
    np.testing.assert_array_equal(table.columns["sector"], np.floor((angle.astype(np.float64) + 60) / 15).clip(0, 7))
    assert table.columns["snr_db"].min() >= -6
    assert table.columns["snr_db"].max() <= 18


def test_sector_is_where_the_antennas_say() -> None:
    """At high SNR the phase between neighbouring antennas gives the angle back."""
    spec = SyntheticSpec(windows=50, antennas=4, samples=256, snr_db=(40, 40))
    table = open_table(DataSpec(synthetic=spec))
    iq = table.windows.read(np.arange(50))
    received = iq[:, 0] + 1j * iq[:, 1]
    phase = np.angle((received[:, 1:] * received[:, :-1].conj()).sum((1, 2)))
    np.testing.assert_allclose(np.rad2deg(np.arcsin(phase / np.pi)), table.columns["angle"], atol=0.5)


def test_windows_are_the_same_in_any_order_and_number() -> None:
    spec = SyntheticSpec(windows=2100, antennas=2, samples=64, seed=3)
    table = open_table(DataSpec(synthetic=spec))
    everything = table.windows.read(np.arange(2100))
    some = np.array([2099, 5, 1024, 1023, 5])
    np.testing.assert_array_equal(table.windows.read(some), everything[some])
    fewer = open_table(DataSpec(synthetic=spec.model_copy(update={"windows": 1500})))
    np.testing.assert_array_equal(fewer.windows.read(np.arange(1500)), everything[:1500])
    assert fewer.windows.fingerprint != table.windows.fingerprint
    other = open_table(DataSpec(synthetic=spec.model_copy(update={"seed": 4})))
    assert not np.array_equal(other.windows.read(some), everything[some])
    np.testing.assert_array_equal(
        everything[1024:2048], synthetic_windows(1024, 2, 64, spec.snr_db, seed=3, block=1).iq.numpy()
    )


def test_blocks_are_independent() -> None:
    first, second = (synthetic_windows(256, 1, 128, (10, 10), 0, block).iq.flatten(1) for block in (0, 1))
    correlation = torch.nn.functional.cosine_similarity(first, second, dim=1)
    assert float(correlation.abs().mean()) < 0.2
    assert not torch.equal(first, second)


def test_views_share_the_direction_alone_with_the_payload_apart() -> None:
    one, two = view_pairs(64, 4, 128, (40, 40), 0, 0)
    assert one.shape == two.shape == (64, 2, 4, 128)
    phases = []
    for view in (one, two):
        received = torch.complex(view[:, 0], view[:, 1])
        phases.append(torch.angle((received[:, 1:] * received[:, :-1].conj()).sum((1, 2))))
    np.testing.assert_allclose(phases[0], phases[1], atol=0.05)
    assert not torch.allclose(one, two)


def test_iq_axes() -> None:
    signal = torch.complex(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 4.0]]]))
    assert to_iq(signal).tolist() == [[[[1.0, 2.0]], [[3.0, 4.0]]]]
