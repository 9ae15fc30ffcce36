"""Triton's binary tensor data extension, and compression."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from offramp.serving.conformance.documents import (
    HEADER_LENGTH,
    JSON_TYPE,
    as_json,
    framed,
    parse_json,
    read_answer,
    request_document,
    shown,
    with_binary,
)
from offramp.serving.conformance.http import MOST_BYTES, Reply
from offramp.serving.conformance.probe import Check, Probe, refused
from offramp.serving.conformance.results import Fault, Level, NotRun, NotSupported
from offramp.serving.conformance.tensors import BINARY_ONLY, WireTensor, to_bytes

BINARY = "binary_tensor_data"
CODINGS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


def _body(probe: Probe, names: Sequence[str] | None = None, **more: Any) -> tuple[bytes, dict[str, str]]:
    """A valid request with these inputs as bytes, all if None."""
    inputs = probe.inputs()
    wanted = [tensor.name for tensor in inputs] if names is None else names
    return with_binary(request_document(inputs) | more, inputs, wanted)


def _offered(probe: Probe) -> None:
    """Nothing if the server has the extension.

    Raises:
        NotSupported: It neither announces it nor answers a valid request with inputs as bytes.
    """
    probe.answer()
    if probe.announces(BINARY):
        return
    reply = probe.post("/infer", *_body(probe))
    try:
        probe.compare(read_answer(reply))
    except Fault:
        raise NotSupported(f"not announced, and inputs as bytes were answered {shown(reply)}") from None


def inputs(probe: Probe) -> str:
    """All inputs as bytes, and the answer as JSON."""
    _offered(probe)
    answer = read_answer(probe.post("/infer", *_body(probe)))
    probe.compare(answer)
    return "the same answer as in JSON"


def mixed_inputs(probe: Probe) -> str:
    """Some inputs as bytes, the others in JSON."""
    _offered(probe)
    names = [tensor.name for tensor in probe.inputs() if tensor.datatype not in BINARY_ONLY]
    if len(names) < 2:
        raise NotRun("needs two inputs that JSON can carry")
    narrow = [tensor.name for tensor in probe.inputs() if tensor.datatype in BINARY_ONLY]
    for named in (names[:1], names[-1:]):
        probe.compare(read_answer(probe.post("/infer", *_body(probe, [*named, *narrow]))))
    return "the first alone as bytes, and the last alone"


def outputs(probe: Probe) -> str:
    """Each output that is asked for as bytes, and no other, comes as bytes."""
    _offered(probe)
    names = [tensor.name for tensor in probe.model.outputs]
    for wanted in ({names[0]}, set(names)):
        asked = [{"name": name, "parameters": {"binary_data": name in wanted}} for name in names]
        _came_as(probe, probe.post("/infer", *_body(probe, outputs=asked)), wanted)
    return f"{names[0]} alone as bytes, and all {len(names)}"


def all_outputs(probe: Probe) -> str:
    """All outputs come as bytes where the request wants them so."""
    _offered(probe)
    reply = probe.post("/infer", *_body(probe, parameters={"binary_data_output": True}))
    _came_as(probe, reply, {tensor.name for tensor in probe.model.outputs})
    return f"{len(reply.body) - int(reply.headers[HEADER_LENGTH.lower()])} bytes behind the JSON"


def override(probe: Probe) -> str:
    """What is said of one output goes before what is said of all."""
    _offered(probe)
    names = [tensor.name for tensor in probe.model.outputs if tensor.datatype not in BINARY_ONLY]
    if not names:
        raise NotRun("all outputs are 16-bit floats, which JSON does not carry")
    everything = [tensor.name for tensor in probe.model.outputs]
    asked = [
        {"name": name, "parameters": {"binary_data": False}} if name == names[0] else {"name": name}
        for name in everything
    ]
    reply = probe.post("/infer", *_body(probe, outputs=asked, parameters={"binary_data_output": True}))
    _came_as(probe, reply, set(everything) - {names[0]})
    return f"{names[0]} in JSON, the others as bytes"


def from_json(probe: Probe) -> str:
    """A request that is all JSON may want its outputs as bytes."""
    _offered(probe)
    document = probe.document() | {"parameters": {"binary_data_output": True}}
    _came_as(probe, probe.post("/infer", document), {tensor.name for tensor in probe.model.outputs})
    return "inputs in JSON, outputs as bytes"


def _came_as(probe: Probe, reply: Reply, wanted: set[str]) -> None:
    """Compare an answer, in which these outputs alone must be bytes."""
    answer = read_answer(reply)
    length = reply.headers.get(HEADER_LENGTH.lower())
    if wanted and length is None:
        raise Fault(f"{', '.join(sorted(wanted))} wanted as bytes: the answer has no {HEADER_LENGTH}")
    document = parse_json(reply.body[: len(reply.body) if length is None else int(length)])
    came = {entry["name"] for entry in document["outputs"] if "binary_data_size" in (entry.get("parameters") or {})}
    if came != wanted:
        raise Fault(f"wanted as bytes: {sorted(wanted)}; came as bytes: {sorted(came)}")
    probe.compare(answer)


def octet_stream(probe: Probe) -> str:
    """An answer with bytes behind its JSON does not say that it is JSON."""
    _offered(probe)
    reply = probe.post("/infer", *_body(probe, parameters={"binary_data_output": True}))
    found = reply.headers.get("content-type", "")
    if read_answer(reply) and found.partition(";")[0].strip().lower() != "application/octet-stream":
        raise Fault(f"Content-Type is {found[:60]!r}")
    return "application/octet-stream"


def _none_of(datatypes: tuple[str, ...]) -> str:
    """Text for a model without such tensors."""
    return f"no tensor of the model is {' or '.join(datatypes)}"


def strings(probe: Probe) -> str:
    """Elements of BYTES stand behind their lengths, in both directions, whatever bytes they are."""
    _offered(probe)
    if not any(tensor.datatype == "BYTES" for tensor in (*probe.model.inputs, *probe.model.outputs)):
        raise NotRun(_none_of(("BYTES",)))
    reply = probe.post("/infer", *_body(probe, parameters={"binary_data_output": True}))
    probe.compare(read_answer(reply))
    first = next((tensor for tensor in probe.inputs() if tensor.datatype == "BYTES" and tensor.elements), None)
    if first is None:
        return "lengths before the elements of the outputs"
    changed = WireTensor(first.name, first.datatype, first.shape, (b"\xff\x00", *first.elements[1:]))
    inputs = [changed if tensor.name == first.name else tensor for tensor in probe.inputs()]
    reply = probe.post("/infer", *with_binary(request_document(probe.inputs()), inputs, [t.name for t in inputs]))
    if reply.status >= 500:
        raise Fault(f"bytes that are no text: {shown(reply)}")
    return f"lengths before the elements; bytes that are no text: {reply.status}"


def narrow_floats(probe: Probe) -> str:
    """16-bit floats go as two bytes each."""
    _offered(probe)
    if not any(tensor.datatype in BINARY_ONLY for tensor in (*probe.model.inputs, *probe.model.outputs)):
        raise NotRun(_none_of(BINARY_ONLY))
    probe.compare(read_answer(probe.post("/infer", *_body(probe, parameters={"binary_data_output": True}))))
    return "two bytes each, both ways"


def nan(probe: Probe) -> str:
    """What is not a number can be sent as bytes; an answer in JSON must be JSON all the same."""
    _offered(probe)
    first = next((tensor for tensor in probe.inputs() if tensor.datatype in ("FP32", "FP64") and tensor.elements), None)
    if first is None:
        raise NotRun(_none_of(("FP32", "FP64")))
    changed = WireTensor(first.name, first.datatype, first.shape, (math.nan, *first.elements[1:]))
    inputs = [changed if tensor.name == first.name else tensor for tensor in probe.inputs()]
    reply = probe.post("/infer", *with_binary(request_document(probe.inputs()), inputs, [t.name for t in inputs]))
    if reply.status >= 400:
        return refused(reply)
    length = reply.headers.get(HEADER_LENGTH.lower(), str(len(reply.body)))
    parse_json(reply.body[: int(length) if length.isdecimal() else len(reply.body)])
    return f"{reply.status}, and JSON"


def header_length(probe: Probe) -> str:
    """Lengths of the JSON that it cannot have."""
    _offered(probe)
    body, headers = _body(probe)
    right = int(headers[HEADER_LENGTH])
    wrong = [-1, 1, right - 1, len(body) + 1, 10**18, 10**30, "abc", "1e3", ""]
    for length in wrong:
        try:
            refused(probe.post("/infer", body, headers | {HEADER_LENGTH: str(length)}))
        except Fault as fault:
            raise Fault(f"{HEADER_LENGTH} {length!r} instead of {right}: {fault}", fault.level) from None
    return f"{len(wrong)} wrong lengths refused"


def sizes(probe: Probe) -> str:
    """Sizes of an input's bytes that do not fit its shape, or what came."""
    _offered(probe)
    document = request_document(probe.inputs())
    first, *others = probe.inputs()
    if not first.elements:
        raise NotRun(f"input {first.name} is empty")
    raw, rest = to_bytes(first), b"".join(map(to_bytes, others))
    tail = [
        _as_bytes(entry, len(to_bytes(tensor))) for entry, tensor in zip(document["inputs"][1:], others, strict=True)
    ]
    head = document["inputs"][0]
    wrong: dict[str, tuple[dict[str, Any], bytes]] = {
        "a byte short": (_as_bytes(head, len(raw) - 1), raw[:-1] + rest),
        "a byte long": (_as_bytes(head, len(raw) + 1), raw + b"\0" + rest),
        "more than came": (_as_bytes(head, len(raw) + 10**9), raw + rest),
        "below zero": (_as_bytes(head, -len(raw)), raw + rest),
        "no number": (_as_bytes(head, "all"), raw + rest),
        "bytes left over": (_as_bytes(head, len(raw)), raw + rest + b"left"),
        "data besides": (_as_bytes(head, len(raw)) | {"data": head["data"]}, raw + rest),
    }
    for form, (entry, sent) in wrong.items():
        try:
            refused(probe.post("/infer", *framed(document | {"inputs": [entry, *tail]}, sent)))
        except Fault as fault:
            level = Level.STRICT if form == "data besides" else fault.level
            raise Fault(f"binary_data_size, {form}: {fault}", level) from None
    return f"{len(wrong)} wrong sizes refused"


