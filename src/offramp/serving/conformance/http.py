"""HTTP with a server that cannot be trusted: every exchange ends in time, and no answer is larger than it may be."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from offramp.errors import OfframpError

MOST_BYTES = 16 * 2**20
"""Bytes of the longest body that is read."""
UNKNOWN_AUTHORITIES = (18, 19, 20, 21)
"""OpenSSL's X509_V_ERR codes of certificates that nobody known has signed."""


@dataclass(frozen=True)
class HttpTarget:
    """Where a server is, and how it is spoken to.

    Attributes:
        url: As the user gave it, without a slash at the end.
        host: Name or address.
        port: Its port.
        prefix: What stands before ``/v2``.
        tls: Whether it is spoken to through TLS.
        headers: Sent with every request.
        timeout_s: Seconds from the beginning of a request to the last byte of its answer.
    """

    url: str
    host: str
    port: int
    prefix: str
    tls: bool
    headers: tuple[tuple[str, str], ...]
    timeout_s: float


@dataclass(frozen=True)
class HttpRequest:
    """One request; paths begin with ``/v2``."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """An answer: its status, headers with names in lower case, and its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoReply(Exception):
    """No answer came, or none that is HTTP; the message says why.

    Args:
        reason: What was seen instead.
        slow: Whether time was up, or nobody listened.
        mend: What the user can do, where that is known.
    """

    def __init__(self, reason: str, slow: bool = False, mend: str = "") -> None:
        super().__init__(reason)
        self.slow, self.mend = slow, mend


def http_target(url: str, headers: Sequence[tuple[str, str]], timeout_s: float) -> HttpTarget:
    """Take a URL apart.

    Raises:
        OfframpError: It is none that HTTP can be spoken to.
    """
    wrong = OfframpError(f"{url}: give the address of a server, as in http://127.0.0.1:8000")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong from None
    plain = url.isascii() and url.isprintable() and " " not in url
    if not plain or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise wrong
    tls = parts.scheme == "https"
    prefix = parts.path.rstrip("/").removesuffix("/v2")
    return HttpTarget(
        url.rstrip("/"), parts.hostname, port or (443 if tls else 80), prefix, tls, tuple(headers), timeout_s
    )


def header_of(text: str) -> tuple[str, str]:
    """Name and value of a header that is given as ``Name: value``.

    Raises:
        OfframpError: It is none.
    """
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    token = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    if not colon or not token or not value.isascii() or not value.isprintable():
        raise OfframpError("--header: give it as 'Name: value', in printable ASCII")
    return name, value


def exchange(target: HttpTarget, request: HttpRequest) -> Reply:
    """Ask once.

    Raises:
        NoReply: Nothing that can be read came in time.
    """
    return converse(target, [request])[0]


def converse(target: HttpTarget, requests: Sequence[HttpRequest]) -> list[Reply]:
    """Ask several times, one after the other, on one connection unless the server ends it.

    Raises:
        NoReply: Nothing that can be read came in time.
    """
    until = time.monotonic() + target.timeout_s
    try:
        with ExitStack() as opened:
            connection = _Connection(target, until, opened)
            return [_ask(connection, target, request) for request in requests]
    except TimeoutError:
        raise NoReply(f"no answer within {target.timeout_s:g} s", slow=True) from None
    except ConnectionRefusedError:
        raise NoReply("connection refused: nobody listens", slow=True) from None
    except ssl.SSLCertVerificationError as error:
        known = error.verify_code not in UNKNOWN_AUTHORITIES
        mend = "" if known else "if the server made its own, name the file of its authority in SSL_CERT_FILE"
        raise NoReply(f"its certificate is not trusted ({error.verify_message})", mend=mend) from None
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise NoReply(f"no answer that is HTTP: {type(error).__name__} {error}".strip()) from None


def speaks_tls(host: str, port: int, timeout_s: float) -> bool:
    """Whether somebody shakes hands for TLS there, with whatever certificate. Nothing else is sent."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    with suppress(OSError, ValueError), socket.create_connection((host, port), timeout_s) as plain:
        context.wrap_socket(plain, server_hostname=host).close()
        return True
    return False


def _ask(connection: _Connection, target: HttpTarget, request: HttpRequest) -> Reply:
    with suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before it had read everything
        sent = dict(target.headers) | dict(request.headers)
        connection.request(request.method, target.prefix + request.path, request.body or None, sent)
    response = connection.getresponse()
    body = response.read(MOST_BYTES + 1)
    if len(body) > MOST_BYTES:
        raise NoReply(f"a body of more than {MOST_BYTES} bytes")
    if response.length:
        raise NoReply(f"the connection ended {response.length} bytes before the body did")
    return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


class _Connection(http.client.HTTPConnection):
    """A connection on which no wait ends later than ``until``, however slowly the bytes drip. What it opens is closed with ``opened``."""

    def __init__(self, target: HttpTarget, until: float, opened: ExitStack) -> None:
        super().__init__(target.host, target.port, timeout=target.timeout_s)
        self._tls, self._until, self._opened = target.tls, until, opened

    def connect(self) -> None:
        super().connect()
        found = self._opened.enter_context(self.sock)
        if self._tls:
            context = ssl.create_default_context()
            found = self._opened.enter_context(context.wrap_socket(found, server_hostname=self.host))
        self.sock: Any = _TimedSocket(found, self._until)


class _TimedSocket:
    """What ``http.client`` needs of a socket."""

    def __init__(self, found: socket.socket, until: float) -> None:
        self._found, self._until = found, until

    def sendall(self, data: bytes) -> None:
        _wait(self._found, self._until)
        self._found.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._found, self._until))

    def close(self) -> None:
        """Nothing yet: ``http.client`` closes a connection that the server will end before the answer has been read."""


class _TimedReader(io.RawIOBase):
    """The bytes that come, as long as there is time."""

    def __init__(self, found: socket.socket, until: float) -> None:
        self._found, self._until = found, until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        _wait(self._found, self._until)
        return self._found.recv_into(buffer)


def _wait(found: socket.socket, until: float) -> None:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    found.settimeout(left)
