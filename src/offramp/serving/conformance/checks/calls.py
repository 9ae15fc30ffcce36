"""gRPC: health, metadata, answers, mistakes, streams and extensions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from offramp.serving.conformance.checks.extensions import CONFIGURATION, STATISTICS
from offramp.serving.conformance.checks.inference import ID, VERSION
from offramp.serving.conformance.checks.server import REPOSITORY, UNKNOWN
from offramp.serving.conformance.documents import InferAnswer
from offramp.serving.conformance.http import NoReply
from offramp.serving.conformance.probe import Check, Probe
from offramp.serving.conformance.results import Fault, Level, NotRun, NotSupported
from offramp.serving.conformance.rpc import RpcRefused, described, infer_message, message_answer
from offramp.serving.conformance.tensors import BINARY_ONLY, TYPED_FIELDS, WireTensor
from offramp.serving.protocol import inference_pb2 as pb

FAULTS_OF_CLIENTS = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNIMPLEMENTED")
"""Statuses that say a request was wrong."""


def live(probe: Probe) -> str:
    """The server says that it is live."""
    if not probe.wire.call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live:
        raise Fault("live is false")
    return "live"


def ready(probe: Probe) -> str:
    """The server says that its models are ready."""
    if not probe.wire.call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready:
        raise Fault("ready is false")
    return "ready"


def server_metadata(probe: Probe) -> str:
    """Name, version and extensions are there."""
    found = probe.wire.call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
    if not found.name:
        raise Fault("the name is empty")
    return f"{found.name} {found.version}, extensions: {', '.join(found.extensions) or 'none'}"


def model_ready(probe: Probe) -> str:
    """The model says that it is ready."""
    asked = pb.ModelReadyRequest(name=probe.name)
    if not probe.wire.call("ModelReady", asked, pb.ModelReadyResponse).ready:
        raise Fault("ready is false")
    return "ready"


def model_metadata(probe: Probe) -> str:
    """The same inputs and outputs as over HTTP."""
    asked = pb.ModelMetadataRequest(name=probe.name)
    found = described(probe.wire.call("ModelMetadata", asked, pb.ModelMetadataResponse))
    for key in ("name", "inputs", "outputs", "versions"):
        here, there = getattr(found, key), getattr(probe.model, key)
        if here != there:
            raise Fault(
                f"{key} {', '.join(map(str, here)) or 'none'}; over HTTP {', '.join(map(str, there)) or 'none'}"
            )
    return "as over HTTP"


def _infer(probe: Probe, message: pb.ModelInferRequest | bytes) -> InferAnswer:
    return message_answer(probe.wire.call("ModelInfer", message, pb.ModelInferResponse))


def _answered(probe: Probe, raw: bool = True) -> pb.ModelInferRequest:
    """A valid request, to be changed. It is answered now, so that whatever is refused next is refused for the change."""
    probe.answer()
    message = infer_message(probe.name, probe.inputs(), raw)
    try:
        _infer(probe, message)
    except (Fault, NoReply) as failure:
        raise NotRun(f"the valid request is not answered: {failure}") from None
    return message


def infer_raw(probe: Probe) -> str:
    """Inputs as bytes get the answer that JSON gets."""
    probe.answer()
    answer = _infer(probe, infer_message(probe.name, probe.inputs()))
    if answer.model != probe.name:
        raise Fault(f"model_name is {answer.model[:60]!r}")
    probe.compare(answer)
    return "the same answer as over HTTP"


def infer_typed(probe: Probe) -> str:
    """Inputs in typed fields get the answer that JSON gets."""
    if any(tensor.datatype in BINARY_ONLY for tensor in probe.model.inputs):
        raise NotRun("16-bit floats have no typed field")
    probe.answer()
    probe.compare(_infer(probe, infer_message(probe.name, probe.inputs(), raw=False)))
    return "the same answer as over HTTP"


def identifier(probe: Probe) -> str:
    """The request's id comes back."""
    probe.answer()
    answer = _infer(probe, infer_message(probe.name, probe.inputs(), id=ID))
    if answer.id != ID:
        raise Fault(f"sent {ID!r}, got {answer.id[:60]!r}")
    return f"{ID!r} came back"


def requested(probe: Probe) -> str:
    """Outputs are those asked for."""
    probe.answer()
    for name in (tensor.name for tensor in probe.model.outputs):
        answer = _infer(probe, infer_message(probe.name, probe.inputs(), outputs=[name]))
        found = [tensor.name for tensor in answer.outputs]
        if found != [name]:
            raise Fault(f"asked for {name}, got {found}")
    return f"each of {len(probe.model.outputs)} alone"


def _refused(probe: Probe, message: pb.ModelInferRequest | bytes, code: str = "") -> str:
    try:
        _infer(probe, message)
    except RpcRefused as refusal:
        return _fault_of_client(refusal, code)
    raise Fault("accepted: OK")


