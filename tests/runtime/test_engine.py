"""The engine against the predictor, under concurrency, deadlines, load and swaps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import (
    CSI_SHAPE,
    IQ_SHAPE,
    STANDARDIZE,
    bundle_of,
    predictor_of,
    seeing_task,
    small_lwm,
    small_shufflenet,
    task,
    write,
)

from offramp.bundle import BundleTask, Head
from offramp.errors import (
    BundleError,
    DataError,
    DeadlinePassed,
    EngineError,
    OfframpError,
    Overloaded,
    SuiteError,
    TaskRemoved,
)
from offramp.export.segments import export_segments
from offramp.policies import Policy
from offramp.runtime import Predictor, load
from offramp.runtime.engine import Engine, ServiceLevel, load_slices, timing
from offramp.runtime.engine.lanes import ServedTask

WINDOWS = np.random.default_rng(1).standard_normal((60, *IQ_SHAPE)).astype(np.float32)
NAMES = ("plain", "beside", "angle")
SLICES = {"early": ServiceLevel(exit="stem"), "picky": ServiceLevel(policy="p"), "urgent": ServiceLevel(priority=-1)}


def leaving(each: BundleTask, *thresholds: float) -> BundleTask:
    exits = ("stem", "stage2.1", "conv5")
    policy = Policy("classification", "confidence", exits, thresholds, (1.0,) * 3, (1.0,) * 3)
    return replace(each, policies={"p": policy.to_dict()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder = small_shufflenet()
    return write(
        tmp_path_factory.mktemp("engine") / "bundle",
        encoder,
        leaving(seeing_task(encoder, "plain", "stage2.1", IQ_SHAPE), 0.6, 0.6),
        leaving(seeing_task(encoder, "beside", "stage3.0", IQ_SHAPE, {"stem": "statistics"}, "handmade"), 0.5, 0.7),
        task(encoder, "angle", "conv5", IQ_SHAPE, transform=STANDARDIZE, hidden=(7,)),
    )


@pytest.fixture(scope="module", params=["torch", "onnxruntime"])
def predictor(folder: Path, request: pytest.FixtureRequest) -> Predictor:
    if request.param == "torch":
        return load(folder)
    out = folder.parent / "segments"
    export_segments(folder, out, ["stem", "stage2.0"])
    return load(out)


@pytest.fixture
def engine(predictor: Predictor) -> Iterator[Engine]:
    with Engine(predictor, SLICES) as running:
        yield running


def test_answers_are_never_mixed_between_callers(predictor: Predictor, engine: Engine) -> None:
    """Eight threads ask for windows, tasks and levels of their own at once; everyone gets what the predictor says of theirs."""
    rng = np.random.default_rng(0)
    asked = []
    for _ in range(150):
        rows = rng.integers(0, len(WINDOWS), int(rng.integers(1, 5)))
        asked.append((rows, list(rng.permutation(NAMES)[: rng.integers(1, 4)]), str(rng.choice(["default", *SLICES]))))
    expected = {
        "default": predictor.predict(WINDOWS),
        "picky": predictor.predict(WINDOWS, ["plain", "beside"], policy="p"),
        "early": {},
    }
    early = Predictor(
        replace(predictor.bundle, tasks={n: replace(t, exit="stem") for n, t in predictor.bundle.tasks.items()}),
        predictor.backend,
    )
    expected["early"] = early.predict(WINDOWS)

    def ask(number: int) -> Any:
        """Every other caller computes by itself where nobody else does."""
        rows, names, level = asked[number]
        way = engine.predict if number % 2 else lambda *request: engine.submit(*request).result(60)
        return way(WINDOWS[rows], names, level)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(len(asked))))
    for (rows, names, level), answer in zip(asked, answers, strict=True):
        assert list(answer) == names
        for name in names:
            kind = "default" if level == "urgent" or (level == "picky" and name == "angle") else level
            want, got = expected[kind][name], answer[name].prediction
            assert [want.exits[row] for row in rows] == got.exits
            np.testing.assert_allclose(got.outputs, want.outputs[rows], atol=2e-4, rtol=1e-3)
            assert answer[name].slice == level
            why = {"early": "budget", "picky": "policy"}.get(level, "fixed")
            assert answer[name].why == ("fixed" if level == "picky" and name == "angle" else why)
    counts = engine.counts
    assert counts.submitted == counts.answered
    assert (counts.refused, counts.failed, counts.in_vain) == (0, 0, 0)
    assert counts.batches < counts.computed, "requests were batched together"


@pytest.mark.parametrize("pays", [0.0, np.inf])
def test_whole_passes_and_segments_give_the_same_answers(
    predictor: Predictor, engine: Engine, monkeypatch: pytest.MonkeyPatch, pays: float
) -> None:
    monkeypatch.setattr(timing, "PAYS", pays)
    before = engine.counts
    requests = [engine.submit(WINDOWS[n : n + 1 + n % 3], NAMES[: 1 + n % 3]) for n in range(20)]
    for n, request in enumerate(requests):
        for name, want in predictor.predict(WINDOWS[n : n + 1 + n % 3], NAMES[: 1 + n % 3]).items():
            got = request.answers[name].result(60).prediction
            assert got.exits == want.exits
            np.testing.assert_allclose(got.outputs, want.outputs, atol=2e-4, rtol=1e-3)
    passed = engine.counts.computed - before.computed
    windows = engine.counts.answered - before.answered
    assert (passed == windows) == (pays > 0), "in one step, or in several"


def with_heads(served: ServedTask, heads: dict[str, Any]) -> ServedTask:
    """A task whose own exit is answered by other heads."""
    fixed = served.levels["fixed"]
    return replace(served, levels={"fixed": replace(fixed, cascade=replace(fixed.cascade, heads=heads))})


class Blocked:
    """Holds the engine's thread inside a head until it is let go, so that what comes meanwhile waits for sure."""

    def __init__(self, engine: Engine, name: str = "plain", window: np.ndarray = WINDOWS[:1]) -> None:
        served = engine._tasks[name]
        exit = served.stored.exit
        inner, self.entered, self.release = served.heads[exit], threading.Event(), threading.Event()

        def head(tap: Any) -> Any:
            self.entered.set()
            assert self.release.wait(30)
            return inner(tap)

        engine._tasks = {**engine._tasks, name: with_heads(served, {**served.heads, exit: head})}
        self.submission = engine.submit(window, [name])
        assert self.entered.wait(30)
        engine._tasks = {**engine._tasks, name: served}


