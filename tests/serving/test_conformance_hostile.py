"""`offramp check-server` against servers that are broken or mean: it ends, in a table or one line, and never in a traceback."""

from __future__ import annotations

import ast
import copy
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from math import prod
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_server import Fake, running, served
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import offramp.serving.conformance
from offramp.errors import OfframpError
from offramp.serving.conformance import CheckOutcome, Conformance, check_server, http, probe, run
from offramp.serving.conformance.http import HttpRequest, HttpTarget, Reply
from offramp.serving.conformance.probe import MOST_SILENCES
from offramp.serving.conformance.results import Fault
from offramp.serving.conformance.rpc import message_answer
from offramp.serving.protocol import inference_pb2 as pb

PACKAGE = Path(offramp.serving.conformance.__file__).parent


@contextmanager
def speaking(answer: Callable[[socket.socket], None], live: bool = True) -> Iterator[str]:
    """A server that does this with every connection, unless it is asked whether it is live."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening, ThreadPoolExecutor(16) as pool:
        over = threading.Event()

        def one(connection: socket.socket) -> None:
            with closing(connection), suppress(OSError):
                if live and connection.recv(20, socket.MSG_PEEK).startswith(b"GET /v2/health/live"):
                    once(OK + b"content-length: 0\r\n\r\n")(connection)
                else:
                    answer(connection)

        def accept() -> None:
            while not over.is_set():
                with suppress(OSError):
                    pool.submit(one, listening.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            over.set()
            with suppress(OSError):
                socket.create_connection(listening.getsockname(), 1).close()
            thread.join()


def forever(part: bytes, start: bytes = b"", pause: float = 0.0) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(start)
        while True:
            connection.sendall(part)
            time.sleep(pause)

    return answer


def once(sent: bytes, wait_s: float = 0.0) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(sent)
        time.sleep(wait_s)

    return answer


OK = b"HTTP/1.1 200 OK\r\n"
MEAN = {
    "closes at once": lambda connection: None,
    "closes after the request": once(b""),
    "never answers": once(b"", wait_s=1),
    "junk": once(b"\xff\x00junk\r\n\r\n"),
    "another protocol": once(b"220 mail.example ESMTP\r\n"),
    "half a status line": once(b"HTTP/1.1 2"),
    "a status that is none": once(b"HTTP/1.1 abc OK\r\n\r\n"),
    "status 0": once(b"HTTP/1.1 000 OK\r\ncontent-length: 0\r\n\r\n"),
    "a body cut short": once(OK + b"content-length: 100\r\n\r\n{"),
    "a length that is none": once(OK + b"content-length: -5\r\n\r\n{}"),
    "chunks that are none": once(OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}"),
    "not UTF-8": once(OK + b'content-type: application/json\r\ncontent-length: 4\r\n\r\n"\xff\xfe"'),
    "escapes": once(OK + b"content-length: 12\r\n\r\n\x1b[2J\x1b[31m\x07\r\n"),
    "headers without end": forever(b"x: y\r\n", OK),
    "a header without end": forever(b"y" * 1000, OK + b"x: "),
    "continue without end": forever(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "bytes that drip": forever(b"x", OK + b"content-length: 1000000\r\n\r\n", pause=0.05),
    "headers that drip": forever(b"x", OK + b"x: ", pause=0.05),
    "a body without end": forever(b" " * 65536, OK + b"\r\n"),
    "chunks without end": forever(b"1000\r\n" + b" " * 4096 + b"\r\n", OK + b"transfer-encoding: chunked\r\n\r\n"),
    "a huge length": once(OK + b"content-length: 99999999999999\r\n\r\n{}", wait_s=1),
}


def tried(url: str) -> Conformance | str:
    """What is said of a server."""
    try:
        return check_server(url, models=["sum"], timeout_s=0.2)
    except OfframpError as error:
        return str(error)


@pytest.mark.parametrize("name", list(MEAN))
def test_mean_servers_do_not_conform(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MOST_BYTES", 1 << 20)
    with speaking(MEAN[name]) as url:
        found = tried(url)
    assert isinstance(found, Conformance)
    assert not found.conforms
    assert "inference.json" in {result.check for result in found.results if result.outcome is CheckOutcome.FAILED}
    assert all(result.evidence.isprintable() for result in found.results)


@pytest.mark.parametrize("name", ["closes at once", "never answers", "junk", "headers that drip"])
def test_what_is_no_http_server_is_one_line(name: str) -> None:
    with speaking(MEAN[name], live=False) as url:
        found = tried(url)
    assert isinstance(found, str)
    assert found.isprintable()
    assert "is the server running, and is this its HTTP port?" in found


def test_a_server_that_hangs_is_not_asked_for_ever() -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path != "/v2/health/live":
                time.sleep(1)
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with running(Handler) as url:
        found = tried(url)
    assert isinstance(found, Conformance)
    assert not found.conforms
    # every check asks live once more, and what is asked at once is counted late
    assert len([path for path in asked if path != "/v2/health/live"]) <= MOST_SILENCES + 8
    assert any("not asked" in result.evidence for result in found.results)


def test_grpc_that_is_none() -> None:
    with (
        served(Fake()) as url,
        speaking(MEAN["junk"]) as junk,
        pytest.raises(OfframpError, match="is this its gRPC port"),
    ):
        check_server(url, junk.removeprefix("http://"), ["sum"], timeout_s=0.3)


class Unavailable(grpc.GenericRpcHandler):
    """Is there, and says to every call that it is not."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            lambda asked, context: context.abort(grpc.StatusCode.UNAVAILABLE, "closed for lunch")
        )


