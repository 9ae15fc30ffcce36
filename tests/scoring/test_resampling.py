"""The bootstrap against normal theory, against a naive bootstrap by hand, and against its promise: coverage."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from offramp.errors import DataError
from offramp.schema.results import Gain
from offramp.scoring.metrics import METRICS
from offramp.scoring.resampling import (
    Resamples,
    Units,
    equivalence_bound,
    gain_draws,
    holm,
    interval,
    paired_gain,
    per_seed_scores,
    resampled_units,
    resampling_units,
    summarise,
)

ACCURACY, ERROR = METRICS["accuracy"], METRICS["mean_error"]


def counted(values: np.ndarray) -> np.ndarray:
    """Statistics ``(value, 1)``."""
    return np.stack([values, np.ones(len(values))], axis=-1)


class TestUnits:
    def test_eight_groups_are_resampled_whole(self) -> None:
        groups = np.repeat(np.arange(10), 5)
        indices = np.arange(5, 45)  # groups 1 .. 8
        units = resampling_units(groups, True, indices)
        assert (units.kind, units.count) == ("group", 8)
        np.testing.assert_array_equal(units.of_window[indices], groups[indices] - 1)

    def test_fewer_groups_are_resampled_by_window(self) -> None:
        units = resampling_units(np.repeat(np.arange(7), 5), True, np.arange(35))
        assert (units.kind, units.count) == ("window", 35)
        assert sorted(units.of_window) == list(range(35))

    def test_independent_windows_are_their_own_groups(self) -> None:
        units = resampling_units(np.arange(50), False, np.arange(10, 50))
        assert (units.kind, units.count) == ("group", 40)
        assert sorted(units.of_window[10:]) == list(range(40))

    def test_many_windows_are_dealt_into_4000_units_evenly(self) -> None:
        units = resampling_units(np.arange(10_000), False, np.arange(10_000))
        assert (units.kind, units.count) == ("group", 4000)
        assert set(np.bincount(units.of_window)) == {2, 3}
        assert np.corrcoef(units.of_window, np.arange(10_000))[0, 1] == pytest.approx(0, abs=0.05), "dealt at random"

    def test_blocks_stand_in_for_too_few_groups(self) -> None:
        groups, blocks = np.repeat([0, 1], 40), np.tile(np.arange(10).repeat(4), 2)
        units = resampling_units(groups, True, np.arange(80), blocks)
        assert (units.kind, units.count) == ("block", 20), "block 3 of group 0 is another one than that of group 1"
        np.testing.assert_array_equal(units.of_window, np.arange(80) // 4)

    def test_eight_groups_need_no_blocks(self) -> None:
        groups = np.repeat(np.arange(8), 10)
        units = resampling_units(groups, True, np.arange(80), np.arange(80) // 5)
        assert (units.kind, units.count) == ("group", 8)

    def test_fewer_than_eight_blocks_mean_as_little_as_groups(self) -> None:
        units = resampling_units(np.zeros(40, int), True, np.arange(40), np.arange(40) // 8)
        assert (units.kind, units.count) == ("window", 40)

    def test_without_groups_blocks_are_the_groups(self) -> None:
        units = resampling_units(np.arange(60), False, np.arange(10, 60), np.arange(60) // 5)
        assert (units.kind, units.count) == ("group", 10)
        np.testing.assert_array_equal(units.of_window[10:], np.arange(50) // 5)

    def test_sums_per_unit(self) -> None:
        units = resampling_units(np.repeat(np.arange(8), 3), True, np.arange(24))
        rng = np.random.default_rng(0)
        indices = rng.choice(24, 15)
        statistics = rng.standard_normal((15, 2))
        expected = np.zeros((8, 2))
        for index, row in zip(indices, statistics, strict=True):
            expected[index // 3] += row
        np.testing.assert_allclose(units.sums(statistics, indices), expected, atol=1e-12)


@given(units=st.integers(1, 40), seeds=st.integers(1, 6), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_weights_sum_to_one_and_are_whole_draws(units: int, seeds: int, seed: int) -> None:
    resamples = Resamples.draw(units, seeds, seed, resamples=50)
    weights = resamples.units
    assert (weights.shape, resamples.seeds.shape) == ((50, units), (50, seeds))
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights * units, np.round(weights * units), atol=1e-9)


def test_the_same_seed_draws_the_same() -> None:
    first, second, third = (Resamples.draw(9, 3, seed, 20) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.units, second.units)
    assert (first.units != third.units).any()


def test_scores_are_those_of_a_naive_bootstrap() -> None:
    """Recompute every resample by repeating units as often as they were drawn, with what seeds add taken off."""
    rng = np.random.default_rng(0)
    sums = np.stack([counted(rng.uniform(0, 1, 6)) * rng.integers(1, 5, (6, 1)) for _ in range(3)])
    resamples = replace(Resamples.draw(6, 3, 5, 30), seeds=np.zeros((30, 3)))
    got = resamples.scores(sums, ACCURACY)
    for number in range(30):
        units = np.repeat(np.arange(6), np.round(resamples.units[number] * 6).astype(int))
        scores = [sums[seed, units, 0].sum() / sums[seed, units, 1].sum() for seed in range(3)]
        assert got[number] == pytest.approx(np.mean(scores), rel=1e-9)


def test_seeds_add_the_variance_that_their_training_windows_have() -> None:
    """Five seeds that are one value each in every unit: nothing is chance among units, T² is the variance of the five."""
    level = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    sums = np.stack([counted(np.full(20, value)) for value in level])
    for reuse in (0.0, 3.0):
        scores = Resamples.draw(20, 5, 0, 40_000, reuse).scores(sums, ACCURACY)
        assert scores.mean() == pytest.approx(0.7, abs=0.005)
        assert scores.std() == pytest.approx(np.sqrt((1 / 5 + reuse) * level.var(ddof=1)), rel=0.02)


def test_chance_among_units_is_not_taken_for_a_difference_of_seeds() -> None:
    """Seeds that answer alike on average, each by its own chance in every unit: only the units' own variance is left."""
    rng, found = np.random.default_rng(2), []
    for number in range(200):
        sums = np.stack([counted(rng.normal(0.5, 0.2, 300)) for _ in range(5)])
        found.append(Resamples.draw(300, 5, number, 400, 3.0).scores(sums, ACCURACY).std())
    alone = 0.2 / np.sqrt(5 * 300)
    assert np.median(found) < 1.6 * alone
    assert np.sqrt(1 / 5 + 3) * 0.2 / np.sqrt(300) > 3.9 * alone, "what the seeds' plain variance would give"


