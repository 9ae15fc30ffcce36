"""Intraclass correlation on data of known ratio and against the textbook ANOVA; retrieval against distances by scipy."""

import numpy as np
import pytest
from analysis import intraclass_correlation, retrieval_accuracy
from analysis.invariance import BLOCK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import f_oneway, ortho_group

from offramp.errors import DataError


def two_views(share: float, n: int = 20_000, width: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """One-way random effects: ``share`` of a variance of 1 belongs to the transmission."""
    rng = np.random.default_rng(seed)
    transmission = np.sqrt(share) * rng.normal(size=(n, width))
    first, second = (transmission + np.sqrt(1 - share) * rng.normal(size=(n, width)) + 5 for _ in range(2))
    return first, second


class TestIntraclassCorrelation:
    @pytest.mark.parametrize("share", [0, 0.3, 0.9])
    def test_finds_the_share_of_a_random_effects_model(self, share: float) -> None:
        assert intraclass_correlation(*two_views(share)) == pytest.approx(share, abs=0.01)

    def test_extremes(self) -> None:
        first, _ = two_views(0, n=50)
        assert intraclass_correlation(first, first) == 1
        assert intraclass_correlation(first, 2 * first.mean(0) - first) == pytest.approx(-1)

    def test_one_feature_equals_the_analysis_of_variance(self) -> None:
        first, second = two_views(0.5, n=30, width=1)
        ratio = f_oneway(*np.column_stack([first, second])).statistic  # MSB / MSW
        assert intraclass_correlation(first, second) == pytest.approx((ratio - 1) / (ratio + 1))

    def test_a_shift_between_views_counts_against(self) -> None:
        first, second = two_views(0.9, n=500)
        assert intraclass_correlation(first, second + 1) < intraclass_correlation(first, second) - 0.1

    @given(st.integers(0, 10**6), st.floats(1e-6, 1e6), st.floats(-100, 100))
    @settings(max_examples=30, deadline=None)
    def test_invariant_to_rotation_scale_and_shift(self, seed: int, scale: float, shift: float) -> None:
        first, second = two_views(0.5, n=20, seed=seed)
        rotation = ortho_group.rvs(first.shape[1], random_state=seed)
        turned = (scale * (view @ rotation + shift) for view in (first, second))
        assert intraclass_correlation(*turned) == pytest.approx(intraclass_correlation(first, second), abs=1e-7)

    def test_constant_features_are_refused(self) -> None:
        constant = np.full((10, 3), 0.1)
        with pytest.raises(DataError, match="every feature is constant"):
            intraclass_correlation(constant, constant)


class TestRetrievalAccuracy:
    @pytest.mark.parametrize("n", [50, BLOCK + 100])
    def test_equals_nearest_by_cosine_distance(self, n: int) -> None:
        first, second = (view - 5 for view in two_views(0.6, n=n))
        nearest = cdist(first, second, "cosine").argmin(1)
        expected = (nearest == np.arange(n)).mean()
        assert 0.05 < expected < 0.95
        assert retrieval_accuracy(first, second) == pytest.approx(expected)

    def test_length_does_not_matter(self) -> None:
        first, _ = two_views(0, n=40)
        lengths = np.random.default_rng(0).uniform(0.1, 10, size=(40, 1))
        assert retrieval_accuracy(first, first * lengths) == 1

    @pytest.mark.parametrize("value", [0, 0.1])
    def test_collapsed_features_score_chance(self, value: float) -> None:
        collapsed = np.full((25, 4), value)
        assert retrieval_accuracy(collapsed, collapsed) == pytest.approx(1 / 25)

    def test_pairs_that_coincide_share_the_hit(self) -> None:
        first = np.repeat(np.eye(5), 2, axis=0)
        assert retrieval_accuracy(first, first) == pytest.approx(0.5)


def test_views_of_different_exits_are_refused() -> None:
    with pytest.raises(DataError, match="4 and 3 features"):
        intraclass_correlation(np.ones((5, 4)), np.ones((5, 3)))
    with pytest.raises(DataError, match="5 and 6 rows"):
        retrieval_accuracy(np.ones((5, 4)), np.ones((6, 4)))
