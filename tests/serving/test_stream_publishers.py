"""ZeroMQ: raw messages and those with GNU Radio's tags; drops, restarts, reconnects; and GNU Radio itself, where it is installed."""

from __future__ import annotations

import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming import Listening, free_port, free_tcp_port, wait_until

from offramp.errors import DataError, SuiteError
from offramp.serving.stream.chunks import SampleChunk, StopFlag, StreamGap
from offramp.serving.stream.formats import SampleFormat
from offramp.serving.stream.sources.publishers import MessageOrder
from offramp.serving.stream.sources.tags import StreamTag, read_tagged
from offramp.serving.stream.sources.udp import UdpSource
from offramp.serving.stream.sources.zeromq import ZmqSource

FORM = SampleFormat("cf32_le")
GNURADIO = Path("/usr/bin/python3")
GRAPH = Path(__file__).with_name("gnuradio_graph.py")


def has_gnuradio() -> bool:
    if not GNURADIO.exists():
        return False
    code = "import gnuradio.zeromq, gnuradio.network"
    return subprocess.run([GNURADIO, "-c", code], capture_output=True, check=False).returncode == 0


def content(first: int, count: int) -> bytes:
    """cf32 samples that say their number in I."""
    number = np.arange(first, first + count, dtype=np.float32)
    return (number - 1j * number).astype(np.complex64).tobytes()


# --- the header of tags, by hand and as GNU Radio 3.10 sent it

SYMBOL = b"\x02\x00\x07rx_time"
TIME = bytes.fromhex("0c00000002" + "0b000000006553f100" + "043fd0000000000000")


def header(item: int, *tags: tuple[int, bytes, bytes]) -> bytes:
    body = b"".join(struct.pack("<Q", at) + key + value + b"\x01" for at, key, value in tags)
    return struct.pack("<HBQQ", 0x5FF0, 1, item, len(tags)) + body


def test_a_message_that_gnuradio_sent():
    """Taken from a ZMQ PUB Sink of GNU Radio 3.10.5 with pass_tags: the tag rx_time on item 5000, source "usrp"."""
    sent = bytes.fromhex(
        "f05f01 0010000000000000 0100000000000000 8813000000000000 02000772785f74696d65 0c00000002 0b000000006553f100 043fd0000000000000"
        "02000475737270"
    ) + content(4096, 3)
    found = read_tagged(memoryview(sent))
    assert (found.first, bytes(found.content)) == (4096, content(4096, 3))
    assert found.tags == (StreamTag(5000, "rx_time", (1_700_000_000, 0.25)),)


@pytest.mark.parametrize(
    ("serialised", "value"),
    [
        ("00", True), ("01", False), ("06", None), ("03fffffffb", -5), ("0dffffff0000000000", -(2**40)),
        ("0b8000000000000000", 2**63), ("043ff8000000000000", 1.5), ("053ff00000000000004000000000000000", 1 + 2j),
        ("02000161", "a"), ("07020001610300000005", ("a", 5)), ("07030000000107030000000207030000000306", (1, 2, 3)),
        ("09070200017a0009070200016b043ff800000000000006", (("z", True), ("k", 1.5))), ("08000000020606", (None, None)),
        ("0a00000000030100010203", b"\x01\x02\x03"), ("0a080000000201003f80000040000000", bytes.fromhex("3f80000040000000")),
    ],
)  # fmt: skip
def test_values_of_tags(serialised: str, value: Any):
    """As pmt.serialize_str of GNU Radio 3.10 writes them."""
    sent = header(0, (0, SYMBOL, bytes.fromhex(serialised))) + content(0, 1)
    found = read_tagged(memoryview(sent))
    assert (found.tags[0].value, bytes(found.content)) == (value, content(0, 1))