def test_one_seed_adds_nothing() -> None:
    sums = counted(np.linspace(0, 1, 30))[None]
    drawn = Resamples.draw(30, 1, 0, 100, 3.0)
    np.testing.assert_allclose(drawn.scores(sums, ACCURACY), drawn.per_seed(sums, ACCURACY)[:, 0])


def test_a_resample_in_which_a_seed_has_no_windows_leaves_that_seed_out() -> None:
    sums = np.zeros((2, 2, 2))
    sums[0, 0], sums[1, 1] = (8, 10), (6, 10)  # seed 0 has only unit 0, seed 1 only unit 1
    resamples = Resamples(np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]), np.zeros((3, 2)))
    np.testing.assert_allclose(resamples.scores(sums, ACCURACY), [0.8, 0.6, 0.7])


def test_a_resample_without_any_window_says_nothing() -> None:
    """It must not count as a score of zero: for an error that would be perfect, for a gain exactly equal."""
    sums = np.zeros((1, 4, 2))
    sums[0, 0] = (50, 10)
    resamples = Resamples.draw(4, 1, 0, 2000)
    assert (resamples.units[:, 0] == 0).mean() == pytest.approx(0.75**4, abs=0.05)
    score = summarise(sums, ERROR, resamples)
    assert score.ci95 == (5.0, 5.0)


def test_the_interval_of_a_mean_is_that_of_normal_theory() -> None:
    values = np.random.default_rng(3).normal(10, 2, 200)
    score = summarise(counted(values)[None], ERROR, Resamples.draw(200, 1, 0, 10_000))
    half = stats.norm.ppf(0.975) * values.std() / np.sqrt(200)
    assert score.mean == pytest.approx(values.mean())
    assert score.ci95 == pytest.approx((values.mean() - half, values.mean() + half), abs=0.06 * half)


def test_the_interval_of_an_accuracy_is_binomial() -> None:
    hits = (np.arange(400) < 300).astype(float)
    low, high = summarise(counted(hits)[None], ACCURACY, Resamples.draw(400, 1, 0, 10_000)).ci95
    assert (low, high) == pytest.approx(stats.binom.ppf([0.025, 0.975], 400, 0.75) / 400, abs=0.004)


def test_an_interval_of_a_share_ends_at_one() -> None:
    """What is drawn for the seeds is normal, so that near 100% its upper end lies beyond."""
    hits = np.stack([np.ones(40), np.ones(40), (np.arange(40) < 30).astype(float)])
    drawn = Resamples.draw(40, 3, 0, 2000, 3.0)
    sums = np.stack([counted(each) for each in hits])
    assert interval(drawn.scores(sums, ACCURACY))[1] > 1
    low, high = summarise(sums, ACCURACY, drawn).ci95
    assert low == interval(drawn.scores(sums, ACCURACY))[0]
    assert high == 1.0


