"""Confidence sequences against the formula written out, counted over thousands of looks, and beside bounds that are simpler or wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from offramp.errors import DataError
from offramp.scoring.sequences import POINTS, ConfidenceSequence

ALPHA, RUNS, LOOKS = 0.1, 150, 200
MOST = binom.ppf(0.999, RUNS, ALPHA) / RUNS
"""A violation rate of alpha exceeds it once in a thousand such simulations."""


def written_out(losses: list[float], alpha: float) -> tuple[float, float]:
    """The bounds after all losses, mean by mean and bet by bet in plain Python."""
    reached = []
    for sign in (1, -1):
        means = [(place if sign == 1 else POINTS - place) / POINTS for place in range(POINTS + 1)]
        capital, total, squares, farthest = [1.0] * (POINTS + 1), 0.5, 0.25, 0
        for t, loss in enumerate(losses, start=1):
            wanted = math.sqrt(2 * math.log(2 / alpha) / (squares / t * t * math.log(t + 1)))
            for place, mean in enumerate(means):
                room = mean if sign == 1 else 1 - mean
                capital[place] *= 1 + sign * min(wanted, 0.75 / room if room else math.inf) * (loss - mean)
            total += loss
            squares += (loss - total / (t + 1)) ** 2
            poor = next((place for place in range(POINTS + 1) if capital[place] < 2 / alpha), POINTS + 1)
            farthest = max(farthest, poor - 1)
        reached.append(farthest)
    return reached[0] / POINTS, 1 - reached[1] / POINTS


@given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=30), st.sampled_from([0.01, 0.1, 0.5]))
@settings(deadline=None, max_examples=15)
def test_the_bounds_are_those_of_the_formula(losses: list[float], alpha: float) -> None:
    sequence = ConfidenceSequence(alpha)
    for loss in losses:
        sequence.add(loss)
    assert (sequence.lower, sequence.upper) == pytest.approx(written_out(losses, alpha), abs=1e-9)
    assert sequence.mean == pytest.approx(np.mean(losses))


def runs_outside(draw: object, mean: float, seed: int = 0) -> float:
    """Share of runs in which the mean is outside the bounds at any of the looks."""
    rng = np.random.default_rng(seed)
    missed = 0
    for _ in range(RUNS):
        sequence = ConfidenceSequence(ALPHA)
        for loss in draw(rng):  # type: ignore[operator]
            sequence.add(float(loss))
        missed += not sequence.lower <= mean <= sequence.upper  # bounds never widen: the last tells of all
    return missed / RUNS


@pytest.mark.parametrize("mean", [0.02, 0.3])
def test_the_mean_is_rarely_left_out_however_often_one_looks(mean: float) -> None:
    assert runs_outside(lambda rng: rng.random(LOOKS) < mean, mean) <= MOST


def test_losses_between_nothing_and_all_are_covered_too() -> None:
    assert runs_outside(lambda rng: rng.beta(0.2, 1.8, LOOKS), 0.1) <= MOST


def test_windows_of_a_recording_are_not_independent_and_their_means_are() -> None:
    """Recordings lose all or nothing: one by one their windows violate many times as often as promised."""

    def recordings(rng: np.random.Generator, windows: int) -> np.ndarray:
        return np.repeat(rng.random(LOOKS // 20) < 0.2, windows)

    assert runs_outside(lambda rng: recordings(rng, 20), 0.2) > 3 * ALPHA
    assert runs_outside(lambda rng: recordings(rng, 1), 0.2) <= MOST


def test_an_interval_for_one_look_is_wrong_when_one_looks_often() -> None:
    """So that what is tested above is not what any interval does."""
    rng, missed = np.random.default_rng(0), 0
    for _ in range(RUNS):
        hits = np.cumsum(rng.random(LOOKS) < 0.3)
        n = np.arange(1, LOOKS + 1)
        width = 1.645 * np.sqrt(0.3 * 0.7 / n)
        missed += bool((np.abs(hits / n - 0.3) > width)[20:].any())
    assert missed / RUNS > 2 * ALPHA


@pytest.mark.parametrize("mean", [0.0, 0.02, 0.1, 0.5])
def test_it_is_narrower_than_hoeffding_for_all_moments(mean: float) -> None:
    """Hoeffding's bound with the error probability dealt out over moments as ``alpha / (t (t + 1))``."""
    sequence, rng = ConfidenceSequence(ALPHA), np.random.default_rng(1)
    low, high = 0.0, 1.0
    for t in range(1, 1501):
        sequence.add(float(rng.random() < mean))
        half = math.sqrt(math.log(2 * t * (t + 1) / ALPHA) / (2 * t))
        low, high = max(low, sequence.mean - half), min(high, sequence.mean + half)
        if t in (50, 200, 1500):
            assert sequence.upper - sequence.lower < high - low
    if mean <= 0.1:
        assert sequence.upper - sequence.lower < 0.6 * (high - low)


def test_no_loss_at_all_narrows_from_one_side() -> None:
    sequence = ConfidenceSequence(0.05)
    uppers = []
    for _ in range(400):
        sequence.add(0.0)
        uppers.append(sequence.upper)
    assert sequence.lower == 0
    assert uppers == sorted(uppers, reverse=True)
    assert uppers[-1] < 0.02


def test_a_mean_that_moves_crosses_the_bounds() -> None:
    sequence = ConfidenceSequence(0.05)
    for loss in [0.0] * 300 + [1.0] * 300:
        sequence.add(loss)
    assert sequence.lower > sequence.upper


@pytest.mark.parametrize("alpha", [0, 1, -0.1, math.nan])
def test_an_alpha_that_is_none(alpha: float) -> None:
    with pytest.raises(DataError, match="alpha="):
        ConfidenceSequence(alpha)


@pytest.mark.parametrize("loss", [-0.1, 1.1, math.nan, math.inf])
def test_a_loss_outside_is_refused_and_changes_nothing(loss: float) -> None:
    sequence = ConfidenceSequence(0.05)
    with pytest.raises(DataError, match="a loss of"):
        sequence.add(loss)
    assert (sequence.count, sequence.lower, sequence.upper) == (0, 0.0, 1.0)
    assert math.isnan(sequence.mean)
