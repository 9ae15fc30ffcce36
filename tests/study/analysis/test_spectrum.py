"""Effective rank where it is known: isotropic, rank one, and equal singular values."""

import numpy as np
import pytest
from analysis import effective_rank
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from offramp.errors import DataError


def test_isotropic_features_use_all_their_directions() -> None:
    features = np.random.default_rng(0).normal(size=(20_000, 16)).astype(np.float32)
    assert effective_rank(features) == pytest.approx(16, rel=1e-3)


@pytest.mark.parametrize("offset", [0, 1e3])
def test_rank_one_is_one_whatever_the_offset(offset: float) -> None:
    rng = np.random.default_rng(1)
    features = np.outer(rng.normal(size=100), rng.normal(size=30)) + offset
    assert effective_rank(features) == pytest.approx(1, abs=1e-9)


def test_matches_the_formula_for_known_singular_values() -> None:
    rng = np.random.default_rng(2)
    left = np.linalg.qr(np.column_stack([np.ones(50), rng.normal(size=(50, 4))]))[0][:, 1:]  # columns of mean zero
    singular = np.array([8.0, 4, 2, 2])
    p = singular / 16
    features = left * singular @ ortho_group.rvs(4, random_state=0)
    assert effective_rank(features) == pytest.approx(np.prod(p**-p))


@given(st.integers(0, 10**6), st.floats(1e-6, 1e6), st.integers(2, 12), st.integers(2, 12))
@settings(max_examples=40, deadline=None)
def test_invariant_and_bounded(seed: int, scale: float, n: int, width: int) -> None:
    features = np.random.default_rng(seed).normal(size=(n, width))
    rank = effective_rank(features)
    assert 1 - 1e-9 <= rank <= min(n - 1, width) + 1e-6
    turned = scale * features @ ortho_group.rvs(width, random_state=seed) + 1
    assert effective_rank(turned) == pytest.approx(rank, rel=1e-6)


def test_dead_features_change_nothing() -> None:
    features = np.random.default_rng(3).normal(size=(50, 5))
    with_dead = np.column_stack([features, np.full((50, 3), 0.1), np.zeros(50)])
    assert effective_rank(with_dead) == pytest.approx(effective_rank(features))


def test_constant_features_are_refused() -> None:
    with pytest.raises(DataError, match="every feature is constant"):
        effective_rank(np.full((20, 4), 0.1))
