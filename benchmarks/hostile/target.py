"""The server that is attacked: where it is, what it serves, a request that it answers, and how one request is sent and its answer read."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HOST = "127.0.0.1"
PATIENCE_S = 30.0
"""Who does not answer or close for so long hangs."""
HEADER_LENGTH = b"Inference-Header-Content-Length"
Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Target:
    """A server.

    Attributes:
        http: Port.
        rpc: Port of gRPC.
        models: Names of the models whose windows have the same shape.
        windows: Three of them, float32.
        seconds: The longest that it may take over a request.
    """

    http: int
    rpc: int
    models: tuple[str, ...]
    windows: NDArray[np.float32]
    seconds: float


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        status: Of HTTP; ``closed`` if the connection was closed without an answer, ``silent`` if nothing came in time, ``junk`` for what is
            no HTTP.
        content: Of the body.
        seconds: From the first byte sent to the last one read.
    """

    status: int | str
    content: bytes
    seconds: float


def look(http_port: int, rpc_port: int, seconds: float) -> Target:
    """Ask a server what it serves."""
    names = json.loads(exchange(http_port, request("GET", "/v2/models")).content)["models"]
    inputs = {}
    for name in names:
        described = json.loads(exchange(http_port, request("GET", f"/v2/models/{name}")).content)
        inputs[name] = tuple(described["inputs"][0]["shape"][1:])
    shape = inputs[names[0]]
    windows = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    return Target(http_port, rpc_port, tuple(name for name in names if inputs[name] == shape), windows, seconds)


def request(method: str, path: str | bytes, body: bytes | None = None, headers: Headers = ()) -> bytes:
    """The bytes of a request; the path may be anything."""
    where = path if isinstance(path, bytes) else path.encode()
    lines = [method.encode() + b" " + where + b" HTTP/1.1", b"Host: x", b"Connection: close"]
    lines += [name + b": " + value for name, value in headers]
    framed = {name.lower() for name, _ in headers} & {b"content-length", b"transfer-encoding"}
    if body is not None and not framed:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body or b""])


def exchange(port: int, content: bytes, patience_s: float = PATIENCE_S, half: bool = False) -> Reply:
    """Send bytes over a connection of their own and read one answer; ``half`` says before that no more will come."""
    began = time.monotonic()
    status: int | str = "closed"
    found = b""
    with closing(socket.create_connection((HOST, port), patience_s)) as connection:
        connection.settimeout(patience_s)
        try:
            connection.sendall(content)
            if half:
                connection.shutdown(socket.SHUT_WR)
        except TimeoutError:
            return Reply("silent", b"", time.monotonic() - began)
        except OSError:
            pass  # it may have answered before it had read everything
        answer = http.client.HTTPResponse(connection, method="HEAD" if content.startswith(b"HEAD ") else None)
        try:
            answer.begin()
            status, found = answer.status, answer.read()
        except TimeoutError:
            status = "silent"
        except (http.client.BadStatusLine, http.client.IncompleteRead) as error:
            status = "closed" if isinstance(error, http.client.RemoteDisconnected) else "junk"
        except OSError:
            status = "closed"
        finally:
            answer.close()
    return Reply(status, found, time.monotonic() - began)


def leave(port: int, content: bytes) -> None:
    """Send bytes and go away at once, with a reset instead of an end."""
    with closing(socket.create_connection((HOST, port), PATIENCE_S)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(content)


def tensor(target: Target, **changes: Any) -> dict[str, Any]:
    """A request of one window in JSON, with changes to its one input; None takes a key away."""
    window = target.windows[:1]
    entry = {"name": "windows", "datatype": "FP32", "shape": list(window.shape), "data": window.ravel().tolist()}
    return {"inputs": [{key: value for key, value in {**entry, **changes}.items() if value is not None}]}


def in_json_of(target: Target) -> bytes:
    """The body of a request that is answered."""
    return json.dumps(tensor(target)).encode()


def is_answered(target: Target) -> bool:
    """Whether a plain request to each model is answered."""
    body = in_json_of(target)
    return all(
        exchange(target.http, request("POST", f"/v2/models/{name}/infer", body)).status == 200 for name in target.models
    )