def _as_bytes(entry: dict[str, Any], size: object) -> dict[str, Any]:
    kept = {key: value for key, value in entry.items() if key != "data"}
    return kept | {"parameters": {"binary_data_size": size}}


def compressed_request(probe: Probe) -> str:
    """A compressed body means what it means without."""
    body = as_json(probe.document())
    taken = []
    for coding, compress in CODINGS.items():
        reply = probe.post("/infer", compress(body), JSON_TYPE | {"Content-Encoding": coding})
        if reply.status >= 500:
            raise Fault(f"{coding}: {shown(reply)}")
        if reply.status < 400:
            probe.compare(read_answer(reply))
            taken.append(coding)
    if not taken:
        raise NotSupported(f"compressed requests are refused: {shown(reply)}")
    broken = probe.post("/infer", body, JSON_TYPE | {"Content-Encoding": taken[0]})
    return f"{', '.join(taken)}; what only says that it is: {refused(broken)}"


def compressed_answer(probe: Probe) -> str:
    """An answer that says it is compressed is."""
    probe.document()
    found = []
    for coding in CODINGS:
        reply = probe.post("/infer", probe.document(), JSON_TYPE | {"Accept-Encoding": coding})
        said = reply.headers.get("content-encoding", "identity").lower()
        if said not in (coding, "identity"):
            raise Fault(f"asked for {coding}, got {said[:40]}")
        if said == coding:
            reply = Reply(reply.status, reply.headers, _expanded(reply.body, coding))
            found.append(coding)
        probe.compare(read_answer(reply))
    if not found:
        raise NotSupported("answered uncompressed; some servers compress only long answers")
    return ", ".join(found)