def test_mean_and_deviation_over_seeds() -> None:
    sums = np.array([[[8.0, 10.0]], [[6.0, 10.0]], [[4.0, 10.0]]])
    score = summarise(sums, ACCURACY)
    assert score.per_seed == pytest.approx([0.8, 0.6, 0.4])
    assert (score.mean, score.std, score.ci95) == (pytest.approx(0.6), pytest.approx(0.2), None)
    assert summarise(sums[:1], ACCURACY).std == 0
    np.testing.assert_allclose(per_seed_scores(sums, ACCURACY), [0.8, 0.6, 0.4])


def test_an_interval_over_correlated_groups_covers_the_truth() -> None:
    """200 data sets of 30 groups whose windows share a group effect: 95% intervals cover the true mean nearly that often."""
    rng = np.random.default_rng(11)
    covered = by_window = 0
    for number in range(200):
        effect = np.repeat(rng.normal(0, 1, 30), 10)
        values = 5 + effect + rng.normal(0, 0.5, 300)
        groups = np.repeat(np.arange(30), 10)
        for grouped in (True, False):
            units = resampling_units(groups, grouped, np.arange(300))
            sums = units.sums(counted(values), np.arange(300))[None]
            low, high = summarise(sums, ERROR, Resamples.draw(units.count, 1, number, 500)).ci95
            if grouped:
                covered += low <= 5 <= high
            else:
                by_window += low <= 5 <= high
    assert 0.88 <= covered / 200 <= 0.99
    assert by_window / 200 < 0.7, "the data would not tell a bootstrap that ignores groups"


def test_an_interval_over_blocks_covers_what_one_over_windows_does_not() -> None:
    """One recording whose score drifts: windows of a second are alike. Blocks of a second cover the truth, windows do not."""
    rng, seconds, windows = np.random.default_rng(5), 60, 10
    groups, blocks = np.zeros(seconds * windows, int), np.repeat(np.arange(seconds), windows)
    covered = {"block": 0, "window": 0}
    for number in range(200):
        values = 5 + np.repeat(rng.normal(0, 1, seconds), windows) + rng.normal(0, 0.5, len(blocks))
        for told in (blocks, None):
            units = resampling_units(groups, True, np.arange(len(blocks)), told)
            sums = units.sums(counted(values), np.arange(len(blocks)))[None]
            low, high = summarise(sums, ERROR, Resamples.draw(units.count, 1, number, 400)).ci95
            covered[units.kind] += low <= 5 <= high
    assert 0.89 <= covered["block"] / 200 <= 0.99
    assert covered["window"] / 200 < 0.6


class TestEquivalence:
    def test_the_bound_is_that_of_two_tests_of_normal_theory(self) -> None:
        """Schuirmann: equivalent within d at 5% if both ends of mean plus and minus 1.645 standard errors lie within d."""
        draws = np.random.default_rng(0).normal(0.3, 2.0, 200_000)
        assert equivalence_bound(draws) == pytest.approx(0.3 + stats.norm.ppf(0.95) * 2, rel=0.01)
        assert equivalence_bound(-draws) == pytest.approx(equivalence_bound(draws))

    def test_equivalence_is_rarely_claimed_where_it_does_not_hold(self) -> None:
        """A true difference of exactly the bound is called smaller in 5% of data sets."""
        rng, wrong, truth = np.random.default_rng(7), 0, 0.05
        resamples, units = Resamples.draw(80, 1, 0, 600), Units(np.arange(80), 80, "group")
        for _ in range(300):
            full = rng.normal(0.5, 0.1, 80)
            ours = full + truth + rng.normal(0, 0.1, 80)
            gain = paired_gain(counted(ours)[None], counted(full)[None], ACCURACY, resamples, units)
            wrong += gain.equivalent_within < truth
        assert wrong <= stats.binom.ppf(0.999, 300, 0.06)


