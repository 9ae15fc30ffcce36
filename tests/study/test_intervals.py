from __future__ import annotations

import numpy as np
import pytest
from intervals import by_unit, crossed_bootstrap


def test_sums_by_group():
    values = np.arange(12.0).reshape(2, 6)
    sums, sizes = by_unit(values, np.array([7, 3, 7, 3, 3, 9]))
    np.testing.assert_array_equal(sizes, [3, 2, 1])
    np.testing.assert_array_equal(sums, [[1 + 3 + 4, 0 + 2, 5], [7 + 9 + 10, 6 + 8, 11]])


def test_the_interval_over_windows_is_that_of_a_mean():
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 1, size=(1, 1, 1600))
    found = crossed_bootstrap(values, np.arange(1600))
    half = 1.96 * values.std() / 40
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_windows_that_go_together_widen_it():
    values = np.repeat(np.random.default_rng(0).normal(0, 1, size=(1, 1, 100)), 16, axis=2)
    apart, together = (crossed_bootstrap(values, groups) for groups in (np.arange(1600), np.arange(1600) // 16))
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(4, rel=0.2)


def test_runs_that_differ_widen_it():
    offset = np.array([-0.2, 0, 0.2])[:, None, None]
    values = np.random.default_rng(0).normal(0, 1, size=(3, 2, 1600)) + offset
    assert crossed_bootstrap(values, np.arange(1600)).low < -0.1
    assert crossed_bootstrap(values - offset, np.arange(1600)).low > -0.1


def test_it_covers_zero_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for draw in range(100):
        windows, seeds = rng.normal(0, 1, (1, 1, 200)), rng.normal(0, 0.1, (1, 8, 1))
        found = crossed_bootstrap(windows + seeds + rng.normal(0, 1, (1, 8, 200)), np.arange(200), seed=draw)
        hits += found.low <= 0 <= found.high
    assert hits >= 85
