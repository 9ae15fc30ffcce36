"""A model's metadata, and the answers to valid requests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from offramp.serving.conformance.checks.server import UNKNOWN, healthy
from offramp.serving.conformance.documents import (
    InferAnswer,
    ModelDescription,
    read_answer,
    read_json,
    read_model,
    request_document,
    shown,
)
from offramp.serving.conformance.http import HttpRequest
from offramp.serving.conformance.probe import Check, Probe, refused
from offramp.serving.conformance.results import Fault, Level, NotRun
from offramp.serving.conformance.tensors import BINARY_ONLY, WireTensor

ID, UNICODE_ID = "check-server 42", "\N{GREEK SMALL LETTER MU} 42"
"""Identifiers that no server makes up by itself."""
AT_ONCE = 8
VERSION = "offramp-no-such-version"


def metadata(probe: Probe) -> str:
    """Names, datatypes and shapes of inputs and outputs."""
    found = model_at(probe, "")
    if not found.inputs or not found.outputs:
        raise Fault("lists no inputs or no outputs: no request can be made from it")
    inputs, outputs = (", ".join(map(str, tensors)) for tensors in (found.inputs, found.outputs))
    return f"{inputs} -> {outputs}"


def model_at(probe: Probe, path: str) -> ModelDescription:
    """The metadata at a path of the model; they must name it."""
    found = read_model(read_json(probe.get(path)))
    if found.name != probe.name:
        raise Fault(f"the metadata of {probe.name} name {found.name[:60]}")
    return found


def ready(probe: Probe) -> str:
    """The model says that it is ready."""
    return healthy(probe.get("/ready"))


def versions(probe: Probe) -> str:
    """Every version that the metadata list can be asked for."""
    for version in _versions(probe):
        place = f"/versions/{quote(version, safe='')}"
        found = model_at(probe, place)
        healthy(probe.get(f"{place}/ready"))
        if not found.inputs and probe.model.inputs:
            raise Fault(f"version {version} has other metadata")
    return ", ".join(probe.model.versions)


def _versions(probe: Probe) -> tuple[str, ...]:
    if not probe.model.versions:
        raise NotRun("the metadata list no versions")
    return probe.model.versions


def unknown_model(probe: Probe) -> str:
    """Metadata, readiness and answers of a model that is not there."""
    probe.answer()
    asked, document = f"/v2/models/{UNKNOWN}", request_document(probe.inputs())
    replies = [probe.get(asked), probe.get(f"{asked}/ready"), probe.post(f"{asked}/infer", document)]
    return [refused(reply, 404) for reply in replies][-1]


def unknown_version(probe: Probe) -> str:
    """Metadata and answers of a version that is not there."""
    probe.answer()
    place = f"/versions/{VERSION}"
    return [refused(reply) for reply in (probe.get(place), probe.infer(at=f"{place}/infer"))][-1]


def in_json(probe: Probe) -> str:
    """A valid request gets an answer that holds what it says."""
    try:
        inputs = probe.inputs()
    except NotRun as reason:
        raise Fault(f"cannot be asked: {reason}") from None
    answer = read_answer(probe.infer(inputs))
    if answer.model != probe.name:
        raise Fault(f"model_name is {answer.model[:60]!r}")
    return ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in answer.outputs)


def as_described(probe: Probe) -> str:
    """Outputs are those of the metadata, with their datatypes and shapes."""
    return _fit(probe, probe.answer().outputs)


def _fit(probe: Probe, outputs: tuple[WireTensor, ...]) -> str:
    described = {tensor.name: tensor for tensor in probe.model.outputs}
    if {tensor.name for tensor in outputs} != described.keys():
        raise Fault(f"outputs {[tensor.name for tensor in outputs]}; the metadata list {list(described)}")
    for tensor in outputs:
        said = described[tensor.name]
        sizes = zip(said.shape, tensor.shape, strict=False)
        if said.datatype != tensor.datatype or len(said.shape) != len(tensor.shape):
            raise Fault(f"{tensor.name} is {tensor.datatype} {list(tensor.shape)}; the metadata say {said}")
        if any(size not in (wanted, -1) and wanted != -1 for wanted, size in sizes):
            raise Fault(f"{tensor.name} has shape {list(tensor.shape)}; the metadata say {list(said.shape)}")
    return f"{len(outputs)} outputs as the metadata say"


def nested(probe: Probe) -> str:
    """Data in the tensor's own dimensions mean what flat data do."""
    probe.compare(read_answer(probe.infer(nested=True)))
    return "the same answer"


def identifier(probe: Probe) -> str:
    """The request's id comes back."""
    return _returned(probe, ID)


def unicode_identifier(probe: Probe) -> str:
    """An id that is not ASCII comes back, too."""
    return _returned(probe, UNICODE_ID)


def _returned(probe: Probe, id: str) -> str:
    probe.answer()
    answer = read_answer(probe.infer(id=id))
    if answer.id != id:
        raise Fault(f"sent {id!r}, got {answer.id[:60]!r}")
    return f"{id!r} came back"


