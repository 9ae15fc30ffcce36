"""gRPC with a server that cannot be trusted: every call ends in time. The messages are those of :mod:`offramp.serving.protocol`."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import islice
from types import TracebackType
from typing import Self, TypeVar

import grpc
from google.protobuf.message import Message

from offramp.errors import OfframpError
from offramp.serving.conformance.documents import InferAnswer, ModelDescription
from offramp.serving.conformance.http import MOST_BYTES, NoReply, speaks_tls
from offramp.serving.conformance.results import Fault
from offramp.serving.conformance.tensors import (
    BINARY_ONLY,
    DATATYPES,
    TYPED_FIELDS,
    Element,
    TensorDescription,
    WireTensor,
    from_bytes,
    to_bytes,
)
from offramp.serving.protocol import inference_pb2 as pb

SERVICE = "/inference.GRPCInferenceService/"
TLS = "grpcs://"
MOST_MESSAGES = 1000
"""Messages of one stream that are read."""
UNCONNECTED = ("failed to connect to all addresses", "DNS resolution failed")
"""How gRPC explains UNAVAILABLE where there is no connection; a server may say UNAVAILABLE too."""

Received = TypeVar("Received", bound=Message)


class RpcRefused(Fault):
    """A call ended with a status that is not OK, which is a fault where the request was valid."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(f"{code}: {details}")
        self.code = code


class RpcClient:
    """A channel to ``HOST:PORT``, through TLS where ``grpcs://`` stands before it.

    Args:
        target: Where the server is.
        headers: Sent with every call.
        timeout_s: Seconds that a call may take.

    Raises:
        OfframpError: It is no address.
    """

    def __init__(self, target: str, headers: Sequence[tuple[str, str]], timeout_s: float) -> None:
        address = target.removeprefix(TLS)
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536 or not host.isascii() or "/" in host:
            raise OfframpError(f"--grpc {target}: give HOST:PORT, or {TLS}HOST:PORT")
        options = [("grpc.max_receive_message_length", MOST_BYTES), ("grpc.enable_retries", 0)]
        if target.startswith(TLS):
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(), options)
        else:
            self._channel = grpc.insecure_channel(address, options)
        self._headers = tuple((name.lower(), value) for name, value in headers)
        self._target, self._host, self._port, self._timeout_s = target, host.strip("[]"), int(port), timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def reach(self) -> None:
        """See that gRPC is spoken there, whatever it answers.

        Raises:
            OfframpError: It is not; the message says what to try.
        """
        try:
            self.call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse)
        except RpcRefused:
            return
        except NoReply as missing:
            reason = str(missing)
            if reason.startswith("UNAVAILABLE") and not any(text in reason for text in UNCONNECTED):
                return
            mend = "is the server running, and is this its gRPC port?"
            if "CERTIFICATE_VERIFY_FAILED" in reason:
                reason = "its certificate is not trusted"
                mend = "if the server made its own, name the file of its authority in GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"
            elif not self._target.startswith(TLS) and speaks_tls(self._host, self._port, self._timeout_s):
                reason, mend = "it speaks TLS", f"try {TLS}{self._target}"
            raise OfframpError(f"--grpc {self._target}: {reason}; {mend}") from None

    def call(self, method: str, request: Message | bytes, received: type[Received]) -> Received:
        """Call a method with a message, or with bytes that need not be one.

        Raises:
            RpcRefused: The status is not OK.
            NoReply: It did not answer in time, or nobody is there.
        """
        asked = self._channel.unary_unary(SERVICE + method, _bytes_of, received.FromString)
        try:
            answer: Received = asked(request, timeout=self._timeout_s, metadata=self._headers)
        except grpc.RpcError as error:
            raise self._failed(error) from None
        return answer

    def stream(self, method: str, requests: Iterable[Message], received: type[Received]) -> list[Received]:
        """Send messages on one stream, and read what comes until the server ends it, at most :data:`MOST_MESSAGES`.

        Raises:
            RpcRefused: The status is not OK.
            NoReply: It did not end in time, or nobody is there.
        """
        asked = self._channel.stream_stream(SERVICE + method, _bytes_of, received.FromString)
        try:
            coming = asked(iter(requests), timeout=self._timeout_s, metadata=self._headers)
            found: list[Received] = list(islice(coming, MOST_MESSAGES + 1))
            coming.cancel()  # type: ignore[no-untyped-call]
        except grpc.RpcError as error:
            raise self._failed(error) from None
        return found

    def _failed(self, error: grpc.RpcError) -> RpcRefused | NoReply:
        code, details = error.code(), str(error.details() or "")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return NoReply(f"no answer within {self._timeout_s:g} s", slow=True)
        if code is grpc.StatusCode.UNAVAILABLE and "Connection refused" in details:
            return NoReply("connection refused: nobody listens", slow=True)
        if code is grpc.StatusCode.UNAVAILABLE:
            return NoReply(f"UNAVAILABLE: {details}", slow=True)
        return RpcRefused(code.name, details)


