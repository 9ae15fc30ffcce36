"""A stream in this process: answers are those of the predictor, in order, whatever the pieces, gaps, delays and faults on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import task as one_task
from streaming import WINDOW, Given, Kept, iq, noise, radio_bundle

from offramp.bundle import Bundle, BundleTask
from offramp.errors import BundleError, DataError, EngineError, SuiteError
from offramp.policies import Policy
from offramp.runtime import Predictor, load
from offramp.runtime.engine import Engine
from offramp.serving.stream import Receiving, SampleChunk, StopFlag, StreamGap, open_source, plan_stream, run_stream

TASKS = ("modulation", "angle")


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    loaded = load(radio_bundle(tmp_path_factory.mktemp("radio") / "bundle"))
    exits = ("stem", "stage2.1", "conv5")
    policy = Policy("classification", "confidence", exits, (0.6, 0.6), (1.0,) * 3, (1.0,) * 3)
    modulation = replace(loaded.bundle.task("modulation"), policies={"careful": policy.to_dict()})
    return Predictor(Bundle(loaded.bundle.encoder, loaded.bundle.tasks | {"modulation": modulation}), loaded.backend)


@pytest.fixture(scope="module")
def engine(predictor: Predictor) -> Iterator[Engine]:
    with Engine(predictor) as running:
        yield running


def pieces(
    samples: np.ndarray, cuts: Sequence[int], first: int = 0, gaps: tuple[StreamGap, ...] = ()
) -> list[SampleChunk]:
    """Samples ``(count, channels)`` divided at some places."""
    borders = [0, *sorted(set(cuts)), len(samples)]
    return [
        SampleChunk(iq(samples[start:stop]), first + start, time.monotonic(), gaps if start == 0 else ())
        for start, stop in pairwise(borders)
        if stop > start
    ]


def expected(
    predictor: Predictor, samples: np.ndarray, starts: Sequence[int], tasks: Sequence[str] = TASKS, **how: Any
) -> list[dict[str, Any]]:
    """What the predictor says about the windows that begin at some samples."""
    windows = np.stack([iq(samples[start : start + WINDOW]) for start in starts])
    found = predictor.predict(windows, tasks, **how)
    return [
        {
            "task": name,
            "prediction": found[name].labels[n] if name == "modulation" else found[name].outputs[n],
            "confidence": found[name].confidence[n] if name == "modulation" else None,
            "exit": found[name].exits[n],
            "sample": start,
        }
        for n, start in enumerate(starts)
        for name in tasks
    ]


def check_same(records: list[dict[str, Any]], wanted: list[dict[str, Any]], first: int = 0) -> None:
    answers = [record for record in records if "event" not in record]
    assert len(answers) == len(wanted)
    tasks = len({record["task"] for record in wanted})
    for number, (record, want) in enumerate(zip(answers, wanted, strict=True)):
        assert record["index"] == first + number // tasks
        assert (record["task"], record["exit"], record["sample"]) == (want["task"], want["exit"], want["sample"])
        if isinstance(want["prediction"], str):
            assert record["prediction"] == want["prediction"]
            assert record["confidence"] == pytest.approx(want["confidence"], abs=1e-5)
        else:
            np.testing.assert_allclose(record["prediction"], want["prediction"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_answers_are_those_of_the_predictor_whatever_the_pieces(predictor: Predictor, engine: Engine, seed: int):
    rng, samples = np.random.default_rng(seed), noise(5000, seed=seed)
    hop = int(rng.choice([16, 48, 64, 100]))
    chunks = pieces(samples, rng.integers(1, 5000, rng.integers(0, 60)).tolist())
    kept = Kept()
    report = run_stream(Given(chunks, rate=1e6), engine, plan_stream(predictor.bundle, hop=hop), kept, StopFlag())
    starts = range(0, 5000 - WINDOW + 1, hop)
    check_same(kept, expected(predictor, samples, starts))
    assert (report.windows, report.samples, report.lost, report.cut_off) == (len(starts), 5000, 0, False)
    assert [record["time"] for record in kept[:4:2]] == [0.0, hop / 1e6]


def test_gaps_are_records_and_no_window_reaches_over_them(predictor: Predictor, engine: Engine):
    samples = noise(1000)
    chunks = pieces(samples[:300], [100])
    chunks += pieces(samples[400:650], [50], 400, (StreamGap("lost", 100),))
    chunks += pieces(samples[650:1000], [], 650, (StreamGap("setting"),))
    kept = Kept()
    report = run_stream(Given(chunks), engine, plan_stream(predictor.bundle, ["modulation"]), kept, StopFlag())
    starts = [*range(0, 237, 64), *range(400, 587, 64), *range(650, 937, 64)]
    check_same(kept, expected(predictor, samples, starts, ["modulation"]))
    assert kept[4] == {"event": "gap", "sample": 400, "lost": 100, "reason": "lost"}
    assert [record for record in kept if "event" in record] == [kept[4]]
    assert (report.gaps, report.lost) == ({"lost": (1, 100)}, 100)
    assert "100 samples lost in 1 gap (100 lost in 1)" in report.sentence


def test_windows_that_cannot_be_answered_are_named_and_spoil_no_other(predictor: Predictor, engine: Engine):
    samples = noise(64 * 40)
    samples[64 * 7 + 3] = np.nan
    samples[64 * 21] = np.inf
    kept = Kept()
    report = run_stream(
        Given(pieces(samples, [])), engine, plan_stream(predictor.bundle, ["modulation"]), kept, StopFlag()
    )
    events = [record for record in kept if "event" in record]
    assert [(event["event"], event["index"], event["sample"]) for event in events] == [
        ("unusable", 7, 448), ("unusable", 21, 1344)
    ]  # fmt: skip
    assert events[0]["reason"] == "NaN or infinity"
    assert [kept.index(event) for event in events] == [7, 21]
    answered = [n for n in range(40) if n not in (7, 21)]
    wanted = expected(predictor, samples, [64 * n for n in answered], ["modulation"])
    assert [record["prediction"] for record in kept if "event" not in record] == [want["prediction"] for want in wanted]
    assert (report.windows, report.unusable) == (38, 2)


@pytest.mark.parametrize("hop", [1, 64, 150])
@pytest.mark.parametrize("most", [1, 64, 70, 200])
def test_an_end_after_so_many_windows(predictor: Predictor, engine: Engine, hop: int, most: int):
    kept = Kept()
    plan = plan_stream(predictor.bundle, ["modulation"], hop=hop, stop_after=most)
    endless = Given(pieces(noise(40_000), range(0, 40_000, 777)))
    report = run_stream(endless, engine, plan, kept, StopFlag())
    assert ([record["index"] for record in kept], report.windows) == ([*range(most)], most)
    assert not report.cut_off


def test_exit_and_policy(predictor: Predictor, engine: Engine):
    samples, kept = noise(64 * 30), Kept()
    run_stream(
        Given(pieces(samples, [])),
        engine,
        plan_stream(predictor.bundle, ["modulation"], exit="conv5"),
        kept,
        StopFlag(),
    )
    assert {record["exit"] for record in kept} == {"conv5"}
    kept = Kept()
    plan = plan_stream(predictor.bundle, ["modulation"], policy="careful")
    run_stream(Given(pieces(samples, [])), engine, plan, kept, StopFlag())
    check_same(kept, expected(predictor, samples, range(0, 64 * 30, 64), ["modulation"], policy="careful"))
    with pytest.raises(EngineError, match="cannot leave at 'nowhere'"):
        run_stream(
            Given(pieces(samples, [])), engine, plan_stream(predictor.bundle, exit="nowhere"), Kept(), StopFlag()
        )


class Slow(Kept):
    """Takes nothing until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = threading.Event()

    def write(self, records: Sequence[Any]) -> None:
        assert self.may.wait(20)
        super().write(records)