def requested(probe: Probe) -> str:
    """Each output alone, and all in another order, where they are asked for."""
    names = [tensor.name for tensor in probe.model.outputs]
    probe.answer()
    for asked in ([[name] for name in names], [names[::-1]]):
        for wanted in asked:
            _only(probe, wanted, read_answer(probe.infer(outputs=wanted)))
    return f"each of {len(names)} alone, and all"


def _only(probe: Probe, wanted: list[str], answer: InferAnswer) -> None:
    found = [tensor.name for tensor in answer.outputs]
    if sorted(found) != sorted(wanted):
        raise Fault(f"asked for {wanted}, got {found}")
    kept = [tensor for tensor in probe.answer().outputs if tensor.name not in wanted]
    probe.compare(InferAnswer(answer.model, answer.version, answer.id, (*answer.outputs, *kept)))


def batch(probe: Probe) -> str:
    """Two rows where the metadata leave the first dimension open."""
    if not any(tensor.shape[:1] == (-1,) for tensor in probe.model.inputs):
        raise NotRun("no input has an open first dimension")
    probe.answer()
    answer = read_answer(probe.infer(probe.inputs(batch=2)))
    return _fit(probe, answer.outputs)


def at_version(probe: Probe) -> str:
    """Answers of a named version say which they are."""
    version = _versions(probe)[0]
    probe.answer()
    answer = read_answer(probe.infer(at=f"/versions/{quote(version, safe='')}/infer"))
    if answer.version != version:
        raise Fault(f"asked version {version[:40]}, model_version is {answer.version[:40]!r}")
    probe.compare(answer)
    return f"model_version {version}"


def content_type(probe: Probe) -> str:
    """Documents say that they are JSON."""
    probe.answer()
    if any(tensor.datatype in BINARY_ONLY for tensor in probe.model.outputs):
        raise NotRun("the answer holds 16-bit floats, so that it is not all JSON")
    for reply in (probe.get(""), probe.infer()):
        found = reply.headers.get("content-type", "")
        if found.partition(";")[0].strip().lower() != "application/json":
            raise Fault(f"Content-Type is {found[:60]!r}")
    return "application/json"


def bare(probe: Probe) -> str:
    """A request without a Content-Type."""
    probe.compare(read_answer(probe.post("/infer", probe.document(), {})))
    return "the same answer"


def kept_connection(probe: Probe) -> str:
    """A connection on which something was refused is still good for what comes after."""
    probe.answer()
    sent = [
        HttpRequest("POST", f"{probe.path}/infer", body, {"Content-Type": "application/json"})
        for body in (b"{", b"{" + b" " * 100_000, b"{")
    ]
    replies = probe.wire.ask([*sent, HttpRequest("GET", "/v2/health/live")])
    if replies[-1].status != 200:
        raise Fault(f"after refused requests GET v2/health/live was answered {shown(replies[-1])}")
    return "200 after three refused requests"


def at_once(probe: Probe) -> str:
    """Equal requests at the same time get equal answers, each its own."""
    probe.answer()
    ids = [f"{ID} {number}" for number in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda id: read_answer(probe.infer(id=id)), ids))
    for id, answer in zip(ids, answers, strict=True):
        if answer.id not in (id, ""):
            raise Fault(f"the answer to {id!r} has the id {answer.id[:60]!r}")
        probe.compare(answer)
    return f"{AT_ONCE} equal answers"


CHECKS = (
    Check(
        "model.metadata",
        "REST, Model Metadata: name, platform, inputs, outputs; of each tensor name, datatype and shape, -1 for any size",
        metadata,
    ),
    Check("model.ready", "REST, Model Ready: 200 from GET v2/models/M/ready", ready),
    Check("model.versions", "REST, Model Metadata: the versions listed may be asked for", versions),
    Check(
        "inference.json", "REST, Inference: 200 with model_name and outputs; data have the shape's elements", in_json
    ),
    Check("inference.outputs", "REST, Inference: without outputs in the request all of the metadata's", as_described),
    Check("inference.nested", "REST, Tensor Data: flat, or in the tensor's own dimensions", nested),
    Check("inference.id", "REST, Inference: an id that was given must be returned", identifier),
    Check("inference.unicode-id", "REST, Inference: an id is any string", unicode_identifier),
    Check("inference.requested-outputs", "REST, Inference: outputs are those asked for", requested),
    Check("inference.batch", "REST, Model Metadata: -1 stands for any size", batch),
    Check("inference.version", "REST, Inference: model_version is the version used", at_version),
    Check("inference.at-once", "REST, Inference: the answer is that of the request", at_once),
    Check("inference.content-type", "REST, examples: application/json", content_type, Level.STRICT),
    Check("inference.bare", "Triton's HTTP client sends no Content-Type", bare, Level.STRICT),
    Check("inference.kept-connection", "RFC 9112, 9.3: connections persist", kept_connection, Level.STRICT),
    Check("errors.unknown-model", "REST, Errors: an HTTP error status; 404", unknown_model),
    Check("errors.unknown-version", "REST, Errors: an HTTP error status", unknown_version),
)
