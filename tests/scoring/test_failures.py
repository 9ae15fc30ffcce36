"""Failure modes counted window by window, and bootstrap draws of whole units."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.errors import DataError
from offramp.scoring.failures import interval, overconfidence, overthinking, premature, resampled_units

triples = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=30)


class TestShares:
    @given(triples)
    @settings(deadline=None, max_examples=60)
    def test_premature_counts_early_and_wrong_where_full_depth_is_right(self, rows: list[tuple[bool, ...]]) -> None:
        early, right, full_right = (np.array(column) for column in zip(*rows, strict=True))
        counted = sum(1 for left, good, full in rows if left and full and not good)
        assert premature(early, right, full_right) == pytest.approx(counted / len(rows))

    @given(triples)
    @settings(deadline=None, max_examples=60)
    def test_overthinking_counts_windows_that_only_an_earlier_exit_gets_right(self, rows: list) -> None:
        counted = sum(1 for first, second, last in rows if (first or second) and not last)
        assert overthinking(np.array(rows).T) == pytest.approx(counted / len(rows))

    def test_one_exit_cannot_overthink(self) -> None:
        assert overthinking(np.array([[True, False]])) == 0

    def test_overconfidence_is_of_the_windows_that_left_early(self) -> None:
        confidence = np.array([0.9, 0.7, 0.1, np.nan], dtype=np.float32)
        early = np.array([True, True, False, False])
        right = np.array([True, False, True, True])
        assert overconfidence(confidence, right, early) == pytest.approx(0.8 - 0.5)
        assert overconfidence(confidence, right, np.zeros(4, bool)) is None

    def test_wrong_input_is_told(self) -> None:
        yes = np.ones(3, bool)
        with pytest.raises(DataError, match=r"at least one window"):
            premature(yes[:0], yes[:0], yes[:0])
        with pytest.raises(DataError, match=r"right \(2,\)"):
            premature(yes, yes[:2], yes)
        with pytest.raises(DataError, match="int64"):
            premature(yes, yes, np.ones(3, int))
        with pytest.raises(DataError, match="NaN for a window that left early"):
            overconfidence(np.array([np.nan, 1, 1]), yes, yes)
        with pytest.raises(DataError, match="give one per window"):
            overconfidence(np.ones(2), yes, yes)
        for nothing in (np.ones((2, 0), bool), yes, np.ones((2, 3))):
            with pytest.raises(DataError, match=r"give \(exits, N\)"):
                overthinking(nothing)


class TestResampledUnits:
    @given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(0, 100))
    @settings(deadline=None, max_examples=60)
    def test_units_come_whole_and_as_many_as_there_are(self, units: list[int], seed: int) -> None:
        of_window = np.array(units)
        present, sizes = np.unique(of_window, return_counts=True)
        for drawn in resampled_units(of_window, 5, seed):
            windows = np.bincount(drawn, minlength=len(units))
            times = [windows[of_window == unit] for unit in present]
            assert all((row == row[0]).all() for row in times)
            assert sum(row[0] for row in times) == len(present)
            assert len(drawn) == sum(row[0] * size for row, size in zip(times, sizes, strict=True))

    def test_each_unit_comes_about_once_per_draw(self) -> None:
        units = np.repeat(np.arange(8), [1, 2, 3, 4, 5, 6, 7, 8])
        draws = list(resampled_units(units, 4000, 0))
        first_window = np.flatnonzero(np.diff(units, prepend=-1))
        times = np.stack([np.bincount(drawn, minlength=len(units))[first_window] for drawn in draws])
        assert times.mean(0) == pytest.approx(np.ones(8), abs=5 * np.sqrt((7 / 8) / 4000))
        assert times.var() == pytest.approx(7 / 8, rel=0.05)

    def test_the_seed_decides(self) -> None:
        units = np.arange(50)
        draws = [np.concatenate(list(resampled_units(units, 3, seed))) for seed in (1, 1, 2)]
        assert (draws[0] == draws[1]).all()
        assert (draws[0] != draws[2]).any()

    def test_no_windows_are_told(self) -> None:
        with pytest.raises(DataError, match="at least one window"):
            next(resampled_units(np.zeros(0, int), 1, 0))

    def test_a_bootstrap_of_units_is_as_wide_as_the_units_are_apart(self) -> None:
        """Standard error of a mean over 40 units of 25 windows that are all alike: that of 40 values, not of 1,000."""
        level = np.random.default_rng(0).normal(size=40)
        values, units = np.repeat(level, 25), np.repeat(np.arange(40), 25)
        means = [values[drawn].mean() for drawn in resampled_units(units, 2000, 0)]
        assert np.std(means) == pytest.approx(level.std() / np.sqrt(40), rel=0.1)


class TestInterval:
    def test_holds_95_percent(self) -> None:
        assert interval(np.arange(1001)) == pytest.approx((25, 975))
        assert interval([1.0, np.nan, 1.0]) == (1, 1)

    @pytest.mark.parametrize("nothing", [[], [np.nan, np.nan]])
    def test_nothing_to_speak_of_is_told(self, nothing: list[float]) -> None:
        with pytest.raises(DataError, match="no resample gave a number"):
            interval(nothing)
