"""Shadow depth against answers of the predictor, and whether it keeps out of the way."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bundles import IQ_SHAPE, seeing_task, small_shufflenet, task, write

from offramp.bundle import BundleTask
from offramp.errors import EngineError
from offramp.policies import Policy
from offramp.policies.purpose import StoredGuarantee
from offramp.runtime import Predictor, load
from offramp.runtime.engine import Engine, ServiceLevel
from offramp.runtime.predictor import Prediction
from offramp.serving.watching.shadow import MOST_WINDOWS, SLICE, ShadowDepth, ShadowStatus

WINDOWS = np.random.default_rng(1).standard_normal((80, *IQ_SHAPE)).astype(np.float32)
EXITS, FULL = ("stem", "stage2.1", "conv5"), "conv5"
ONES = (1.0,) * 3
LEVELS = {"picky": ServiceLevel(policy="certified"), "careful": ServiceLevel(policy="rejecting")}


def with_policies(each: BundleTask, level: float = 0.3) -> BundleTask:
    promise = StoredGuarantee("disagreement", level, 0.1, "learn_then_test", None, (np.inf, 0.5), 60, 0.01, 0.02)
    certified = Policy("classification", "confidence", EXITS, (0.5, 0.5), ONES, ONES, guarantee=promise)
    rejecting = Policy("classification", "confidence", EXITS[:2], (0.9,), ONES[:2], ONES[:2], reject_below=0.9)
    return replace(each, policies={"certified": certified.to_dict(), "rejecting": rejecting.to_dict()})


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    encoder = small_shufflenet()
    value = task(encoder, "angle", "stage3.0", IQ_SHAPE, hidden=(7,))
    folder = write(
        tmp_path_factory.mktemp("shadow") / "bundle",
        encoder,
        with_policies(seeing_task(encoder, "plain", "stage2.1", IQ_SHAPE)),
        replace(value, val=dict.fromkeys(value.heads, 2.5)),
        replace(value, name="ratio", metric="nmse_db"),
    )
    return load(folder)


@pytest.fixture(scope="module")
def running(predictor: Predictor) -> Iterator[Engine]:
    with Engine(predictor, LEVELS) as engine:
        yield engine


@pytest.fixture
def engine(running: Engine) -> Iterator[Engine]:
    """The same for all, whose tasks a test may change."""
    before = running._tasks
    yield running
    running._tasks = before


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.002)


def finished(shadow: ShadowDepth) -> ShadowStatus:
    until(lambda: not shadow.status.waiting)
    return shadow.status


def answered(engine: Engine, windows: np.ndarray, name: str, level: str = "default") -> Prediction:
    return engine.predict(windows, [name], level)[name].prediction


def stored(predictor: Predictor, name: str) -> BundleTask:
    return predictor.bundle.tasks[name]


def at_full_depth(predictor: Predictor, name: str, windows: np.ndarray) -> Prediction:
    bundle = predictor.bundle
    deep = replace(bundle, tasks={key: replace(each, exit=FULL) for key, each in bundle.tasks.items()})
    return Predictor(deep, predictor.backend).predict(windows, [name])[name]


def test_the_disagreement_is_that_of_the_predictor(predictor: Predictor, engine: Engine) -> None:
    """Every request a recording of its own, all sampled: windows, blocks, mean, and how many were computed."""
    plain, clock = stored(predictor, "plain"), Clock()
    with ShadowDepth(engine, share=1.0, block_seconds=1.0, clock=clock) as shadow:
        for number in range(20):
            clock.now = 10.0 * number
            pair = WINDOWS[2 * number : 2 * number + 2]
            shadow.consider(pair, plain, answered(engine, pair, "plain", "picky"), f"recording {number}")
        finished(shadow)
        clock.now = 1000.0
        status = shadow.status
    seen = WINDOWS[:40]
    routed = predictor.predict(seen, ["plain"], policy="certified")["plain"]
    full = at_full_depth(predictor, "plain", seen)
    early = np.array(routed.exits) != FULL
    differs = routed.classes != full.classes
    assert early.any()
    assert not early.all()
    assert differs.any()
    (found,) = status.agreements["plain"]
    assert (found.policy, found.exit, found.windows, found.blocks) == ("certified", FULL, 40, 20)
    assert found.agreement == pytest.approx(1 - differs.mean())
    assert found.lower <= found.agreement <= found.upper
    assert status.computed == early.sum(), "windows that went to full depth by themselves are not computed again"
    assert (status.sampled, status.dropped, status.unwatched) == (20, 0, {})


def test_one_source_is_one_block_until_its_time_is_over(predictor: Predictor, engine: Engine) -> None:
    plain, clock = stored(predictor, "plain"), Clock()
    prediction = answered(engine, WINDOWS[:1], "plain")
    with ShadowDepth(engine, share=1.0, block_seconds=60.0, clock=clock) as shadow:
        for _ in range(5):
            shadow.consider(WINDOWS[:1], plain, prediction)  # nobody says whence: one source
            shadow.consider(WINDOWS[:1], plain, prediction, "a radio")
            clock.now += 10.0
        assert finished(shadow).agreements["plain"][0].blocks == 0
        clock.now = 61.0
        found = shadow.status.agreements["plain"][0]
        assert (found.policy, found.exit, found.windows, found.blocks) == ("fixed", "stage2.1", 10, 2)


def test_a_certificate_that_does_not_hold_is_withdrawn(predictor: Predictor, engine: Engine) -> None:
    """Random heads at different exits agree by chance, and a third of the time is not what was certified."""
    plain, clock = stored(predictor, "plain"), Clock()
    bold = replace(plain, policies={"certified": plain.policies["certified"] | {"thresholds": [0.0, 0.0]}})
    engine.put(bold)
    with ShadowDepth(engine, share=1.0, block_seconds=1.0, clock=clock) as shadow:
        for number in range(40):
            clock.now = 10.0 * number
            one = WINDOWS[number : number + 1]
            shadow.consider(one, bold, answered(engine, one, "plain", "picky"), str(number))
        finished(shadow)
        clock.now = 1e4
        status = shadow.status
    assert status.foremost["plain"].certificate == "withdrawn"
    assert status.foremost["plain"].agreement is not None
    assert status.foremost["plain"].upper < 0.7


def test_a_task_that_is_replaced_begins_anew(predictor: Predictor, engine: Engine) -> None:
    plain = stored(predictor, "plain")
    prediction = answered(engine, WINDOWS[:2], "plain")
    with ShadowDepth(engine, share=1.0) as shadow:
        shadow.consider(WINDOWS[:2], plain, prediction, "a")
        assert finished(shadow).agreements["plain"][0].windows == 2
        shadow.consider(WINDOWS[:1], replace(plain), answered(engine, WINDOWS[:1], "plain"), "a")
        assert finished(shadow).agreements["plain"][0].windows == 1


def test_values_agree_within_what_full_depth_errs_itself(predictor: Predictor, engine: Engine) -> None:
    angle = stored(predictor, "angle")
    full, early = at_full_depth(predictor, "angle", WINDOWS[:4]), answered(engine, WINDOWS[:4], "angle")
    apart = np.linalg.norm(full.outputs - early.outputs, axis=1)
    near = replace(angle, val=angle.val | {FULL: float(np.sort(apart)[1:3].mean())})  # two below, two above
    clock = Clock()
    with ShadowDepth(engine, share=1.0, block_seconds=1.0, clock=clock) as shadow:
        shadow.consider(WINDOWS[:4], near, early, "a")
        finished(shadow)
        clock.now = 2.0
        assert shadow.status.agreements["angle"][0].agreement == pytest.approx(0.5)


def test_what_cannot_be_compared_is_named_and_costs_nothing_more(predictor: Predictor, engine: Engine) -> None:
    ratio = stored(predictor, "ratio")
    with ShadowDepth(engine, share=1.0) as shadow:
        for _ in range(3):
            shadow.consider(WINDOWS[:1], ratio, answered(engine, WINDOWS[:1], "ratio"))
            status = finished(shadow)
        assert "no distance: certify a policy with a limit" in status.unwatched["ratio"]
        assert (status.sampled, status.computed, status.agreements) == (1, 0, {})


def test_an_exit_that_is_not_cut_is_named(predictor: Predictor, engine: Engine) -> None:
    plain, served = stored(predictor, "plain"), engine._tasks["plain"]
    shallow = replace(served, at_exit={name: each for name, each in served.at_exit.items() if name != FULL})
    engine._tasks = {**engine._tasks, "plain": shallow}
    with ShadowDepth(engine, share=1.0) as shadow:
        shadow.consider(WINDOWS[:1], plain, answered(engine, WINDOWS[:1], "plain"))
        assert "cannot leave at 'conv5'" in finished(shadow).unwatched["plain"]


def test_rejected_windows_are_no_answers(predictor: Predictor, engine: Engine) -> None:
    plain = stored(predictor, "plain")
    with ShadowDepth(engine, share=1.0) as shadow:
        kept = 0
        for number in range(20):
            prediction = answered(engine, WINDOWS[4 * number : 4 * number + 4], "plain", "careful")
            kept += int((~prediction.rejected).sum())
            shadow.consider(WINDOWS[4 * number : 4 * number + 4], plain, prediction)
        assert 0 < kept < 80
        (found,) = finished(shadow).agreements["plain"]
        assert (found.policy, found.windows) == ("rejecting", kept)


def test_of_a_long_request_some_windows_are_looked_at(predictor: Predictor, engine: Engine) -> None:
    plain, windows = stored(predictor, "plain"), WINDOWS.copy()
    prediction = answered(engine, windows, "plain")
    with ShadowDepth(engine, share=1.0) as shadow:
        shadow.consider(windows, plain, prediction)
        windows[:] = np.nan  # the caller may do with them what it likes
        status = finished(shadow)
    assert status.agreements["plain"][0].windows == MOST_WINDOWS
    assert (status.computed, status.unwatched) == (MOST_WINDOWS, {})


def test_answers_of_full_depth_itself_are_not_looked_at(predictor: Predictor, engine: Engine) -> None:
    plain = stored(predictor, "plain")
    prediction = engine.submit(WINDOWS[:3], ["plain"], exit=FULL).result()["plain"].prediction
    with ShadowDepth(engine, share=1.0) as shadow:
        shadow.consider(WINDOWS[:3], plain, prediction)
        assert shadow.status.sampled == 0


def test_the_share_is_kept_and_drawn_by_the_seed(predictor: Predictor, engine: Engine) -> None:
    plain, prediction = stored(predictor, "plain"), answered(engine, WINDOWS[:1], "plain")
    counts = []
    for seed in (0, 0, 1):
        with ShadowDepth(engine, share=0.1, seed=seed, most_waiting=1) as shadow:
            for _ in range(2000):
                shadow.consider(WINDOWS[:1], plain, prediction)
            counts.append(shadow.status.sampled)
    assert counts[0] == counts[1] != counts[2]
    assert all(150 < count < 250 for count in counts)


# --- out of the way


class Held:
    """The engine at work in a head until it is let go."""

    def __init__(self, engine: Engine) -> None:
        served = engine._tasks["plain"]
        fixed, self.entered, self.release = served.levels["fixed"], threading.Event(), threading.Event()
        inner = served.heads["stage2.1"]

        def head(tap: Any) -> Any:
            self.entered.set()
            assert self.release.wait(30)
            return inner(tap)

        heads = {**served.heads, "stage2.1": head}
        slow = replace(served, levels={"fixed": replace(fixed, cascade=replace(fixed.cascade, heads=heads))})
        engine._tasks = {**engine._tasks, "plain": slow}
        self.submission = engine.submit(WINDOWS[:1], ["plain"])
        assert self.entered.wait(30)
        engine._tasks = {**engine._tasks, "plain": served}


def test_nothing_is_asked_of_an_engine_at_work_and_what_finds_no_room_is_dropped(
    predictor: Predictor, engine: Engine
) -> None:
    plain, prediction = stored(predictor, "plain"), answered(engine, WINDOWS[:1], "plain")
    held = Held(engine)
    before = engine.counts.submitted
    with ShadowDepth(engine, share=1.0, most_waiting=3) as shadow:
        for number in range(10):
            shadow.consider(WINDOWS[:1], plain, prediction, str(number))
        time.sleep(0.1)
        assert engine.counts.submitted == before
        status = shadow.status
        assert (status.sampled, status.dropped, status.waiting, status.computed) == (10, 7, 3, 0)
        held.release.set()
        assert finished(shadow).computed == 3
        assert engine.counts.submitted == before + 3


def test_requests_go_before_what_shadow_depth_asked_already(predictor: Predictor, engine: Engine) -> None:
    """However long that has waited."""
    order: list[str] = []
    held = Held(engine)
    with ShadowDepth(engine):
        shadow = engine.submit(WINDOWS[:1], ["plain"], SLICE, exit=FULL).answers["plain"]
        time.sleep(0.3)  # many times what it takes by itself
        real = [engine.submit(WINDOWS[n : n + 1], ["plain"], exit=FULL).answers["plain"] for n in range(30)]
        for number, answer in enumerate(real):
            answer.add_done_callback(lambda _, number=number: order.append(f"real {number}"))
        shadow.add_done_callback(lambda _: order.append("shadow"))
        held.release.set()
        shadow.result(30)
        assert order[-1] == "shadow"
        assert len(order) == 31


@pytest.mark.parametrize("busy", [False, True])
def test_closing_ends_it_whatever_the_engine_does(predictor: Predictor, engine: Engine, busy: bool) -> None:
    plain, prediction = stored(predictor, "plain"), answered(engine, WINDOWS[:4], "plain")
    held = Held(engine) if busy else None
    shadow = ShadowDepth(engine, share=1.0)
    assert engine.slices[SLICE].priority > 1000
    for number in range(50):
        shadow.consider(WINDOWS[:4], plain, prediction, str(number))
    shadow.close()
    shadow.close()
    assert SLICE not in engine.slices
    assert not any(thread.name == "offramp-shadow" for thread in threading.enumerate())
    shadow.consider(WINDOWS[:4], plain, prediction)  # too late, and no harm
    if held is not None:
        held.release.set()
        held.submission.result(30)
    assert engine.predict(WINDOWS[:1], ["plain"])["plain"].prediction.exit == "stage2.1"


def test_an_engine_that_is_closed_first_does_not_hold_it_up(predictor: Predictor) -> None:
    plain = stored(predictor, "plain")
    with Engine(predictor) as engine:
        prediction = answered(engine, WINDOWS[:4], "plain")
        shadow = ShadowDepth(engine, share=1.0)
        for number in range(50):
            shadow.consider(WINDOWS[:4], plain, prediction, str(number))
    until(lambda: bool(shadow.status.unwatched) or not shadow.status.waiting)
    shadow.close()


def test_arguments_that_make_no_sense(engine: Engine) -> None:
    for wrong in ({"share": 0.0}, {"share": 1.5}, {"most_waiting": 0}, {"block_seconds": 0.0}, {"share": np.nan}):
        with pytest.raises(EngineError, match="shadow depth with share="):
            ShadowDepth(engine, **wrong)
    with ShadowDepth(engine), pytest.raises(EngineError, match="slice 'shadow' is that of shadow depth"):
        ShadowDepth(engine)


def test_it_opens_without_torch() -> None:
    code = "import sys, offramp.serving.watching.shadow; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
