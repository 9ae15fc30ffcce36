"""Connections that say half of something, nothing, too much, or something else than HTTP, to both ports; some stay open in the background until the server closes them."""

from __future__ import annotations

import random
import socket
import threading
import time
from contextlib import suppress

from .pools import NAMES
from .target import HOST, PATIENCE_S, Target, exchange, in_json_of, leave, request
from .trials import Trials

OPEN_AT_ONCE = 300
"""Connections that wait for the server to close them."""
CLOSES_S = 100.0
"""Time in which it must have: a recording may take 60 s to come."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Waiting:
    """Connections that said half of something, and then nothing or a letter now and then: the server is to close them by itself."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials
        self._open: list[tuple[socket.socket, float, str]] = []
        self._slow: set[socket.socket] = set()
        self._over = threading.Event()
        self._dripping = threading.Thread(target=self._drip)

    def __enter__(self) -> Waiting:
        self._dripping.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._settle(0)
        finally:
            self._over.set()
            self._dripping.join()

    def add(self, port: int, content: bytes, kind: str, slow: bool = False) -> None:
        """Open one more."""
        if len(self._open) >= OPEN_AT_ONCE:
            self._settle(OPEN_AT_ONCE // 2)
        connection = socket.create_connection((HOST, port), PATIENCE_S)
        with suppress(OSError):
            connection.sendall(content)
        self._open.append((connection, time.monotonic(), kind))
        if slow:
            self._slow.add(connection)

    def _drip(self) -> None:
        while not self._over.wait(0.5):
            for connection in list(self._slow):
                with suppress(OSError):
                    connection.send(b"a")

    def _settle(self, most: int) -> None:
        """Wait until no more than so many are open."""
        while len(self._open) > most:
            connection, since, kind = self._open.pop(0)
            connection.settimeout(max(0.01, since + CLOSES_S - time.monotonic()))
            status: int | str = "closed"
            answer = b""
            try:
                while more := connection.recv(65536):
                    answer += more
            except TimeoutError:
                status = "silent"
            except OSError:
                pass
            if status == "closed" and answer.startswith(b"HTTP/1.1 "):
                status = int(answer[9:12])
            self._slow.discard(connection)
            connection.close()
            self._trials.note(kind, status, 0.0, answer[:200], closing=True)


def attack(target: Target, count: int, number: int, trials: Trials, quick: bool) -> None:
    """So many connections; if it must be ``quick``, none that is to be closed by the server."""
    rng = random.Random(number)
    ways = [_drop, _drop, _odd, _odd, _odd, _large, _pipeline]
    if not quick:
        ways += [_half, _half, _slow, _second, _unread, _foreign, _foreign]
    with Waiting(trials) as waiting:
        for _ in range(count):
            rng.choice(ways)(target, rng, waiting, trials)


def _infer(target: Target, rng: random.Random) -> bytes:
    return request("POST", f"/v2/models/{rng.choice(target.models)}/infer", in_json_of(target))


def _half(target: Target, rng: random.Random, waiting: Waiting, trials: Trials) -> None:
    """A part of a request, and then nothing."""
    content = _infer(target, rng)
    waiting.add(target.http, content[: rng.randrange(len(content))], "sockets half")


def _slow(target: Target, rng: random.Random, waiting: Waiting, trials: Trials) -> None:
    """A head or a body that comes a letter at a time."""
    model = target.models[0]
    where = rng.choice((f"/v2/models/{model}/infer", "/slices/slow", "/v2/nothing", f"/recording?task={model}"))
    kinds = ((b"Content-Length", b"100000"), (b"Content-Type", b"application/octet-stream"))
    content = request("PUT" if "slices" in where else "POST", where, b"", kinds)
    waiting.add(target.http, content if rng.random() < 0.7 else content[:-4], "sockets slow", slow=True)


def _second(target: Target, rng: random.Random, waiting: Waiting, trials: Trials) -> None:
    """A whole request, and half of another one."""
    content = _infer(target, rng).replace(b"Connection: close\r\n", b"")
    waiting.add(target.http, content + content[: rng.randrange(300)], "sockets half")


def _unread(target: Target, rng: random.Random, waiting: Waiting, trials: Trials) -> None:
    """Many requests, none of whose answers is read for a while."""
    content = request("GET", "/openapi.json").replace(b"Connection: close\r\n", b"")
    waiting.add(target.http, content * rng.randrange(1, 300), "sockets unread")


def _drop(target: Target, rng: random.Random, waiting: Waiting, trials: Trials) -> None:
    """A whole request or a part of it, and a reset."""
    content = _infer(target, rng)
    cut = len(content) if rng.random() < 0.5 else rng.randrange(len(content))
    leave(target.http, content[:cut])
    trials.note("sockets dropped", "dropped", 0.0, "")


def _odd(target: Target, rng: random.Random, waiting: Waiting, trials: Trials) -> None:
    """Lines that are no request."""
    body = in_json_of(target)
    infer = b"POST /v2/models/%s/infer HTTP/1.1\r\nHost: x\r\n" % target.models[0].encode()
    odd = (
        b"GET /v2\r\n\r\n",
        b"GET /v2 HTTP/9.9\r\n\r\n",
        b"GET  /v2  HTTP/1.1\r\n\r\n",
        b"get /v2 HTTP/1.1\r\n\r\n",
        b"GET /v2 HTTP/1.0\r\n\r\n",
        b"GET http://evil/v2 HTTP/1.1\r\nHost: evil\r\n\r\n",
        b"CONNECT evil:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2 HTTP/1.1\nHost: x\nConnection: close\n\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\n: x\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nA\0: x\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nA: \r\n continued\r\nConnection: close\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nHost: y\r\nConnection: close\r\n\r\n",
        infer + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        infer + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        infer + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        infer + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        infer
        + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n%s\r\n0\r\nA: b\r\n\r\n" % (len(body), body),
        infer + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body),
        PREFACE,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(40),
        rng.randbytes(rng.randrange(1, 2000)),
        b"\r\n" * 1000,
        b"\0" * 1000,
        b"",
    )
    content = rng.choice(odd)
    trials.note_reply("sockets odd", exchange(target.http, content, half=True), content[:300], closing=True)


