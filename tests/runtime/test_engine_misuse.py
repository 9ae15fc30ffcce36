"""The engine among callers that interrupt, close, cancel, call back and change their buffers: nobody else loses anything by it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import IQ_SHAPE, STANDARDIZE, bundle_of, predictor_of, small_shufflenet, task
from test_engine import Blocked, with_heads

from offramp.bundle import Head
from offramp.errors import BundleError, ComputationFailed, EngineError, Overloaded, SuiteError
from offramp.policies import Policy
from offramp.runtime import Predictor
from offramp.runtime.engine import Engine, ServiceLevel, load_slices, timing
from offramp.runtime.engine.plan import Arrival, plan

WINDOWS = np.random.default_rng(1).standard_normal((60, *IQ_SHAPE)).astype(np.float32)
EXITS = ("stem", "stage2.1", "conv5")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    encoder = small_shufflenet()
    policy = Policy("classification", "confidence", EXITS, (0.55, 0.6), (1.0,) * 3, (1.0,) * 3)
    plain = replace(task(encoder, "plain", "stage2.1", IQ_SHAPE, ("x", "y")), policies={"p": policy.to_dict()})
    angle = task(encoder, "angle", "conv5", IQ_SHAPE, transform=STANDARDIZE, hidden=(7,))
    return predictor_of(bundle_of(encoder, plain, angle, task(encoder, "deep", "conv5", IQ_SHAPE, ("x", "y"))), encoder)


@pytest.fixture
def engine(predictor: Predictor) -> Iterator[Engine]:
    with Engine(predictor, {"picky": ServiceLevel(policy="p"), "low": ServiceLevel(priority=5)}) as running:
        yield running


def called_back(engine: Engine, what: Callable[[], object]) -> list[object]:
    """What a callback of an answer finds when it calls something."""
    found: list[object] = []
    done = threading.Event()

    def callback(_: object) -> None:
        try:
            found.append(what())
        finally:
            done.set()

    engine.submit(WINDOWS[:1], ["plain"]).answers["plain"].add_done_callback(callback)
    assert done.wait(20)
    return found


def test_a_caller_may_use_its_buffer_again(predictor: Predictor, engine: Engine) -> None:
    expected = predictor.predict(WINDOWS[:4], ["plain"])["plain"].outputs
    blocked, buffer = Blocked(engine), WINDOWS[:4].copy()
    request = engine.submit(buffer, ["plain"])
    buffer[:] = np.nan
    blocked.release.set()
    np.testing.assert_allclose(request.result(20)["plain"].prediction.outputs, expected, atol=1e-5)


def test_answers_share_no_memory(predictor: Predictor, engine: Engine) -> None:
    engine.put(replace(predictor.bundle.tasks["angle"], name="twin"))
    answers = engine.predict(WINDOWS[:3], ["angle", "twin"])
    assert not np.shares_memory(answers["angle"].prediction.outputs, answers["twin"].prediction.outputs)


def test_a_task_named_twice_is_answered_once(predictor: Predictor, engine: Engine) -> None:
    assert predictor.predict(WINDOWS[:3], ["plain", "plain"])["plain"].outputs.shape == (3, 2)
    assert engine.predict(WINDOWS[:3], ["plain", "plain"])["plain"].prediction.outputs.shape == (3, 2)


class TestCallbacks:
    def test_one_may_ask_again(self, engine: Engine) -> None:
        found = called_back(engine, lambda: engine.predict(WINDOWS[:2], ["deep"])["deep"].prediction.outputs.shape)
        assert found == [(2, 2)]
        assert engine.predict(WINDOWS[:1], ["plain"])

    def test_one_that_exits_does_not_end_the_engine(self, engine: Engine) -> None:
        assert called_back(engine, lambda: sys.exit(1)) == []
        assert engine.submit(WINDOWS[:1], ["plain"]).result(20)

    def test_one_may_close(self, predictor: Predictor) -> None:
        engine = Engine(predictor)
        blocked = Blocked(engine, "deep")
        waiting = engine.submit(WINDOWS[:1], ["angle"])
        blocked.submission.answers["deep"].add_done_callback(lambda _: engine.close())
        blocked.release.set()
        with pytest.raises(EngineError, match="the engine was closed"):
            waiting.result(20)
        with pytest.raises(EngineError, match="the engine is closed"):
            engine.predict(WINDOWS[:1])


class Interrupting:
    """A head that is interrupted as if by Ctrl-C."""

    def __call__(self, tap: Any) -> Any:
        raise KeyboardInterrupt


def test_ctrl_c_in_one_caller_is_told_to_those_in_its_batch(engine: Engine) -> None:
    served = engine._tasks["deep"]
    blocked = Blocked(engine, "angle")
    others = [engine.submit(WINDOWS[:1], ["deep"]) for _ in range(2)]
    engine._tasks = {**engine._tasks, "deep": with_heads(served, dict.fromkeys(served.heads, Interrupting()))}
    asked = engine.submit(WINDOWS[:1], ["deep"])
    blocked.release.set()
    told = [type(each.answers["deep"].exception(20)) for each in (*others, asked)]
    assert told[-1] is ComputationFailed
    assert set(told) <= {ComputationFailed, type(None)}, "answered or told, and nobody waits for ever"
    engine._tasks = {**engine._tasks, "deep": served}
    assert engine.predict(WINDOWS[:1], ["deep"])
    counts = engine.counts
    assert counts.submitted == counts.answered + counts.failed


def test_ctrl_c_while_computing_is_raised_and_the_engine_goes_on(engine: Engine) -> None:
    served = engine._tasks["deep"]
    engine._tasks = {**engine._tasks, "deep": with_heads(served, dict.fromkeys(served.heads, Interrupting()))}
    with pytest.raises((KeyboardInterrupt, EngineError)):
        engine.predict(WINDOWS[:1], ["deep"])
    engine._tasks = {**engine._tasks, "deep": served}
    assert engine.predict(WINDOWS[:1], ["deep"])


def test_closing_while_a_caller_computes_leaves_nobody_waiting(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "PAYS", 0.0)  # by segments, so that the deep one has to wait again
    engine = Engine(predictor)
    blocked = Blocked(engine, "plain")
    deep = engine.submit(WINDOWS[:1], ["deep"])
    closing = threading.Thread(target=engine.close)
    closing.start()
    blocked.release.set()
    closing.join(20)
    assert isinstance(deep.answers["deep"].exception(20), EngineError | None)
    assert sum(len(lane.queue) for lane in engine._lanes.values()) == 0


def test_who_waits_for_what_is_cancelled_is_woken(engine: Engine) -> None:
    blocked = Blocked(engine)
    request = engine.submit(WINDOWS[:1], ["angle"])
    woken: list[int] = []
    waiting = threading.Thread(target=lambda: woken.append(len(wait(request.answers.values(), 20).done)))
    waiting.start()
    request.cancel()
    waiting.join(10)
    assert woken == [1]
    request.cancel()
    blocked.release.set()


class TestRoom:
    def test_cancelled_requests_make_room(self, predictor: Predictor) -> None:
        with Engine(predictor, most_waiting=10) as engine:
            blocked = Blocked(engine)
            for request in [engine.submit(WINDOWS[:5], ["angle"]) for _ in range(2)]:
                request.cancel()
            kept = engine.submit(WINDOWS[:5], ["angle"])
            blocked.release.set()
            assert kept.result(20)
            counts = engine.counts
            assert counts.submitted == counts.answered + counts.failed == 16

    def test_a_request_that_never_fits_is_told_so(self, predictor: Predictor) -> None:
        with (
            Engine(predictor, most_waiting=10) as engine,
            pytest.raises(Overloaded, match="a request of 11 windows, and at most 10 may wait: split it"),
        ):
            engine.submit(WINDOWS[:11], ["plain"])

    def test_less_important_requests_do_not_take_the_room_of_important_ones(self, predictor: Predictor) -> None:
        with Engine(predictor, {"low": ServiceLevel(priority=5)}, most_waiting=10) as engine:
            blocked = Blocked(engine)
            engine.submit(WINDOWS[:10], ["angle"], "low")
            with pytest.raises(Overloaded):
                engine.submit(WINDOWS[:1], ["angle"], "low")
            urgent = engine.submit(WINDOWS[:1], ["angle"])
            blocked.release.set()
            assert urgent.result(20)

    def test_nothing_takes_no_time(self, engine: Engine) -> None:
        """Else a batch of which all were cancelled would keep later requests out."""
        timing = engine._tasks["plain"].lane.queue.timing
        assert [timing.of(unit, 0) for unit in range(len(timing.seconds))] == [0.0] * len(timing.seconds)


class TestWhatIsPut:
    def test_heads_must_fit(self, predictor: Predictor, engine: Engine) -> None:
        angle = predictor.bundle.tasks["angle"]
        wrong = {exit: Head(((np.zeros((1, 999), np.float32), np.zeros(1, np.float32)),)) for exit in angle.heads}
        with pytest.raises(BundleError, match=r"head of task 'bad' at exit '.*' does not take what the encoder gives"):
            engine.put(replace(angle, name="bad", heads=wrong))
        assert "bad" not in engine.tasks
        with pytest.raises(EngineError, match="put takes a task of a bundle"):
            engine.put("band")  # type: ignore[arg-type]

    def test_exits_must_be_in_order_of_depth(self, predictor: Predictor, engine: Engine) -> None:
        policy = Policy("classification", "confidence", ("conv5", "stem"), (0.5,), (1.0,) * 2, (1.0,) * 2)
        with pytest.raises(BundleError, match="name exits in order of depth"):
            engine.put(replace(predictor.bundle.tasks["plain"], policies={"q": policy.to_dict()}))

    def test_heads_in_any_order_move_to_shallower_exits(self, predictor: Predictor, engine: Engine) -> None:
        plain = predictor.bundle.tasks["plain"]
        engine.put(replace(plain, heads=dict(reversed(list(plain.heads.items())))))
        served, segments = engine._tasks["plain"], engine._tasks["plain"].lane.segments
        moved = served.choose(ServiceLevel(), 1).policy.exits[0]
        assert segments.order(moved) < segments.order("stage2.1")


def test_one_head_that_fails_fails_its_own_task_alone(engine: Engine) -> None:
    def broken(tap: Any) -> Any:
        raise RuntimeError("no memory")

    served = engine._tasks["deep"]
    engine._tasks = {**engine._tasks, "deep": with_heads(served, dict.fromkeys(served.heads, broken))}
    request = engine.submit(WINDOWS[:1], ["deep", "plain"])
    assert request.answers["plain"].result(20)
    with pytest.raises(EngineError, match="the engine could not compute: no memory"):
        request.answers["deep"].result(20)


def test_windows_count_for_every_segment_that_ran_for_them(predictor: Predictor, engine: Engine) -> None:
    """By hand, from where windows left: each ran for all segments up to its exit."""
    left = engine.predict(WINDOWS[:20], ["plain"], "picky")["plain"].prediction.exits
    segments = engine._tasks["plain"].lane.segments
    deepest = {exit: segments.order(exit) + 1 for exit in EXITS}
    assert len(set(left)) > 1
    assert engine.counts.computed == sum(deepest[exit] for exit in left)


def test_arguments_that_make_no_sense(predictor: Predictor) -> None:
    for options, words in (
        ({"most_windows": 0}, "most_windows=0: give a whole number of at least 1"),
        ({"most_waiting": 0}, "most_waiting=0"),
        ({"slices": {"a": {"budget_ms": 5}}}, "slice 'a' is a dict: give a ServiceLevel"),
    ):
        with pytest.raises(EngineError, match=words):
            Engine(predictor, **options)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=r"an engine takes what .* gives, not str"):
        Engine("segments")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("level", "words"),
    [
        (ServiceLevel(exit="nope"), "no task can leave at 'nope': choose .*, or export segments with --exit nope"),
        (ServiceLevel(policy="nope"), "no task has the policy 'nope'"),
        (ServiceLevel(budget_ms=1e-6), "the least possible is"),
    ],
)
def test_a_plan_refuses_what_the_engine_refuses(predictor: Predictor, level: ServiceLevel, words: str) -> None:
    with pytest.raises(SuiteError, match=words):
        plan(predictor, {"a": level}, [Arrival(0.0, "a", ("plain",))])
    with pytest.raises(SuiteError, match=words):
        Engine(predictor, {"a": level})


@pytest.mark.parametrize(
    "text",
    [
        'priority: !!int ""',
        'priority: !!int "_"',
        'budget_ms: !!float ""',
        "under_load: !!bool x",
        "exit: !!timestamp x",
    ],
)
def test_yaml_that_its_reader_chokes_on(tmp_path: Path, text: str) -> None:
    path = tmp_path / "slices.yaml"
    path.write_text(f"slices:\n  a:\n    {text}\n")
    with pytest.raises(SuiteError, match=r"slices\.yaml") as refusal:
        load_slices(path)
    assert "\n" not in str(refusal.value)
    path.write_text("")
    with pytest.raises(SuiteError, match="is empty: it needs slices:"):
        load_slices(path)
