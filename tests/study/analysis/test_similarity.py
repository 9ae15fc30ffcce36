"""Linear CKA against Gram matrices taken at their word, and its promised invariances."""

import numpy as np
import pytest
from analysis import linear_cka
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from offramp.errors import DataError


def related(seed: int, n: int = 40, p: int = 6, q: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(n, p)) + 3
    return first, first @ rng.normal(size=(p, q)) + rng.normal(size=(n, q))


def gram_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Kornblith et al., equations 3 and 4."""
    n = len(first)
    centring = np.eye(n) - 1 / n

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        return np.trace(k @ centring @ m @ centring) / (n - 1) ** 2

    k, m = first @ first.T, second @ second.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def unbiased_gram_cka(first: np.ndarray, second: np.ndarray) -> float:
    """HSIC_1 of Song et al. with explicit Gram matrices of the features as they are, not centred."""
    n = len(first)
    ones = np.ones(n)

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        pairs = np.trace(k @ m)
        squares = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return (pairs + squares - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))

    k, m = first @ first.T, second @ second.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [5, 60])
def test_feature_space_form_equals_gram_form(seed: int, width: int) -> None:
    first, second = related(seed, p=width)
    assert linear_cka(first, second, unbiased=False) == pytest.approx(gram_cka(first, second), rel=1e-9)
    assert linear_cka(first, second) == pytest.approx(unbiased_gram_cka(first, second), rel=1e-9)


@given(st.integers(0, 10**6), st.floats(1e-6, 1e6), st.floats(-100, 100), st.booleans())
@settings(max_examples=40, deadline=None)
def test_invariant_to_rotation_scale_shift_and_order(seed: int, scale: float, shift: float, unbiased: bool) -> None:
    first, second = related(seed)
    rotation = ortho_group.rvs(second.shape[1], random_state=seed)
    turned = scale * (second @ rotation + shift)
    expected = linear_cka(first, second, unbiased)
    assert linear_cka(first, turned, unbiased) == pytest.approx(expected, abs=1e-7)
    assert linear_cka(turned, first, unbiased) == pytest.approx(expected, abs=1e-7)
    assert linear_cka(second, turned, unbiased) == pytest.approx(1, abs=1e-7)


@given(st.integers(0, 10**6), st.integers(4, 12), st.integers(1, 8), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_stays_within_its_range(seed: int, n: int, p: int, q: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(n, p)), rng.normal(size=(n, q))
    assert -1 <= linear_cka(first, second) <= 1
    assert 0 <= linear_cka(first, second, unbiased=False) <= 1


def test_only_the_unbiased_estimate_finds_unrelated_wide_features_unrelated() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(200, 150)), rng.normal(size=(200, 150))
    assert linear_cka(first, second, unbiased=False) > 0.4
    assert abs(linear_cka(first, second)) < 0.05


def test_bad_input_is_named() -> None:
    first, second = related(0)
    with pytest.raises(DataError, match="40 and 39 rows"):
        linear_cka(first, second[:-1])
    with pytest.raises(DataError, match="second features do not tell the windows apart"):
        linear_cka(first, np.full((40, 3), 0.1))
    with pytest.raises(DataError, match="first features do not tell"):
        linear_cka(np.eye(40), second)  # all windows equally far apart: no unbiased estimate
    with pytest.raises(DataError, match="at least 4 windows"):
        linear_cka(first[:3], second[:3])
    with pytest.raises(DataError, match="second features hold NaN"):
        linear_cka(first, np.where(second > 8, np.nan, second))
    with pytest.raises(DataError, match="complex128"):
        linear_cka(first * 1j, second)
    with pytest.raises(DataError, match=r"shape \(40,\)"):
        linear_cka(first[:, 0], second)
