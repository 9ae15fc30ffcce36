"""The drift monitors: quiet without a change as often as stated, loud with one, and plain about what cannot be said."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from drifting import SIZE, WIDTH, World, joined, predicted, reference
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.errors import BundleError, OfframpError
from offramp.serving.watching.drift import DriftMonitor

MONITORS = ["confidence", "classes", "exits", "features", "feature spread"]


def watch(monitor: DriftMonitor, recordings: Iterable[object], first: int = 0, features: bool = True) -> int | None:
    """See recordings of as many sources; at which of them it alarmed."""
    for number, (prediction, seen) in enumerate(recordings, start=first):  # type: ignore[misc]
        monitor.observe(f"recording {number}", prediction, seen if features else None, at=float(number))
        if monitor.alarmed:
            return number
    return None


def test_a_change_raises_an_alarm_that_stays() -> None:
    monitor = DriftMonitor({"t": reference()})
    assert watch(monitor, World(2).recordings(60)) is None
    status = monitor.status.tasks["t"]
    assert (status.state, status.recordings, status.windows, status.alarmed_since) == ("steady", 60, 60 * SIZE, None)
    assert [each.name for each in status.monitors] == MONITORS
    assert all(each.p_value >= status.level and each.statistic <= each.threshold for each in status.monitors)
    at = watch(monitor, World(3, shift=4.0).recordings(40), first=60)
    assert at is not None
    assert at < 75
    status = monitor.status.tasks["t"]
    assert (status.state, status.alarmed_since) == ("alarm", at)
    loud = [each for each in status.monitors if each.alarmed_since is not None]
    assert monitor.alarmed == {"t": sorted(each.name for each in loud)}
    for each in loud:
        assert each.p_value < status.level
        assert each.statistic > each.threshold
        assert 4 <= each.recordings <= 64
        assert status.p_values[each.name] == each.p_value
    watch(monitor, World(4).recordings(100), first=200)
    assert monitor.status.tasks["t"].alarmed_since == at  # whatever comes behind
    monitor.reset()
    status = monitor.status.tasks["t"]
    assert (status.state, status.recordings, status.windows, status.alarmed_since) == ("learning", 0, 0, None)


def test_the_stated_rate_of_false_alarms_holds() -> None:
    """References and streams are drawn anew: at most ten false alarms in 1,000 recordings, and not none."""
    alarms = recordings = 0
    for seed in range(40):
        monitor = DriftMonitor({"t": reference(30, seed=100 + seed)}, false_alarms_per_1000_recordings=10)
        stream = World(1000 + seed).recordings(100)
        while stream:
            at = watch(monitor, stream)
            recordings += len(stream) if at is None else at + 1
            alarms += at is not None
            stream = [] if at is None else stream[at + 1 :]
            monitor.reset()
    assert alarms >= 1
    assert 1000 * alarms / recordings < 10


def test_windows_make_recordings_however_they_come() -> None:
    """One by one, in requests that end within a recording, or all recordings of a source in one request."""
    stream = World(5, shift=0.5).recordings(30)
    whole, one_by_one, mixed = (DriftMonitor({"t": reference()}) for _ in range(3))
    for number, (prediction, features) in enumerate(stream):
        whole.observe(str(number), prediction, features, at=0)
        for at in range(SIZE):
            row = slice(at, at + 1)
            part = replace(
                prediction,
                outputs=prediction.outputs[row],
                left=prediction.left[row],
                rejected=prediction.rejected[row],
            )
            one_by_one.observe(str(number), part, features[row], at=0)
    for start in range(0, SIZE, 5):  # sources take turns
        row = slice(start, start + 5)
        for number, (prediction, features) in enumerate(stream):
            part = replace(
                prediction,
                outputs=prediction.outputs[row],
                left=prediction.left[row],
                rejected=prediction.rejected[row],
            )
            mixed.observe(str(number), part, features[row], at=0)
    assert whole.status == one_by_one.status == mixed.status


def test_a_source_counts_once_with_its_latest_recording() -> None:
    usual, odd = World(6).recordings(10), World(6, shift=3.0).recordings(50)
    monitor = DriftMonitor({"t": reference()})
    watch(monitor, usual)
    for prediction, features in odd:
        monitor.observe("one", prediction, features, at=0)
    status = monitor.status.tasks["t"]
    assert (status.state, status.recordings) == ("steady", 60)
    once = DriftMonitor({"t": reference()})
    watch(once, usual)
    once.observe("one", *odd[-1], at=0)
    ours, theirs = (each.status.tasks["t"].monitors for each in (monitor, once))
    assert ours == theirs
    alone = DriftMonitor({"t": reference()})
    prediction, features = joined(odd)
    alone.observe("one", prediction, features, at=0)
    assert alone.status.tasks["t"].state == "learning"
    assert alone.alarmed == {}


def test_windows_of_recordings_that_are_not_whole_wait() -> None:
    monitor = DriftMonitor({"t": reference()})
    prediction, features = joined(World(7).recordings(2))
    row = slice(0, SIZE + 5)
    part = replace(
        prediction, outputs=prediction.outputs[row], left=prediction.left[row], rejected=prediction.rejected[row]
    )
    monitor.observe("a", part, features[row])
    status = monitor.status.tasks["t"]
    assert (status.recordings, status.windows, status.waiting, status.block_windows) == (1, SIZE + 5, 5, SIZE)


def test_features_may_be_missing() -> None:
    monitor = DriftMonitor({"t": reference()})
    assert watch(monitor, World(8).recordings(20), features=False) is None
    found = {each.name: each for each in monitor.status.tasks["t"].monitors}
    assert [found[name].recordings > 0 for name in MONITORS] == [True, True, True, False, False]
    assert found["features"].p_value == 1.0
    assert watch(monitor, World(8, shift=3.0).recordings(20), first=20, features=False) is not None
    assert set(monitor.alarmed["t"]) <= {"confidence", "classes", "exits"}


def test_answers_at_other_exits_are_not_compared() -> None:
    monitor = DriftMonitor({"t": reference()})
    prediction, features = World(9).recordings(1)[0]
    monitor.observe("a", replace(prediction, consulted=("stem",)), features)  # as under load
    monitor.observe("a", replace(prediction, policy="other"), features)
    monitor.observe("a", replace(prediction, task="another"), features)
    status = monitor.status.tasks["t"]
    assert (status.ignored, status.windows, status.recordings, status.monitors) == (2 * SIZE, 0, 0, ())


def test_what_does_not_fit_is_refused() -> None:
    monitor = DriftMonitor({"t": reference()})
    prediction, features = World(9).recordings(1)[0]
    with pytest.raises(OfframpError, match="3 rows of features for 12 windows"):
        monitor.observe("a", prediction, features[:3])
    with pytest.raises(BundleError, match="rows of shape"):
        monitor.observe("a", prediction, features[:, :2])
    for rate in (0, -1.0, 101, float("nan"), "1", True):
        with pytest.raises(OfframpError, match="false_alarms_per_1000_recordings="):
            DriftMonitor({"t": reference()}, rate)  # type: ignore[arg-type]
    assert monitor.status.tasks["t"].windows == 0


@pytest.mark.parametrize("count", [0, 1, 7])
def test_too_few_recordings_never_alarm(count: int) -> None:
    told = reference(8)
    kept = told.groups < count
    few = replace(
        told,
        groups=told.groups[kept],
        features=told.features[kept],
        policies={
            name: replace(
                answers, left=answers.left[kept], confidence=answers.confidence[kept], predicted=answers.predicted[kept]
            )
            for name, answers in told.policies.items()
        },
    )
    monitor = DriftMonitor({"t": few}, false_alarms_per_1000_recordings=100)
    assert watch(monitor, World(1, shift=9.0).recordings(80)) is None
    status = monitor.status.tasks["t"]
    assert (status.state, status.monitors, status.average_run_length) == ("uncalibrated", (), None)
    assert f"it cannot be calibrated: the reference has {count} recordings" in status.why
    assert status.windows == 80 * SIZE


def test_recordings_that_heads_learned_from_are_no_reference() -> None:
    monitor = DriftMonitor({"t": replace(reference(), held_out="trained")})
    assert watch(monitor, World(1, shift=9.0).recordings(80)) is None
    status = monitor.status.tasks["t"]
    assert status.state == "uncalibrated"
    assert "the heads learned from the reference's recordings" in status.why


def test_data_without_recordings_says_what_the_rate_rests_on() -> None:
    alone = replace(reference(), grouped=False, groups=np.arange(40 * SIZE, dtype=np.int32))
    status = DriftMonitor({"t": alone}).status.tasks["t"]
    assert status.reference_recordings == 40 * SIZE // status.block_windows
    assert status.why.startswith("the data tells no recordings apart: 7 windows of a source")


def test_the_rate_is_shared_by_all_tasks() -> None:
    one = DriftMonitor({"t": reference()}, 2.0).status.tasks["t"]
    both = DriftMonitor({"t": reference(), "u": reference(20)}, 2.0).status
    assert one.average_run_length == pytest.approx(500)
    assert [each.average_run_length for each in both.tasks.values()] == pytest.approx([1000, 1000])
    assert sum(each.level for each in both.tasks.values()) == pytest.approx(one.level)
    monitor = DriftMonitor({"t": reference(), "u": reference(20)}, 2.0)
    stream = World(1, shift=4.0).recordings(40)
    for number, (prediction, features) in enumerate(stream):
        monitor.observe(str(number), replace(prediction, task="u"), features)
    assert list(monitor.alarmed) == ["u"]
    assert monitor.status.tasks["t"].windows == 0


def test_the_status_is_json() -> None:
    monitor = DriftMonitor({"t": reference()})
    watch(monitor, World(1, shift=4.0).recordings(30))
    told = json.loads(json.dumps(monitor.status.to_dict()))
    assert told["tasks"]["t"]["state"] == "alarm"
    assert told["false_alarms_per_1000_recordings"] == 1.0
    assert len(told["blind_to"]) >= 3


def test_threads_may_observe_at_once() -> None:
    monitor, stream = DriftMonitor({"t": reference()}), World(11).recordings(8)
    failures: list[BaseException] = []

    def observe(number: int) -> None:
        try:
            for turn, (prediction, features) in enumerate(stream):
                monitor.observe(f"{number} {turn}", prediction, features)
                assert monitor.status.tasks["t"].windows
        except BaseException as error:  # told to the thread that waits
            failures.append(error)

    threads = [threading.Thread(target=observe, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    status = monitor.status.tasks["t"]
    assert (status.recordings, status.windows, status.waiting) == (48, 48 * SIZE, 0)


def test_a_regression_is_watched_by_its_values() -> None:
    told = reference()
    rng = np.random.default_rng(0)
    values = (
        (rng.standard_normal((40, 1, 2)) + 0.3 * rng.standard_normal((40, SIZE, 2))).reshape(-1, 2).astype(np.float32)
    )
    answers = replace(told.policies["routed"], values=values, confidence=None, predicted=None)
    regression = replace(
        told,
        kind="regression",
        classes=0,
        value_projection=replace(told.projection, mean=np.zeros(2, np.float32), components=np.eye(2, dtype=np.float32)),
        policies={"routed": answers},
    )
    monitor = DriftMonitor({"t": regression})
    for number in range(100):
        outputs = (rng.standard_normal((1, 2)) + 0.3 * rng.standard_normal((SIZE, 2)) + 2 * (number >= 50)).astype(
            np.float32
        )
        prediction = replace(
            predicted(np.zeros((SIZE, 2))), kind="regression", outputs=outputs, left=np.arange(SIZE) % 2, label_names=()
        )
        monitor.observe(str(number), prediction, None, at=number)
        if number == 49:
            assert monitor.alarmed == {}
    assert "values" in monitor.alarmed["t"]


@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(0, 40), max_size=12), seed=st.integers(0, 99))
def test_no_window_is_counted_twice_or_lost(sizes: list[int], seed: int) -> None:
    monitor, rng = DriftMonitor({"t": reference(8)}), np.random.default_rng(seed)
    for size in sizes:
        features = rng.standard_normal((size, WIDTH)).astype(np.float32)
        monitor.observe(f"source {rng.integers(3)}", predicted(rng.standard_normal((size, 5))), features)
    status = monitor.status.tasks["t"]
    assert status.windows == sum(sizes)
    assert status.windows == status.recordings * SIZE + status.waiting


def test_no_torch_is_imported() -> None:
    code = "import sys, offramp.serving.watching.drift; sys.exit('torch' in sys.modules or 'offramp.experiment' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
