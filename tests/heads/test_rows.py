"""Standardised rows against numpy."""

import numpy as np
import pytest

from offramp.heads import rows as rows_module
from offramp.heads.rows import Rows


def made(count: int = 500, width: int = 5) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((count, width)) * [1, 10, 0.01, 1, 3][:width] + [0, 1e4, -5, 1, 0][:width]).astype(
        np.float32
    )


def whole(rows: Rows) -> np.ndarray:
    return np.concatenate([block.numpy() for _, block in rows])


def test_mean_and_scale() -> None:
    taps = made()
    indices = np.random.default_rng(1).permutation(500)[:333]
    standard = Rows(taps, indices).standardisation
    values = taps[indices].astype(np.float64)
    np.testing.assert_allclose(standard.mean, values.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(standard.scale, 1 / values.std(0), rtol=1e-5)


def test_blocks_are_standardised_rows_with_a_one(monkeypatch: pytest.MonkeyPatch) -> None:
    taps = made()
    monkeypatch.setattr(rows_module, "BLOCK_VALUES", 6 * 70)
    for cached in (1 << 27, 10):
        monkeypatch.setattr(rows_module, "CACHED_VALUES", cached)
        rows = Rows(taps, np.arange(500))
        slices = [where for where, _ in rows]
        assert [(where.start, where.stop) for where in slices] == [
            (start, min(start + 70, 500)) for start in range(0, 500, 70)
        ]
        values = taps.astype(np.float64)
        expected = (values - values.mean(0)) / values.std(0)
        # at 1e4 the mean, kept as float32, is off by up to half of its last digit
        np.testing.assert_allclose(whole(rows)[:, :-1], expected, atol=2e-4)
        assert (whole(rows)[:, -1] == 1).all()


def test_covariance() -> None:
    values = made().astype(np.float64)
    np.testing.assert_allclose(Rows(made(), np.arange(500)).covariance(), np.corrcoef(values.T), atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0, -12345.678, 1e-20, 3e8])
def test_a_constant_feature_becomes_zero(value: float) -> None:
    taps = made()
    taps[:, 2] = value
    rows = Rows(taps, np.arange(500))
    assert rows.standardisation.scale[2] == 0
    assert (whole(rows)[:, 2] == 0).all()
    assert np.isfinite(whole(rows)).all()


def test_a_small_feature_is_not_taken_for_constant() -> None:
    taps = made() * np.float32(1e-4)
    assert (Rows(taps, np.arange(500)).standardisation.scale > 0).all()


def test_one_row() -> None:
    rows = Rows(made(1), np.arange(1))
    np.testing.assert_array_equal(whole(rows), [[0, 0, 0, 0, 0, 1]])