class TestPairedGain:
    def made(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Resamples, Units]:
        rng = np.random.default_rng(seed)
        units = resampling_units(np.repeat(np.arange(20), 10), True, np.arange(200))
        ours, theirs = (
            np.stack([units.sums(counted((rng.uniform(0, 1, 200) < p).astype(float)), np.arange(200)) for _ in "ab"])
            for p in (0.8, 0.6)
        )
        return ours, theirs, Resamples.draw(20, 2, seed), units

    def test_is_the_difference_of_means(self) -> None:
        ours, theirs, resamples, units = self.made()
        gain = paired_gain(ours, theirs, ACCURACY, resamples, units)
        expected = (ours[..., 0].sum(1) / 200).mean() - (theirs[..., 0].sum(1) / 200).mean()
        assert gain.mean == pytest.approx(expected)
        assert gain.ci95[0] < gain.mean < gain.ci95[1]
        assert gain.unit == "group"
        against = (gain_draws(ours, theirs, ACCURACY, resamples) <= 0).sum()
        assert gain.p_value == pytest.approx((1 + against) / 2001)
        assert gain.p_value < 0.01

    def test_is_antisymmetric(self) -> None:
        ours, theirs, resamples, units = self.made()
        there = paired_gain(ours, theirs, ACCURACY, resamples, units)
        back = paired_gain(theirs, ours, ACCURACY, resamples, units)
        assert back.mean == pytest.approx(-there.mean)
        assert back.ci95 == pytest.approx((-there.ci95[1], -there.ci95[0]))
        np.testing.assert_allclose(
            gain_draws(ours, theirs, ACCURACY, resamples), -gain_draws(theirs, ours, ACCURACY, resamples)
        )

    def test_of_the_same_scores_is_zero(self) -> None:
        ours, _, resamples, units = self.made()
        gain = paired_gain(ours, ours, ACCURACY, resamples, units)
        assert (gain.mean, gain.ci95, gain.p_value) == (0, (0, 0), 1)

    def test_is_positive_where_the_error_is_smaller(self) -> None:
        small, large, resamples, units = self.made()[1], *self.made()[:1], *self.made()[2:]
        gain = paired_gain(small, large, ERROR, resamples, units)
        assert gain.mean > 0
        assert gain.ci95[0] > 0

    def test_pairing_removes_what_both_share(self) -> None:
        """Two exits that differ by a constant in every group: no width, however different the groups are."""
        level = np.random.default_rng(0).uniform(5, 50, 12)
        ours, theirs = counted(level)[None], counted(level + 1)[None]
        units = Units(np.arange(12), 12, "group")
        gain = paired_gain(ours, theirs, ERROR, Resamples.draw(12, 1, 0), units)
        assert gain.ci95 == pytest.approx((1, 1))


def gain_with(p_value: float, low: float = 0.01, unit: str = "group") -> Gain:
    return Gain(mean=0.1, ci95=(low, 0.2), unit=unit, p_value=p_value)


class TestHolm:
    def test_a_worked_example(self) -> None:
        """At 2.5%, four tasks ask for .00625, .00833, .0125 and .025 in turn: .013 fails, and with it .02."""
        gains = holm([gain_with(0.013), gain_with(0.001), gain_with(0.008), gain_with(0.02)])
        assert [gain.significant for gain in gains] == [False, True, True, False]

    def test_one_failure_stops_the_rest(self) -> None:
        gains = holm([gain_with(0.009), gain_with(0.02), gain_with(0.01)])
        assert not any(gain.significant for gain in gains), ".009 exceeds .025 / 3"

    @given(st.lists(st.sampled_from([0.0005, 0.002, 0.004, 0.006, 0.009, 0.012, 0.02, 0.03, 0.5]), max_size=8))
    def test_agrees_with_adjusted_p_values(self, p_values: list[float]) -> None:
        """Adjusted as statsmodels does: running maximum of (m - rank) p in ascending order."""
        order = np.argsort(p_values, kind="stable")
        ranked = (len(p_values) - np.arange(len(p_values))) * np.asarray(p_values)[order]
        adjusted = np.empty(len(p_values))
        adjusted[order] = np.minimum(np.maximum.accumulate(ranked), 1)
        assert [gain.significant for gain in holm([gain_with(p) for p in p_values])] == list(adjusted <= 0.025)

    def test_a_single_task_needs_its_interval_above_zero(self) -> None:
        assert holm([gain_with(0.02)])[0].significant
        assert not holm([gain_with(0.02, low=0.0)])[0].significant

    def test_windows_prove_nothing_about_groups(self) -> None:
        assert not holm([gain_with(0.0005, unit="window")])[0].significant

    def test_blocks_of_few_groups_prove_nothing_about_groups(self) -> None:
        assert not holm([gain_with(0.0005, unit="block")])[0].significant

    def test_nothing_else_changes(self) -> None:
        gains = [gain_with(0.012), gain_with(0.001)]
        for before, after in zip(gains, holm(gains), strict=True):
            assert before.model_copy(update={"significant": after.significant}) == after
        assert holm([]) == []


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
