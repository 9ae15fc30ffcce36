"""Sockets, and uvicorn as it is wanted: signals are ours, and a connection that says nothing is closed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from offramp.errors import SuiteError

FIRST_WORD_S = 20.0
"""From a connection to the end of its first request's headers."""


def bound_socket(host: str, port: int, several: bool, option: str) -> socket.socket:
    """A socket bound to an address; ``several`` processes may share it.

    Raises:
        SuiteError: The address is taken, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if several:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise SuiteError(f"{host} port {port} cannot be had ({error.strerror}): choose another {option}") from None
    bound.set_inheritable(True)
    return bound


class ImpatientProtocol(HttpToolsProtocol):
    """HTTP of uvicorn, for connections that come to the point."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(FIRST_WORD_S, self._hurry)

    def _hurry(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class QuietServer(uvicorn.Server):
    """A server that leaves signals to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
