"""LogME against an evidence maximised with explicit covariances, H-score against its trace formula, LiDAR against its definition."""

from contextlib import suppress

import numpy as np
import pytest
from analysis import effective_rank, h_score, lidar, log_me, log_me_regression
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import fractional_matrix_power
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, ortho_group
from sklearn.covariance import ledoit_wolf

from offramp.errors import DataError


def labelled(
    seed: int, n: int = 60, width: int = 5, classes: int = 3, signal: float = 1
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return rng.normal(size=(n, width)) + signal * rng.normal(size=(classes, width))[labels], labels


def evidence_by_definition(features: np.ndarray, target: np.ndarray) -> float:
    """Largest ln N(y; 0, I / beta + F F^T / alpha) per row, by a simplex search from several starts."""
    n = len(features)
    kernel = features @ features.T

    def loss(logs: np.ndarray) -> float:
        alpha, beta = np.exp(logs)
        covariance = np.eye(n) / beta + kernel / alpha
        return -multivariate_normal.logpdf(target, np.zeros(n), covariance, allow_singular=True)

    starts = [(0, 0), (3, 3), (-3, 3), (6, 1)]
    options = {"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000}
    return -min(minimize(loss, start, method="Nelder-Mead", options=options).fun for start in starts) / n


class TestLogMe:
    @pytest.mark.parametrize(("n", "width"), [(30, 4), (12, 20)])
    def test_regression_reaches_the_maximum_evidence(self, n: int, width: int) -> None:
        rng = np.random.default_rng(n)
        features = rng.normal(size=(n, width)) * np.geomspace(1, 0.1, width) + 0.5
        target = features @ rng.normal(size=width) + rng.normal(size=n)
        expected = evidence_by_definition(features, target)
        assert log_me_regression(features, target) == pytest.approx(expected, abs=1e-5)

    def test_regression_averages_over_dimensions(self) -> None:
        rng = np.random.default_rng(0)
        features, targets = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
        apart = [log_me_regression(features, target) for target in targets.T]
        assert log_me_regression(features, targets) == pytest.approx(np.mean(apart))

    def test_target_scale_adds_a_constant(self) -> None:
        rng = np.random.default_rng(1)
        features, target = rng.normal(size=(30, 4)), rng.normal(size=30)
        expected = log_me_regression(features, target) - np.log(1e-9)
        assert log_me_regression(features, 1e-9 * target) == pytest.approx(expected)

    def test_classes_are_one_against_the_rest(self) -> None:
        features, labels = labelled(0, n=30)
        expected = np.mean([evidence_by_definition(features, (labels == c).astype(float)) for c in range(3)])
        assert log_me(features, labels) == pytest.approx(expected, abs=1e-5)

    def test_unrelated_labels_reach_the_null_model(self) -> None:
        """Where alpha grows without bound, what is left is a normal density of the targets alone."""
        rng = np.random.default_rng(0)
        target = rng.normal(size=40)
        features = rng.normal(size=(40, 3))
        features -= np.outer(target, target @ features) / (target @ target)  # nothing to explain
        null = -0.5 * np.log(2 * np.pi * np.e * np.mean(target**2))
        assert log_me_regression(features, target) == pytest.approx(null, abs=1e-9)
        assert log_me_regression(np.zeros((40, 3)), target) == pytest.approx(null, abs=1e-9)

    @given(st.integers(0, 10**6), st.floats(1e-6, 1e6))
    @settings(max_examples=30, deadline=None)
    def test_invariant_to_rotation_scale_and_names(self, seed: int, scale: float) -> None:
        features, labels = labelled(seed)
        turned = scale * features @ ortho_group.rvs(5, random_state=seed)
        names = np.array(["b", "c", "a"])[labels]
        assert log_me(turned, names) == pytest.approx(log_me(features, labels), abs=1e-6)

    def test_better_features_score_higher(self) -> None:
        scores = [log_me(*labelled(0, n=300, signal=signal)) for signal in (0, 0.5, 1, 2)]
        assert scores == sorted(scores)

    def test_perfect_fit_is_finite_and_high(self) -> None:
        _, labels = labelled(0)
        score = log_me(np.eye(3)[labels], labels)
        assert np.isfinite(score)
        assert score > log_me(*labelled(0, signal=3)) + 1


class TestHScore:
    @pytest.mark.parametrize(("n", "width"), [(200, 5), (30, 12), (20, 40)])
    def test_equals_the_trace_formula(self, n: int, width: int) -> None:
        features, labels = labelled(n, n, width)
        shrunk, shrinkage = ledoit_wolf(features)
        assert 0 < shrinkage < 1
        centred = features - features.mean(0)
        means = np.stack([centred[labels == c].mean(0) for c in labels])
        expected = np.trace(np.linalg.inv(shrunk) @ ((1 - shrinkage) * means.T @ means / n))
        assert h_score(features, labels) == pytest.approx(expected, rel=1e-9)

    def test_one_feature_is_the_share_of_variance_between_classes(self) -> None:
        features, labels = labelled(0, width=1)  # nothing to shrink
        means = np.stack([features[labels == c].mean() for c in labels])
        assert h_score(features, labels) == pytest.approx(means.var() / features.var())

    def test_separated_classes_reach_the_bound(self) -> None:
        features, labels = labelled(0, n=3000, signal=1000)
        assert h_score(features, labels) == pytest.approx(2, abs=1e-2)

    @given(st.integers(0, 10**6), st.floats(1e-6, 1e6), st.floats(-100, 100))
    @settings(max_examples=30, deadline=None)
    def test_invariant_to_rotation_scale_shift_and_bounded(self, seed: int, scale: float, shift: float) -> None:
        features, labels = labelled(seed)
        turned = scale * (features @ ortho_group.rvs(5, random_state=seed) + shift)
        score = h_score(features, labels)
        assert 0 <= score <= 2
        assert h_score(turned, labels) == pytest.approx(score, abs=1e-6)

    def test_constant_features_score_nothing(self) -> None:
        assert h_score(np.full((10, 3), 0.1), np.arange(10) % 2) == 0


def separated(directions: int, n: int = 400, q: int = 4, width: int = 12, seed: int = 0) -> np.ndarray:
    """Views whose transmissions differ, far beyond the noise within them, in so many directions."""
    rng = np.random.default_rng(seed)
    transmissions = rng.normal(size=(n, 1, directions)) @ ortho_group.rvs(width, random_state=seed)[:directions]
    return 10 * transmissions + 0.1 * rng.normal(size=(n, q, width))


class TestLidar:
    @pytest.mark.parametrize("directions", [2, 5, 10])
    def test_counts_the_directions_that_separate(self, directions: int) -> None:
        assert lidar(separated(directions)) == pytest.approx(directions, rel=0.05)

    def test_ignores_what_effective_rank_counts(self) -> None:
        """Variance within views is no information about the transmission."""
        views = separated(3)
        views[..., :8] += 30 * np.random.default_rng(1).normal(size=views[..., :8].shape)
        assert effective_rank(views.reshape(-1, 12)) > 7
        assert lidar(views) < 5

    def test_equals_the_definition(self) -> None:
        rng = np.random.default_rng(2)
        views = rng.normal(size=(30, 3, 4)) + rng.normal(size=(30, 1, 4)) * [1, 2, 3, 4]
        scaled = views / np.sqrt(views.reshape(-1, 4).var(0).mean())
        means = scaled.mean(1)
        within = np.mean([np.cov(v.T, bias=True) for v in scaled], axis=0) + 1e-4 * np.eye(4)
        root = fractional_matrix_power(within, -0.5)
        p = np.linalg.eigvalsh(root @ np.cov(means.T, bias=True) @ root)
        p /= p.sum()
        assert lidar(views) == pytest.approx(np.exp(-(p * np.log(p)).sum()))

    @given(st.integers(0, 10**6), st.floats(1e-6, 1e6), st.floats(-100, 100))
    @settings(max_examples=20, deadline=None)
    def test_invariant_to_rotation_scale_and_shift(self, seed: int, scale: float, shift: float) -> None:
        rng = np.random.default_rng(seed)
        views = rng.normal(size=(20, 2, 5)) + rng.normal(size=(20, 1, 5))
        turned = scale * (views @ ortho_group.rvs(5, random_state=seed) + shift)
        assert lidar(turned) == pytest.approx(lidar(views), rel=1e-6)

    def test_nothing_between_transmissions_is_refused(self) -> None:
        views = np.tile(np.random.default_rng(0).normal(size=(1, 3, 4)), (10, 1, 1))
        with pytest.raises(DataError, match="between transmissions"):
            lidar(views)
        with pytest.raises(DataError, match="between transmissions"):
            lidar(np.full((10, 2, 3), 0.1))

    @pytest.mark.parametrize("shape", [(10, 4), (10, 1, 4), (1, 2, 4), (10, 2, 0)])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(DataError, match=r"give \(N, q, width\)"):
            lidar(np.ones(shape))


@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(1, 10), st.sampled_from([1e-30, 1, 1e30]))
@settings(max_examples=150, deadline=None)
def test_degenerate_features_give_a_number_or_a_clear_refusal(seed: int, n: int, width: int, scale: float) -> None:
    """Few rows of few values: dead features, duplicates, perfect fits, N below width, classes of one window."""
    rng = np.random.default_rng(seed)
    features = (scale * rng.integers(0, 2, size=(n, 2, width))).astype(np.float32)
    labels = np.append(rng.integers(0, 3, size=n - 1), 7)
    assert np.isfinite(log_me(features[:, 0], labels))
    assert np.isfinite(log_me_regression(features[:, 0], scale * np.arange(n)))
    assert np.isfinite(h_score(features[:, 0], labels))
    for score, argument in ((lidar, features), (effective_rank, features[:, 0])):
        with suppress(DataError):
            assert np.isfinite(score(argument))


def test_bad_labels_and_targets_are_named() -> None:
    features, labels = labelled(0)
    for score in (log_me, h_score):
        with pytest.raises(DataError, match="labels are float64"):
            score(features, labels / 2)
        with pytest.raises(DataError, match="one label per row"):
            score(features, labels[1:])
        with pytest.raises(DataError, match="at least two classes"):
            score(features, np.zeros_like(labels))
        with pytest.raises(DataError, match="NaN or infinity"):
            score(features * np.inf, labels)
    with pytest.raises(DataError, match="target 1 is constant"):
        log_me_regression(features, np.column_stack([labels, np.ones(60)]))
    with pytest.raises(DataError, match=r"targets have shape \(59,\)"):
        log_me_regression(features, labels[1:])
