"""Ranks and critical values, against scipy, brute force, permutations and the law that they state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from offramp.serving.watching.drift.critical import LOG_RATES, critical_value, false_alarm_rate
from offramp.serving.watching.drift.ranks import HORIZONS, ReferenceRanks, largest_shift


def ranks_of(values: np.ndarray) -> ReferenceRanks:
    return ReferenceRanks(values, np.arange(len(values)))


@settings(deadline=None, max_examples=100)
@given(
    reference=st.lists(st.integers(-4, 4), min_size=8, max_size=40),
    new=st.lists(st.integers(-6, 6), min_size=1, max_size=5),
)
def test_scores_are_normal_quantiles_of_middle_ranks(reference: list[int], new: list[int]) -> None:
    values, count = np.asarray(reference, np.float64), len(reference)

    def score(value: float) -> float:
        share = stats.percentileofscore(values, value, kind="mean") / 100
        return float(stats.norm.ppf((count * share + 0.5) / (count + 1)))

    centre = np.mean([score(value) for value in values])
    found = ranks_of(values[:, None]).scores(np.asarray(new, np.float64)[:, None])[:, 0]
    np.testing.assert_allclose(found, [score(value) - centre for value in new], atol=1e-9)


def test_recordings_weigh_the_same_however_many_blocks_they_have() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((10, 3))
    once = ReferenceRanks(values, np.arange(10))
    often = ReferenceRanks(np.repeat(values, 4, axis=0), np.repeat(np.arange(10), 4))
    assert once.recordings == often.recordings == 10
    new = rng.standard_normal((20, 3))
    np.testing.assert_allclose(once.scores(new), often.scores(new), atol=1e-12)


def test_the_reference_has_a_mean_of_zero_and_what_is_missing_stays_so() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 3, (30, 2)).astype(float)
    np.testing.assert_allclose(ranks_of(values).scores(values).mean(0), 0, atol=1e-12)
    assert np.isnan(ranks_of(values).scores(np.array([[np.nan, 1.0]]))).tolist() == [[True, False]]
    far = ranks_of(values).scores(np.array([[-1e9, 1e9]]))
    assert np.isfinite(far).all()


@settings(deadline=None, max_examples=50)
@given(count=st.integers(0, 80), recordings=st.integers(8, 500), seed=st.integers(0, 999))
def test_the_largest_shift_is_that_of_all_horizons(count: int, recordings: int, seed: int) -> None:
    scores = np.random.default_rng(seed).standard_normal((count, 3))
    found, horizon = largest_shift(scores, recordings)
    for column in range(3):
        shifts = {
            length: abs(scores[-length:, column].sum()) / np.sqrt(length + length**2 / recordings)
            for length in HORIZONS
            if length <= count
        }
        assert found[column] == pytest.approx(max(shifts.values(), default=0.0))
        assert horizon[column] == (max(shifts, key=shifts.__getitem__) if shifts else 0)


@pytest.mark.parametrize("distribution", [stats.norm(), stats.cauchy(), stats.expon()])
def test_a_look_is_the_permutation_test_with_normal_scores(distribution: stats.rv_continuous) -> None:
    """What scipy finds by permuting recordings and reference is what the shift's own law says, whatever the numbers' law is."""
    rng = np.random.default_rng(3)
    old = distribution.rvs(16, random_state=rng)
    new = distribution.rvs(8, random_state=rng) + 0.8

    def statistic(first: np.ndarray, second: np.ndarray) -> float:
        return float(ranks_of(first[:, None]).scores(second[:, None]).sum())

    permuted = stats.permutation_test(
        (old, new), statistic, vectorized=False, n_resamples=3000, alternative="greater", rng=np.random.default_rng(0)
    )
    alike = [statistic(sample[:16], sample[16:]) for sample in rng.random((3000, 24))]  # of another law
    assert np.mean(np.asarray(alike) >= statistic(old, new)) == pytest.approx(permuted.pvalue, abs=0.03)


@pytest.mark.parametrize("recordings", [8, 9, 13, 50, 300, 4000])
def test_critical_values_and_rates_are_each_others_inverse(recordings: int) -> None:
    shifts = np.linspace(2.0, 7.0, 40)
    rates = [false_alarm_rate(shift, recordings) for shift in shifts]
    assert (np.diff(rates) < 0).all()
    for shift, rate in zip(shifts, rates, strict=True):
        assert critical_value(rate, recordings) == pytest.approx(shift, abs=1e-6)
    assert false_alarm_rate(0.0, recordings) <= 1


def test_rates_between_the_entries_lie_between_them() -> None:
    for few, many in zip(list(LOG_RATES)[8:-1], list(LOG_RATES)[9:], strict=True):
        for shift in (2.6, 3.3, 4.1):
            ends = sorted(false_alarm_rate(shift, each) for each in (few, many))
            assert ends[0] <= false_alarm_rate(shift, (few + many) // 2) <= ends[1]


@pytest.mark.parametrize("recordings", [8, 11, 20, 75])
def test_the_stated_rate_is_true(recordings: int) -> None:
    """Streams of numbers of a heavy-tailed law without a change, each with a reference of its own, that begin anew behind each alarm."""
    rng, streams, length, rate = np.random.default_rng(recordings), 1500, 128, 4e-3
    threshold, alarms = critical_value(rate, recordings), []
    for _ in range(streams):
        scores = ranks_of(rng.standard_cauchy((recordings, 1))).scores(rng.standard_cauchy((64 + length, 1)))
        sums = np.concatenate([[0], np.cumsum(scores[:, 0])])
        over = {
            step: np.abs(sums[step:] - sums[:-step]) / np.sqrt(step + step**2 / recordings) > threshold
            for step in HORIZONS
        }
        begun, count = 0, 0
        for end in range(1, 65 + length):
            if any(end - begun >= step and over[step][end - step] for step in HORIZONS):
                begun, count = end, count + (end > 64)
        alarms.append(count)
    spread = np.std(alarms) / np.sqrt(streams) / length
    # steps of ranks are coarse where there are few recordings
    assert np.mean(alarms) / length == pytest.approx(rate, abs=4 * spread + 0.15 * rate)
