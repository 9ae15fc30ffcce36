"""Load over HTTP/1.1 from one thread: what is due is sent when it is due, whether answers have come or not.

Connections are kept alive and carry one request at a time. While something is due within a millisecond the thread does not sleep, so give it a core of its own
(:func:`alone_on`). A request that finds no free connection opens one, up to a limit; beyond it waits, and that counts as its time: all times are from when a request was due.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPIN_S = 1e-3
UNANSWERED = 0
"""The status of a request that got no answer."""


@dataclass(frozen=True)
class Outcome:
    """What became of requests, in the order in which they were due.

    Attributes:
        due: Seconds from the start, (N,).
        status: Of HTTP, (N,); 0 for none.
        seconds: From due to the last byte of the answer, (N,); infinite for none.
        late_sent: Seconds from due to the first byte sent, (N,).
    """

    due: NDArray[np.float64]
    status: NDArray[np.int64]
    seconds: NDArray[np.float64]
    late_sent: NDArray[np.float64]

    @property
    def good(self) -> NDArray[np.bool_]:
        """Who was answered with 200."""
        return self.status == 200

    def quantile_ms(self, share: float) -> float:
        """Of the time of all requests; whoever was refused or failed counts as never answered."""
        times = np.sort(np.where(self.good, self.seconds, np.inf))
        return 1e3 * float(times[min(len(times) - 1, int(np.ceil(share * len(times))) - 1)]) if len(times) else np.inf


def post(path: str, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """The bytes of a request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def alone_on(core: int) -> None:
    """Keep this process to one core, if there are several."""
    if len(os.sched_getaffinity(0)) > 1 or (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


def poisson_times(rate: float, seconds: float, seed: int = 0) -> NDArray[np.float64]:
    """Of arrivals, in seconds."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate, int(rate * seconds + 10 * np.sqrt(rate * seconds) + 10))
    times = np.cumsum(gaps)
    return times[times < seconds]


class Connection:
    """One request at a time: what is left to send, what came, and whose it is."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.request = -1
        self.unsent = memoryview(b"")
        self.came = bytearray()
        self.begins = 0
        self.expected: int | None = None

    def ask(self, request: bytes) -> bytes:
        """Send a request and wait for its answer. Raises OSError if it is not answered with 200."""
        self.socket.setblocking(True)
        self.socket.sendall(request)
        while (answer := self.receive()) is None:
            pass
        status, body = answer
        if status != 200:
            raise OSError(f"{status}: {body[:200]!r}")
        return body

    def send(self) -> bool:
        """As much as there is room for; True if all is sent."""
        while self.unsent:
            try:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
            except BlockingIOError:
                return False
        return True

    def receive(self) -> tuple[int, bytes] | None:
        """Status and body of the answer once it is whole, None before; the connection is free then.

        Raises:
            OSError: The server hung up, or says nothing about the length.
        """
        try:
            part = self.socket.recv(1 << 18)
        except BlockingIOError:
            return None
        if not part:
            raise ConnectionResetError("the server hung up")
        self.came += part
        if not self.begins:
            ends = self.came.find(b"\r\n\r\n")
            if ends < 0:
                return None
            self.begins, head = ends + 4, bytes(self.came[:ends]).lower()
            length = head.find(b"\r\ncontent-length:")
            if length >= 0:
                self.expected = self.begins + int(head[length + 17 :].split(b"\r\n", 1)[0])
            elif b"transfer-encoding: chunked" in head:
                self.expected = None
            else:
                raise OSError(f"an answer without its length: {head!r}")
        if self.expected is None:
            body = _unchunked(self.came, self.begins)
        else:
            body = bytes(self.came[self.begins :]) if len(self.came) >= self.expected else None
        if body is None:
            return None
        status = int(self.came[9:12])
        self.request, self.begins = -1, 0
        self.came.clear()
        return status, body


def _unchunked(came: bytearray, place: int) -> bytes | None:
    """The chunks from a place on, None while the last has not come."""
    parts = []
    while (line := came.find(b"\r\n", place)) >= 0:
        size = int(came[place:line].split(b";")[0], 16)
        if len(came) < line + 4 + size:
            return None
        if size == 0:
            return b"".join(parts)
        parts.append(bytes(came[line + 2 : line + 2 + size]))
        place = line + 4 + size
    return None


class _Load:
    """The state of one run of load."""

    def __init__(
        self, port: int, request: Callable[[int], bytes], most: int, seen: Callable[[int, bytes], None] | None
    ) -> None:
        self.port, self.request, self.most, self.seen = port, request, most, seen
        self.poll = select.epoll()
        self.open: dict[int, Connection] = {}
        self.free: list[Connection] = []
        self.waiting: deque[int] = deque()
        self.status: dict[int, int] = {}
        self.ended: dict[int, float] = {}
        self.sent: dict[int, float] = {}
        self.fresh: list[int] = []

    def ask(self, number: int) -> None:
        """Send a request, or let it wait for a connection."""
        if not self.free and len(self.open) >= self.most:
            self.waiting.append(number)
            return
        try:
            connection = self.free.pop() if self.free else self._connected()
        except OSError:
            self._end(number, UNANSWERED)
            return
        connection.request, connection.unsent = number, memoryview(self.request(number))
        self.sent[number] = time.perf_counter()
        try:
            if not connection.send():
                self.poll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)
        except OSError:
            self._lose(connection)

    def turn(self, timeout: float) -> list[int]:
        """Wait for what comes; gives the requests that have ended since the last turn."""
        for file, event in self.poll.poll(timeout):
            connection = self.open[file]
            try:
                if event & select.EPOLLOUT and connection.send():
                    self.poll.modify(connection.socket, select.EPOLLIN)
                if event & ~select.EPOLLOUT:
                    number, answer = connection.request, connection.receive()
                    if answer is None:
                        continue
                    status, body = answer
                    self.free.append(connection)
                    self._end(number, status)
                    if self.seen is not None:
                        self.seen(number, body)
            except OSError:
                self._lose(connection)
        while self.waiting and (self.free or len(self.open) < self.most):
            self.ask(self.waiting.popleft())
        fresh, self.fresh = self.fresh, []
        return fresh

    def close(self) -> None:
        for connection in self.open.values():
            connection.socket.close()
        self.poll.close()

    def _connected(self) -> Connection:
        connection = Connection(self.port)
        self.open[connection.socket.fileno()] = connection
        self.poll.register(connection.socket, select.EPOLLIN)
        return connection

    def _lose(self, connection: Connection) -> None:
        del self.open[connection.socket.fileno()]
        if connection in self.free:
            self.free.remove(connection)
        connection.socket.close()
        if connection.request >= 0:
            self._end(connection.request, UNANSWERED)

    def _end(self, number: int, status: int) -> None:
        self.status[number], self.ended[number] = status, time.perf_counter()
        self.fresh.append(number)


