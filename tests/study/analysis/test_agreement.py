"""Regret and Kendall's tau by hand."""

import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from analysis import criterion_regret, kendall_tau, regret
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import DataError

TEST = np.array([0.5, 0.8, 0.9, 0.7])


def test_regret_of_a_choice() -> None:
    assert regret(TEST, 2) == 0
    assert regret(TEST, 0) == pytest.approx(0.4)
    assert regret(np.array([-3.0, -1.0]), 0) == pytest.approx(2)


def test_regret_of_a_criterion() -> None:
    assert criterion_regret(np.array([1.0, 5, 4, 2]), TEST) == pytest.approx(0.1)
    assert criterion_regret(TEST, TEST) == 0


def test_among_equals_the_shallowest_is_chosen() -> None:
    assert criterion_regret(np.array([0, 1, 1, 1]), TEST) == pytest.approx(0.1)


def test_tau_of_the_same_and_the_reverse_order() -> None:
    assert kendall_tau(TEST**3, TEST) == pytest.approx(1)
    assert kendall_tau(-TEST, TEST) == pytest.approx(-1)


def test_a_criterion_that_orders_nothing_has_no_correlation() -> None:
    assert kendall_tau(np.ones(4), TEST) == 0
    assert kendall_tau(TEST, np.ones(4)) == 0


@given(st.permutations(range(7)), st.permutations(range(7)))
def test_tau_counts_pairs(one: list[int], other: list[int]) -> None:
    signs = [np.sign((one[i] - one[j]) * (other[i] - other[j])) for i, j in combinations(range(7), 2)]
    assert kendall_tau(np.array(one), np.array(other)) == pytest.approx(np.mean(signs))


def test_bad_scores_are_named() -> None:
    with pytest.raises(DataError, match="3 criterion values for 4 test scores"):
        criterion_regret(TEST[1:], TEST)
    with pytest.raises(DataError, match="exit 4 is chosen among 4"):
        regret(TEST, 4)
    with pytest.raises(DataError, match="exit -1"):
        regret(TEST, -1)
    with pytest.raises(DataError, match="criterion values hold NaN"):
        kendall_tau(TEST * np.nan, TEST)
    with pytest.raises(DataError, match="at least two"):
        kendall_tau(TEST[:1], TEST[:1])
    with pytest.raises(DataError, match="one per exit"):
        regret(np.ones((2, 2)), 0)


def test_the_room_opens_without_torch() -> None:
    code = "import sys, analysis; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3] / "study")
