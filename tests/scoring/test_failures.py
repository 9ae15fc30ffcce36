"""Failure modes counted window by window."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.errors import DataError
from offramp.scoring.failures import overconfidence, overthinking, premature

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
