"""The scheduler by itself, and plans: against queues worked out by hand, and against what the engine then does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from bundles import IQ_SHAPE, bundle_of, predictor_of, small_shufflenet, task
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import DataError, SuiteError
from offramp.runtime import Predictor
from offramp.runtime.engine import Engine, ServiceLevel
from offramp.runtime.engine import lanes as lanes_module
from offramp.runtime.engine.load import Pressure, outlook
from offramp.runtime.engine.plan import Arrival, plan, poisson, read_trace
from offramp.runtime.engine.scheduler import NextUnit, PassQueue
from offramp.runtime.engine.tables import MeasuredPass
from offramp.runtime.engine.timing import OVERHEAD_S, PassTiming

TIMING = PassTiming((1, 4), ((1.0, 2.0), (2.0, 2.5), (1.0, 4.0), (1.0, 2.0), (2.5, 4.0), (3.0, 8.0)))
"""Three segments, of which the first two are cheaper in batches and the third is not; and whole passes that save what borders cost."""


@dataclass(eq=False)
class Waiting:
    name: str
    unit: int = 0
    last: int = 2
    deadline: float = float("inf")
    priority: int = 0
    arrived: float = 0.0
    count: int = 1
    wanted: bool = True


FIRST = NextUnit((2, 0, 0.0), 0)


def queue_of(*jobs: Waiting, most: int = 4) -> PassQueue[Waiting]:
    queue: PassQueue[Waiting] = PassQueue(TIMING, most)
    for job in jobs:
        queue.add(job)
    return queue


class TestTiming:
    def test_between_and_beyond_what_was_measured(self) -> None:
        assert [TIMING.of(0, n) for n in (1, 2, 4, 8)] == pytest.approx([1, 4 / 3, 2, 4])
        assert TIMING.rest(0, 2, 1) == 4
        assert TIMING.rest(1, 2, 1) == 3
        assert TIMING.rest(5, 2, 1) == TIMING.of(5, 1) == 3
        assert [TIMING.least(last) for last in range(3)] == [1, 2.5, 3]
        assert [TIMING.depth(unit) for unit in range(6)] == [0, 1, 2, 0, 1, 2]

    def test_a_batch_is_worth_waiting_for_where_windows_get_cheaper(self) -> None:
        assert [TIMING.worth_waiting_for(unit) for unit in range(6)] == [4, 4, 1, 4, 4, 4]

    def test_a_whole_pass_is_taken_where_answers_come_sooner(self) -> None:
        """By hand, one window: segments reach the exits after 1, 3 and 4 s, whole passes take 1, 2.5 and 3 s."""
        assert TIMING.first_unit([0], 1) == 0, "the same, and segments let others pass"
        assert TIMING.first_unit([1], 1) == 4
        assert TIMING.first_unit([2], 1) == 5
        assert TIMING.first_unit([1, 2], 1) == 5, "3 s for both instead of 3.5 on average"
        assert TIMING.first_unit([0, 2], 1) == 0, "3 s for both instead of 2.5"


class TestPressure:
    def test_it_is_the_share_of_the_last_second_and_fades(self) -> None:
        """By hand: half a second of work now is a share of 1/2, of 1/2 exp(-1) a second later."""
        pressure = Pressure()
        pressure.add(0, 0.3, 10.0)
        pressure.add(0, 0.2, 10.0)
        assert pressure.share(1, 10.0) == pytest.approx(0.5)
        assert pressure.share(1, 11.0) == pytest.approx(0.5 * np.exp(-1))
        assert pressure.share(0, 10.0) == 0, "what is as important waits its turn"
        pressure.add(0, 100.0, 11.0)
        assert pressure.share(1, 11.0) == 0.95

    def test_less_important_requests_get_the_rest_of_the_time(self) -> None:
        """By hand: 4 s of its own at full speed, of which three quarters are taken, are 16."""
        queue, job = queue_of(), Waiting("new")
        met = outlook([queue], [(queue, job)], 0.0, share=0.75)
        assert met.ahead + met.own == pytest.approx(16)
        assert outlook([queue], [(queue, job)], 0.0).ahead == 0


class TestChoice:
    def test_the_deepest_queue_that_fills_a_batch_runs_first(self) -> None:
        deep = [Waiting(str(n), unit=1) for n in range(4)]
        assert queue_of(Waiting("new"), *deep).choose(0).unit == 1
        assert queue_of(Waiting("new"), *deep[:3]).choose(0).unit == 0, (
            "not full: a shallow answer leaves before deep work starts"
        )
        assert queue_of(*deep[:3]).choose(0).unit == 1, "nothing else to do"
        assert queue_of().choose(0) is None

    def test_whoever_would_be_late_goes_first(self) -> None:
        late = Waiting("late", unit=2, deadline=10)
        full = [Waiting(str(n)) for n in range(4)]
        assert queue_of(late, *full).choose(0).unit == 2, "the deepest full queue: one window fills it"
        urgent = Waiting("urgent", unit=0, last=0, deadline=3)
        deep = [Waiting(str(n), unit=1) for n in range(4)]
        assert queue_of(urgent, *deep).choose(0).unit == 0
        assert queue_of(Waiting("calm", last=0, deadline=100), *deep).choose(0).unit == 1
        assert queue_of(Waiting("whole", unit=5, deadline=4), *deep).choose(0).unit == 5

    def test_whole_passes_count_by_their_depth(self) -> None:
        whole = [Waiting(str(n), unit=4, last=1) for n in range(4)]
        assert queue_of(Waiting("new"), *whole).choose(0).unit == 4, "full"
        assert queue_of(Waiting("new"), *whole[:3]).choose(0).unit == 0
        assert queue_of(Waiting("deep", unit=2), *whole).choose(0).unit == 2, "deeper, and one window fills it"

    def test_the_more_important_goes_before_a_full_batch_of_the_less(self) -> None:
        full = [Waiting(str(n), unit=2, priority=1) for n in range(8)]
        assert queue_of(Waiting("first", priority=0), *full).choose(0).unit == 0
        assert queue_of(Waiting("last", priority=2), *full).choose(0).unit == 2

    def test_shallow_requests_do_not_hold_up_a_deep_one_for_ever(self) -> None:
        """By itself it takes 3 s, so that it is due at 60; the longest batch takes 8 s, so that it goes first from 49 on."""
        deep = Waiting("deep", unit=5)
        assert queue_of(deep, Waiting("new", last=0, arrived=48)).choose(48).unit == 0
        assert queue_of(deep, Waiting("new", last=0, arrived=50)).choose(50).unit == 5

    def test_importance_then_deadlines_order_a_queue(self) -> None:
        jobs = [
            Waiting("c", deadline=9),
            Waiting("b", deadline=5),
            Waiting("a", deadline=50, priority=-1),
            Waiting("d"),
        ]
        batch, dropped = queue_of(*jobs, most=3).take(FIRST, 0)
        assert [job.name for job in batch.jobs] == ["a", "b", "c"]
        assert not dropped

    def test_expired_and_unwanted_jobs_are_dropped_not_run(self) -> None:
        queue = queue_of(Waiting("gone", wanted=False), Waiting("late", deadline=1), Waiting("fine", deadline=8))
        batch, dropped = queue.take(FIRST, 2)
        assert [job.name for job in batch.jobs] == ["fine"]
        assert {job.name for job in dropped} == {"gone", "late"}
        assert len(queue) == 0

    def test_what_cannot_be_in_time_is_not_begun(self) -> None:
        """The first segment takes one window 1 s."""
        queue = queue_of(Waiting("hopeless", deadline=2.5), Waiting("tight", deadline=3.1))
        batch, dropped = queue.take(FIRST, 2)
        assert [job.name for job in batch.jobs] == ["tight"]
        assert [job.name for job in dropped] == ["hopeless"]

    def test_a_large_job_runs_alone(self) -> None:
        queue = queue_of(Waiting("large", count=9), Waiting("small", arrived=1000))
        assert queue.take(FIRST, 0)[0].windows == 9
        assert queue.take(FIRST, 0)[0].windows == 1

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6), st.floats(0, 20)), max_size=30), st.floats(0, 10))
    def test_nothing_is_lost_and_nothing_runs_twice(self, drawn: list[tuple[int, int, float]], now: float) -> None:
        jobs = [Waiting(str(n), unit=u, count=c, deadline=d) for n, (u, c, d) in enumerate(drawn)]
        queue, seen = queue_of(*jobs), []
        while (choice := queue.choose(now)) is not None:
            batch, dropped = queue.take(choice, now)
            assert all(job.unit == choice.unit for job in batch.jobs)
            assert len(batch.jobs) <= 1 or batch.windows <= 4
            seen += [*batch.jobs, *dropped]
        assert sorted(job.name for job in seen) == sorted(job.name for job in jobs)
        assert len(queue) == 0
        assert queue.backlog() == 0

    def test_backlog_is_the_work_at_full_batches(self) -> None:
        assert queue_of(*[Waiting(str(n)) for n in range(8)]).backlog() == pytest.approx(8 * (2 / 4 + 2.5 / 4 + 1))
        assert queue_of(Waiting("deep", unit=2)).backlog() == pytest.approx(1)
        assert queue_of(Waiting("shallow", last=0)).backlog() == pytest.approx(2 / 4)
        assert queue_of(Waiting("whole", unit=5)).backlog() == pytest.approx(8 / 4)


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """Two tasks; every stage takes one millisecond, whatever the batch, and borders between segments cost nothing."""
    encoder = small_shufflenet()
    stages = len(encoder.exits)
    whole = tuple((1e-3 * depth, 1e-3 * depth) for depth in range(1, stages + 1))
    heads = {name: {exit.name: [1e-9, 1e-9] for exit in encoder.exits} for name in ("near", "far")}
    rows = [[1e-3, 1e-3]] * stages + [list(row) for row in whole]
    made = MeasuredPass(tasks=["near", "far"], batches=[1, 64], seconds=rows, heads=heads)
    monkeypatch.setattr(lanes_module, "measure_pass", lambda *_: made)
    tasks = [task(encoder, "near", "stem", IQ_SHAPE, ("x", "y")), task(encoder, "far", "conv5", IQ_SHAPE, ("x", "y"))]
    return predictor_of(bundle_of(encoder, *tasks), encoder)


class TestPlan:
    def test_one_request_alone_takes_its_segments(self, predictor: Predictor) -> None:
        found = plan(predictor, {}, [Arrival(0.0, "default", ("far",)), Arrival(1.0, "default", ("near",))])
        stages = len(predictor.bundle.encoder["exits"])
        default = found.slices["default"]
        times = 1e3 * np.array([stages * (1e-3 + OVERHEAD_S), 1e-3 + OVERHEAD_S])
        assert default.p50_ms == pytest.approx(np.median(times), rel=1e-4)
        assert default.p99_ms == pytest.approx(np.quantile(times, 0.99), rel=1e-4)
        assert default.least_ms == pytest.approx(1.0)
        assert (default.refused, default.shallower, found.degrades_first) == (0, 0, None)

    def test_a_shallow_request_overtakes_a_deep_one(self, predictor: Predictor) -> None:
        slices = {"deep": ServiceLevel(), "shallow": ServiceLevel()}
        arrivals = [Arrival(0.0, "deep", ("far",)), Arrival(0.0005, "shallow", ("near",))]
        found = plan(predictor, slices, arrivals)
        assert found.slices["shallow"].p50_ms == pytest.approx(2 * (1 + 1e3 * OVERHEAD_S) - 0.5, rel=1e-4)

    def test_too_much_is_refused_or_moved_and_the_first_is_named(self, predictor: Predictor) -> None:
        hard = {"hard": ServiceLevel(budget_ms=40)}
        soft = {"soft": ServiceLevel(budget_ms=40, under_load="shallower")}
        crowd = [Arrival(n * 1e-5, name, ("far",), 64) for name in ("hard",) for n in range(100)]
        refused = plan(predictor, hard, crowd, most_waiting=10**6)
        assert refused.degrades_first == "hard"
        assert refused.slices["hard"].refused > 0.5
        assert refused.slices["hard"].p99_ms is not None
        assert refused.slices["hard"].p99_ms <= 40 * 1.3
        moved = plan(predictor, soft, [Arrival(n * 2e-3, "soft", ("far",), 64) for n in range(300)], most_waiting=10**6)
        assert moved.degrades_first == "soft"
        assert moved.slices["soft"].shallower > 0
        assert (
            moved.slices["soft"].refused
            < plan(predictor, hard, [Arrival(n * 2e-3, "hard", ("far",), 64) for n in range(300)], most_waiting=10**6)
            .slices["hard"]
            .refused
        )

    def test_full_queues_refuse(self, predictor: Predictor) -> None:
        found = plan(predictor, {}, [Arrival(0.0, "default", ("far",))] * 10, most_waiting=4)
        assert found.slices["default"].refused > 0

    def test_unknown_names(self, predictor: Predictor) -> None:
        with pytest.raises(DataError, match="names the slice 'gold': choose default"):
            plan(predictor, {}, [Arrival(0.0, "gold", ("far",))])
        with pytest.raises(DataError, match="names the task 'other': choose near, far"):
            plan(predictor, {}, [Arrival(0.0, "default", ("other",))])

    def test_sentences(self, predictor: Predictor) -> None:
        lines = plan(predictor, {"idle": ServiceLevel(budget_ms=5)}, poisson(50, 2, ["default"], ["near"])).sentences
        assert lines[0].startswith("default: p50 1.1")
        assert lines[1] == "idle: no requests; the least budget that can be met is 1 ms"
        assert lines[-1].startswith("no slice degrades; ")

    def test_the_engine_refuses_and_answers_by_the_same_rules(self, predictor: Predictor) -> None:
        """What the plan calls the least possible budget, the engine's own check calls so too."""
        least = plan(predictor, {"a": ServiceLevel(budget_ms=5)}, []).slices["a"].least_ms
        with pytest.raises(SuiteError, match=f"the least possible is {least:.3g} ms"):
            Engine(predictor, {"a": ServiceLevel(budget_ms=least / 2)})


