"""Sockets, and uvicorn as it is wanted: signals are ours, and a connection that says nothing is closed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from pydantic_core import to_json
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from offramp.errors import SuiteError

FIRST_WORD_S = 20.0
"""Longest time from a connection, or an answer, to the end of the next request's headers; at least half of it is given."""
MOST_HEAD_BYTES = 64 << 10
"""That may come without an end of headers or a byte of a body, beside those that came at once."""


def bound_socket(host: str, port: int, several: bool, option: str) -> socket.socket:
    """A socket bound to an address; ``several`` processes may share it.

    Raises:
        SuiteError: The address is taken, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # else the last server's connections hold the port for a minute
        if several:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise SuiteError(f"{host} port {port} cannot be had ({error.strerror}): choose another {option}") from None
    bound.set_inheritable(True)
    return bound


class ImpatientProtocol(HttpToolsProtocol):
    """HTTP of uvicorn, for connections that come to the point.

    A client may let us wait for the head of a request, or for its taking an answer, for a time in which nothing at all goes on; what waits
    for us, and for a body that is being read, has limits of its own. Where twice as many connections are open as are answered, further ones
    are closed at once.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._since_progress = self._heads = 0
        self._answering: RequestResponseCycle | None = None
        self._seen: tuple[int, int] | None = None
        self._look: asyncio.TimerHandle | None = None
        if self.limit_concurrency is not None and len(self.connections) > 2 * self.limit_concurrency:
            transport.abort()
            return
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        if self._answering is not None:  # uvicorn itself tells the request that came last, behind which others may wait
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._progress = False
        super().data_received(data)
        self._since_progress = 0 if self._progress else self._since_progress + len(data)
        if self._since_progress > MOST_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, f"more than {MOST_HEAD_BYTES:,} bytes of headers: send less")

    def on_message_begin(self) -> None:
        self._progress = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._progress = True
        self._heads += 1
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._progress = True
        super().on_body(body)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is no HTTP request")

    def _refuse(self, status: int, message: str) -> None:
        content = to_json({"error": message})
        head = f"content-type: application/json\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + content)
        self.transport.close()

    def _look_again(self) -> None:
        """Give up who let us wait since we looked last."""
        answering = self._answering is not None and not self._answering.response_complete
        seen = (
            None if answering and not self.flow.write_paused else (self._heads, self.transport.get_write_buffer_size())
        )
        if seen is not None and seen == self._seen:
            self.transport.abort()
            return
        self._seen = seen
        self._look = self.loop.call_later(FIRST_WORD_S / 2, self._look_again)


class QuietServer(uvicorn.Server):
    """A server that leaves signals to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
