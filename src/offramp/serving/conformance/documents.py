"""Requests that are valid, and answers read with suspicion. Whatever is wrong with an answer is a :class:`Fault` that says where."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offramp.serving.conformance.http import Reply
from offramp.serving.conformance.results import Fault
from offramp.serving.conformance.tensors import (
    DATATYPES,
    TensorDescription,
    WireTensor,
    from_bytes,
    from_json,
    to_bytes,
    to_json,
)

HEADER_LENGTH = "Inference-Header-Content-Length"
JSON_TYPE = {"Content-Type": "application/json"}
SHOWN = 100
"""Letters of an answer that evidence shows."""


@dataclass(frozen=True)
class ServerDescription:
    """A server's metadata."""

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True)
class ModelDescription:
    """A model's metadata; ``versions`` is empty where the server has none to ask for."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]


@dataclass(frozen=True)
class InferAnswer:
    """What a model answered; ``version`` and ``id`` are empty where none is given."""

    model: str
    version: str
    id: str
    outputs: tuple[WireTensor, ...]


def shown(reply: Reply) -> str:
    """Status and beginning of an answer."""
    text = reply.body[: 4 * SHOWN].decode(errors="replace")
    return f"{reply.status} {text[:SHOWN]}{'...' if len(text) > SHOWN else ''}".strip()


def read_json(reply: Reply, status: int = 200) -> Any:
    """The JSON document of an answer of this status.

    Raises:
        Fault: It is another status, or no JSON; what Python's reader takes besides (NaN, Infinity) is none.
    """
    if reply.status != status:
        raise Fault(f"answered {shown(reply)}, not {status}")
    return parse_json(reply.body)


def parse_json(body: bytes) -> Any:
    """Read a JSON document.

    Raises:
        Fault: It is none.
    """
    try:
        return json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise Fault("the answer's JSON is nested too deep to be read") from None
    except ValueError as error:
        raise Fault(f"the answer is no JSON: {error}; it begins {body[:40]!r}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def error_message(reply: Reply) -> str:
    """The text of an error document.

    Raises:
        Fault: It is none.
    """
    return text_of(object_of(parse_json(reply.body), "the answer"), "error", "the answer")


def object_of(found: object, where: str) -> dict[str, Any]:
    """A JSON object, or a Fault."""
    if not isinstance(found, dict):
        raise Fault(f"{where} is {_kind(found)}, not an object")
    return found


def list_of(found: Mapping[str, Any], key: str, where: str) -> list[Any]:
    """The array under a key of an object, or a Fault."""
    if not isinstance(found.get(key), list):
        raise Fault(f"{where}: {key} is {_kind(found.get(key))}, not an array")
    return list(found[key])


def text_of(found: Mapping[str, Any], key: str, where: str, optional: bool = False) -> str:
    """The string under a key of an object, or a Fault; empty for one that is optional and not given, or null."""
    value = found.get(key)
    if value is None and optional:
        return ""
    if not isinstance(value, str):
        raise Fault(f"{where}: {key} is {_kind(value)}, not a string")
    return value


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "missing"}
    return kinds.get(type(value), "a number")


def read_server(document: object) -> ServerDescription:
    """Read a server's metadata."""
    found = object_of(document, "server metadata")
    extensions = list_of(found, "extensions", "server metadata")
    if not all(isinstance(extension, str) for extension in extensions):
        raise Fault("server metadata: extensions holds what is no string")
    return ServerDescription(
        text_of(found, "name", "server metadata"), text_of(found, "version", "server metadata"), tuple(extensions)
    )


def read_model(document: object) -> ModelDescription:
    """Read a model's metadata; tensors need names of their own, datatypes of the protocol and sizes of -1 or more."""
    where = "model metadata"
    found = object_of(document, where)
    versions = [] if found.get("versions") is None else list_of(found, "versions", where)
    if not all(isinstance(version, str) for version in versions):
        raise Fault(f"{where}: versions holds what is no string")
    return ModelDescription(
        text_of(found, "name", where),
        tuple(versions),
        text_of(found, "platform", where),
        _described(found, "inputs"),
        _described(found, "outputs"),
    )


def _described(found: Mapping[str, Any], key: str) -> tuple[TensorDescription, ...]:
    tensors = []
    for number, entry in enumerate(list_of(found, key, "model metadata")):
        where = f"{key}[{number}]"
        tensor = object_of(entry, where)
        shape = _shape(tensor, where, least=-1)
        tensors.append(TensorDescription(text_of(tensor, "name", where), _datatype(tensor, where), shape))
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise Fault(f"model metadata: {key} holds a name twice")
    return tuple(tensors)


