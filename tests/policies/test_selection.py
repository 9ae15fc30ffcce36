"""Which exit the rules pick, on sums made by hand, and how often non-inferiority is claimed wrongly."""

import numpy as np
import pytest
from scipy import stats

from offramp.errors import SuiteError
from offramp.policies.selection import best, margin, non_inferior, within_budget
from offramp.scoring.metrics import METRICS
from offramp.scoring.resampling import Resamples

ACCURACY, ERROR = METRICS["accuracy"], METRICS["mean_error"]
UNITS, SEEDS = 40, 3


def exits(*scores: float, spread: float = 0.0) -> list[np.ndarray]:
    """Sums of exits with these scores in every unit of ten windows, alike in all seeds; units differ by ``spread``."""
    level = np.linspace(-spread, spread, UNITS)
    return [
        np.broadcast_to(np.stack([10 * (score + level), np.full(UNITS, 10.0)], axis=1), (SEEDS, UNITS, 2))
        for score in scores
    ]


@pytest.fixture(scope="module")
def resamples() -> Resamples:
    return Resamples.draw(UNITS, SEEDS, 0)


class TestNonInferior:
    def test_among_equal_exits_the_shallowest(self, resamples: Resamples) -> None:
        assert non_inferior(exits(0.7, 0.7, 0.7, 0.7, spread=0.2), ACCURACY, resamples, 0.01).chosen == 0

    def test_a_bad_exit_in_the_middle_does_not_hide_a_good_one(self, resamples: Resamples) -> None:
        assert non_inferior(exits(0.4, 0.7, 0.5, 0.7, 0.7), ACCURACY, resamples, 0.01).chosen == 1

    def test_lower_ends_of_normal_gains_are_those_of_theory(self) -> None:
        """Independent errors of ten exits: the 95% quantile of the largest of ten standard normal numbers is 2.57."""
        rng, units = np.random.default_rng(3), 4000
        full = np.full(units, 0.5)
        scores = [full + rng.normal(0, 0.1, units) for _ in range(10)] + [full]
        sums = [np.stack([10 * score, np.full(units, 10.0)], axis=1)[None] for score in scores]
        found = non_inferior(sums, ACCURACY, Resamples.draw(units, 1, 0), 0.01)
        quantile = stats.norm.ppf(0.95 ** (1 / 10))
        expected = [score.mean() - 0.5 - quantile * 0.1 / np.sqrt(units) for score in scores[:-1]]
        assert found.lower[:-1] == pytest.approx(expected, abs=2e-4)
        assert (found.lower[-1], found.margin) == (0, 0.01)

    def test_exits_that_err_alike_are_tested_as_one(self) -> None:
        """Ten copies of one exit: no correction is needed, while Bonferroni's asks for ten times less."""
        rng, units = np.random.default_rng(4), 200
        full = np.full(units, 0.5)
        shallow = full + rng.normal(0, 0.1, units)
        sums = [np.stack([10 * score, np.full(units, 10.0)], axis=1)[None] for score in [*[shallow] * 10, full]]
        resamples = Resamples.draw(units, 1, 0)
        found = non_inferior(sums, ACCURACY, resamples, 0.01)
        alone = shallow.mean() - 0.5 - stats.norm.ppf(0.95) * 0.1 / np.sqrt(units)
        assert found.lower[0] == pytest.approx(alone, abs=1.5e-3)
        assert non_inferior(sums, ACCURACY, resamples, -found.lower[0] + 1e-3).chosen == 0
        assert non_inferior(sums, ACCURACY, resamples, -found.lower[0] + 1e-3).bonferroni == 10

    def test_one_exit_alone(self, resamples: Resamples) -> None:
        assert non_inferior(exits(0.7), ACCURACY, resamples, 0.01).chosen == 0

    def test_full_depth_where_all_else_is_worse(self, resamples: Resamples) -> None:
        assert non_inferior(exits(0.5, 0.6, 0.7), ACCURACY, resamples, 0.01).chosen == 2

    def test_a_better_shallow_exit_passes(self, resamples: Resamples) -> None:
        assert non_inferior(exits(0.9, 0.8, 0.7), ACCURACY, resamples, 0.0).chosen == 0

    def test_an_absolute_tolerance_is_in_points(self, resamples: Resamples) -> None:
        scores = exits(0.66, 0.68, 0.695, 0.7)
        assert [non_inferior(scores, ACCURACY, resamples, t).chosen for t in (0.001, 0.01, 0.03, 0.05)] == [3, 2, 1, 0]

    def test_a_relative_tolerance_is_of_the_full_score(self, resamples: Resamples) -> None:
        scores = exits(10.6, 10.2, 10.0)
        assert [non_inferior(scores, ERROR, resamples, t).chosen for t in ("1%", "3%", "7%")] == [2, 1, 0]
        assert non_inferior(exits(0.398, 0.4), ACCURACY, resamples, "1%").chosen == 0
        assert non_inferior(exits(0.394, 0.4), ACCURACY, resamples, "1%").chosen == 1

    def test_a_lower_error_passes(self, resamples: Resamples) -> None:
        assert non_inferior(exits(9.0, 10.0), ERROR, resamples, "0%").chosen == 0

    def test_an_uncertain_difference_does_not_pass(self) -> None:
        """Half of the units lose 10 points and half win 10: equal on average, but not shown to be within 1 point."""
        shallow, full = exits(0.7, 0.7)
        swing = shallow.copy()
        swing[:, ::2, 0] += 1
        swing[:, 1::2, 0] -= 1
        resamples = Resamples.draw(UNITS, SEEDS, 0)
        assert non_inferior([swing, full], ACCURACY, resamples, 0.01).chosen == 1
        assert non_inferior([swing, full], ACCURACY, resamples, 0.05).chosen == 0, "1.64 x 10 / sqrt(40) = 2.6 points"

    @pytest.mark.parametrize(
        ("units", "at_most"), [(60, 0.05), (12, 0.09)], ids=["many groups", "few groups: percentiles are a bit narrow"]
    )
    def test_wrong_claims_are_rare(self, units: int, at_most: float) -> None:
        """An exit that truly loses the whole margin is called non-inferior in 5% of data sets, up to chance."""
        rng, trials, margin_ = np.random.default_rng(1), 300, 0.05
        resamples = Resamples.draw(units, 1, 0, 600)
        wrong = 0
        for _ in range(trials):
            full = rng.normal(0.8, 0.05, units)
            shallow = full - margin_ + rng.normal(0, 0.1, units)
            sums = [np.stack([10 * score, np.full(units, 10.0)], axis=1)[None] for score in (shallow, full)]
            wrong += non_inferior(sums, ACCURACY, resamples, margin_).chosen == 0
        assert wrong <= stats.binom.ppf(0.999, trials, at_most)
        assert wrong >= stats.binom.ppf(0.001, trials, 0.02), "the test has power left"

    def test_many_bad_exits_do_not_add_up_errors(self) -> None:
        """Ten exits, all worse by the margin: leaving full depth at all stays rare because all are tested at once."""
        rng, trials, margin_ = np.random.default_rng(2), 200, 0.05
        resamples = Resamples.draw(60, 1, 0, 400)
        wrong = 0
        for _ in range(trials):
            full = rng.normal(0.8, 0.05, 60)
            scores = [full - margin_ + rng.normal(0, 0.1, 60) for _ in range(10)] + [full]
            sums = [np.stack([10 * score, np.full(60, 10.0)], axis=1)[None] for score in scores]
            wrong += non_inferior(sums, ACCURACY, resamples, margin_).chosen < 10
        assert wrong <= stats.binom.ppf(0.999, trials, 0.05)


