"""Calls over gRPC: bytes that are no messages, messages that say what cannot be, streams that are cut, calls that are given up."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
from hypothesis import strategies as st

from offramp.serving.protocol import inference_pb2 as pb

from .pools import TEXTS
from .target import HOST, PATIENCE_S, Target
from .trials import Trials, each

Draw = Callable[[st.SearchStrategy[Any]], Any]
SERVICE = "/inference.GRPCInferenceService/"
STREAM = "ModelStreamInfer"
UNARY = (
    *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelInfer"),
    *("ModelConfig", "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "Nothing"),
)
DIMENSIONS = (0, 1, -1, 2, 96, 2**28, 2**31, 2**62, 2**63 - 1, -(2**63))
CONTENTS = (
    "bool_contents",
    "int_contents",
    "int64_contents",
    "uint_contents",
    "uint64_contents",
    "fp32_contents",
    "fp64_contents",
)
DATATYPES = st.sampled_from(("FP32", "FP64", "INT8", "UINT64", "BOOL", "BYTES", "FP16", "fp32", ""))
COMPRESSIONS = (*[grpc.Compression.NoCompression] * 4, grpc.Compression.Gzip, grpc.Compression.Deflate)
BOMB = 80_000_000
"""Bytes: more than are taken."""
words = st.sampled_from([*TEXTS[:-1], "n" * 100_000]) | st.text(max_size=20)


def valid(target: Target, model: str, rows: int = 1) -> pb.ModelInferRequest:
    """A request that is answered."""
    windows = np.repeat(target.windows[:1], rows, axis=0)
    message = pb.ModelInferRequest(model_name=model, raw_input_contents=[windows.tobytes()])
    message.inputs.add(name="windows", datatype="FP32", shape=windows.shape)
    return message


def _shape(message: pb.ModelInferRequest, draw: Draw) -> None:
    message.inputs[0].shape[:] = draw(st.lists(st.sampled_from(DIMENSIONS), max_size=20))


def _raw(message: pb.ModelInferRequest, draw: Draw) -> None:
    message.raw_input_contents[:] = draw(st.lists(st.binary(max_size=50), max_size=4))


def _contents(message: pb.ModelInferRequest, draw: Draw) -> None:
    if draw(st.booleans()):
        del message.raw_input_contents[:]
    field = draw(st.sampled_from(CONTENTS))
    getattr(message.inputs[0].contents, field).extend([1] * draw(st.sampled_from((0, 1, 384, 5000))))


def _datatype(message: pb.ModelInferRequest, draw: Draw) -> None:
    message.inputs[0].datatype = draw(DATATYPES | words)


def _inputs(message: pb.ModelInferRequest, draw: Draw) -> None:
    for _ in range(draw(st.sampled_from((1, 2, 3000)))):
        message.inputs.add().CopyFrom(message.inputs[0])
    if draw(st.booleans()):
        message.raw_input_contents.extend(message.raw_input_contents[:1] * (len(message.inputs) - 1))


def _names(message: pb.ModelInferRequest, draw: Draw) -> None:
    message.model_name, message.model_version = draw(words), draw(words)
    message.inputs[0].name, message.id = draw(words), draw(words)


def _outputs(message: pb.ModelInferRequest, draw: Draw) -> None:
    for _ in range(draw(st.integers(1, 3))):
        output = message.outputs.add(name=draw(st.sampled_from(("probabilities", "label", "values")) | words))
        _parameter(output.parameters[draw(st.sampled_from(("classification", "shared_memory_region")))], draw)


def _parameters(message: pb.ModelInferRequest, draw: Draw) -> None:
    known = ("slice", "exit", "policy", "deadline_ms", "timeout", "source", "priority", "sequence_id")
    for _ in range(draw(st.sampled_from((1, 2, 5000)))):
        name = draw(st.sampled_from(known)) if len(message.parameters) < 2 else str(len(message.parameters))
        _parameter(message.parameters[name], draw if len(message.parameters) < 3 else lambda _: 1)


def _parameter(parameter: pb.InferParameter, draw: Draw) -> None:
    kind = draw(st.integers(0, 5))
    if kind == 0:
        parameter.bool_param = draw(st.booleans())
    elif kind == 1:
        parameter.int64_param = draw(st.sampled_from((0, 1, -1, 2**63 - 1, -(2**63))))
    elif kind == 2:
        parameter.double_param = draw(st.floats())
    elif kind == 3:
        parameter.uint64_param = draw(st.sampled_from((0, 1, 2**64 - 1)))
    elif kind == 4:
        parameter.string_param = draw(words)


CHANGES = (_shape, _raw, _contents, _datatype, _inputs, _names, _outputs, _parameters)


@st.composite
def _messages(draw: Draw, target: Target) -> bytes:
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=200))  # type: ignore[no-any-return]
    message = valid(target, draw(st.sampled_from(target.models)))
    for change in draw(st.lists(st.sampled_from(CHANGES), max_size=3)):
        if message.inputs:
            change(message, draw)
    content = bytearray(message.SerializeToString())
    way = draw(st.sampled_from(("whole",) * 12 + ("cut", "cut", "bytes", "bytes", "text", "fields", "fields", "zeros")))
    if way == "cut":
        del content[draw(st.integers(0, len(content))) :]
    elif way == "bytes":
        for _ in range(draw(st.integers(1, 5))):
            content[draw(st.integers(0, min(300, len(content) - 1)))] = draw(st.integers(0, 255))
    elif way == "fields":  # empty inputs, outputs, tensors, parameters; unknown ones
        field = draw(st.sampled_from((b"\x2a\x00", b"\x32\x00", b"\x3a\x00", b"\x22\x02\x0a\x00", b"\xf8\x07\x01")))
        content += field * draw(st.sampled_from((100, 20_000, 1_000_000)))
    elif way == "zeros" and not draw(st.integers(0, 3)):  # which a client that compresses makes nearly nothing of
        return bytes(BOMB)
    elif way == "text":
        return bytes(content).replace(b"windows", b"wind\xffws")
    return bytes(content)


def attack(target: Target, count: int, number: int, trials: Trials) -> None:
    """So many calls: a fifth are streams of a few messages, some are given up while they run."""
    plan = st.tuples(
        st.sampled_from(UNARY) | st.just("ModelInfer"),
        st.lists(_messages(target), min_size=1, max_size=3),
        st.sampled_from(("unary", "unary", "unary", "unary", "stream", "cut stream", "given up", "named")),
        words,
        st.sampled_from(COMPRESSIONS),
    )
    # some at once, and none for long on one connection
    channels = [_channel(target) for _ in range(3)]
    turns = itertools.count()

    def call(made: tuple[str, list[bytes], str, str, grpc.Compression]) -> None:
        channel = channels[next(turns) % len(channels)]
        _call(channel, target, trials, *made)

    try:
        each(plan, count, number, call)
    finally:
        for channel in channels:
            channel.close()


def _channel(target: Target) -> grpc.Channel:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    return grpc.insecure_channel(f"{HOST}:{target.rpc}", options)


def _call(
    channel: grpc.Channel,
    target: Target,
    trials: Trials,
    method: str,
    messages: list[bytes],
    way: str,
    name: str,
    compression: grpc.Compression,
) -> None:
    began = time.monotonic()
    shown = (way, method, [message[:300] for message in messages])
    try:
        if way.endswith("stream"):
            _stream(channel, messages, way == "cut stream", compression)
        elif way == "given up":
            invoke = channel.unary_unary(SERVICE + "ModelInfer", request_serializer=None, response_deserializer=None)
            running = invoke.future(valid(target, target.models[-1], 50).SerializeToString(), timeout=PATIENCE_S)
            time.sleep(0.001 * (len(messages[0]) % 5))
            running.cancel()
        else:
            if way == "named":  # the first two fields of all messages that name a model are texts
                messages = [pb.ModelInferRequest(model_name=name, model_version=name).SerializeToString()]
            invoke = channel.unary_unary(SERVICE + method, request_serializer=None, response_deserializer=None)
            extra = [("traceparent", "00-x-y-z"), ("authorization", "Bearer")]
            invoke(messages[0], timeout=PATIENCE_S, metadata=extra, compression=compression)
    except grpc.RpcError as error:
        code = error.code()
        late = code is grpc.StatusCode.DEADLINE_EXCEEDED and time.monotonic() - began >= PATIENCE_S
        status = "silent" if late else code.name
    else:
        status = "OK"
    trials.note(f"gRPC {'stream' if 'stream' in way else 'unary'}", status, time.monotonic() - began, shown)


def _stream(channel: grpc.Channel, messages: list[bytes], cut: bool, compression: grpc.Compression) -> None:
    """All messages at once; where it is cut, it is given up after the first answer."""

    def sent() -> Iterator[bytes]:
        yield from messages

    invoke = channel.stream_stream(SERVICE + STREAM, request_serializer=None, response_deserializer=None)
    answers = invoke(sent(), timeout=PATIENCE_S, compression=compression)
    for _ in answers:
        if cut:
            answers.cancel()
            return
