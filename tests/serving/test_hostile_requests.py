"""Requests that once broke the server, or would have: each is refused with its reason, closed, or counted, and the server answers on."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import uvicorn
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from served import WINDOWS, Made, Served, serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from offramp import errors
from offramp.serving import listening
from offramp.serving.control import Control
from offramp.serving.http.bodies import BodyRoom, read_body
from offramp.serving.listening import MOST_HEAD_BYTES, ImpatientProtocol, QuietServer
from offramp.serving.models.repository import FixedModels, Repository
from offramp.serving.models.tasks import read_parameters
from offramp.serving.protocol import inference_pb2 as pb
from offramp.serving.protocol.documents import DEEPEST, MOST_JSON_BYTES, MOST_LISTS, _check_depth, read_request
from offramp.serving.protocol.faults import BadRequest, Late, ServingFault, TooLarge, TooMuch
from offramp.serving.protocol.requests import AnswerPart, InferRequest, ModelSpec, Pending, TensorSpec
from offramp.serving.rpc import server as rpc_server
from offramp.serving.rpc.conversion import read_message
from offramp.serving.rpc.messages import reading
from offramp.serving.rpc.server import InferenceServicer
from offramp.serving.service import Limits, Service
from offramp.serving.watching.prometheus import REASONS

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "serving_hostile.py"
SPEC = ModelSpec("m", (TensorSpec("windows", "FP32", (-1, 2)),), (TensorSpec("out", "FP32", (-1,)),))
REQUEST = {"inputs": [{"name": "windows", "datatype": "FP32", "shape": [1, 2, 2, 96], "data": WINDOWS[0].tolist()}]}


HINTS = ("binary_data", "binary_data_size", "binary_data_output", "classification", "shared_memory_region", "slice")


def tensor(**changes: Any) -> bytes:
    """A request to SPEC, with changes; None takes a key away."""
    entry = {"name": "windows", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0], **changes}
    return json.dumps({"inputs": [{key: value for key, value in entry.items() if value is not None}]}).encode()


def binary(size: int, **changes: Any) -> tuple[bytes, str]:
    """The same with so many bytes behind it, and the length of its JSON."""
    head = tensor(data=None, parameters={"binary_data_size": size}, **changes)
    return head + bytes(size), str(len(head))


class TestTensors:
    @pytest.mark.parametrize("shape", [[0, 2**70], [0, 2**62, 2**62], [2**63, 0], [0, 2**28, 2**28]])
    def test_no_elements_of_absurd_dimensions(self, shape: list[int]) -> None:
        with pytest.raises(BadRequest, match="elements"):
            read_request(SPEC, tensor(shape=shape, data=[]), None)
        with pytest.raises(BadRequest, match="elements"):
            read_request(SPEC, *binary(0, shape=shape))
        if max(shape) < 2**63:
            message = pb.ModelInferRequest()
            message.inputs.add(name="windows", datatype="FP32", shape=shape)
            with pytest.raises(BadRequest, match="elements"):
                read_message(SPEC, message)

    @pytest.mark.parametrize(
        ("content", "length"),
        [
            (tensor(data=["x" * 60_000, *[""] * 20_000]), None),  # an array of texts of 60,000 letters each
            (tensor(data=[*[1.0] * 19_999, "x" * 60_000], shape=[10_000, 2]), None),
            binary(0, datatype="BYTES", shape=[2**28]),
            binary(8, datatype="BYTES", shape=[2**27]),
        ],
        ids=["texts", "mixed", "many", "few"],
    )
    def test_a_small_request_takes_little_memory(self, content: bytes, length: str | None) -> None:
        tracemalloc.start()
        try:
            with pytest.raises(BadRequest, match="windows"):
                read_request(SPEC, content, length)
            assert tracemalloc.get_traced_memory()[1] < 50_000_000
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"data": [1.0, None]}, "no FP32 values"),
            ({"data": [1.0, "2"]}, "no FP32 values"),
            ({"data": [1.0, True]}, "no FP32 values"),
            ({"data": [1.0, {}]}, "no FP32 values"),
            ({"data": [[1.0, 2.0], 3.0]}, "unequal"),
            ({"data": [[1.0], [2.0, 3.0]]}, "unequal"),
            ({"data": [10**400, 1]}, "goes from"),
            ({"datatype": "UINT8", "data": [1, 256]}, "goes from 0 to 255"),
            ({"datatype": "INT64", "data": [1, 2**63]}, "goes from"),
            ({"datatype": "INT8", "data": [1, 1.0]}, "no INT8 values"),
            ({"datatype": "BOOL", "data": [1, 0]}, "no BOOL values"),
            ({"data": [[], []]}, "[2, 0]"),
        ],
    )
    def test_what_json_has_must_be_what_is_said(self, changes: dict[str, Any], words: str) -> None:
        with pytest.raises(BadRequest) as caught:
            read_request(SPEC, tensor(**changes), None)
        assert words in str(caught.value)

    def test_any_type_in_any_place_is_a_request_or_a_fault(self) -> None:
        for value in ({}, {"a": {}}, [], [[]], None, True, -1, 2**63, 10**400, 1.5, "x", ""):
            for place in range(6):
                for key in ("name", "datatype", "shape", "data", "parameters", "id", "inputs", "outputs", *HINTS):
                    document: Any = json.loads(tensor(parameters={}))
                    document |= {"parameters": {}, "outputs": [{"name": "out", "parameters": {}}]}
                    first, output = document["inputs"][0], document["outputs"][0]
                    places = (
                        document,
                        first,
                        output,
                        document["parameters"],
                        first["parameters"],
                        output["parameters"],
                    )
                    places[place][key] = value
                    with suppress(ServingFault):
                        read_request(SPEC, json.dumps(document).encode(), None)

    def test_lists_in_lists_without_end(self) -> None:
        data: list[Any] = [1.0]
        for _ in range(60):
            data = [data]
        with pytest.raises(BadRequest, match="nested"):
            read_request(SPEC, tensor(data=data), None)

    @pytest.mark.parametrize(
        "content",
        [
            b" " * (MOST_JSON_BYTES + 1),
            b'{"x":[' + b"[]," * MOST_LISTS + b"[]]}",
            b'{"x":[' + b"{}," * MOST_LISTS + b"{}]}",
        ],
    )
    def test_json_that_would_hold_up_the_others(self, content: bytes) -> None:
        with pytest.raises(TooLarge, match="binary extension"):
            read_request(SPEC, content, None)

    def test_a_document_of_many_keys_is_looked_at_once(self) -> None:
        looked = 0

        class Counted(dict[str, Any]):
            def values(self) -> Any:
                nonlocal looked
                looked += 1
                return super().values()

        _check_depth([Counted(a=1) for _ in range(10)], "x")
        assert looked == 10
        with pytest.raises(BadRequest, match="nested"):
            read_request(SPEC, json.dumps({"x": _nest(DEEPEST + 1)}).encode(), None)
        with pytest.raises(BadRequest, match="no inputs"):
            read_request(SPEC, json.dumps({"x": _nest(DEEPEST)}).encode(), None)


def _nest(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


class TestMessages:
    def message(self, **changes: Any) -> pb.ModelInferRequest:
        message = pb.ModelInferRequest(model_name="m", raw_input_contents=[bytes(80_000)], **changes)
        message.inputs.add(name="windows", datatype="FP32", shape=[10_000, 2])
        return message

    def test_what_is_whole_is_read_compressed_or_not(self) -> None:
        read, content = reading(pb.ModelInferRequest, 100_000), self.message().SerializeToString()
        for form in (content, gzip.compress(content), zlib.compress(content)):
            assert read(form) == self.message()

    @pytest.mark.parametrize(
        "field", [b"\x2a\x00", b"\x32\x00", b"\x3a\x00", b"\x22\x02\x0a\x00", b"\xf8\x07\x01", b"\xfd\x07abcd"]
    )
    def test_fields_without_end(self, field: bytes) -> None:
        content = self.message().SerializeToString()
        read = reading(pb.ModelInferRequest, 1 << 20)
        assert isinstance(read(content + field * 1000), pb.ModelInferRequest)
        assert isinstance(read(content + field * 20_000), TooLarge)

    def test_parameters_of_an_input_are_counted_too(self) -> None:
        message = self.message()
        for number in range(20_000):
            message.inputs[0].parameters[str(number)].bool_param = True
        assert isinstance(reading(pb.ModelInferRequest, 1 << 20)(message.SerializeToString()), TooLarge)

    @given(st.binary(max_size=60), st.integers(0, 3))
    def test_any_bytes_are_a_message_or_a_fault(self, content: bytes, repeated: int) -> None:
        found = reading(pb.ModelInferRequest, 1000)(
            content * (1 if repeated == 0 else 20_000 // (len(content) or 1) + 1)
        )
        assert isinstance(found, pb.ModelInferRequest | ServingFault)

    @pytest.mark.parametrize("press", [gzip.compress, zlib.compress])
    def test_behind_a_compression(self, press: Callable[[bytes], bytes]) -> None:
        read, content = reading(pb.ModelInferRequest, 100_000), press(self.message().SerializeToString())
        assert isinstance(read(press(bytes(100_001))), TooLarge)
        for cut in (2, 5, len(content) - 1):
            assert isinstance(read(content[:cut]), BadRequest)


class TestParameters:
    @pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan"), True, "1"])
    @pytest.mark.parametrize("name", ["deadline_ms", "timeout"])
    def test_times_that_are_none(self, name: str, value: Any) -> None:
        with pytest.raises(BadRequest, match=name):
            read_parameters({name: value})

    def test_a_timeout_is_in_microseconds_whatever_number_it_is(self) -> None:
        for value in (5000, 5000.0):
            assert read_parameters({"timeout": value}).deadline_ms == 5.0
        assert read_parameters({"timeout": 5000, "deadline_ms": 7}).deadline_ms == 7.0
        assert read_parameters({"timeout": 0}).deadline_ms is None


def test_of_a_name_of_many_megabytes_only_both_ends_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    plain = errors.printable

    def counted(text: str) -> str:
        looked.append(len(text))
        return plain(text)

    monkeypatch.setattr(errors, "printable", counted)
    for name in ("x" * 5_000_000, "x " * 2_500_000):
        looked.clear()
        said = str(BadRequest(f"input {name!r}: choose another"))
        assert said.startswith("input 'x")
        assert said.endswith("choose another")
        assert len(said) <= errors.LONGEST
        assert sum(looked) <= errors.LOOKED_AT


# --- bodies


def arriving(*chunks: bytes | None) -> Request:
    """A request whose body comes in parts, and then, after None, nothing more."""
    left = list(chunks)

    async def receive() -> dict[str, Any]:
        part = left.pop(0)
        if part is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    return Request({"type": "http", "headers": []}, receive)


def test_bodies_share_a_room_and_leave_it() -> None:
    async def ask() -> None:
        room = BodyRoom(100)
        first = asyncio.create_task(read_body(arriving(bytes(80), None), 100, 60.0, room))
        await asyncio.sleep(0.01)
        assert room.taken == 80
        with pytest.raises(TooMuch, match="100 bytes") as caught:
            await read_body(arriving(bytes(10), bytes(30)), 100, 60.0, room)
        assert caught.value.retry_after
        assert room.taken == 80
        assert await read_body(arriving(bytes(20)), 100, 60.0, room) == bytes(20)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert room.taken == 0

    asyncio.run(ask())


# --- answers in parts


class Silent:
    """A model of two parts, of which the second never comes."""

    spec = SPEC

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def go_on(self) -> bool:
        return False

    def ask(self, request: InferRequest) -> Sequence[Pending]:
        self.futures = [Future(), Future()]
        self.futures[0].set_result(1)
        return [Pending(future, lambda _: listed()) for future in self.futures]


def listed() -> AnswerPart:
    return AnswerPart({"out": np.zeros(1, np.float32)})


def test_another_task_may_ask_for_the_next_part_and_is_told_that_it_is_late() -> None:
    async def ask() -> None:
        model = Silent()
        service = Service(Repository(FixedModels({"m": model})), limits=Limits(seconds=0.2))
        parts = service.parts("m", "", InferRequest({"windows": np.zeros((1, 2), np.float32)}))
        _, last = await asyncio.create_task(anext(parts))
        assert not last
        with pytest.raises(Late):
            await asyncio.create_task(anext(parts))
        assert model.futures[1].cancelled()
        assert service.under_way == 0
        await asyncio.sleep(0.3)  # nothing of it comes back to this task

    asyncio.run(ask())


class Context:
    """Of a call, as gRPC has it."""

    def invocation_metadata(self) -> tuple[()]:
        return ()


def test_a_stream_goes_on_behind_what_is_no_message_and_behind_what_nobody_foresaw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def said(id: str) -> pb.ModelInferRequest:
        message = pb.ModelInferRequest(model_name="m", id=id, raw_input_contents=[bytes(8)])
        message.inputs.add(name="windows", datatype="FP32", shape=[1, 2])
        return message

    def failing(spec: ModelSpec, message: pb.ModelInferRequest) -> Any:
        if message.id == "fails":
            raise ZeroDivisionError
        return read_message(spec, message)

    monkeypatch.setattr(rpc_server, "read_message", failing)

    async def ask() -> list[tuple[str, str]]:
        repository = Repository(FixedModels({"m": Silent()}))
        servicer = InferenceServicer(Service(repository, limits=Limits(seconds=0.2)), Control(repository, None, None))

        async def requests() -> AsyncIterator[Any]:
            for each in (BadRequest("the message is none"), said("fails"), said("goes on")):
                yield each

        async with asyncio.timeout(20):
            found = [each async for each in servicer.model_stream_infer(requests(), Context())]  # type: ignore[arg-type]
        return sorted((each.infer_response.id, each.error_message) for each in found)

    assert asyncio.run(ask()) == [
        ("", "the message is none"),
        ("fails", "this is a fault of the server, which its log describes"),
        ("goes on", ""),
        ("goes on", "no answer within 0.2 s"),
    ]


# --- connections


@contextmanager
def impatient(monkeypatch: pytest.MonkeyPatch, most: int = 1000) -> Iterator[tuple[int, list[Any]]]:
    """A server whose patience is half a second at least and one at most; its port, and what its loop was told of."""
    monkeypatch.setattr(listening, "FIRST_WORD_S", 1.0)

    async def slow(request: Request) -> Response:
        await asyncio.sleep(3)
        return PlainTextResponse("slow")

    async def large(request: Request) -> Response:
        return PlainTextResponse("x" * 5_000_000)

    async def body(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def now(request: Request) -> Response:
        return PlainTextResponse("now")

    endpoints = {"/slow": slow, "/large": large, "/body": body, "/now": now}
    routes = [Route(path, endpoint, methods=["GET", "POST"]) for path, endpoint in endpoints.items()]
    failures: list[Any] = []

    class Recording(ImpatientProtocol):
        def __init__(self, *words: Any, **named: Any) -> None:
            super().__init__(*words, **named)
            self.logger = self

        level = 100

        def error(self, message: str, *_: Any, **named: Any) -> None:
            failures.append((message, named))

        def warning(self, *_: Any) -> None:
            return None

    server = QuietServer(
        uvicorn.Config(
            Starlette(routes=routes), http=Recording, lifespan="off", log_config=None, limit_concurrency=most
        )
    )
    bound = listening.bound_socket("127.0.0.1", 0, False, "--port")

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve(sockets=[bound]))

    thread = threading.Thread(target=run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield bound.getsockname()[1], failures
    finally:
        server.should_exit = True
        thread.join()


def heard(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    connection.settimeout(20)
    found = b""
    try:
        while more := connection.recv(1 << 20):
            found += more
    except ConnectionResetError:
        pass
    return found


def head(path: str, more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()


class TestConnections:
    @pytest.mark.parametrize(
        ("content", "answers"),
        [
            (b"", 0),
            (b"POST /now HT", 0),
            (head("/now")[:-2], 0),
            (head("/now") + head("/now")[:-2], 1),
            (head("/now") * 3 + b"P", 3),
            (head("/now", "Content-Length: 9\r\n") + b"1", 1),
            (head("/slow"), 1),
        ],
    )
    def test_half_a_request_is_closed_and_what_is_under_way_is_not(
        self, monkeypatch: pytest.MonkeyPatch, content: bytes, answers: int
    ) -> None:
        with impatient(monkeypatch) as (port, _), socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(content)
            assert heard(connection).count(b"200 OK") == answers

    @pytest.mark.parametrize("begun", [head("/now")[:-2] + b"A: ", head("/now", "Content-Length: 9999\r\n")])
    def test_a_letter_now_and_then_changes_nothing(self, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
        with impatient(monkeypatch) as (port, _), socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(begun)
            over = threading.Event()

            def drip() -> None:
                while not over.wait(0.1):
                    try:
                        connection.send(b"a")
                    except OSError:
                        return

            dripping = threading.Thread(target=drip)
            dripping.start()
            heard(connection)
            over.set()
            dripping.join()

    def test_answers_that_nobody_takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with impatient(monkeypatch) as (port, _), socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head("/large") * 20)
            time.sleep(2.5)
            assert len(heard(connection)) < 100_000_000

    @pytest.mark.parametrize(
        "content",
        [
            b"POST /now HTTP/1.1\r\nA: " + b"a" * 2_000_000,
            b"POST /now HTTP/1.1\r\n" + b"A: a\r\n" * 500_000,
            b"POST /" + b"a" * 2_000_000,
            head("/body", "Transfer-Encoding: chunked\r\n") + b"0\r\n" + b"A: a\r\n" * 500_000,
            head("/body", "Transfer-Encoding: chunked\r\n") + b"1;" + b"a" * 2_000_000,
        ],
        ids=["value", "headers", "path", "trailers", "extension"],
    )
    def test_heads_without_end(self, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
        assert len(content) > 10 * MOST_HEAD_BYTES
        with impatient(monkeypatch) as (port, _), socket.create_connection(("127.0.0.1", port)) as connection:
            try:
                connection.sendall(content)
            except OSError:
                return  # it was closed before all was sent
            assert b"200 OK" not in heard(connection)

    def test_a_large_body_is_no_head(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with impatient(monkeypatch) as (port, _), socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head("/body", "Content-Length: 3000000\r\nConnection: close\r\n") + bytes(3_000_000))
            assert heard(connection).endswith(b"3000000")

    def test_what_is_no_http_is_refused_as_the_protocol_wants_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with impatient(monkeypatch) as (port, _), socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"nonsense\r\n\r\n")
            found = heard(connection)
            assert found.startswith(b"HTTP/1.1 400 ")
            assert "error" in json.loads(found.partition(b"\r\n\r\n")[2])

    def test_more_connections_than_are_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with impatient(monkeypatch, most=5) as (port, _):
            opened = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
            with socket.create_connection(("127.0.0.1", port)) as connection:
                assert heard(connection) == b""
            for each in opened:
                each.close()
            found = b""
            while b"200 OK" not in found:  # as soon as it has seen that they are closed
                with socket.create_connection(("127.0.0.1", port)) as connection:
                    connection.sendall(head("/now", "Connection: close\r\n"))
                    found = heard(connection)

    def test_who_leaves_behind_several_requests_is_no_fault(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with impatient(monkeypatch) as (port, failures):
            for _ in range(5):
                with socket.create_connection(("127.0.0.1", port)) as connection:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.sendall(head("/large") * 50)
                    connection.recv(10)
            time.sleep(0.5)
            assert failures == []


# --- the whole server


@pytest.fixture(scope="module")
def hasty(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that takes a second over a request at most."""
    with serving(made.segments, tmp_path_factory.mktemp("hasty"), "--most-seconds", "1") as running:
        yield running
        assert "Traceback" not in running.log.read_text()