def _bytes_of(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


def infer_message(
    model: str,
    inputs: Sequence[WireTensor],
    raw: bool = True,
    version: str = "",
    id: str = "",
    outputs: Sequence[str] = (),
) -> pb.ModelInferRequest:
    """A valid request, with its data as bytes or in typed fields; what has no typed field makes all of it bytes."""
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=id)
    message.outputs.extend(pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs)
    raw = raw or any(tensor.datatype in BINARY_ONLY for tensor in inputs)
    for tensor in inputs:
        sent = message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            message.raw_input_contents.append(to_bytes(tensor))
        else:
            getattr(sent.contents, TYPED_FIELDS[tensor.datatype]).extend(tensor.elements)
    return message


def message_answer(message: pb.ModelInferResponse) -> InferAnswer:
    """Read a response, with its data as bytes or in typed fields.

    Raises:
        Fault: It does not hold what it says.
    """
    raw = list(message.raw_output_contents)
    if raw and len(raw) != len(message.outputs):
        raise Fault(f"{len(raw)} raw_output_contents for {len(message.outputs)} outputs")
    outputs = []
    for number, output in enumerate(message.outputs):
        if output.datatype not in DATATYPES:
            raise Fault(f"output {output.name}: datatype {output.datatype[:40]} is none of the protocol's")
        shape = tuple(output.shape)
        if min(shape, default=0) < 0:
            raise Fault(f"output {output.name}: shape {list(shape)}")
        try:
            if raw:
                outputs.append(from_bytes(output.name, output.datatype, shape, raw[number]))
            else:
                outputs.append(_typed(output, shape))
        except (ValueError, struct.error) as error:
            raise Fault(str(error)) from None
    if len({output.name for output in outputs}) < len(outputs):
        raise Fault("an output comes twice")
    return InferAnswer(message.model_name, message.model_version, message.id, tuple(outputs))


def _typed(output: pb.ModelInferResponse.InferOutputTensor, shape: tuple[int, ...]) -> WireTensor:
    if output.datatype not in TYPED_FIELDS:
        raise Fault(f"output {output.name}: {output.datatype} has no typed field, and there is no raw_output_contents")
    elements: tuple[Element, ...] = tuple(getattr(output.contents, TYPED_FIELDS[output.datatype]))
    count = 1
    for size in shape:
        count *= size
    if len(elements) != count:
        raise Fault(f"output {output.name}: {len(elements)} elements, but its shape {list(shape)} has {count}")
    return WireTensor(output.name, output.datatype, shape, elements)


def described(message: pb.ModelMetadataResponse) -> ModelDescription:
    """A model's metadata as it came through gRPC."""
    inputs, outputs = (
        tuple(TensorDescription(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in tensors)
        for tensors in (message.inputs, message.outputs)
    )
    return ModelDescription(message.name, tuple(message.versions), message.platform, inputs, outputs)
