"""The document of /status: quantiles against numpy, and rates that no restart, death or late worker falsifies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moving_page import MovingServer, Scene

from offramp.errors import OfframpError
from offramp.runtime.engine import ServiceLevel
from offramp.serving.page.counts import LatencyBuckets, SegmentCounts, SliceCounts, Snapshot, TaskFacts, WorkerCounts
from offramp.serving.page.status import APART_S, LATE_S, RecentSnapshots, added, gained, make_status, quantile

BOUNDS = tuple(float(bound) for bound in np.geomspace(1e-3, 1.0, 60))


def buckets_of(seconds: np.ndarray, bounds: Sequence[float] = BOUNDS) -> LatencyBuckets:
    """As Prometheus counts: how many are at most each bound, and all."""
    return LatencyBuckets(tuple(bounds), (*(int((seconds <= bound).sum()) for bound in bounds), len(seconds)))


def slice_of(requests: int, latency: LatencyBuckets | None = None, **others: object) -> SliceCounts:
    return SliceCounts(requests, latency=latency or LatencyBuckets(), **others)  # type: ignore[arg-type]


def worker(number: int = 0, started: float = 0.0, **counts: object) -> WorkerCounts:
    return WorkerCounts(number, 100 + number, started, **counts)  # type: ignore[arg-type]


def snapshot(time: float, *workers: WorkerCounts, levels: Mapping[str, ServiceLevel] | None = None) -> Snapshot:
    return Snapshot(
        time=time,
        title="bundle",
        version="1",
        encoder="made",
        exits=("a", "b", "c"),
        policies=(),
        tasks=(TaskFacts("t", "classification", ("c", "a"), True),),
        levels={"s": ServiceLevel(budget_ms=20)} if levels is None else levels,
        workers=workers,
    )


@given(st.integers(0, 2**32 - 1), st.integers(200, 3000), st.sampled_from([0.5, 0.9, 0.99]))
def test_quantiles_come_as_close_as_buckets_are_wide(seed: int, count: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    seconds = np.clip(rng.lognormal(np.log(0.02), 0.7, count), 1e-3, 0.99)
    found = quantile(buckets_of(seconds), share)
    assert found is not None
    # numpy's definition by ranks, as histograms count them
    exact = np.quantile(seconds, share, method="inverted_cdf")
    step = BOUNDS[1] / BOUNDS[0]
    assert exact / step <= found <= exact * step


def test_quantiles_by_hand() -> None:
    buckets = LatencyBuckets((0.01, 0.02, 0.04), (2, 8, 9, 10))
    assert quantile(buckets, 0.5) == pytest.approx(0.01 + 0.01 * (5 - 2) / 6)
    assert quantile(buckets, 0.1) == pytest.approx(0.005)
    # beyond the largest bound no more is known
    assert quantile(buckets, 0.99) == 0.04
    assert quantile(LatencyBuckets(), 0.5) is None
    assert quantile(LatencyBuckets((1.0,), (0, 0)), 0.5) is None
    assert quantile(LatencyBuckets((0.01, 0.02), (0, 4, 4)), 1.0) == pytest.approx(0.02)


@pytest.mark.parametrize(
    "wrong", [((0.02, 0.01), (1, 2, 3)), ((0.01,), (2, 1)), ((0.01, 0.02), (1, 2)), ((0.01, 0.01), (1, 1, 1))]
)
def test_buckets_that_cannot_be(wrong: tuple[tuple[float, ...], tuple[int, ...]]) -> None:
    with pytest.raises(OfframpError, match="latency buckets"):
        LatencyBuckets(*wrong)


@given(st.lists(st.floats(1e-4, 2), max_size=60), st.lists(st.floats(1e-4, 2), max_size=60))
def test_what_is_added_is_gained(before: list[float], since: list[float]) -> None:
    then, later = buckets_of(np.array(before)), buckets_of(np.array(since))
    both = buckets_of(np.array(before + since))
    assert added([then, later]) == both
    assert gained(both, then) == later
    assert added([LatencyBuckets(), both]) == both


def test_rates_and_quantiles_are_of_late() -> None:
    rng = np.random.default_rng(0)
    slow, quick = rng.uniform(0.1, 0.2, 500), rng.uniform(0.004, 0.006, 400)
    before = worker(
        left={("t", "a"): 500},
        slices={"s": slice_of(500, buckets_of(slow), refused={"load": 10})},
        segments={"a": SegmentCounts(3, 50, 500)},
    )
    now = replace(
        before,
        left={("t", "a"): 700, ("t", "c"): 200, ("other", "a"): 9},
        classes={("t", "x"): 900},
        slices={
            "s": slice_of(920, buckets_of(np.concatenate((slow, quick))), refused={"load": 10, "deadline": 20}, steps=1)
        },
        segments={"a": SegmentCounts(7, 90, 900)},
    )
    status = make_status(snapshot(110.0, now), snapshot(100.0, before))
    (found,) = status.slices
    assert (status.interval_s, status.uptime_s, status.state) == (10.0, 110.0, "ready")
    assert (found.requests, found.requests_per_s, found.refused_per_s, found.steps) == (920, 42.0, 2.0, 1)
    assert found.p50_ms == pytest.approx(1e3 * np.quantile(quick, 0.5), rel=0.13)
    assert found.p99_ms == pytest.approx(1e3 * np.quantile(quick, 0.99), rel=0.13)
    assert (status.refused, status.refused_per_s) == ({"load": 10, "deadline": 20}, {"load": 0.0, "deadline": 2.0})
    assert (found.budget_ms, found.under_load) == (20.0, "refuse")
    (segment,) = status.segments
    assert (segment.waiting, segment.batch, segment.windows_per_s) == (7, 10.0, 40.0)
    (task,) = status.tasks
    assert (task.exits, task.left, task.classes) == (("a", "c"), {"a": 700, "c": 200}, {"x": 900})
    # without an earlier snapshot it is said since the start
    alone = make_status(snapshot(110.0, now))
    assert (alone.interval_s, alone.requests_per_s) == (110.0, pytest.approx(920 / 110))


def test_workers_that_die_and_come_back() -> None:
    first, second = worker(0, slices={"s": slice_of(1000)}), worker(1, slices={"s": slice_of(2000)})
    successor = replace(worker(1, 103.0, slices={"s": slice_of(30)}), pid=999)
    before = snapshot(100.0, first, second)
    dead = make_status(snapshot(105.0, replace(first, slices={"s": slice_of(1050)})), before)
    assert (dead.requests, dead.requests_per_s) == (1050, 10.0)
    back = make_status(snapshot(105.0, successor, replace(first, slices={"s": slice_of(1050)})), before)
    assert back.requests_per_s == (50 + 30) / 5
    assert [each.requests_per_s for each in back.workers] == [10.0, 6.0]
    assert [each.uptime_s for each in back.workers] == [105.0, 2.0]


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (("ready", "ready"), "ready"),
        (("ready", "starting"), "starting"),
        (("starting", "draining"), "draining"),
        ((), "starting"),
    ],
)
def test_the_state_of_all_workers(states: tuple[str, ...], state: str) -> None:
    workers = [worker(number, state=each) for number, each in enumerate(states)]
    assert make_status(snapshot(1.0, *workers)).state == state


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 9), st.lists(st.floats(1e-3, 1), max_size=20)),
        min_size=1,
        max_size=5,
    )
)
def test_several_workers_are_as_one_that_did_everything(counts: list[tuple[int, int, int, list[float]]]) -> None:
    def of(number: int, shallow: int, deep: int, waiting: int, seconds: list[float]) -> WorkerCounts:
        return worker(
            number,
            left={("t", "a"): shallow, ("t", "c"): deep},
            slices={"s": slice_of(len(seconds), buckets_of(np.array(seconds)), refused={"load": deep})},
            segments={"a": SegmentCounts(waiting, shallow, 2 * shallow)},
        )

    together = of(
        0, *(sum(column) for column in list(zip(*counts, strict=True))[:3]), [one for each in counts for one in each[3]]
    )  # type: ignore[arg-type]
    several = make_status(snapshot(10.0, *(of(number, *each) for number, each in enumerate(counts))))
    one = make_status(snapshot(10.0, together))
    assert (several.tasks, several.slices, several.segments) == (one.tasks, one.slices, one.segments)
    assert (several.requests, several.refused, several.requests_per_s) == (
        one.requests,
        one.refused,
        one.requests_per_s,
    )


def test_any_number_of_pages_may_ask_whenever_they_like() -> None:
    recent = RecentSnapshots()
    rng = np.random.default_rng(2)
    times = np.cumsum(rng.uniform(0.01, 0.6, 400))
    for time in times:
        status = recent.status(snapshot(float(time), worker(slices={"s": slice_of(int(10 * time))})))
        assert status.requests_per_s == pytest.approx(10, abs=1.1 / status.interval_s)
        if time > APART_S + 1:
            assert APART_S <= status.interval_s <= LATE_S + 2 * APART_S
    # nobody asked for an hour: what is compared is far away once, and near again
    later = float(times[-1]) + 3600
    assert recent.status(snapshot(later, worker())).interval_s >= 3600
    assert recent.status(snapshot(later + 2, worker())).interval_s == 2.0


def test_the_document_is_json() -> None:
    server = MovingServer(Scene(alarm=True, overload=True))
    document = json.loads(json.dumps(server.status(), allow_nan=False))
    assert document["schema"] == 1
    assert [task["name"] for task in document["tasks"]] == list(server.scene.tasks)
    assert document["tasks"][1]["drift"]["state"] == "alarm"
    assert document["slices"][0]["name"] == "urllc"