@given(st.integers(0, 200), st.binary(max_size=3), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_headers_are_refused(cut: int, noise: bytes, data: st.DataObject):
    sent = bytearray(header(7, (8, SYMBOL, TIME), (9, SYMBOL, TIME)))
    for byte in noise:
        sent[data.draw(st.integers(0, len(sent) - 1))] = byte
    refused = _refused(bytes(sent[:cut]))  # and by no other error
    if not noise:
        assert refused == (cut < len(sent))


def _refused(message: bytes) -> bool:
    """Whether it is, and not by any other error."""
    try:
        read_tagged(memoryview(message))
    except DataError:
        return True
    return False


def test_endless_nesting_is_refused():
    sent = header(0, (0, SYMBOL, b"\x08\x00\x00\x00\x01" * 500 + b"\x06"))
    with pytest.raises(DataError, match="nested"):
        read_tagged(memoryview(sent))
    with pytest.raises(DataError, match="tags"):
        read_tagged(memoryview(struct.pack("<HBQQ", 0x5FF0, 1, 0, 2**40)))
    with pytest.raises(DataError, match="version 2"):
        read_tagged(memoryview(struct.pack("<HBQQ", 0x5FF0, 2, 0, 0)))


# --- the order of messages


def ordered(tagged: bool = True, rate: float | None = None) -> MessageOrder:
    return MessageOrder(FORM, tagged, rate, {}, lambda _: None)


def rx_time(seconds: float) -> bytes:
    whole = int(seconds)
    return b"\x0c\x00\x00\x00\x02\x0b" + struct.pack(">Q", whole) + b"\x04" + struct.pack(">d", seconds - whole)


@given(st.lists(st.tuples(st.integers(1, 20), st.booleans()), min_size=1, max_size=20), st.integers(0, 10**12))
@settings(max_examples=200, deadline=None)
def test_dropped_messages_are_counted(messages: list[tuple[int, bool]], began: int):
    order, item, due = ordered(), began, None
    for number, (count, dropped) in enumerate(messages):
        if number == 0 or not dropped:
            (part,) = order.place(memoryview(header(item) + content(0, count)))
            missing = 0 if due is None else item - due
            assert part.first == item - began
            assert part.gaps == ((StreamGap("lost", missing),) if missing else ())
            due = item + count
        item += count


def test_a_publisher_that_begins_anew():
    order = ordered()
    order.place(memoryview(header(500) + content(0, 10)))
    (part,) = order.place(memoryview(header(0) + content(0, 10)))
    assert (part.first, part.gaps) == (10, (StreamGap("restarted", None),))


def test_a_time_that_runs_ahead_is_an_overflow_of_the_receiver():
    order = ordered(rate=1000.0)
    (first,) = order.place(memoryview(header(0, (0, SYMBOL, rx_time(100.0))) + content(0, 50)))
    before, after = order.place(memoryview(header(50, (60, SYMBOL, rx_time(100.1))) + content(50, 20)))
    assert first.time == np.datetime64("1970-01-01T00:01:40", "ns")
    assert (before.first, before.gaps, len(before.content)) == (50, (), 80)
    assert (after.first, after.gaps, after.time) == (
        100, (StreamGap("overflow", 40),), np.datetime64("1970-01-01T00:01:40.1", "ns")
    )  # fmt: skip
    (then,) = order.place(memoryview(header(70, (70, SYMBOL, rx_time(100.11))) + content(70, 5)))
    assert (then.first, then.gaps) == (110, ())


def test_a_time_that_goes_back_breaks_the_stream():
    order = ordered(rate=1000.0)
    order.place(memoryview(header(0, (0, SYMBOL, rx_time(100.0))) + content(0, 50)))
    (part,) = order.place(memoryview(header(50, (50, SYMBOL, rx_time(90.0))) + content(0, 50)))
    assert part.gaps == (StreamGap("overflow", None),)


def test_another_frequency_is_another_setting():
    order, key = ordered(), b"\x02\x00\x07rx_freq"
    tuned = [b"\x04" + struct.pack(">d", hertz) for hertz in (1e9, 1e9, 2e9)]
    (first,) = order.place(memoryview(header(0, (0, key, tuned[0])) + content(0, 10)))
    before, after = order.place(memoryview(header(10, (12, key, tuned[1]), (15, key, tuned[2])) + content(10, 10)))[-2:]
    assert [part.about for part in (first, before, after)] == [{"frequency": 1e9}] * 2 + [{"frequency": 2e9}]
    assert [part.gaps for part in (first, before, after)] == [(), (), (StreamGap("setting"),)]


def test_a_rate_that_is_told_is_passed_on():
    told: list[float] = []
    order = MessageOrder(FORM, True, None, {}, told.append)
    order.place(memoryview(header(0, (0, b"\x02\x00\x07rx_rate", b"\x04" + struct.pack(">d", 2e6))) + content(0, 1)))
    assert (told, order.sample_rate) == ([2e6], 2e6)


# --- through sockets


class Publisher:
    """A PUB socket that knows when somebody listens."""

    def __init__(self, port: int | None = None) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.LINGER, 2000)
        self.socket.setsockopt(zmq.RCVTIMEO, 20_000)
        self.port = port or self.socket.bind_to_random_port("tcp://127.0.0.1")
        if port:
            self.socket.bind(f"tcp://127.0.0.1:{port}")

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.context.term()

    def wait(self) -> None:
        assert self.socket.recv() == b"\x01"