def test_a_shallow_answer_leaves_before_deep_work_starts(engine: Engine) -> None:
    blocked = Blocked(engine, "angle")  # at the last exit
    shallow = engine.submit(WINDOWS[:1], ["plain"], "early").answers["plain"]
    deep = engine.submit(WINDOWS[:1], ["plain"]).answers["plain"]
    order: list[str] = []
    shallow.add_done_callback(lambda _: order.append("shallow"))
    deep.add_done_callback(lambda _: order.append("deep"))
    blocked.release.set()
    deep.result(30)
    assert order == ["shallow", "deep"]


def test_a_task_gets_its_answer_before_a_deeper_one_of_the_same_request(engine: Engine) -> None:
    blocked = Blocked(engine, "beside")
    blocked.release.set()
    both = engine.submit(WINDOWS[:2], ["plain", "beside"])
    order: list[str] = []
    for name, answer in both.answers.items():
        answer.add_done_callback(lambda _, name=name: order.append(name))
    both.result(30)
    assert order == ["plain", "beside"]


def test_what_has_expired_is_never_computed(engine: Engine) -> None:
    blocked = Blocked(engine)
    before = engine.counts.computed
    late = engine.submit(WINDOWS[:3], ["angle"], budget_ms=200)
    threading.Event().wait(0.3)
    blocked.release.set()
    with pytest.raises(DeadlinePassed, match="the deadline passed while the request waited"):
        late.result(30)
    blocked.submission.result(30)
    engine.predict(WINDOWS[:1], ["plain"])
    counts = engine.counts
    assert counts.failed == 3
    assert counts.computed - before <= 1 + 2 * 12, "three windows of the deepest task would be far more"
    assert counts.in_vain == 0


def test_what_is_cancelled_is_never_computed(engine: Engine) -> None:
    blocked = Blocked(engine)
    gone = engine.submit(WINDOWS[:7], ["angle"])
    gone.cancel()
    blocked.release.set()
    with pytest.raises(CancelledError):
        gone.result(30)
    engine.predict(WINDOWS[:1], ["plain"])
    assert engine.counts.failed == 7


def test_a_swap_loses_nothing(predictor: Predictor, engine: Engine) -> None:
    """What was submitted before is answered by the old head, what comes after by the new one."""
    old = predictor.bundle.tasks["plain"]
    heads = {exit: Head(tuple((-weight, -bias) for weight, bias in head.layers)) for exit, head in old.heads.items()}
    before = predictor.predict(WINDOWS, ["plain"])["plain"]
    blocked = Blocked(engine, "angle")
    early = [engine.submit(WINDOWS[i : i + 1], ["plain"]) for i in range(20)]
    engine.put(replace(old, heads=heads))
    late = [engine.submit(WINDOWS[i : i + 1], ["plain"]) for i in range(20)]
    engine.remove("plain")
    with pytest.raises(TaskRemoved, match="there is no task 'plain': the engine has beside, angle"):
        engine.submit(WINDOWS[:1], ["plain"])
    blocked.release.set()
    for number, (one, other) in enumerate(zip(early, late, strict=True)):
        first, second = one.result(30)["plain"].prediction, other.result(30)["plain"].prediction
        np.testing.assert_allclose(first.outputs[0], before.outputs[number], atol=1e-4)
        assert first.classes[0] != second.classes[0]
    engine.put(old)
    assert engine.predict(WINDOWS[:1], ["plain"])["plain"].prediction.labels == before.labels[:1]