def _expanded(body: bytes, coding: str) -> bytes:
    try:
        return zlib.decompressobj(31 if coding == "gzip" else 15).decompress(body, MOST_BYTES)
    except zlib.error as error:
        raise Fault(f"says it is {coding}: {error}") from None


TEXT = "Binary tensor data extension"


def _binary(name: str, clause: str, run: Callable[[Probe], str], level: Level = Level.EXTENSION) -> Check:
    return Check(f"binary.{name}", f"{TEXT}: {clause}", run, level, BINARY)


CHECKS = (
    _binary("inputs", "binary_data_size of an input, and its bytes behind the JSON", inputs),
    _binary("mixed-inputs", "inputs in JSON beside inputs as bytes", mixed_inputs),
    _binary("outputs", "binary_data of an output, true and false", outputs),
    _binary("all-outputs", "binary_data_output of a request", all_outputs),
    _binary("override", "binary_data of an output goes before binary_data_output", override),
    _binary("outputs-of-json", "binary_data_output of a request that is all JSON", from_json),
    _binary("content-type", "application/octet-stream, as in its examples", octet_stream, Level.STRICT),
    _binary("strings", "elements of BYTES behind four bytes of length", strings),
    _binary("16-bit-floats", "every datatype in its native size", narrow_floats),
    _binary("nan", "an answer in JSON to NaN as bytes is JSON, or an error", nan),
    _binary("header-length", f"{HEADER_LENGTH} is the length of the JSON", header_length),
    _binary("sizes", "binary_data_size is the size of the tensor's bytes", sizes),
    Check(
        "compression.request",
        "RFC 9110, 8.4: Content-Encoding; 415 where it is not known",
        compressed_request,
        Level.STRICT,
    ),
    Check("compression.answer", "RFC 9110, 12.5.3: Accept-Encoding", compressed_answer, Level.STRICT),
)