def source_at(port: int, tagged: bool = False, **options: Any) -> ZmqSource:
    return ZmqSource(f"zmq://127.0.0.1:{port}", FORM, options.pop("rate", None), tagged, **options)


def numbers(chunks: list[SampleChunk]) -> list[float]:
    return np.concatenate([chunk.samples[0, 0] for chunk in chunks]).tolist()


def gaps_of(chunks: list[SampleChunk]) -> list[tuple[int, StreamGap]]:
    return [(chunk.first, gap) for chunk in chunks for gap in chunk.gaps]


def test_raw_messages_and_keys():
    with Publisher() as publisher, Listening(source_at(publisher.port, about={"frequency": 7.0})) as heard:
        publisher.wait()
        publisher.socket.send(content(0, 100))
        publisher.socket.send_multipart([b"key", content(100, 50)])
        heard.wait_for(150)
    assert numbers(heard.chunks) == list(range(150))
    assert gaps_of(heard.chunks) == []
    assert heard.chunks[0].about == {"frequency": 7.0}


def test_a_publisher_that_goes_away_and_comes_back():
    port, notes = free_tcp_port(), []
    with Listening(source_at(port, on_note=notes.append)) as heard:
        with Publisher(port) as first:
            first.wait()
            for number in range(200):
                first.socket.send(content(100 * number, 100))
        heard.wait_for(20_000)
        wait_until(lambda: notes and "went away" in notes[-1])
        with Publisher(port) as second:
            second.wait()
            second.socket.send(content(5, 100))
            heard.wait_for(20_100)
    assert numbers(heard.chunks) == [*range(20_000), *range(5, 105)]
    assert gaps_of(heard.chunks) == [(20_000, StreamGap("reconnected", None))]


def test_what_is_left_of_a_connection_comes_before_what_the_next_one_brings():
    """Though nobody reads for a while."""
    port, wait, stop, order = free_tcp_port(), threading.Event(), StopFlag(), []

    def read() -> None:
        for chunk in source_at(port).chunks(stop):
            order.extend(chunk.samples[0, 0].tolist())
            wait.wait(20)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    with Publisher(port) as first:
        first.wait()
        first.socket.send(content(0, 1000))
        wait_until(lambda: order)
        for number in range(1, 20):
            first.socket.send(content(1000 * number, 1000))
    with Publisher(port) as second:
        time.sleep(1.0)
        wait.set()
        second.wait()
        for number in range(20, 30):
            second.socket.send(content(1000 * number, 1000))
        wait_until(lambda: len(order) >= 30_000)
    stop.asked = True
    reading.join(10)
    assert order == list(range(30_000))


def test_a_publisher_that_is_not_there_yet():
    port, notes = free_tcp_port(), []
    with Listening(source_at(port, on_note=notes.append)) as heard:
        wait_until(lambda: notes)
        with Publisher(port) as publisher:
            publisher.wait()
            publisher.socket.send(content(0, 10))
            heard.wait_for(10)
    assert ["nobody publishes" in note for note in notes[:2]] in ([True], [True, False])
    assert gaps_of(heard.chunks) == []


def test_silent_drops_are_found_by_the_count_of_items():
    with Publisher() as publisher, Listening(source_at(publisher.port, tagged=True)) as heard:
        publisher.wait()
        for number in range(20):
            if number not in (7, 8, 15):
                publisher.socket.send(header(1000 + 10 * number) + content(10 * number, 10))
        heard.wait_for(170)
    assert gaps_of(heard.chunks) == [(90, StreamGap("lost", 20)), (160, StreamGap("lost", 10))]


@pytest.mark.parametrize(
    ("tagged", "message", "words"),
    [
        (False, header(0) + content(0, 10), "--tags"),
        (False, bytes(13), "--datatype"),
        (True, content(0, 10), "pass_tags"),
        (True, header(0) + bytes(13), "13 bytes"),
    ],
)
def test_messages_of_another_form_end_it_at_once(tagged: bool, message: bytes, words: str):
    with Publisher() as publisher, Listening(source_at(publisher.port, tagged)) as heard:
        publisher.wait()
        publisher.socket.send(message)
        wait_until(lambda: heard.error)
    assert isinstance(heard.error, DataError)
    assert words in str(heard.error)
    assert f"zmq://127.0.0.1:{publisher.port}" in str(heard.error)


