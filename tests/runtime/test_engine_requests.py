"""What a request may say for itself, what an administrator may change, what is seen from outside, and what becomes of windows that would be late."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundles import IQ_SHAPE, STANDARDIZE, small_shufflenet, task, write

from offramp.errors import DeadlinePassed, EngineError, SuiteError
from offramp.export.segments import export_segments
from offramp.policies import Policy
from offramp.runtime import Predictor, load
from offramp.runtime.engine import Engine, ServiceLevel
from offramp.runtime.engine.asking import Wanted, bring_forward, new_ask, wanted_choice
from offramp.runtime.engine.counts import BatchRun
from offramp.runtime.engine.requests import WindowsJob
from offramp.runtime.engine.timing import PassTiming

WINDOWS = np.random.default_rng(1).standard_normal((8, *IQ_SHAPE)).astype(np.float32)
EXITS = ("stem", "stage2.1", "conv5")
SHALLOWER = ServiceLevel(budget_ms=1e6, under_load="shallower")


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, encoder = tmp_path_factory.mktemp("requests"), small_shufflenet()
    policy = Policy("classification", "confidence", EXITS, (0.6, 0.6), (1.0,) * 3, (1.0,) * 3)
    write(
        folder / "bundle",
        encoder,
        replace(task(encoder, "plain", "stage2.1", IQ_SHAPE, ("x", "y")), policies={"p": policy.to_dict()}),
        task(encoder, "deep", "conv5", IQ_SHAPE, ("x", "y")),
        task(encoder, "angle", "conv5", IQ_SHAPE, transform=STANDARDIZE),
    )
    export_segments(folder / "bundle", folder / "segments", [])
    return folder / "segments"


@pytest.fixture(scope="module")
def predictor(segments: Path) -> Predictor:
    return load(segments)


@pytest.fixture
def engine(predictor: Predictor) -> Iterator[Engine]:
    with Engine(predictor, {"early": ServiceLevel(exit="stem"), "may": SHALLOWER}) as running:
        yield running


def test_a_request_names_its_exit_or_policy(engine: Engine, predictor: Predictor) -> None:
    for said, exits, why in (
        ({"exit": "stem"}, ["stem"] * 8, "request"),
        ({"exit": "conv5"}, ["conv5"] * 8, "request"),
        ({"policy": "p"}, predictor.predict(WINDOWS, ["plain"], policy="p")["plain"].exits, "policy"),
        ({"policy": "fixed", "slice": "early"}, ["stage2.1"] * 8, "request"),
        ({"exit": "stage2.1", "slice": "early"}, ["stage2.1"] * 8, "request"),
    ):
        answer = engine.submit(WINDOWS, ["plain"], **said).result()["plain"]
        assert answer.prediction.exits == exits
        assert answer.why == why


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"exit": "attic"}, "stem, stage2.1, conv5"),
        ({"exit": 3}, "3"),
        ({"policy": "q"}, "fixed, p"),
        ({"exit": "stem", "policy": "p"}, "one of them"),
        ({"tasks": ["plain", "deep"], "policy": "p"}, "'deep' has no policy"),
    ],
)
def test_what_a_request_may_not_name(engine: Engine, said: dict[str, object], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        engine.submit(WINDOWS, **{"tasks": ["plain"], **said})  # type: ignore[arg-type]


def test_answers_as_their_exits_are_reached(engine: Engine) -> None:
    batches: list[BatchRun] = []
    engine._on_batch = batches.append
    order: list[str] = []
    asked = engine.submit(WINDOWS, ["deep", "plain"], as_reached=True)
    for name, future in asked.answers.items():
        future.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
    together = engine.submit(WINDOWS, ["deep", "plain"])
    assert np.allclose(
        asked.result()["deep"].prediction.outputs, together.result()["deep"].prediction.outputs, atol=1e-5
    )
    assert order == ["plain", "deep"]
    assert not batches[0].whole


def test_slices_change_while_it_runs(engine: Engine) -> None:
    engine.set_slice("new", ServiceLevel(exit="stem"))
    assert engine.predict(WINDOWS, ["plain"], "new")["plain"].prediction.exit == "stem"
    engine.set_slice("new", ServiceLevel(exit="conv5"))
    assert engine.predict(WINDOWS, ["plain"], "new")["plain"].prediction.exit == "conv5"
    with pytest.raises(SuiteError, match="attic"):
        engine.set_slice("new", ServiceLevel(exit="attic"))
    assert engine.slices["new"].exit == "conv5"
    engine.set_slice("new", None)
    for name in ("new", "default"):
        with pytest.raises(EngineError, match="early, may"):
            engine.set_slice(name, None)
    with pytest.raises(EngineError, match="give a ServiceLevel"):
        engine.set_slice("new", {"exit": "stem"})  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="unknown slice"):
        engine.predict(WINDOWS, ["plain"], "new")


def test_batches_and_queues_are_seen(predictor: Predictor) -> None:
    batches: list[BatchRun] = []
    entered, go_on = threading.Event(), threading.Event()

    def hold(batch: BatchRun) -> None:
        batches.append(batch)
        entered.set()
        assert go_on.wait(30)

    with Engine(predictor, on_batch=hold) as engine:
        assert engine.idle
        first = engine.submit(WINDOWS[:3], ["angle"])
        assert entered.wait(30)
        second = engine.submit(WINDOWS, ["plain"], exit="stem")
        waiting = [depth for depth in engine.queues if depth.windows]
        assert [(depth.exit, depth.windows) for depth in waiting] == [("stem", 8)]
        assert not engine.idle
        assert engine.backlog > 0
        go_on.set()
        first.result()
        second.result()
        assert {(batch.exit, batch.windows) for batch in batches} >= {("conv5", 3), ("stem", 8)}
        assert all(batch.seconds > 0 for batch in batches)
        assert sum(depth.windows for depth in engine.queues) == 0


def job_of(
    engine: Engine, name: str, level: ServiceLevel, unit: int, seconds: float, policy: str | None = None
) -> WindowsJob:
    """A job of one window that has so many seconds left."""
    served = engine._tasks[name]
    ask = new_ask(served, wanted_choice(served, level, 0, Wanted(policy=policy)), level, 1)
    return WindowsJob((WINDOWS[:1],), np.arange(1), [ask], seconds, 0, 0.0, "may", unit)


class TestLate:
    """Against the times that the engine reckons with; the clock stands at 0."""

    def test_it_leaves_at_the_deepest_exit_that_is_reached_in_time(self, engine: Engine) -> None:
        lane = engine._tasks["deep"].lane
        timing = lane.queue.timing
        last, rest = timing.segments - 1, lambda depth: timing.rest(0, depth, 1)
        assert last == 2
        for depth in (2, 1, 0):
            job = job_of(engine, "deep", SHALLOWER, 0, 1.01 * timing.least(depth))
            assert bring_forward(lane, job, 0.0)
            reached = job.asks[0].last
            assert reached >= depth
            best = min(timing.rest(0, reached, 1), timing.of(timing.segments + reached, 1))
            assert best <= job.deadline
            assert (job.asks[0].why == "deadline") == (reached < last)
            assert all(
                min(timing.rest(0, deeper, 1), timing.of(timing.segments + deeper, 1)) > job.deadline
                for deeper in range(reached + 1, last + 1)
            )
        assert rest(0) > 0

    def test_a_pass_that_has_begun_goes_on_from_where_it_is(self, engine: Engine) -> None:
        lane = engine._tasks["deep"].lane
        timing = lane.queue.timing
        job = job_of(engine, "deep", SHALLOWER, 1, 1.01 * timing.of(1, 1))
        assert bring_forward(lane, job, 0.0)
        assert (job.unit, job.asks[0].last, job.asks[0].consults) == (1, 1, {1: "stage2.1"})

    @pytest.mark.parametrize("level", [ServiceLevel(budget_ms=1e6), ServiceLevel()])
    def test_not_where_the_level_does_not_allow_it(self, engine: Engine, level: ServiceLevel) -> None:
        lane = engine._tasks["deep"].lane
        job = job_of(engine, "deep", level, 0, 1.01 * lane.queue.timing.least(0))
        assert not bring_forward(lane, job, 0.0)
        assert job.asks[0].last == 2

    def test_not_where_nothing_can_be_in_time(self, engine: Engine) -> None:
        lane = engine._tasks["deep"].lane
        job = job_of(engine, "deep", SHALLOWER, 0, 1e-9)
        assert not bring_forward(lane, job, 0.0)

    def test_not_for_a_policy_nor_for_whom_nobody_waits(self, engine: Engine) -> None:
        lane = engine._tasks["plain"].lane
        assert not bring_forward(lane, job_of(engine, "plain", SHALLOWER, 0, 1e-7, "p"), 0.0)
        job = job_of(engine, "deep", SHALLOWER, 0, 1e6)
        job.asks[0].future.cancel()
        assert not bring_forward(lane, job, 0.0)

    def test_it_is_answered_so(self, predictor: Predictor) -> None:
        """The clock goes on while the request waits behind another one, so that no more than the first exit is reached in time."""
        now = [100.0]
        entered, go_on = threading.Event(), threading.Event()

        def hold(batch: BatchRun) -> None:
            now[0] += timing[0].of(0, 2) if entered.is_set() else 0.0
            entered.set()
            assert go_on.wait(30)

        timing: list[PassTiming] = []
        slices = {"may": ServiceLevel(under_load="shallower"), "must": ServiceLevel()}
        with Engine(predictor, slices, clock=lambda: now[0], on_batch=hold) as engine:
            timing.append(engine._tasks["deep"].lane.queue.timing)
            engine.submit(WINDOWS[:1], ["angle"])
            assert entered.wait(30)
            budget = 50 * timing[0].rest(0, 2, 1)
            may, must = (engine.submit(WINDOWS[:1], ["deep"], name, 1e3 * budget, as_reached=True) for name in slices)
            now[0] += budget - 1.05 * timing[0].of(0, 2)
            go_on.set()
            answer = may.result(30)["deep"]
            assert answer.why == "deadline"
            assert answer.prediction.exit in ("stem", "stage2.1"), (
                "whichever is reached by the deadline, and not the last one"
            )
            with pytest.raises(DeadlinePassed):
                must.result(30)