def _shape(found: Mapping[str, Any], where: str, least: int) -> tuple[int, ...]:
    shape = list_of(found, "shape", where)
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= least for size in shape):
        raise Fault(f"{where}: shape holds what is no size")
    return tuple(shape)


def _datatype(found: Mapping[str, Any], where: str) -> str:
    datatype = text_of(found, "datatype", where)
    if datatype not in DATATYPES:
        raise Fault(f"{where}: datatype {datatype[:40]} is none of the protocol's")
    return datatype


def request_document(
    inputs: Sequence[WireTensor], nested: bool = False, outputs: Sequence[str] | None = None, id: str | None = None
) -> dict[str, Any]:
    """A valid request, all in JSON."""
    document: dict[str, Any] = {} if id is None else {"id": id}
    document["inputs"] = [
        {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "datatype": tensor.datatype,
            "data": to_json(tensor, nested),
        }
        for tensor in inputs
    ]
    if outputs is not None:
        document["outputs"] = [{"name": name} for name in outputs]
    return document


def as_json(document: object) -> bytes:
    """A document as it is sent."""
    return json.dumps(document).encode()


def with_binary(
    document: dict[str, Any], inputs: Sequence[WireTensor], names: Sequence[str]
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request whose named inputs follow the JSON as bytes."""
    raw = {tensor.name: to_bytes(tensor) for tensor in inputs if tensor.name in names}
    entries = []
    for entry in document["inputs"]:
        if entry["name"] in raw:
            size = {"binary_data_size": len(raw[entry["name"]])}
            entry = {key: value for key, value in entry.items() if key != "data"} | {"parameters": size}
        entries.append(entry)
    return framed(document | {"inputs": entries}, b"".join(raw[tensor.name] for tensor in inputs if tensor.name in raw))


def framed(document: object, raw: bytes) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a JSON document with bytes behind it."""
    head = as_json(document)
    return head + raw, {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}


def read_answer(reply: Reply) -> InferAnswer:
    """Read the answer to a valid request, all in JSON or with outputs as bytes behind it.

    Raises:
        Fault: It is no answer, or does not hold what it says.
    """
    if reply.status != 200:
        raise Fault(f"a valid request was answered {shown(reply)}")
    length = reply.headers.get(HEADER_LENGTH.lower())
    if length is None:
        return answer_of(parse_json(reply.body), b"")
    if not length.isdecimal() or int(length) > len(reply.body):
        raise Fault(f"{HEADER_LENGTH} is {length[:40]}, of a body of {len(reply.body)} bytes")
    return answer_of(parse_json(reply.body[: int(length)]), reply.body[int(length) :])


def answer_of(document: object, raw: bytes) -> InferAnswer:
    """Read an inference response and the bytes behind it."""
    found = object_of(document, "the answer")
    outputs, place = [], 0
    for number, entry in enumerate(list_of(found, "outputs", "the answer")):
        tensor = object_of(entry, f"outputs[{number}]")
        size = _binary_size(tensor, f"outputs[{number}]")
        outputs.append(_output(tensor, number, None if size is None else raw[place : place + size]))
        place += size or 0
    if place != len(raw):
        raise Fault(f"{len(raw)} bytes behind the JSON, but its outputs have {place}")
    if len({tensor.name for tensor in outputs}) < len(outputs):
        raise Fault("an output comes twice")
    return InferAnswer(
        text_of(found, "model_name", "the answer"),
        text_of(found, "model_version", "the answer", optional=True),
        text_of(found, "id", "the answer", optional=True),
        tuple(outputs),
    )


def _binary_size(tensor: Mapping[str, Any], where: str) -> int | None:
    parameters = tensor.get("parameters")
    if parameters is None or "binary_data_size" not in object_of(parameters, f"{where}: parameters"):
        return None
    size = parameters["binary_data_size"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise Fault(f"{where}: binary_data_size is no size")
    return size


def _output(tensor: Mapping[str, Any], number: int, raw: bytes | None) -> WireTensor:
    where = f"outputs[{number}]"
    name, datatype, shape = text_of(tensor, "name", where), _datatype(tensor, where), _shape(tensor, where, least=0)
    try:
        if raw is not None:
            return from_bytes(name, datatype, shape, raw)
        return from_json(name, datatype, shape, tensor.get("data"))
    except ValueError as error:
        raise Fault(str(error)) from None