def test_grpc_that_calls_itself_unavailable_is_there() -> None:
    server = grpc.server(ThreadPoolExecutor(2), handlers=[Unavailable()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with served(Fake()) as url:
            found = check_server(url, f"127.0.0.1:{port}", ["sum"], only=lambda check: check.rpc)
    finally:
        server.stop(0)
    evidence = {result.check: result.evidence for result in found.results if result.outcome is CheckOutcome.FAILED}
    assert evidence["grpc.live"] == "UNAVAILABLE: closed for lunch"


class Junk(grpc.GenericRpcHandler):
    """Answers every call with bytes that are no message, or with messages without end."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        if details.method.endswith("StreamInfer"):
            return grpc.stream_stream_rpc_method_handler(self.stream)
        return grpc.unary_unary_rpc_method_handler(lambda asked, context: b"\xff\xff\xff")

    def stream(self, asked: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        while context.is_active():
            yield b""


def test_grpc_that_answers_junk() -> None:
    server = grpc.server(ThreadPoolExecutor(2), handlers=[Junk()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with served(Fake()) as url:
            found = check_server(url, f"127.0.0.1:{port}", ["sum"], timeout_s=2)
    finally:
        server.stop(0)
    passed = {result.check for result in found.results if result.outcome is CheckOutcome.PASSED}
    assert not [name for name in passed if name.startswith("grpc.") and name != "grpc.no-message"]
    assert not found.conforms


# whatever JSON comes

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.sampled_from(["FP32", "BYTES", "READY", 10**400, -1, 2**40, 1e308]),
)
keys = st.sampled_from(["name", "shape", "datatype", "data", "outputs", "inputs", "error", "parameters", "model_stats"])
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


def fed(monkeypatch: pytest.MonkeyPatch, answer: Callable[[HttpRequest], Reply]) -> Conformance | str:
    """What is said of a server whose answers are these, without a network."""

    def converse(target: HttpTarget, requests: list[HttpRequest]) -> list[Reply]:
        return [answer(request) for request in requests]

    with monkeypatch.context() as patch:
        patch.setattr(probe, "converse", converse)
        patch.setattr(run, "exchange", lambda target, request: answer(request))
        return tried("http://127.0.0.1:9")


quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@quick
@given(st.sampled_from([200, 200, 200, 400, 404, 500]), documents, st.sampled_from(["", "7", "-1", "x", "99999"]))
def test_any_document_to_every_request(
    monkeypatch: pytest.MonkeyPatch, status: int, document: Any, length: str
) -> None:
    headers = {"inference-header-content-length": length} if length else {}
    found = fed(monkeypatch, lambda request: Reply(status, headers, json.dumps(document).encode()))
    assert isinstance(found, str) or not found.conforms


@quick
@given(st.data())
def test_right_answers_with_something_else_in_one_place(monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    fake = Fake()
    place = data.draw(st.integers(0, 60))
    swapped = data.draw(documents)
    removed = data.draw(st.booleans())

    def answer(request: HttpRequest) -> Reply:
        headers = {name.lower(): value for name, value in request.headers.items()}
        status, more, body = fake.answer(request.method, request.path, headers, request.body)
        if more.get("content-type") == "application/json" and "content-encoding" not in more:
            body = json.dumps(changed(json.loads(body), place, swapped, removed)).encode()
        elif more.get("content-type") == "application/octet-stream":
            body = body[: -1 - place] if removed else body + bytes(place + 1)
        return Reply(status, more, body)

    found = fed(monkeypatch, answer)
    assert isinstance(found, Conformance | str)


def changed(document: Any, place: int, swapped: Any, removed: bool) -> Any:
    """The document with one of its parts replaced, or taken out of its object; the one that this number hits."""
    holder = [copy.deepcopy(document)]
    places: list[tuple[Any, Any]] = [(holder, 0)]
    for parent, key in places:
        part = parent[key]
        if isinstance(part, dict | list):
            places.extend((part, inner) for inner in (part if isinstance(part, dict) else range(len(part))))
    parent, key = places[place % len(places)]
    if removed and isinstance(parent, dict):
        del parent[key]
    else:
        parent[key] = swapped
    return holder[0]


messages = st.builds(
    pb.ModelInferResponse,
    outputs=st.lists(
        st.builds(
            pb.ModelInferResponse.InferOutputTensor,
            name=st.text(max_size=2),
            datatype=st.sampled_from(["FP32", "BYTES", "BOOL", "FP16", "BF16", "FP33", ""]),
            shape=st.lists(st.sampled_from([0, 1, 2, -1, 2**62]), max_size=3),
            contents=st.builds(pb.InferTensorContents, fp32_contents=st.lists(st.floats(width=32), max_size=2)),
        ),
        max_size=2,
    ),
    raw_output_contents=st.lists(st.binary(max_size=9), max_size=2),
)


@quick
@given(messages)
def test_any_message_is_read_or_refused(message: pb.ModelInferResponse) -> None:
    with suppress(Fault):
        for tensor in message_answer(message).outputs:
            assert len(tensor.elements) == prod(tensor.shape)


def test_deep_json_in_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = b"[" * 200_000 + b"]" * 200_000
    found = fed(monkeypatch, lambda request: Reply(200, {}, deep))
    assert isinstance(found, Conformance)
    assert any("nested too deep" in result.evidence for result in found.results)


# what it is made of


def test_it_imports_nothing_of_the_rest_of_serving() -> None:
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    ours = {name for name in found if name.startswith("offramp.") and ".conformance." not in name}
    assert {name.rpartition(".")[0] for name in ours} == {"offramp.errors", "offramp.serving.protocol"}
    others = {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names)
    assert others == {"offramp", "grpc", "google"}


def test_it_needs_no_grpc_where_none_is_spoken() -> None:
    code = "import sys, offramp.serving.conformance; sys.exit({'grpc', 'torch', 'numpy'} & set(sys.modules) != set())"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
