"""UDP: what is lost, late, doubled, of another sender or of no whole samples, by the counters and by the system."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming import Listening, free_port, wait_until

from offramp.errors import DataError, SuiteError
from offramp.serving.stream.chunks import StreamGap
from offramp.serving.stream.formats import SampleFormat
from offramp.serving.stream.sources.datagrams import DatagramOrder
from offramp.serving.stream.sources.udp import UdpSource

FORM = SampleFormat("ci16_le")


def content(first: int, count: int) -> bytes:
    """Samples that say their number in I and the negative of it in Q."""
    number = np.arange(first, first + count)
    return np.stack([number, -number], axis=1).astype("<i2").tobytes()


def datagram(counter: str, first: int, count: int, number: int) -> bytes:
    head = {"none": b"", "samples": first.to_bytes(8, "little"), "datagrams": (number + 1).to_bytes(8, "little")}
    return head[counter] + content(first, count)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_counters_find_what_was_lost_wherever_it_was(data: st.DataObject):
    """Datagrams of one length, some lost, some doubled, some overtaken by the next few."""
    counter = data.draw(st.sampled_from(["samples", "datagrams"]))
    count, total = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 40))
    kept = [number for number in range(total) if number == 0 or data.draw(st.integers(0, 3))]
    arriving = sorted(kept + data.draw(st.lists(st.sampled_from(kept), max_size=4)))
    swap = data.draw(st.lists(st.integers(0, max(0, len(arriving) - 2)), max_size=3))
    for at in swap:
        if at and at + 1 < len(arriving):
            arriving[at], arriving[at + 1] = arriving[at + 1], arriving[at]
    order, passed = DatagramOrder(counter, FORM.sample_bytes), -1
    for number in arriving:
        placed = order.place(memoryview(datagram(counter, number * count, count, number)), "sender")
        if number <= passed:
            assert placed is None
            continue
        assert placed is not None
        # samples are numbered as the sender numbers them, however many are lost
        assert (placed.first, bytes(placed.content)) == (number * count, content(number * count, count))
        missing = (number - passed - 1) * count
        assert placed.gaps == ((StreamGap("lost", missing),) if missing else ())
        passed = number
    assert order.late == len(arriving) - len(set(in_order(arriving)))


def in_order(arriving: list[int]) -> list[int]:
    """Those that come later than all with a lower number."""
    return [number for at, number in enumerate(arriving) if all(number > before for before in arriving[:at])]


def test_without_a_counter_the_system_says_what_it_dropped():
    order = DatagramOrder("none", 4)
    first = order.place(memoryview(content(0, 10)), "a", 0)
    then = order.place(memoryview(content(0, 10)), "a", 3)
    after = order.place(memoryview(content(0, 10)), "a", 3)
    assert first is not None
    assert then is not None
    assert after is not None
    assert (first.gaps, then.gaps, after.gaps) == ((), (StreamGap("overflow", 30),), ())
    assert (first.first, then.first, after.first) == (0, 40, 50)


def test_the_count_of_what_the_system_dropped_may_wrap_around():
    order = DatagramOrder("none", 4)
    order.place(memoryview(content(0, 10)), "a", 2**32 - 1)
    placed = order.place(memoryview(content(0, 10)), "a", 1)
    assert placed is not None
    assert placed.gaps == (StreamGap("overflow", 20),)


def test_another_sender_and_an_end_begin_anew():
    order = DatagramOrder("samples", 4)
    place = lambda first, sender: order.place(memoryview(datagram("samples", first, 5, 0)), sender)  # noqa: E731
    assert place(700, "a").first == 0
    assert place(705, "a").gaps == ()
    other = place(3, "b")
    assert (other.first, other.gaps) == (10, (StreamGap("sender", None),))
    assert order.place(memoryview(b""), "b") is None
    assert place(8, "b").gaps == (StreamGap("sender", None),)


def test_a_counter_that_goes_far_back_began_anew():
    order = DatagramOrder("samples", 4)
    for first in (0, 10**6, 10**6 + 10):
        placed = order.place(memoryview(datagram("samples", first, 10, 0)), "a")
    placed = order.place(memoryview(datagram("samples", 0, 10, 0)), "a")
    assert placed is not None
    assert (placed.first, placed.gaps) == (10**6 + 20, (StreamGap("restarted", None),))


@pytest.mark.parametrize("spoiled", [b"12345", b"1", b"12345678" + b"123"])
def test_no_whole_number_of_samples_is_a_gap(spoiled: bytes):
    order = DatagramOrder("samples", 4)
    order.place(memoryview(datagram("samples", 0, 5, 0)), "a")
    assert order.place(memoryview(spoiled), "a") is None
    assert order.place(memoryview(spoiled), "a") is None
    placed = order.place(memoryview(datagram("samples", 5, 5, 1)), "a")
    assert placed is not None
    assert (placed.gaps, order.malformed) == ((StreamGap("malformed", None),), 2)


# --- through a socket


@pytest.fixture
def sender() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        yield out


def test_samples_come_through_and_losses_are_named(sender: socket.socket):
    port, notes = free_port(), []
    source = UdpSource(f"udp://127.0.0.1:{port}", FORM, 1e6, "samples", {"frequency": 5.0}, notes.append)
    with Listening(source) as heard:
        wait_until(lambda: notes)
        for number in range(300):
            if number not in (50, 51, 200):
                sender.sendto(datagram("samples", 100 * number, 100, number), ("127.0.0.1", port))
        heard.wait_for(297 * 100)
    assert heard.error is None
    samples = np.concatenate([chunk.samples[0, 0] for chunk in heard.chunks])
    sent = [100 * number + at for number in range(300) if number not in (50, 51, 200) for at in range(100)]
    np.testing.assert_array_equal(samples * 2**15, sent)
    gaps = [(chunk.first, gap) for chunk in heard.chunks for gap in chunk.gaps]
    assert gaps == [(5200, StreamGap("lost", 200)), (20100, StreamGap("lost", 100))]
    assert heard.chunks[0].time is not None
    assert {chunk.about["frequency"] for chunk in heard.chunks} == {5.0}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say what they dropped")
def test_what_the_system_had_to_drop_is_counted(sender: socket.socket):
    """More than it holds before anybody reads."""
    port, total = free_port(), 8000
    source = UdpSource(f"udp://127.0.0.1:{port}", FORM, None)
    listener = source._listening()
    with listener:
        for _ in range(total):
            sender.sendto(content(0, 1000), ("127.0.0.1", port))
        chunks = list(source._waiting(listener))
        while got := list(source._waiting(listener)):
            chunks += got
        sender.sendto(content(0, 1000), ("127.0.0.1", port))
        wait_until(lambda: chunks.extend(more := list(source._waiting(listener))) or more)
    came = sum(chunk.count for chunk in chunks)
    lost = sum(gap.lost or 0 for chunk in chunks for gap in chunk.gaps)
    assert lost > 0
    assert came + lost == (total + 1) * 1000
    assert chunks[-1].first + chunks[-1].count == (total + 1) * 1000


def test_datagrams_that_do_not_fit_are_told_once(sender: socket.socket):
    port, notes = free_port(), []
    with Listening(UdpSource(f"udp://127.0.0.1:{port}", FORM, None, on_note=notes.append)) as heard:
        wait_until(lambda: notes)
        for size in (5, 7, 8):
            sender.sendto(bytes(size), ("127.0.0.1", port))
        heard.wait_for(2)
    assert len(notes) == 2
    assert "5 bytes" in notes[1]
    assert "--datatype" in notes[1]


def test_a_port_that_is_taken_is_refused(sender: socket.socket):
    sender.bind(("127.0.0.1", 0))
    source = UdpSource(f"udp://127.0.0.1:{sender.getsockname()[1]}", FORM, None)
    with Listening(source) as heard:
        wait_until(lambda: heard.error)
    assert isinstance(heard.error, DataError)
    assert "choose another port" in str(heard.error)


@pytest.mark.parametrize(
    "address", ["udp://", "udp://127.0.0.1", "udp://:5000", "udp://a:b", "udp://a:5/x", "udp://u@a:5", "udp://a:70000"]
)
def test_addresses_that_are_none(address: str):
    with pytest.raises(SuiteError, match=r"udp://127\.0\.0\.1:5000"):
        UdpSource(address, FORM, None)