def _fault_of_client(refusal: RpcRefused, code: str = "") -> str:
    if refusal.code not in FAULTS_OF_CLIENTS or code not in ("", refusal.code):
        raise Fault(f"refused, but not with {code or 'INVALID_ARGUMENT'}: {refusal}", Level.STRICT)
    return str(refusal)


def _changed(change: Callable[[pb.ModelInferRequest], None], raw: bool = True) -> Callable[[Probe], str]:
    """A check that changes the valid request and wants it refused."""

    def run(probe: Probe) -> str:
        if not raw and any(tensor.datatype in BINARY_ONLY for tensor in probe.model.inputs):
            raise NotRun("16-bit floats have no typed field")
        if not probe.inputs()[0].elements:
            raise NotRun(f"input {probe.inputs()[0].name} is empty")
        message = _answered(probe, raw)
        change(message)
        return _refused(probe, message)

    return run


def _wrong_name(message: pb.ModelInferRequest) -> None:
    message.inputs[0].name = "offramp-no-such-input"


def _missing_input(message: pb.ModelInferRequest) -> None:
    del message.inputs[0]
    del message.raw_input_contents[0]


def _short(message: pb.ModelInferRequest) -> None:
    message.raw_input_contents[0] = message.raw_input_contents[0][:-1]


def _short_typed(message: pb.ModelInferRequest) -> None:
    del getattr(message.inputs[0].contents, TYPED_FIELDS[message.inputs[0].datatype])[-1]


def _negative(message: pb.ModelInferRequest) -> None:
    shape = list(message.inputs[0].shape)
    del message.inputs[0].shape[:]
    message.inputs[0].shape.extend([-1, *shape[1:]])


def _unknown_output(message: pb.ModelInferRequest) -> None:
    message.outputs.add(name="offramp-no-such-output")


def _fewer_raw(message: pb.ModelInferRequest) -> None:
    message.raw_input_contents.append(b"")


def _both(message: pb.ModelInferRequest) -> None:
    message.inputs[0].contents.int_contents.append(1)


def unknown_model(probe: Probe) -> str:
    """A model that is not there."""
    _answered(probe)
    return _refused(probe, infer_message(UNKNOWN, probe.inputs()), "NOT_FOUND")


def unknown_version(probe: Probe) -> str:
    """A version that is not there."""
    _answered(probe)
    return _refused(probe, infer_message(probe.name, probe.inputs(), version=VERSION))


def no_message(probe: Probe) -> str:
    """Bytes that are no message."""
    _answered(probe)
    try:
        _infer(probe, b"\xff" * 64)
    except RpcRefused as refusal:
        return str(refusal)
    raise Fault("accepted: OK")


def unknown_method(probe: Probe) -> str:
    """A method that is not there."""
    try:
        probe.wire.call("OfframpNoSuchMethod", b"", pb.ServerLiveResponse)
    except RpcRefused as refusal:
        return _fault_of_client(refusal, "UNIMPLEMENTED")
    raise Fault("accepted: OK")


def _supported(probe: Probe, refusal: RpcRefused, extension: str) -> RpcRefused:
    """The refusal, unless it says that there is no such method and none is announced."""
    if refusal.code == "UNIMPLEMENTED" and not probe.announces(extension):
        raise NotSupported("UNIMPLEMENTED, and not announced")
    if refusal.code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        raise NotSupported(f"{refusal.code}: not allowed with these headers")
    return refusal