class Opening(Given):
    """Lets an output go on once all chunks are in."""

    def __init__(self, chunks: Sequence[SampleChunk], output: Slow) -> None:
        super().__init__(chunks)
        self._output = output

    def chunks(self, stop: StopFlag) -> Iterator[SampleChunk]:
        yield from super().chunks(stop)
        self._output.may.set()


@pytest.mark.parametrize("policy", ["drop-oldest", "drop-newest"])
def test_who_is_behind_drops_and_says_so(predictor: Predictor, engine: Engine, policy: Any):
    samples, slow = noise(64 * 2000), Slow()
    plan = plan_stream(predictor.bundle, ["modulation"], when_behind=policy, buffer=64 * 50)
    report = run_stream(Opening(pieces(samples, range(0, 128_000, 160)), slow), engine, plan, slow, StopFlag())
    gaps = [record for record in slow if record.get("event") == "gap"]
    answers = [record for record in slow if "event" not in record]
    lost = sum(gap["lost"] for gap in gaps)
    assert gaps
    assert {gap["reason"] for gap in gaps} == {"behind"}
    assert report.gaps == {"behind": (len(gaps), lost)}
    check_same(slow, expected(predictor, samples, [record["sample"] for record in answers], ["modulation"]))
    last = answers[-1]["sample"] + WINDOW
    assert (last > 64 * 1990) == (policy == "drop-oldest")  # the newest are answered, or the oldest
    assert report.samples == 128_000
    if policy == "drop-newest":
        assert slow[-1] == {"event": "gap", "sample": None, "lost": lost, "reason": "behind"}