def _large(target: Target, rng: random.Random, waiting: Waiting, trials: Trials) -> None:
    """Heads, names and trailers without end."""
    start = b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    chunked = (
        b"POST /v2/models/%s/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        % target.models[0].encode()
    )
    large = (
        start + b"A: " + b"a" * 3_000_000 + b"\r\n\r\n",
        start + b"".join(b"A%d: b\r\n" % each for each in range(100_000)) + b"\r\n",
        start + b"A" * 3_000_000 + b": b\r\n\r\n",
        b"GET /" + b"a" * 3_000_000 + b" HTTP/1.1\r\n\r\n",
        b"G" * 1_000_000,
        b"GET " + rng.choice(NAMES) * 100 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        chunked + b"1;" + b"e" * 1_000_000 + b"\r\na\r\n0\r\n\r\n",
        chunked + b"0\r\n" + b"T: t\r\n" * 200_000 + b"\r\n",
        chunked + b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n",
    )
    content = rng.choice(large)
    trials.note_reply("sockets large", exchange(target.http, content, half=True), content[:100], closing=True)


def _pipeline(target: Target, rng: random.Random, waiting: Waiting, trials: Trials) -> None:
    """Many requests at once; the last one says that no more will come."""
    last = request("GET", "/v2/health/live")
    first = last.replace(b"Connection: close\r\n", b"")
    content = first * rng.choice((2, 50, 3000)) + last
    trials.note_reply("sockets pipelined", exchange(target.http, content), content[:100])


def _foreign(target: Target, rng: random.Random, waiting: Waiting, trials: Trials) -> None:
    """Something else than HTTP/2 at the port of gRPC, or frames that cannot be."""
    frame = rng.randbytes(3) + bytes([rng.randrange(12), rng.randrange(256)]) + rng.randbytes(4)
    settings = b"\0\0\0\x04\0\0\0\0\0"
    odd = (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        rng.randbytes(200),
        PREFACE[: rng.randrange(len(PREFACE))],
        PREFACE,
        PREFACE + settings,
        PREFACE + settings + frame + rng.randbytes(rng.randrange(3000)),
        PREFACE + settings + b"\0\0\x08\x06\0\0\0\0\0" * 500 + rng.randbytes(8),
        PREFACE + settings + b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0",
    )
    content = rng.choice(odd)
    if rng.random() < 0.3 and len(content) <= len(PREFACE):  # who speaks HTTP/2 may stay
        waiting.add(target.rpc, content, "sockets gRPC")
        return
    leave(target.rpc, content)
    trials.note("sockets gRPC", "dropped", 0.0, "")


def flood(target: Target, count: int, trials: Trials) -> None:
    """So many connections at once, as far as they are let in, half of them with half a request, and all closed at once; then a request, which
    alone is counted, must be answered."""
    connections = []
    for number in range(count):
        with suppress(OSError):
            connections.append(socket.create_connection((HOST, target.http), PATIENCE_S))
            if number % 2:
                connections[-1].sendall(b"POST /v2/models/")
    for connection in connections:
        connection.close()
    began = time.monotonic()
    while (reply := exchange(target.http, request("GET", "/v2"))).status in (503, "closed"):
        if time.monotonic() - began > PATIENCE_S:
            break
        time.sleep(0.1)
    trials.note("sockets flood", reply.status, time.monotonic() - began, "after a flood")
