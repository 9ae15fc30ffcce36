"""Arrival traces against the formulas of the Markov-modulated Poisson process, waiting against queueing theory and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.errors import DataError
from offramp.experiment.policies.arrivals import bursty_arrivals, cascade_service, fit_stage_times, queueing_latency


def constant(seconds: float):
    """A service that takes as long for every batch."""
    return lambda exits: seconds


class TestBurstyArrivals:
    def test_mean_rate_and_burstiness_are_those_of_the_process(self) -> None:
        """Mean and variance of the counts in 400 slots of 50 s, long against bursts, within five standard errors.

        Variance over mean tends to 1 + 2 p (1 - p) (r1 - r0)^2 / (mean rate * (s0 + s1)), s the rates of leaving the states.
        """
        rate, factor, share, burst = 20.0, 8.0, 0.2, 0.25
        times = bursty_arrivals(rate, 20_000, 0, factor, share, burst)
        counts = np.histogram(times, bins=400, range=(0, 20_000))[0]
        quiet = rate / (1 - share + share * factor)
        switching = 1 / burst + share / (burst * (1 - share))
        dispersion = 1 + 2 * share * (1 - share) * (quiet * factor - quiet) ** 2 / (rate * switching)
        assert dispersion > 4
        assert counts.mean() == pytest.approx(rate * 50, abs=5 * np.sqrt(dispersion * rate * 50 / 400))
        assert counts.var() / counts.mean() == pytest.approx(dispersion, rel=5 * np.sqrt(2 / 400))

    def test_the_state_at_the_start_is_drawn_as_any_other(self) -> None:
        """The first tenth of short traces has as many arrivals as the rest, on average."""
        shares = [np.mean(bursty_arrivals(200, 0.5, seed) < 0.05) for seed in range(2000)]
        assert np.mean(shares) == pytest.approx(0.1, abs=5 * np.std(shares) / np.sqrt(2000))

    def test_without_bursts_it_is_a_poisson_process(self) -> None:
        gaps = np.diff(bursty_arrivals(100, 200, 1, burst_factor=1))
        assert gaps.mean() == pytest.approx(0.01, rel=5 / np.sqrt(len(gaps)))
        assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.04)

    def test_times_ascend_within_the_trace_and_the_seed_decides(self) -> None:
        times = bursty_arrivals(500, 3, 4)
        assert (np.diff(times) >= 0).all()
        assert 0 <= times[0] < times[-1] <= 3
        assert (times == bursty_arrivals(500, 3, 4)).all()
        assert len(times) != len(bursty_arrivals(500, 3, 5))

    def test_a_trace_may_be_empty(self) -> None:
        assert len(bursty_arrivals(1e-6, 1, 0)) == 0

    @pytest.mark.parametrize(
        "setting",
        [
            {"rate_per_s": 0.0},
            {"duration_s": np.nan},
            {"burst_factor": -1.0},
            {"burst_s": np.inf},
            {"burst_share": 1.0},
        ],
    )
    def test_wrong_input_is_told(self, setting: dict[str, float]) -> None:
        with pytest.raises(DataError, match=next(iter(setting))):
            bursty_arrivals(**({"rate_per_s": 1.0, "duration_s": 1.0, "seed": 0} | setting))


class TestStageTimes:
    @given(st.lists(st.tuples(st.floats(1e-5, 1e-2), st.floats(1e-7, 1e-3)), min_size=1, max_size=5))
    @settings(deadline=None, max_examples=60)
    def test_two_sizes_give_both_parts_back(self, stages: list[tuple[float, float]]) -> None:
        fixed, per_window = np.array(stages).T
        sizes = np.array([1, 64])
        found = fit_stage_times(fixed + sizes[:, None] * per_window, sizes)
        assert found[0] == pytest.approx(fixed, rel=1e-6)
        assert found[1] == pytest.approx(per_window, rel=1e-6)

    def test_neither_part_is_negative_where_measurements_say_so(self) -> None:
        fixed, per_window = fit_stage_times(np.array([[1.0, 2.0], [20.0, 1.0]]), np.array([1, 10]))
        assert (fixed >= 0).all()
        assert (per_window >= 0).all()
        assert fixed[0] == 0
        assert 1 < per_window[0] < 2
        assert per_window[1] == 0
        assert 1 < fixed[1] < 2

    @pytest.mark.parametrize(
        ("seconds", "sizes", "said"),
        [
            (np.ones((2, 3)), np.array([8, 8]), "two different ones"),
            (np.ones((2, 3)), np.array([0, 8]), "two different ones"),
            (np.ones((1, 3)), np.array([1, 8]), "do not fit"),
            (np.array([[1.0], [0.0]]), np.array([1, 8]), "not a positive number"),
            (np.array([[1.0], [np.nan]]), np.array([1, 8]), "not a positive number"),
        ],
    )
    def test_wrong_input_is_told(self, seconds: np.ndarray, sizes: np.ndarray, said: str) -> None:
        with pytest.raises(DataError, match=said):
            fit_stage_times(seconds, sizes)


class TestCascadeService:
    def test_by_hand(self) -> None:
        service = cascade_service(np.array([10.0, 20.0, 30.0]), np.array([1.0, 2.0, 3.0]))
        assert service(np.array([0, 0])) == 10 + 2 * 1
        assert service(np.array([1, 0, 0])) == (10 + 3 * 1) + (20 + 1 * 2)
        assert service(np.array([2, 0, 1, 2])) == (10 + 4 * 1) + (20 + 3 * 2) + (30 + 2 * 3)

    def test_wrong_input_is_told(self) -> None:
        with pytest.raises(DataError, match="not negative"):
            cascade_service(np.array([1.0, -1.0]), np.ones(2))
        with pytest.raises(DataError, match=r"\(2,\) and \(3,\)"):
            cascade_service(np.ones(2), np.ones(3))


class TestQueueingLatency:
    def test_by_hand(self) -> None:
        # one stage of 1 s and 0.5 s for each window, two at most: [0 | 1.5), [1.5 | 3.5) with two, then the last two
        arrivals = np.array([0.0, 0.2, 1.0, 1.4, 9.0])
        service = cascade_service(np.array([1.0]), np.array([0.5]))
        latency = queueing_latency(arrivals, np.zeros(5, int), service, batch_most=2)
        assert latency == pytest.approx([1.5, 3.5 - 0.2, 3.5 - 1.0, 5.0 - 1.4, 1.5])

    def test_exits_of_the_batch_at_hand_decide_how_long_it_takes(self) -> None:
        service = cascade_service(np.array([1.0, 10.0]), np.zeros(2))
        latency = queueing_latency(np.array([0.0, 20.0, 20.0, 20.0]), np.array([1, 0, 0, 1]), service, batch_most=2)
        assert latency == pytest.approx([11, 1, 1, 12])

    def test_mean_waiting_is_pollaczek_and_khinchines(self) -> None:
        """Poisson arrivals, constant service, one at a time (M/D/1): load * service / (2 (1 - load))."""
        load, service = 0.7, 0.002
        waiting = []
        for seed in range(20):
            times = bursty_arrivals(load / service, 30, seed, burst_factor=1)
            waiting.append(queueing_latency(times, np.zeros(len(times), int), constant(service)).mean() - service)
        expected = load * service / (2 * (1 - load))
        assert np.mean(waiting) == pytest.approx(expected, abs=5 * np.std(waiting) / np.sqrt(20))
        assert np.std(waiting) / np.sqrt(20) < 0.03 * expected

    def test_mean_waiting_of_a_mixture_of_exits_is_pollaczek_and_khinchines(self) -> None:
        """Two exits at random (M/G/1): rate * E[S^2] / (2 (1 - load))."""
        rate, times_s = 200.0, np.array([0.001, 0.008])
        service = cascade_service(np.array([0.001, 0.007]), np.zeros(2))
        waiting = []
        for seed in range(20):
            times = bursty_arrivals(rate, 20, seed, burst_factor=1)
            exits = (np.random.default_rng(seed).random(len(times)) < 0.4).astype(int)
            waiting.append((queueing_latency(times, exits, service) - times_s[exits]).mean())
        moments = 0.6 * times_s[0] + 0.4 * times_s[1], 0.6 * times_s[0] ** 2 + 0.4 * times_s[1] ** 2
        expected = rate * moments[1] / (2 * (1 - rate * moments[0]))
        assert np.mean(waiting) == pytest.approx(expected, abs=5 * np.std(waiting) / np.sqrt(20))
        assert np.std(waiting) / np.sqrt(20) < 0.08 * expected

    def test_bursts_lengthen_the_tail_and_batches_shorten_it(self) -> None:
        service = cascade_service(np.array([0.002]), np.array([0.0005]))

        def p99(factor: float, batch_most: int) -> float:
            times = bursty_arrivals(250, 60, 0, factor)
            return float(np.percentile(queueing_latency(times, np.zeros(len(times), int), service, batch_most), 99))

        assert p99(8, 1) > 2 * p99(1, 1)
        assert p99(8, 16) < 0.5 * p99(8, 1)

    @given(st.lists(st.floats(0, 5), min_size=1, max_size=40), st.integers(1, 8))
    @settings(deadline=None, max_examples=60)
    def test_nobody_is_answered_before_those_who_came_earlier(self, gaps: list[float], batch_most: int) -> None:
        arrivals = np.cumsum(gaps)
        latency = queueing_latency(arrivals, np.zeros(len(gaps), int), constant(1.0), batch_most)
        assert (latency >= 1 - 1e-9).all()
        answered = arrivals + latency
        assert (np.diff(answered) >= -1e-9).all()
        batches = np.unique(np.round(answered, 6), return_counts=True)
        assert batches[1].max() <= batch_most
        assert (np.diff(batches[0]) >= 1 - 1e-5).all()

    def test_no_arrivals_no_latencies(self) -> None:
        assert queueing_latency(np.zeros(0), np.zeros(0, int), constant(1.0)).shape == (0,)

    def test_wrong_input_is_told(self) -> None:
        with pytest.raises(DataError, match="sort them"):
            queueing_latency(np.array([1.0, 0.0]), np.zeros(2, int), constant(1.0))
        with pytest.raises(DataError, match="sort them"):
            queueing_latency(np.array([0.0, np.nan]), np.zeros(2, int), constant(1.0))
        with pytest.raises(DataError, match="one exit per arrival"):
            queueing_latency(np.zeros(2), np.zeros(3, int), constant(1.0))
        with pytest.raises(DataError, match="batch_most is 0"):
            queueing_latency(np.zeros(2), np.zeros(2, int), constant(1.0), batch_most=0)