class TestArrivals:
    def test_poisson_has_its_rate(self) -> None:
        found = poisson(200, 10, ["a", "b"], ["x"], seed=1)
        assert len(found) == pytest.approx(2000, rel=0.1)
        assert sum(each.slice == "a" for each in found) == pytest.approx(1000, rel=0.15)
        assert [each.seconds for each in found] == sorted(each.seconds for each in found)
        assert poisson(200, 10, ["a", "b"], ["x"], seed=1) == found

    def test_a_trace(self, tmp_path: Path) -> None:
        path = tmp_path / "trace.csv"
        path.write_text("seconds,slice,tasks,windows\n0.5,a,x y,3\n0.1,,x,\n")
        assert read_trace(path) == [Arrival(0.1, "default", ("x",)), Arrival(0.5, "a", ("x", "y"), 3)]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("seconds,slice\n1,a\n", "has no column 'tasks': .* it has seconds, slice"),
            ("seconds,slice,tasks\n", "has no requests"),
            ("", "has no column"),
            ("seconds,slice,tasks\nsoon,a,x\n", "line 2: seconds and windows are numbers"),
            ("seconds,slice,tasks\nnan,a,x\n", "line 2: a request comes at 0 s or later"),
            ("seconds,slice,tasks\n-1,a,x\n", "line 2"),
            ("seconds,slice,tasks\n1,a,\n", "line 2"),
            ("seconds,slice,tasks,windows\n1,a,x,0\n", "line 2"),
            (f"seconds,slice,tasks,windows\n1,a,x,{'9' * 400}\n", "line 2"),
            (f"seconds,slice,tasks\n1,a,{'x' * 200_000}\n", "not CSV"),
            ('seconds,slice,tasks\n1,"a,x\n', "not CSV"),
            ("seconds,slice,tasks\n1,a,x,1,2\n", "line 2: more fields than columns"),
            ("seconds;slice;tasks\n1;a;x\n", "has no column 'seconds': .* it has seconds;slice;tasks"),
        ],
    )
    def test_a_trace_that_is_none(self, tmp_path: Path, text: str, words: str) -> None:
        path = tmp_path / "trace.csv"
        path.write_text(text)
        with pytest.raises(DataError, match=words):
            read_trace(path)
        with pytest.raises(DataError):
            read_trace(tmp_path / "absent.csv")
