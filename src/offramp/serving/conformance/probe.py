"""What the checks ask with: one server, one of its models, and the answer to a valid request that others are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from offramp.serving.conformance.documents import (
    JSON_TYPE,
    InferAnswer,
    ModelDescription,
    as_json,
    error_message,
    read_answer,
    request_document,
    shown,
    with_binary,
)
from offramp.serving.conformance.http import HttpRequest, HttpTarget, NoReply, Reply, converse
from offramp.serving.conformance.results import Fault, Level, NotRun, NotSupported
from offramp.serving.conformance.tensors import BINARY_ONLY, WireTensor, difference, sample

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from offramp.serving.conformance.rpc import Received, RpcClient

MOST_SILENCES = 8
"""Requests that may find no answer before nothing more is asked."""
ABSENT = (404, 405, 501)
"""What a server answers at a place that it does not have."""
FORBIDDEN = (401, 403)

Answered = TypeVar("Answered")


class Wire:
    """The server, as long as it answers.

    Args:
        http: Where HTTP is spoken.
        rpc: The channel on which gRPC is spoken; None for none.
    """

    def __init__(self, http: HttpTarget, rpc: RpcClient | None) -> None:
        self._http, self._rpc = http, rpc
        self._silences = 0

    @property
    def has_rpc(self) -> bool:
        """Whether gRPC is spoken."""
        return self._rpc is not None

    def ask(self, requests: Sequence[HttpRequest]) -> list[Reply]:
        """Ask over HTTP, one after the other on one connection."""
        return self._patiently(lambda: converse(self._http, requests))

    def call(self, method: str, request: Message | bytes, received: type[Received]) -> Received:
        """Call a method of the gRPC service."""
        return self._patiently(lambda: self._channel().call(method, request, received))

    def stream(self, method: str, requests: Iterable[Message], received: type[Received]) -> list[Received]:
        """Call a streaming method of the gRPC service."""
        return self._patiently(lambda: self._channel().stream(method, requests, received))

    def _channel(self) -> RpcClient:
        if self._rpc is None:
            raise NotRun("no --grpc is given")
        return self._rpc

    def _patiently(self, ask: Callable[[], Answered]) -> Answered:
        if self._silences >= MOST_SILENCES:
            raise NoReply(f"not asked: {MOST_SILENCES} requests before found no answer")
        try:
            return ask()
        except NoReply as missing:
            self._silences += missing.slow
            raise


class Probe:
    """One model of a server.

    Args:
        wire: The server.
        extensions: What it announces.
        model: The model's metadata; where these cannot be read, the reason.
        name: The model's name.
    """

    def __init__(
        self, wire: Wire, extensions: Sequence[str], name: str = "", model: ModelDescription | Fault | None = None
    ) -> None:
        self.wire, self.extensions, self.name = wire, extensions, name
        self._model = model
        self._answer: InferAnswer | Fault | NoReply | None = None
        self._steady: bool | None = None

    @property
    def path(self) -> str:
        """Where the model is."""
        return f"/v2/models/{quote(self.name, safe='')}"

    @property
    def model(self) -> ModelDescription:
        """The model's metadata."""
        if not isinstance(self._model, ModelDescription):
            raise NotRun("needs model.metadata, which failed")
        return self._model

    def inputs(self, batch: int = 1) -> tuple[WireTensor, ...]:
        """Valid inputs, with variable first dimensions of ``batch``."""
        if not self.model.inputs:
            raise NotRun("the model's metadata list no inputs")
        try:
            return tuple(sample(described, batch) for described in self.model.inputs)
        except ValueError as error:
            raise NotRun(str(error)) from None

    def get(self, path: str) -> Reply:
        """Ask with GET, at the model's place where the path does not begin at ``/v2``."""
        return self.send("GET", path)

    def post(self, path: str, body: object = None, headers: Mapping[str, str] = JSON_TYPE) -> Reply:
        """Ask with POST; what is not bytes is sent as JSON."""
        return self.send("POST", path, body if isinstance(body, bytes) else as_json(body), headers)

    def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Ask once."""
        place = path if path.startswith("/v2") else self.path + path
        return self.wire.ask([HttpRequest(method, place, body, headers or {})])[0]

    def infer(
        self,
        inputs: Sequence[WireTensor] | None = None,
        nested: bool = False,
        outputs: Sequence[str] | None = None,
        id: str | None = None,
        at: str = "/infer",
    ) -> Reply:
        """Send a valid request. It is all JSON, but for 16-bit floats, which JSON does not carry."""
        given = self.inputs() if inputs is None else inputs
        document = request_document(given, nested, outputs, id)
        narrow = [tensor.name for tensor in given if tensor.datatype in BINARY_ONLY]
        if any(tensor.datatype in BINARY_ONLY for tensor in self.model.outputs):
            kept = [tensor for tensor in self.model.outputs if outputs is None or tensor.name in outputs]
            document["outputs"] = [
                {"name": tensor.name, "parameters": {"binary_data": tensor.datatype in BINARY_ONLY}} for tensor in kept
            ]
        if not narrow:
            return self.post(at, document)
        return self.post(at, *with_binary(document, given, narrow))

    def answer(self) -> InferAnswer:
        """What a valid request is answered, asked once.

        Raises:
            NotRun: It is not answered: a check of its own says so.
        """
        if not self.model.outputs:
            raise NotRun("the model's metadata list no outputs")
        if self._answer is None:
            try:
                self._answer = read_answer(self.infer())
            except (Fault, NoReply) as error:
                self._answer = error
        if not isinstance(self._answer, InferAnswer):
            raise NotRun("needs inference.json, which failed")
        return self._answer

    def document(self) -> dict[str, Any]:
        """A valid request all in JSON, to be changed. It is answered now, so that whatever is refused next is refused for the change.

        Raises:
            NotRun: JSON cannot carry the model's inputs, or the valid request is not answered.
        """
        self.answer()
        try:
            read_answer(self.infer())
        except (Fault, NoReply) as failure:
            raise NotRun(f"the valid request is not answered any more: {failure}") from None
        if any(tensor.datatype in BINARY_ONLY for tensor in self.model.inputs):
            raise NotRun("the model takes 16-bit floats, which JSON does not carry")
        inputs = self.inputs()
        if not inputs[0].elements:
            raise NotRun(f"input {inputs[0].name} is empty")
        return request_document(inputs)

    def compare(self, answer: InferAnswer) -> None:
        """Compare with what the valid request was answered.

        Raises:
            Fault: They differ.
            NotRun: They differ, and so do the answers to equal requests.
        """
        found = difference(self.answer().outputs, answer.outputs)
        if found and not self._is_steady():
            raise NotRun("equal requests get different answers from this model")
        if found:
            raise Fault(f"not the answer to the same request in JSON: {found}")

    def _is_steady(self) -> bool:
        if self._steady is None:
            first, *others = (read_answer(self.infer()).outputs for _ in range(3))
            self._steady = not any(difference(first, other) for other in others)
        return self._steady

    def announces(self, extension: str) -> bool:
        """Whether the server announces an extension by the name that its text gives it."""
        return extension in self.extensions

    def present(self, reply: Reply, extension: str) -> Reply:
        """The answer at a place that only servers with an extension have.

        Raises:
            NotSupported: The server neither announces it nor has the place, or does not let us in.
        """
        if reply.status in FORBIDDEN:
            raise NotSupported(f"{reply.status}: not allowed with these headers")
        if reply.status in ABSENT and not self.announces(extension):
            raise NotSupported(f"{reply.status}, and not announced")
        return reply


@dataclass(frozen=True)
class Check:
    """One thing that is tested.

    Attributes:
        name: Its name; before the dot what it belongs to.
        clause: What is tested, and where that is written.
        run: Does it and gives the evidence in a line, or raises Fault, NotSupported, NotRun, NoReply.
        level: How much it weighs.
        extension: Name by which a server announces what is tested.
        per_model: Whether it is one of a model, not of the whole server.
        rpc: Whether it speaks gRPC.
        disturbs: Whether it disturbs other clients, so that it must be asked for.
    """

    name: str
    clause: str
    run: Callable[[Probe], str]
    level: Level = Level.REQUIRED
    extension: str = ""
    per_model: bool = True
    rpc: bool = False
    disturbs: bool = False


def refused(reply: Reply, status: int = 0) -> str:
    """The evidence that a mistake was refused, as one of the client.

    Args:
        reply: What the mistake was answered.
        status: Status that says most; any of the client's faults if 0.

    Raises:
        Fault: It was taken for a valid request; or, weighing less, it was refused as the server's own fault or under another status.
    """
    if reply.status < 400:
        raise Fault(f"accepted: {shown(reply)}")
    if reply.status >= 500:
        raise Fault(f"refused as a fault of the server: {shown(reply)}", Level.STRICT)
    if status and reply.status != status:
        raise Fault(f"refused, but not with {status}: {shown(reply)}", Level.STRICT)
    try:
        return f"{reply.status}: {error_message(reply)}"
    except Fault:
        return shown(reply)
