"""Predictors against what is known in closed form of processes whose correlation is known."""

from __future__ import annotations

import numpy as np
import pytest
from predictors.linear import ORDER, fit_wiener, linear_prediction, persistence
from scipy.special import j0

from offramp.scoring.beams import as_parts
from offramp.scoring.metrics import METRICS

PAST, FUTURE = 16, 4


def nmse(predicted: np.ndarray, future: np.ndarray) -> float:
    """A share of the power."""
    count = len(future)
    return 10 ** (METRICS["nmse_db"](predicted.reshape(count, -1), future.reshape(count, -1)) / 10)


def jakes(lags: np.ndarray, doppler: float) -> np.ndarray:
    """Autocorrelation under uniform arrival angles; Doppler shift in cycles per slot."""
    return j0(2 * np.pi * doppler * lags)


def gaussian(count: int, doppler: float, snr_db: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Past with noise and future without of independent processes, ``(count, 2, slots, 4, 8)``."""
    rng = np.random.default_rng(seed)
    slots = np.arange(PAST + FUTURE)
    correlation = jakes(slots[:, None] - slots, doppler)
    factor = np.linalg.cholesky(correlation + 1e-9 * np.eye(len(slots)))
    white = rng.standard_normal((2, count, 4, 8, len(slots)))
    process = ((white[0] + 1j * white[1]) / np.sqrt(2) @ factor.T).transpose(0, 3, 1, 2)
    noise = (rng.standard_normal((2, count, PAST, 4, 8)) / np.sqrt(2)) * 10 ** (-snr_db / 20)[:, None, None, None]
    return as_parts(process[:, :PAST] + noise[0] + 1j * noise[1]), as_parts(process[:, PAST:])


def least_error(doppler: float, snr_db: float) -> float:
    """Mean over the future slots of ``1 - r^T (R + noise I)^-1 r``: no linear filter errs less."""
    slots = np.arange(PAST + FUTURE)
    correlation = jakes(slots[:, None] - slots, doppler)
    noisy = correlation[:PAST, :PAST] + 10 ** (-snr_db / 10) * np.eye(PAST)
    cross = correlation[PAST:, :PAST]
    return float(1 - np.einsum("fp,fp->f", cross, np.linalg.solve(noisy, cross.T).T).mean())


def rays(doppler: list[float], count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Noiseless plane waves, each with its own shift in cycles per slot."""
    rng = np.random.default_rng(0)
    gains = rng.standard_normal((2, count, len(doppler), 4, 8))
    rotation = np.exp(2j * np.pi * np.outer(np.arange(PAST + FUTURE), doppler))
    channel = np.einsum("tr,nras->ntas", rotation, gains[0] + 1j * gains[1])
    return as_parts(channel[:, :PAST]), as_parts(channel[:, PAST:])


def test_persistence_is_the_last_slot() -> None:
    past, _ = rays([0.1])
    predicted = persistence(past, 3)
    assert predicted.shape == (5, 2, 3, 4, 8)
    np.testing.assert_array_equal(predicted, np.stack([past[:, :, -1]] * 3, axis=2))


@pytest.mark.parametrize("doppler", [0.02, 0.1, 0.19])
@pytest.mark.parametrize("snr_db", [0.0, 15.0])
def test_the_wiener_filter_errs_as_little_as_can_be(doppler: float, snr_db: float) -> None:
    snr = np.full(2000, snr_db)
    wiener = fit_wiener(*gaussian(2000, doppler, snr), snr)
    past, future = gaussian(1000, doppler, snr[:1000], seed=1)
    expected = least_error(doppler, snr_db)
    assert nmse(wiener(past, snr[:1000]), future) == pytest.approx(expected, rel=0.05)
    assert expected < nmse(persistence(past, FUTURE), future)


def test_the_wiener_filter_knows_each_windows_noise() -> None:
    """Fitted to a mixture of SNRs, it is nearly the best filter at each of them, and not if it is told the mean."""
    snr = np.random.default_rng(0).permutation(np.repeat([0.0, 20.0], 2000))
    wiener = fit_wiener(*gaussian(4000, 0.1, snr), snr)
    past, future = gaussian(2000, 0.1, snr[:2000], seed=1)
    for level in (0.0, 20.0):
        rows = snr[:2000] == level
        best = least_error(0.1, level)
        assert 0.95 < nmse(wiener(past[rows], snr[:2000][rows]), future[rows]) / best < 1.15
    assert nmse(wiener(past[rows], np.full(rows.sum(), 3.0)), future[rows]) > 1.5 * best


def test_linear_prediction_continues_any_few_waves_without_training() -> None:
    past, future = rays([0.05, -0.12, 0.19])
    assert nmse(linear_prediction(past, FUTURE), future) < 1e-3
    assert nmse(persistence(past, FUTURE), future) > 0.5


def test_linear_prediction_adapts_to_each_window() -> None:
    slow, fast = rays([0.01, -0.02]), rays([0.15, -0.2])
    past, future = (np.concatenate(parts) for parts in zip(slow, fast, strict=True))
    together = linear_prediction(past, FUTURE)
    np.testing.assert_allclose(together[:5], linear_prediction(slow[0], FUTURE), atol=1e-4)
    assert nmse(together, future) < 1e-3


def test_linear_prediction_of_noise_is_small() -> None:
    """There is nothing to predict: the best answer is nothing."""
    rng = np.random.default_rng(0)
    past = rng.standard_normal((50, 2, PAST, 16, 32)).astype(np.float32)
    assert np.square(linear_prediction(past, FUTURE)).mean() < 0.05


def test_linear_prediction_needs_enough_slots() -> None:
    with pytest.raises(ValueError, match=f"{ORDER + FUTURE} past slots, not 12"):
        linear_prediction(np.zeros((1, 2, 12, 4, 8), np.float32), FUTURE)


def test_silence_stays_silence() -> None:
    past = np.zeros((2, 2, PAST, 4, 8), np.float32)
    assert (persistence(past, FUTURE) == 0).all()
    assert (linear_prediction(past, FUTURE) == 0).all()