def test_a_task_that_does_not_fit_is_not_put_in(engine: Engine) -> None:
    encoder = small_shufflenet()
    with pytest.raises(BundleError, match="sees windows as no task of this engine does"):
        engine.put(task(encoder, "shape", "stem", (2, 1, 128), ("x", "y")))
    with pytest.raises(BundleError, match="sees windows as no task"):
        engine.put(seeing_task(encoder, "other", "stem", IQ_SHAPE, {"stem": "quantiles"}))
    assert set(engine.tasks) == set(NAMES)
    with pytest.raises(TaskRemoved, match="there is no task 'other'"):
        engine.remove("other")


def test_a_head_that_fails_fails_who_asked_and_nobody_else(engine: Engine) -> None:
    served = engine._tasks["plain"]

    def broken(tap: Any) -> Any:
        raise RuntimeError("no memory")

    engine._tasks = {**engine._tasks, "plain": with_heads(served, dict.fromkeys(served.heads, broken))}
    with pytest.raises(EngineError, match="the engine could not compute: no memory"):
        engine.predict(WINDOWS[:1], ["plain"])
    assert engine.predict(WINDOWS[:1], ["angle"])["angle"].why == "fixed"


class TestLoad:
    def test_a_full_queue_refuses_at_once(self, predictor: Predictor) -> None:
        with Engine(predictor, most_waiting=5) as engine:
            blocked = Blocked(engine)
            kept = engine.submit(WINDOWS[:5], ["angle"])
            with pytest.raises(Overloaded, match="5 windows wait already, and at most 5 may"):
                engine.submit(WINDOWS[:1], ["angle"])
            blocked.release.set()
            kept.result(30)
            assert engine.counts.refused == 1

    def test_what_cannot_be_done_in_time_is_refused_at_once(self, engine: Engine) -> None:
        with pytest.raises(Overloaded, match=r"a budget of .* ms cannot be met: this request alone takes .* ms"):
            engine.submit(WINDOWS, ["angle"], budget_ms=1e-3)
        blocked = Blocked(engine)
        waiting = [engine.submit(WINDOWS, ["angle"]) for _ in range(20)]
        with pytest.raises(
            Overloaded,
            match=r"slice 'default': .* ms of work wait and the request takes .* ms, which is more than 80% of its budget",
        ):
            engine.submit(
                WINDOWS[:1],
                ["angle"],
                budget_ms=1 + 1e3 * engine._lanes[next(iter(engine._lanes))].queue.timing.least(0) * 5,
            )
        for each in waiting:
            each.cancel()
        blocked.release.set()

    def test_a_slice_that_may_moves_to_shallower_exits_and_back(self, predictor: Predictor) -> None:
        now = [100.0]
        slices = {"soft": ServiceLevel(budget_ms=1e5, under_load="shallower"), "hard": ServiceLevel(budget_ms=1e5)}
        with Engine(predictor, slices, clock=lambda: now[0]) as engine:
            soft = engine._levels["soft"][1]
            order = []
            for _ in range(4):
                now[0] += 60
                soft.observe(80.0, now[0], 9)
                order.append(soft.steps)
            assert order == [1, 2, 3, 4]
            answer = engine.predict(WINDOWS[:1], ["angle"], "soft")["angle"]
            assert answer.why == "load"
            depths = list(predictor.bundle.tasks["angle"].heads)
            assert depths.index(answer.prediction.exit) < depths.index("conv5")
            assert engine.predict(WINDOWS[:1], ["angle"], "hard")["angle"].why == "fixed"
            soft.observe(0.0, now[0] + 0.5, 9)
            assert soft.steps in (3, 4), "calm must last before anything moves back"
            for _ in range(4):
                now[0] += 2
                engine.predict(WINDOWS[:1], ["angle"], "soft")
            assert engine.predict(WINDOWS[:1], ["angle"], "soft")["angle"].why == "fixed"
            assert engine.counts.shallower >= 1