def index(probe: Probe) -> str:
    """The same models as over HTTP."""
    try:
        found = probe.wire.call("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
    except RpcRefused as refusal:
        raise Fault(str(_supported(probe, refusal, REPOSITORY))) from None
    names = [model.name for model in found.models]
    if not names:
        raise Fault("no models")
    return ", ".join(names)


def statistics(probe: Probe) -> str:
    """Counts of the model."""
    asked = pb.ModelStatisticsRequest(name=probe.name)
    try:
        found = probe.wire.call("ModelStatistics", asked, pb.ModelStatisticsResponse)
    except RpcRefused as refusal:
        raise Fault(str(_supported(probe, refusal, STATISTICS))) from None
    if {entry.name for entry in found.model_stats} != {probe.name}:
        raise Fault(f"statistics of {[entry.name for entry in found.model_stats]}")
    return f"success.count {sum(entry.inference_stats.success.count for entry in found.model_stats)}"


def configuration(probe: Probe) -> str:
    """The model's configuration."""
    try:
        found = probe.wire.call("ModelConfig", pb.ModelConfigRequest(name=probe.name), pb.ModelConfigResponse)
    except RpcRefused as refusal:
        raise Fault(str(_supported(probe, refusal, CONFIGURATION))) from None
    if found.config.name != probe.name:
        raise Fault(f"the configuration names {found.config.name[:60]!r}")
    return f"{len(found.config.input)} inputs, {len(found.config.output)} outputs"


def _streamed(probe: Probe, messages: list[pb.ModelInferRequest]) -> list[pb.ModelStreamInferResponse]:
    try:
        return probe.wire.stream("ModelStreamInfer", messages, pb.ModelStreamInferResponse)
    except RpcRefused as refusal:
        if refusal.code == "UNIMPLEMENTED":
            raise NotSupported("UNIMPLEMENTED") from None
        if "deserializing" in str(refusal):
            raise Fault("what comes is no ModelStreamInferResponse") from None
        raise Fault(str(refusal)) from None


def stream(probe: Probe) -> str:
    """Two requests on one stream, each answered in one part or several that hold the outputs together."""
    probe.answer()
    ids = ("first", "second")
    messages = [infer_message(probe.name, probe.inputs(), id=id) for id in ids]
    outputs: dict[str, dict[str, WireTensor]] = {id: {} for id in ids}
    found = _streamed(probe, messages)
    for part in found:
        if part.error_message:
            raise Fault(f"error_message: {part.error_message}")
        answer = message_answer(part.infer_response)
        if answer.id not in outputs:
            raise Fault(f"a part has the id {answer.id[:60]!r}")
        outputs[answer.id] |= {tensor.name: tensor for tensor in answer.outputs}
    for merged in outputs.values():
        probe.compare(replace(probe.answer(), outputs=tuple(merged.values())))
    return f"{len(found)} parts for 2 requests"


def stream_error(probe: Probe) -> str:
    """A mistake on a stream is answered, and the stream goes on."""
    valid = _answered(probe)
    wrong = infer_message(UNKNOWN, probe.inputs(), id="wrong")
    found = _streamed(probe, [wrong, valid])
    if not any(part.error_message for part in found):
        raise Fault("no part has an error_message")
    if not any(part.infer_response.outputs for part in found):
        raise Fault("the valid request behind it was not answered")
    return next(part.error_message for part in found if part.error_message)


def _required(name: str, clause: str, run: Callable[[Probe], str], per_model: bool = True) -> Check:
    return Check(f"grpc.{name}", f"gRPC, {clause}", run, per_model=per_model, rpc=True)


def _strict(name: str, clause: str, run: Callable[[Probe], str], per_model: bool = True) -> Check:
    return Check(f"grpc.{name}", clause, run, Level.STRICT, per_model=per_model, rpc=True)


def _extension(name: str, extension: str, run: Callable[[Probe], str], per_model: bool = True) -> Check:
    clause = f"{extension.replace('_', ' ').capitalize()} extension: its method"
    return Check(f"grpc.{name}", clause, run, Level.EXTENSION, extension, per_model, rpc=True)


CHECKS = (
    _required("live", "Server Live", live, per_model=False),
    _required("ready", "Server Ready", ready, per_model=False),
    _required("server-metadata", "Server Metadata: name, version, extensions", server_metadata, per_model=False),
    _strict("unknown-method", "gRPC status codes: UNIMPLEMENTED", unknown_method, per_model=False),
    _extension("index", REPOSITORY, index, per_model=False),
    _required("model-ready", "Model Ready", model_ready),
    _required("model-metadata", "Model Metadata: as over HTTP", model_metadata),
    _required("infer-raw", "Inference: raw_input_contents; the same answer as over HTTP", infer_raw),
    _required("infer-typed", "Inference: contents; the same answer as over HTTP", infer_typed),
    _required("id", "Inference: id is returned", identifier),
    _required("requested-outputs", "Inference: outputs are those asked for", requested),
    _required("unknown-model", "Inference: errors are a status", unknown_model),
    _required("unknown-version", "Inference: errors are a status", unknown_version),
    _required("wrong-name", "Model Metadata: the inputs", _changed(_wrong_name)),
    _required("missing-input", "Model Metadata: the inputs", _changed(_missing_input)),
    _required("raw-too-short", "raw_input_contents: the size must match shape and datatype", _changed(_short)),
    _required("typed-too-short", "contents: the size must match the shape", _changed(_short_typed, raw=False)),
    _required("raw-count", "raw_input_contents: data for each tensor", _changed(_fewer_raw)),
    _required("raw-and-typed", "raw_input_contents: contents must not be given besides", _changed(_both)),
    _required("negative-dimension", "Inference: the shape", _changed(_negative)),
    _required("unknown-output", "Inference: outputs asked for must be returned", _changed(_unknown_output)),
    _strict("no-message", "bytes that are no message", no_message),
    _extension("statistics", STATISTICS, statistics),
    _extension("configuration", CONFIGURATION, configuration),
    _strict("stream", "Triton's ModelStreamInfer: answers to all requests of a stream", stream),
    _strict("stream-error", "Triton's ModelStreamInfer: error_message", stream_error),
)
