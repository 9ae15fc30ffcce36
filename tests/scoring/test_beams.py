"""Beams and precoders against textbook formulas."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from offramp.scoring.beams import (
    as_complex,
    as_parts,
    beam_powers,
    dft_codebook,
    genie_efficiency,
    spectral_efficiency,
)


def channels(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return ((rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)).astype(np.complex64)


def test_parts_and_back() -> None:
    made = channels(3, 4, 5)
    parts = as_parts(made)
    assert parts.shape == (3, 2, 4, 5)
    np.testing.assert_array_equal(parts[:, 1], made.imag)
    np.testing.assert_array_equal(as_complex(parts), made)


def test_as_many_beams_as_antennas_are_orthonormal() -> None:
    book = dft_codebook(16, 16)
    np.testing.assert_allclose(book @ book.conj().T, np.eye(16), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(dft_codebook(16, 40), axis=1), 1, rtol=1e-6)


def test_powers_on_an_orthonormal_codebook_add_up() -> None:
    """Parseval."""
    h = channels(5, 8, 12)
    powers = beam_powers(h, dft_codebook(8, 8))
    np.testing.assert_allclose(powers.sum(-1), np.square(np.abs(h)).sum(1).mean(-1), rtol=1e-5)


@pytest.mark.parametrize("beam", [0, 3, 8, 13])
def test_a_plane_wave_is_on_the_beam_of_its_direction(beam: int) -> None:
    """The array response towards the angle theta is exp(j pi m sin(theta))."""
    wave = np.exp(1j * np.pi * np.arange(16) * (2 * beam / 16 - 1))[:, None] * channels(1, 7)
    powers = beam_powers(wave, dft_codebook(16, 16))
    assert powers.argmax() == beam
    assert powers[beam] == pytest.approx(16 * np.square(np.abs(wave[0])).mean(), rel=1e-5)
    assert np.delete(powers, beam).max() < 1e-9 * powers[beam] + 1e-9


def test_spectral_efficiency_by_hand() -> None:
    """One antenna at 3 dB below its neighbour: h = (1, 1/2); sending on the first alone leaves |h_1|^2 = 1."""
    h = np.array([[1.0], [0.5]], dtype=complex)
    first = np.array([[1.0], [0.0]])
    assert spectral_efficiency(h, first, 0.0) == pytest.approx(np.log2(1 + 1))
    assert spectral_efficiency(h, 7j * first, 0.0) == pytest.approx(np.log2(1 + 1)), "power and phase of w do not count"
    assert spectral_efficiency(h, np.array([[1.0], [1.0]]), 10.0) == pytest.approx(np.log2(1 + 10 * 1.5**2 / 2))
    assert spectral_efficiency(h, h, 10.0) == pytest.approx(np.log2(1 + 10 * 1.25))
    assert spectral_efficiency(h, 0 * h, 10.0) == 0


def test_nothing_beats_the_genie_and_its_precoder_is_the_channel() -> None:
    h = channels(50, 8, 6)
    genie = genie_efficiency(h, 5.0)
    assert genie.shape == (50,)
    np.testing.assert_allclose(spectral_efficiency(h, h, 5.0), genie, rtol=1e-5)
    for other in (channels(50, 8, 6, seed=1), h + 0.3 * channels(50, 8, 6, seed=2), dft_codebook(8, 8)[3][:, None]):
        assert (spectral_efficiency(h, other, 5.0) < genie).all()


def test_the_mean_is_over_subcarriers_and_slots_stay() -> None:
    h, w = channels(2, 4, 8, 6), channels(2, 4, 8, 6, seed=1)
    got = spectral_efficiency(h, w, 7.0)
    assert got.shape == (2, 4)
    each = [
        np.log2(1 + 10**0.7 * abs(np.vdot(w[1, 2, :, k], h[1, 2, :, k])) ** 2 / np.linalg.norm(w[1, 2, :, k]) ** 2)
        for k in range(6)
    ]
    assert got[1, 2] == pytest.approx(np.mean(each), rel=1e-5)


def test_beams_do_not_import_torch() -> None:
    code = "import sys, offramp.scoring.beams, offramp.scoring.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