def test_who_blocks_loses_nothing(predictor: Predictor, engine: Engine):
    samples, slow = noise(64 * 500), Slow()
    plan = plan_stream(predictor.bundle, ["modulation"], when_behind="block", buffer=64 * 20)
    threading.Timer(0.3, slow.may.set).start()
    report = run_stream(Given(pieces(samples, range(0, 32_000, 160))), engine, plan, slow, StopFlag())
    assert (report.windows, report.lost, len(slow)) == (500, 0, 500)


def test_what_came_in_is_answered_when_the_end_is_asked_for(predictor: Predictor, engine: Engine):
    stop, kept = StopFlag(), Kept()

    class Endless(Given):
        def chunks(self, stop: StopFlag) -> Iterator[SampleChunk]:
            self.given = 0
            while not stop.asked:
                yield from pieces(noise(100), [], self.given)
                self.given += 100
                time.sleep(0.001)

    source = Endless(pieces(noise(1), []))
    threading.Timer(0.3, lambda: setattr(stop, "asked", True)).start()
    report = run_stream(source, engine, plan_stream(predictor.bundle, ["modulation"]), kept, stop)
    assert report.windows == len(kept) == source.given // WINDOW
    assert report.cut_off
    assert report.delay_ms is not None
    assert 0 < report.delay_ms[0] <= report.delay_ms[1]


def test_a_source_that_breaks_off_is_answered_first(predictor: Predictor, engine: Engine):
    class Broken(Given):
        def chunks(self, stop: StopFlag) -> Iterator[SampleChunk]:
            yield from super().chunks(stop)
            raise DataError("the radio fell off the table")

    kept = Kept()
    with pytest.raises(DataError, match="table"):
        run_stream(
            Broken(pieces(noise(640), [])), engine, plan_stream(predictor.bundle, ["modulation"]), kept, StopFlag()
        )
    assert len(kept) == 10


def test_an_output_that_closes_ends_the_source(predictor: Predictor, engine: Engine):
    class Closed(Kept):
        def write(self, records: Sequence[Any]) -> None:
            raise BrokenPipeError

    chunks = [chunk for n in range(2000) for chunk in pieces(noise(64), [], 64 * n)]
    with pytest.raises(BrokenPipeError):
        run_stream(Given(chunks), engine, plan_stream(predictor.bundle, buffer=1000), Closed(), StopFlag())
    names = [thread.name for thread in threading.enumerate()]
    assert "offramp-stream-source" not in names


def test_status_is_told_on_the_way(predictor: Predictor, engine: Engine):
    said: list[Any] = []

    class Lasting(Given):
        def chunks(self, stop: StopFlag) -> Iterator[SampleChunk]:
            yield from super().chunks(stop)
            time.sleep(1.2)

    run_stream(Lasting(pieces(noise(640), [])), engine, plan_stream(predictor.bundle), Kept(), StopFlag(), said.append)
    assert (said[-1].samples, said[-1].windows, said[-1].waiting, said[-1].dropped) == (640, 10, 0, 0)


# --- what can be asked


def bundle_of(*tasks: BundleTask) -> Bundle:
    return Bundle({}, {each.name: each for each in tasks})