def open_loop(
    port: int,
    request: Callable[[int], bytes],
    due: NDArray[np.float64],
    most_connections: int = 256,
    patience_s: float = 5.0,
    seen: Callable[[int, bytes], None] | None = None,
) -> Outcome:
    """Send requests when they are due.

    Args:
        port: Of the server on this machine.
        request: The bytes of a request, by its number.
        due: Seconds from now, not falling, (N,).
        most_connections: At a time.
        patience_s: Seconds to wait for answers after the last request.
        seen: Called with the number and the body of each answer.
    """
    load = _Load(port, request, most_connections, seen)
    started, number = time.perf_counter(), 0
    while number < len(due) or len(load.ended) < len(due):
        now = time.perf_counter() - started
        while number < len(due) and due[number] <= now:
            load.ask(number)
            number += 1
        if number < len(due):
            left = due[number] - now - SPIN_S
        elif now > due[-1] + patience_s:
            break
        else:
            left = 0.1
        load.turn(max(0.0, left))
    load.close()
    numbers = range(len(due))
    beginning = started + due
    return Outcome(
        due,
        np.array([load.status.get(each, UNANSWERED) for each in numbers]),
        np.array([load.ended[each] if load.status.get(each) else np.inf for each in numbers]) - beginning,
        np.array([load.sent.get(each, np.inf) for each in numbers]) - beginning,
    )


def closed_loop(
    port: int,
    request: Callable[[int], bytes],
    outstanding: int,
    seconds: float,
    seen: Callable[[int, bytes], None] | None = None,
) -> Outcome:
    """Keep so many requests under way: an answer makes room for the next."""
    load = _Load(port, request, outstanding, seen)
    started = time.perf_counter()
    for number in range(outstanding):
        load.ask(number)
    number = outstanding
    while time.perf_counter() - started < seconds:
        for _ in load.turn(0.1):
            load.ask(number)
            number += 1
    while len(load.ended) < number and time.perf_counter() - started < seconds + 5:
        load.turn(0.1)
    load.close()
    due = np.array([load.sent.get(each, started) - started for each in range(number)])
    ended = np.array([load.ended.get(each, np.inf) for each in range(number)]) - started
    status = np.array([load.status.get(each, UNANSWERED) for each in range(number)])
    return Outcome(due, status, ended - due, np.zeros(number))