class TestMargin:
    def test_percentages_of_a_score_of_either_sign(self) -> None:
        assert margin("2%", 50.0) == pytest.approx(1)
        assert margin("10%", -20.0) == pytest.approx(2)


class TestBest:
    def test_highest_score_or_lowest_error(self) -> None:
        assert best(exits(0.5, 0.9, 0.7), ACCURACY) == 1
        assert best(exits(0.5, 0.9, 0.4), ERROR) == 2

    def test_a_tie_goes_to_the_shallower(self) -> None:
        assert best(exits(0.5, 0.9, 0.9, 0.9), ACCURACY) == 1

    def test_the_mean_over_seeds_decides(self) -> None:
        steady, wild = np.full((2, 1, 2), [7.0, 10.0]), np.array([[[9.0, 10.0]], [[4.0, 10.0]]])
        assert best([wild, steady], ACCURACY) == 1


class TestBudget:
    def test_the_best_that_can_be_paid(self) -> None:
        scores, costs = exits(0.5, 0.8, 0.7, 0.9), [10, 20, 30, 40]
        budgets = (10, 19, 20, 39, 40, 1e9)
        assert [within_budget(scores, ACCURACY, costs, b, "MACs") for b in budgets] == [0, 0, 1, 1, 3, 3]

    def test_costs_need_not_rise_with_depth(self) -> None:
        assert within_budget(exits(0.9, 0.5, 0.6), ACCURACY, [30, 10, 20], 20, "ms") == 2

    def test_nothing_can_be_paid(self) -> None:
        with pytest.raises(SuiteError, match=r"at most 5 MACs.*cheapest costs 10 MACs") as caught:
            within_budget(exits(0.5, 0.8), ACCURACY, [20, 10], 5, "MACs")
        assert "\n" not in str(caught.value)