def test_a_spoiled_message_later_on_is_a_gap():
    notes: list[str] = []
    with Publisher() as publisher, Listening(source_at(publisher.port, on_note=notes.append)) as heard:
        publisher.wait()
        for message in (content(0, 10), bytes(13), bytes(3), content(10, 10)):
            publisher.socket.send(message)
        heard.wait_for(20)
    assert gaps_of(heard.chunks) == [(10, StreamGap("malformed", None))]
    assert len(notes) == 1


def test_a_rate_that_contradicts_what_was_said():
    rate = header(0, (0, b"\x02\x00\x07rx_rate", b"\x04" + struct.pack(">d", 2e6)))
    with Publisher() as publisher, Listening(source_at(publisher.port, True, rate=1e6)) as heard:
        publisher.wait()
        publisher.socket.send(rate + content(0, 1))
        wait_until(lambda: heard.error)
    assert isinstance(heard.error, SuiteError)
    assert "leave it out" in str(heard.error)


# --- GNU Radio

needs_gnuradio = pytest.mark.skipif(not has_gnuradio(), reason="GNU Radio is not installed")


@pytest.fixture
def graph() -> Iterator[Any]:
    """Starts flow graphs, and lets them run when they are called."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object) -> Any:
        process = subprocess.Popen([GNURADIO, GRAPH, *map(str, arguments)], stdin=subprocess.PIPE)
        running.append(process)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()

    yield start
    for process in running:
        process.communicate(b"\n", timeout=20)


@needs_gnuradio
@pytest.mark.parametrize("key", ["", "key"])
def test_a_sink_of_gnuradio(graph: Any, key: str):
    """A PUB sink sends from the start, whoever listens: the first samples may be missed, none of the others is."""
    port = free_tcp_port()
    with Listening(source_at(port)) as heard:
        graph("zmq", f"tcp://127.0.0.1:{port}", "plain", key, 60_000, "cf32")
        wait_until(lambda: heard.chunks and numbers(heard.chunks)[-1] == 59_999)
    got = numbers(heard.chunks)
    assert got == list(range(int(got[0]), 60_000))
    assert len(got) > 20_000


@needs_gnuradio
@pytest.mark.parametrize("form", ["cf32", "ci16"])
def test_a_sink_of_gnuradio_that_passes_tags(graph: Any, form: str):
    port, told = free_tcp_port(), []
    source = ZmqSource(f"zmq://127.0.0.1:{port}", SampleFormat(f"{form}_le"), None, True, on_rate=told.append)
    with Listening(source) as heard:
        time.sleep(0.5)
        graph("zmq", f"tcp://127.0.0.1:{port}", "tags", "", 60_000, form)
        wait_until(lambda: heard.count >= 20_000 and heard.chunks[-1].samples.size and done(heard, form))
    got = numbers(heard.chunks) if form == "cf32" else np.round(np.array(numbers(heard.chunks)) * 2**15).tolist()
    assert got == [number % (30_000 if form == "ci16" else 10**9) for number in range(60_000 - len(got), 60_000)]
    joined_in = 60_000 - len(got)
    # the tags of items that were missed are not heard of
    assert told == ([1e6] if joined_in == 0 else [])
    if joined_in == 0:
        assert gaps_of(heard.chunks) == [(6500, StreamGap("overflow", 500))]
        assert {chunk.about.get("frequency") for chunk in heard.chunks} == {2.4e9}
        assert heard.chunks[0].time == np.datetime64("2023-11-14T22:13:20.25", "ns")
    else:
        assert gaps_of(heard.chunks) == []


def done(heard: Listening, form: str) -> bool:
    last = float(heard.chunks[-1].samples[0, 0, -1])
    return last == 59_999 if form == "cf32" else round(last * 2**15) == 29_999


@needs_gnuradio
def test_a_udp_sink_of_gnuradio(graph: Any):
    port, notes = free_port(), []
    source = UdpSource(f"udp://127.0.0.1:{port}", FORM, None, "datagrams", on_note=notes.append)
    with Listening(source) as heard:
        wait_until(lambda: notes)
        graph("udp", "127.0.0.1", port, 35_000)
        heard.wait_for(34_825)
    got = numbers(heard.chunks)
    assert got == list(range(len(got)))
    assert (len(got) % 175, gaps_of(heard.chunks)) == (0, [])