def peak_mb(server: Served) -> float:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1000


def sent(port: int, content: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(content)
        return heard(connection)


class TestServer:
    def test_no_redirect_to_where_the_client_says(self, hasty: Served) -> None:
        found = sent(hasty.http, b"GET /v2/models/ HTTP/1.1\r\nHost: elsewhere\r\nConnection: close\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 404 ")
        assert b"elsewhere" not in found

    @pytest.mark.parametrize(
        ("method", "path"),
        [("POST", "/v2/models/plain/infer"), ("PUT", "/slices/a"), ("POST", "/v2/repository/index")],
    )
    def test_a_body_that_does_not_come(self, hasty: Served, method: str, path: str) -> None:
        found = sent(
            hasty.http,
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\n{{".encode(),
        )
        assert found.startswith(b"HTTP/1.1 408 ")
        assert b"1 s" in found

    def test_a_client_that_leaves_in_the_middle_of_its_body_is_counted(self, hasty: Served) -> None:
        def left() -> int:
            lines = hasty.ask("GET", "/metrics")[1].decode().splitlines()
            wanted = f'offramp_refused_total{{reason="{REASONS["503"]}",slice="default"}} '
            return sum(float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))

        before = left()
        with socket.create_connection(("127.0.0.1", hasty.http)) as connection:
            connection.sendall(b"POST /v2/models/plain/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            time.sleep(0.1)
        assert until(lambda: left() == before + 1)

    @pytest.mark.parametrize("value", [10**400, 1e308, -1e308, 1e-320])
    def test_times_that_cannot_be_kept(self, hasty: Served, value: float) -> None:
        for name in ("deadline_ms", "timeout"):
            status, content, _ = hasty.ask("POST", "/v2/models/plain/infer", {**REQUEST, "parameters": {name: value}})
            assert status in (200, 400, 429, 504), content

    def test_messages_that_are_none(self, hasty: Served) -> None:
        message = pb.ModelInferRequest(model_name="plain", raw_input_contents=[WINDOWS[:1].tobytes()])
        message.inputs.add(name="windows", datatype="FP32", shape=[1, 2, 2, 96])
        good = message.SerializeToString()
        with grpc.insecure_channel(f"127.0.0.1:{hasty.rpc}") as channel:
            for name in ("ModelInfer", "ModelReady", "RepositoryIndex"):
                ask = channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
                for content in (b"\xff" * 9, good[:20], good.replace(b"plain", b"pl\xffin")):
                    with pytest.raises(grpc.RpcError) as caught:
                        ask(content, timeout=20)
                    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(good, timeout=20)
            stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
            found = [pb.ModelStreamInferResponse.FromString(each) for each in stream(iter([b"\xff", good]), timeout=20)]
            assert sorted(bool(each.error_message) for each in found) == [False, True]

    @pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
    def test_clients_may_compress_over_grpc_and_bombs_are_refused(self, hasty: Served, algorithm: str) -> None:
        with over_grpc.InferenceServerClient(f"127.0.0.1:{hasty.rpc}") as client:
            given = over_grpc.InferInput("windows", list(WINDOWS.shape), "FP32")
            given.set_data_from_numpy(WINDOWS)
            found = client.infer("plain", [given], compression_algorithm=algorithm)
            assert found.as_numpy("label").shape == (5,)
        named = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}[algorithm]
        options = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{hasty.rpc}", options, named) as channel:
            before = peak_mb(hasty)
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(bytes(400_000_000), timeout=60)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert peak_mb(hasty) - before < 300

    def test_a_long_slice_is_not_logged_whole(self, made: Made, tmp_path: Path) -> None:
        with serving(made.segments, tmp_path, "--log", "json") as server:
            asked = {**REQUEST, "parameters": {"slice": "s" * 100_000}}
            assert server.ask("POST", "/v2/models/plain/infer", asked)[0] == 400
        assert len(server.log.read_text()) < 5000

    def test_connections_that_say_nothing_do_not_hold_up_the_end(self, made: Made, tmp_path: Path) -> None:
        with serving(made.segments, tmp_path, "--drain", "1") as server:
            held = [socket.create_connection(("127.0.0.1", server.http)) for _ in range(3)]
            held[0].sendall(b"POST /v2/models/plain/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            held[1].sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
            time.sleep(0.5)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(20) == 0
            for each in held:
                each.close()


def until(what: Callable[[], bool], seconds: float = 20) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if what():
            return True
        time.sleep(0.05)
    return False


def test_hundreds_of_kinds_of_everything(made: Made) -> None:
    """The benchmark, small: of thousands of requests none shows a fault."""
    command = [sys.executable, str(BENCHMARK), "--segments", str(made.segments), "--count", "600", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["count"] >= 600
    assert report["faults"] == report["logged"] == 0
    assert report["still_answers"]
    assert report["files"]["after"] <= report["files"]["before"]