def test_a_transformer_whose_windows_share_parts_of_the_state(tmp_path: Path) -> None:
    encoder = small_lwm()
    last = encoder.exits[-1].name
    predictor = predictor_of(bundle_of(encoder, task(encoder, "beam", last, CSI_SHAPE, ("a", "b"))), encoder)
    windows = np.random.default_rng(0).standard_normal((6, *CSI_SHAPE)).astype(np.float32)
    expected = predictor.predict(windows)["beam"].outputs
    with Engine(predictor) as engine:
        blocked = Blocked(engine, "beam", windows[:1])
        submissions = [engine.submit(windows[i : i + 1]) for i in range(6)]
        blocked.release.set()
        for number, each in enumerate(submissions):
            np.testing.assert_allclose(each.result(30)["beam"].prediction.outputs[0], expected[number], atol=1e-4)


def test_requests_that_cannot_be(engine: Engine) -> None:
    with pytest.raises(EngineError, match="unknown slice 'mmtc': choose default, early, picky, urgent"):
        engine.submit(WINDOWS[:1], slice="mmtc")
    with pytest.raises(DataError, match="no windows"):
        engine.submit(WINDOWS[:0])
    with pytest.raises(DataError, match="no task takes windows"):
        engine.submit(np.zeros((1, 2, 7, 96), np.float32))
    with pytest.raises(DataError, match="takes windows of shape"):
        engine.submit(np.zeros((1, 2, 7, 96), np.float32), ["plain"])
    with pytest.raises(DataError, match="NaN or infinity"):
        engine.submit(np.full((1, *IQ_SHAPE), np.nan, np.float32))
    for budget in (0.0, -1.0):
        with pytest.raises(DeadlinePassed, match="has already passed"):
            engine.submit(WINDOWS[:1], budget_ms=budget)
    for what in (float("nan"), "5"):
        with pytest.raises(EngineError, match="give milliseconds"):
            engine.submit(WINDOWS[:1], budget_ms=what)  # type: ignore[arg-type]
    for tasks in ("plain", 5):
        with pytest.raises(EngineError, match="give a list of names"):
            engine.submit(WINDOWS[:1], tasks)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="name a task at least"):
        engine.submit(WINDOWS[:1], [])
    with pytest.raises(TaskRemoved):
        engine.submit(WINDOWS[:1], [["plain"]])  # type: ignore[list-item]
    with pytest.raises(EngineError, match="unknown slice"):
        engine.submit(WINDOWS[:1], slice=["a"])  # type: ignore[arg-type]


def test_a_closed_engine_answers_nobody(predictor: Predictor) -> None:
    engine = Engine(predictor)
    blocked = Blocked(engine)
    waiting = engine.submit(WINDOWS[:1], ["angle"])
    closing = threading.Thread(target=engine.close)
    closing.start()
    blocked.release.set()
    closing.join(30)
    with pytest.raises((EngineError, OfframpError)):
        waiting.result(30)
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.submit(WINDOWS[:1])


class TestSlices:
    def written(self, folder: Path, text: str) -> Path:
        path = folder / "slices.yaml"
        path.write_text(text)
        return path

    def test_a_file(self, tmp_path: Path) -> None:
        text = "slices:\n  urllc: {budget_ms: 5, priority: 0, under_load: shallower}\n  embb: {exit: stem}\n"
        found = load_slices(self.written(tmp_path, text))
        assert found == {
            "default": ServiceLevel(),
            "urllc": ServiceLevel(budget_ms=5, under_load="shallower"),
            "embb": ServiceLevel(exit="stem"),
        }

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("slices: {a: {budget_ms: 0}}", "budget_ms"),
            ("slices: {a: {budget_ms: .inf}}", "budget_ms"),
            ("slices: {a: {budget: 3}}", "budget"),
            ("slices: {a: {exit: stem, policy: p}}", "give an exit or a policy, not both"),
            ("slices: {a: {under_load: drop}}", "under_load"),
            ("slices: {}", "slices"),
            ("slices: [", "is not valid YAML in line 1"),
            ("- a", "slices.yaml"),
            ("", "slices.yaml"),
        ],
    )
    def test_a_file_that_says_what_cannot_be(self, tmp_path: Path, text: str, words: str) -> None:
        with pytest.raises(SuiteError, match=words) as refusal:
            load_slices(self.written(tmp_path, text))
        assert "\n" not in str(refusal.value)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(SuiteError):
            load_slices(tmp_path / "absent.yaml")

    @pytest.mark.parametrize(
        ("level", "words"),
        [
            (ServiceLevel(exit="stage9"), "slice 'a': no task can leave at 'stage9': choose "),
            (ServiceLevel(policy="q"), "slice 'a': no task has the policy 'q': choose fixed, p"),
            (
                ServiceLevel(budget_ms=1e-6),
                r"slice 'a': a budget of 1e-06 ms cannot be met: the least possible is .* ms",
            ),
        ],
    )
    def test_a_level_that_no_task_can_keep(self, predictor: Predictor, level: ServiceLevel, words: str) -> None:
        with pytest.raises(SuiteError, match=words):
            Engine(predictor, {"a": level})
