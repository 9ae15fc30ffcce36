"""Bytes to samples as the sigmf library does it; samples to windows whatever pieces they come in; a ring that loses nothing without a word."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import sigmf
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.errors import DataError
from offramp.serving.stream.chunks import SampleChunk, StopFlag, StreamGap, joined
from offramp.serving.stream.clock import UNKNOWN, StreamClock
from offramp.serving.stream.cutter import WindowCutter
from offramp.serving.stream.formats import SampleFormat
from offramp.serving.stream.ring import SampleRing, WhenBehind

DATATYPES = ["cf32_le", "cf32_be", "cf64_le", "cf64_be", "ci8", "cu8", "ci16_le", "ci16_be", "cu16_le", "cu16_be"]
DATATYPES += ["ci32_le", "ci32_be", "cu32_le", "cu32_be"]


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_are_read_as_the_sigmf_library_reads_them(tmp_path: Path, datatype: str, channels: int):
    form = SampleFormat(datatype, channels)
    rng = np.random.default_rng(len(datatype))
    if "f" in datatype:
        values = rng.standard_normal(2 * channels * 50).astype(form.component)
    else:
        info = np.iinfo(form.component)
        values = rng.integers(
            info.min, info.max, 2 * channels * 50, dtype=form.component.newbyteorder("="), endpoint=True
        )
        values[:2] = info.min, info.max
        values = values.astype(form.component)
    content = values.tobytes()
    (tmp_path / "a.sigmf-data").write_bytes(content)
    recording = sigmf.SigMFFile(
        metadata={
            "global": {"core:datatype": datatype, "core:version": "1.2.0", "core:num_channels": channels},
            "captures": [{"core:sample_start": 0}],
            "annotations": [],
        },
        data_file=tmp_path / "a.sigmf-data",
    )
    expected = recording.read_samples(0, 50).reshape(50, channels)
    found = form.decode(content)
    assert (found.dtype, found.shape, len(content)) == (np.float32, (2, channels, 50), 50 * form.sample_bytes)
    np.testing.assert_array_equal(found[0], expected.real.T)
    np.testing.assert_array_equal(found[1], expected.imag.T)


@pytest.mark.parametrize(
    ("datatype", "channels", "words"),
    [("rf32_le", 1, "Hilbert"), ("ri16_le", 1, "no Q"), ("cf16", 1, "cf32_le"), ("cf32_le", 0, "channels")],
)
def test_other_datatypes_are_refused(datatype: str, channels: int, words: str):
    with pytest.raises(DataError, match=words):
        SampleFormat(datatype, channels)


# --- windows


def by_hand(stretches: list[tuple[int, int]], window: int, hop: int) -> list[int]:
    """Starts of the windows of stretches, each a first sample and a length."""
    return [first + start for first, length in stretches for start in range(0, length, hop) if start + window <= length]


def samples_of(first: int, count: int) -> np.ndarray:
    """I/Q of two antennas that says the number of every sample."""
    number = np.arange(first, first + count, dtype=np.float32)
    return np.stack([np.stack([number, number + 0.25]), np.stack([-number, -number - 0.25])])


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_pieces_give_the_windows_of_each_stretch(data: st.DataObject):
    window, hop = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 20))
    lengths = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=4))
    gaps = data.draw(st.lists(st.integers(0, 9), min_size=len(lengths), max_size=len(lengths)))
    cutter, at, stretches, starts = WindowCutter(window, hop, 2), 0, [], []
    for length, gap in zip(lengths, gaps, strict=True):
        at += gap
        stretches.append((at, length))
        broken, left = True, length
        while left:
            count = data.draw(st.integers(1, left))
            cut = cutter.feed(samples_of(at, count), at, broken)
            assert cut.windows.shape[1:] == (2, 2, window)
            for row, start in zip(cut.windows, cut.starts.tolist(), strict=True):
                np.testing.assert_array_equal(row, samples_of(start, window))
            starts += cut.starts.tolist()
            at, left, broken = at + count, left - count, False
    assert starts == by_hand(stretches, window, hop)


# --- the ring


def chunk_of(first: int, count: int, *gaps: StreamGap) -> SampleChunk:
    return SampleChunk(samples_of(first, count), first, 0.0, gaps)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_the_ring_keeps_the_order_and_names_what_it_drops(data: st.DataObject):
    policy: WhenBehind = data.draw(st.sampled_from(["drop-oldest", "drop-newest"]))
    capacity = data.draw(st.integers(1, 40))
    ring, stop, at, seen, lost, expected = SampleRing(capacity, policy, threading.Event()), StopFlag(), 0, 0, 0, 0
    largest = 0

    def take(most: int) -> bool:
        nonlocal seen, lost, expected
        if (taken := ring.take(most)) is None:
            return False
        dropped = sum(gap.lost or 0 for gap in taken.gaps if gap.reason == "behind")
        assert taken.count <= most
        assert taken.first == expected + dropped  # what is missing in between is what was said to be
        np.testing.assert_array_equal(taken.samples, samples_of(taken.first, taken.count))
        seen, lost, expected = seen + taken.count, lost + dropped, taken.first + taken.count
        return True

    for _ in range(data.draw(st.integers(1, 30))):
        if data.draw(st.booleans()):
            count = data.draw(st.integers(1, 15))
            ring.put(chunk_of(at, count), stop)
            at += count
            largest = max(largest, count)
            assert ring.waiting <= max(capacity, largest)  # an empty ring takes any chunk
        else:
            take(data.draw(st.integers(1, 20)))
    while take(7):
        pass
    assert seen + lost + sum(gap.lost or 0 for gap in ring.lost) == at == ring.taken_in


def test_gaps_of_what_is_dropped_are_kept():
    ring, stop = SampleRing(10, "drop-oldest", threading.Event()), StopFlag()
    ring.put(chunk_of(0, 8), stop)
    ring.put(chunk_of(20, 8, StreamGap("lost", 12)), stop)
    ring.put(chunk_of(28, 8), stop)
    taken = ring.take(100)
    assert taken is not None
    assert taken.first == 28
    assert taken.gaps == (StreamGap("behind", 8), StreamGap("lost", 12), StreamGap("behind", 8))


def test_newest_samples_that_were_dropped_at_the_end_are_told():
    ring, stop = SampleRing(10, "drop-newest", threading.Event()), StopFlag()
    ring.put(chunk_of(0, 8), stop)
    ring.put(chunk_of(8, 8), stop)
    ring.put(chunk_of(16, 8), stop)
    assert ring.lost == (StreamGap("behind", 16),)
    assert ring.take(100) is not None
    ring.put(chunk_of(24, 8), stop)
    taken = ring.take(100)
    assert taken is not None
    assert (taken.gaps, ring.lost) == ((StreamGap("behind", 16),), ())


def test_a_full_ring_that_blocks_waits_for_room():
    ring, stop = SampleRing(10, "block", threading.Event()), StopFlag()
    ring.put(chunk_of(0, 8), stop)
    putting = threading.Thread(target=ring.put, args=(chunk_of(8, 8), stop))
    putting.start()
    putting.join(0.3)
    assert putting.is_alive()
    assert ring.take(8) is not None
    putting.join(10)
    assert (putting.is_alive(), ring.waiting, ring.lost) == (False, 8, ())


def test_a_full_ring_takes_what_is_at_hand_when_the_end_is_asked_for():
    ring, stop = SampleRing(10, "block", threading.Event()), StopFlag()
    ring.put(chunk_of(0, 8), stop)
    stop.asked = True
    ring.put(chunk_of(8, 8), stop)
    assert ring.waiting == 16


def test_gaps_of_one_reason_are_one():
    known, unknown = StreamGap("lost", 3), StreamGap("lost", None)
    assert joined((known,), (known,)) == (StreamGap("lost", 6),)
    assert joined((known,), (unknown,)) == (unknown,)
    assert joined((known,), (StreamGap("behind", 1), known)) == (known, StreamGap("behind", 1), known)


# --- the clock


def test_times_follow_from_the_last_one_that_is_known():
    clock = StreamClock()
    assert clock.times(np.array([0, 5]), 10.0) == [0.0, 0.5]
    assert clock.times(np.array([0, 5]), None) == [None, None]
    clock.note(10, np.datetime64("2026-01-01T00:00:00", "ns"))
    clock.note(20, UNKNOWN)
    clock.note(30, np.datetime64("2026-01-01T00:01:00", "ns"))
    found = clock.times(np.array([5, 10, 15, 20, 30, 31]), 10.0)
    assert found == [0.5, *(f"2026-01-01T00:{at}Z" for at in ("00:00.000000000", "00:00.500000000")), 2.0,
                     *(f"2026-01-01T00:{at}Z" for at in ("01:00.000000000", "01:00.100000000"))]  # fmt: skip
    assert clock.times(np.array([35]), 10.0) == ["2026-01-01T00:01:00.500000000Z"]
    assert clock.times(np.empty(0, np.int64), 10.0) == []