def plain(name: str, shape: tuple[int, ...], rate: float | None = None) -> BundleTask:
    from bundles import small_shufflenet

    made = one_task(small_shufflenet(), name, "stem", shape, ("a", "b"))
    return replace(made, data={"sample_rate": rate} if rate else {"hop": 10})


def test_a_plan_takes_hop_and_shape_from_the_task():
    plan = plan_stream(bundle_of(plain("t", (2, 3, 128))))
    assert (plan.channels, plan.window, plan.hop, plan.buffer, plan.names) == (3, 128, 10, 2**20, ["t"])
    assert plan_stream(bundle_of(plain("t", (2, 3, 128), 1.0))).hop == 128
    assert plan_stream(bundle_of(plain("t", (2, 3, 128))), hop=7, buffer=1).buffer == 256


@pytest.mark.parametrize(
    ("shapes", "options", "words"),
    [
        ([(2, 1, 64), (2, 1, 128)], {}, "several shapes"),
        ([(1, 64, 64)], {}, "choose another --task"),
        ([(2, 64)], {}, "antennas, time"),
        ([(2, 1, 64)], {"hop": 0}, "--hop"),
        ([(2, 1, 64)], {"stop_after": 0}, "--stop-after"),
        ([(2, 1, 64)], {"buffer": -1}, "--buffer"),
        ([(2, 1, 64)], {"exit": "stem", "policy": "p"}, "give one"),
    ],
)
def test_plans_that_cannot_be(shapes: list[tuple[int, ...]], options: dict[str, Any], words: str):
    tasks = [plain(f"t{n}", shape) for n, shape in enumerate(shapes)]
    with pytest.raises(SuiteError, match=words):
        plan_stream(bundle_of(*tasks), **options)


def test_an_unknown_task():
    with pytest.raises(BundleError, match="unknown task 'x'"):
        plan_stream(bundle_of(plain("t", (2, 1, 64))), ["x"])


def test_another_sample_rate_is_refused_with_the_mend():
    plan = plan_stream(bundle_of(plain("t", (2, 1, 64), 1e6)))
    plan.check_rate("radio", 1e6 * (1 + 1e-7))
    with pytest.raises(DataError, match=r"2000000 Hz.*fitted at 1000000 Hz.*Rational Resampler.*--resample 1000000"):
        plan.check_rate("radio", 2e6)


@pytest.mark.parametrize(
    ("place", "receiving", "error", "words"),
    [
        ("radio", {}, SuiteError, "give stdin"),
        ("udp://127.0.0.1:5000", {}, SuiteError, "--datatype"),
        ("udp://127.0.0.1:5000", {"datatype": "cf32_le", "tags": True}, SuiteError, "--tags says nothing"),
        ("udp://127.0.0.1:5000", {"datatype": "rf32_le"}, DataError, "real"),
        ("udp://127.0.0.1:5000", {"datatype": "cf32_le", "channels": 2}, DataError, "2 channels, and"),
        ("udp://127.0.0.1:5000", {"datatype": "cf32_le", "sample_rate": 0.0}, SuiteError, "--sample-rate 0"),
        ("udp://127.0.0.1:5000", {"datatype": "cf32_le", "sample_rate": 2e6}, DataError, "fitted at"),
        ("zmq://127.0.0.1:5000", {"datatype": "cf32_le", "counter": "samples"}, SuiteError, "--counter says nothing"),
        ("zmq://127.0.0.1", {"datatype": "cf32_le"}, SuiteError, "zmq://127.0.0.1:5000"),
        ("a.sigmf-meta", {"datatype": "cf32_le"}, SuiteError, "--datatype says nothing"),
        ("a.sigmf-meta", {}, DataError, "a.sigmf-meta"),
        ("e3:a.trace", {"sample_rate": 1e6}, SuiteError, "--sample-rate says nothing"),
        ("e3:a.trace", {"numerology": 5}, SuiteError, "--numerology 5"),
        ("e3:a.trace", {}, DataError, "a.trace"),
    ],
)  # fmt: skip
def test_sources_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, receiving: dict[str, Any], error: Any, words: str
):
    monkeypatch.chdir(tmp_path)
    plan = plan_stream(bundle_of(plain("t", (2, 1, 64), 1e6)))
    with pytest.raises(error, match=words):
        open_source(place, plan, Receiving(**receiving))
