"""Temperatures against known ones and a grid, calibration error by hand, failure AUROC against scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from sklearn.metrics import roc_auc_score

from offramp.errors import DataError
from offramp.scoring.calibration import (
    HIGHEST,
    LOWEST,
    expected_calibration_error,
    failure_auroc,
    fit_temperature,
)


def drawn_labels(logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """Labels drawn from the probabilities that the logits give, so that a temperature of 1 is right."""
    reached = np.random.default_rng(seed).random((len(logits), 1)) < softmax(logits, axis=1).cumsum(1)
    return reached.argmax(1)


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    return -log_softmax(logits.astype(np.float64) / temperature, axis=1)[np.arange(len(labels)), labels].mean()


class TestTemperature:
    @pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
    def test_finds_the_temperature_that_labels_were_drawn_at(self, true: float) -> None:
        logits = np.random.default_rng(1).normal(scale=2, size=(20_000, 5)).astype(np.float32)
        assert fit_temperature(logits * true, drawn_labels(logits)) == pytest.approx(true, rel=0.05)

    @given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 6), st.floats(0.01, 30))
    @settings(deadline=None, max_examples=60)
    def test_no_temperature_of_a_grid_is_likelier(self, seed: int, count: int, classes: int, scale: float) -> None:
        rng = np.random.default_rng(seed)
        logits = rng.normal(scale=scale, size=(count, classes)).astype(np.float32)
        labels = rng.integers(0, classes, count)
        found = fit_temperature(logits, labels)
        assert LOWEST <= found <= HIGHEST
        if (logits.argmax(1) == labels).all():
            assert found == 1
        else:
            grid = [negative_log_likelihood(logits, labels, t) for t in np.geomspace(LOWEST, HIGHEST, 60)]
            assert negative_log_likelihood(logits, labels, found) <= min(grid) + 1e-9

    def test_calibrates_an_overconfident_exit(self) -> None:
        logits = np.random.default_rng(2).normal(size=(5_000, 4)).astype(np.float32)
        labels, sharp = drawn_labels(logits), logits * 5

        def error(temperature: float) -> float:
            probability = softmax(sharp / temperature, axis=1)
            return expected_calibration_error(probability.max(1), sharp.argmax(1) == labels)

        assert error(1.0) > 0.3
        assert error(fit_temperature(sharp, labels)) < 0.03

    def test_one_where_nothing_is_to_be_learned(self) -> None:
        labels = np.array([0, 1, 2])
        assert fit_temperature(np.zeros((0, 3), np.float32), np.zeros(0, int)) == 1
        assert fit_temperature(np.eye(3, dtype=np.float32), labels) == 1
        assert fit_temperature(np.zeros((3, 3), np.float32), labels) == 1
        assert fit_temperature(np.ones((3, 1), np.float32), np.zeros(3, int)) == 1

    def test_labels_of_one_class_and_huge_logits_give_a_temperature_within_bounds(self) -> None:
        logits = np.array([[2, 0], [3, 0], [0, 1]], dtype=np.float32)
        assert LOWEST < fit_temperature(logits, np.zeros(3, int)) < HIGHEST
        assert fit_temperature(logits * np.float32(1e30), np.zeros(3, int)) == HIGHEST
        assert fit_temperature(logits * np.float32(1e-30), np.zeros(3, int)) == LOWEST

    @pytest.mark.parametrize(
        ("logits", "labels", "said"),
        [
            (np.array([[np.nan, 0.0]]), np.array([0]), "not finite"),
            (np.array([[np.inf, 0.0]]), np.array([0]), "not finite"),
            (np.zeros((2, 3)), np.array([0, 3]), "labels reach from 0 to 3"),
            (np.zeros((2, 3)), np.array([0, -1]), "labels reach from -1 to 0"),
            (np.zeros((2, 3)), np.array([0]), r"logits \(2, 3\) and labels \(1,\)"),
            (np.zeros(3), np.array([0, 1, 2]), "do not fit"),
        ],
    )
    def test_bad_input_is_told(self, logits: np.ndarray, labels: np.ndarray, said: str) -> None:
        with pytest.raises(DataError, match=said):
            fit_temperature(logits, labels)


class TestCalibrationError:
    def test_by_hand(self) -> None:
        # bin (0.8, 0.9]: mean confidence 0.85, accuracy 0.5; bin (0.2, 0.3]: 0.25 and 1
        confidence = np.array([0.82, 0.88, 0.25])
        right = np.array([True, False, True])
        assert expected_calibration_error(confidence, right, bins=10) == pytest.approx((2 * 0.35 + 0.75) / 3)

    def test_edges_of_all_bins_have_a_place(self) -> None:
        assert expected_calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0
        assert expected_calibration_error(np.array([0.0, 1.0]), np.array([True, False])) == 1

    @given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50), st.integers(1, 20))
    @settings(deadline=None, max_examples=60)
    def test_between_the_gap_of_the_means_and_one(self, pairs: list[tuple[float, bool]], bins: int) -> None:
        confidence, right = (np.array(column) for column in zip(*pairs, strict=True))
        error = expected_calibration_error(confidence, right, bins)
        assert abs(confidence.mean() - right.mean()) - 1e-9 <= error <= 1 + 1e-9
        one_bin = expected_calibration_error(confidence, right, bins=1)
        assert one_bin == pytest.approx(abs(confidence.mean() - right.mean()), abs=1e-12)

    def test_none_and_nonsense(self) -> None:
        assert math.isnan(expected_calibration_error(np.zeros(0), np.zeros(0, bool)))
        for confidence in (np.nan, 1.1, -0.1):
            with pytest.raises(DataError, match="not between 0 and 1"):
                expected_calibration_error(np.array([confidence]), np.array([True]))


class TestFailureAuroc:
    @given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
    @settings(deadline=None, max_examples=60)
    def test_is_the_area_that_scikit_learn_finds_ties_included(self, pairs: list[tuple[int, bool]]) -> None:
        certainty, right = (np.array(column) for column in zip(*pairs, strict=True))
        found = failure_auroc(certainty.astype(np.float32), right)
        if right.all() or not right.any():
            assert found is None
        else:
            assert found == pytest.approx(roc_auc_score(right, certainty))

    def test_certainties_may_be_infinite_but_not_missing(self) -> None:
        assert failure_auroc(np.array([-np.inf, 0.0, np.inf]), np.array([False, True, True])) == 1
        with pytest.raises(DataError, match="NaN"):
            failure_auroc(np.array([np.nan, 0.0]), np.array([False, True]))

    def test_shapes_must_fit(self) -> None:
        with pytest.raises(DataError, match="do not fit"):
            failure_auroc(np.zeros(3), np.zeros(2, bool))
        with pytest.raises(DataError, match="int64"):
            failure_auroc(np.zeros(2), np.array([0, 1]))
