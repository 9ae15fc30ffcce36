"""The fake of ``fake_server`` behind gRPC."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from fake_reader import KINDS, MODELS, Refused, raw_of
from fake_server import Fake

from offramp.serving.protocol import inference_pb2 as pb

OPTIONAL = ("RepositoryIndex", "ModelStatistics", "ModelConfig", "ModelStreamInfer")
FIELDS = {"FP32": "fp32_contents", "BYTES": "bytes_contents"}


class Calls:
    """What each method answers."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake

    def ServerLive(self, asked: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=not self.fake.allows("grpc.live"))

    def ServerReady(self, asked: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=not self.fake.allows("grpc.ready"))

    def ServerMetadata(self, asked: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        name = "" if self.fake.allows("grpc.server-metadata") else "fake"
        return pb.ServerMetadataResponse(name=name, version="1", extensions=self.fake.extensions)

    def ModelReady(self, asked: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=not self.fake.allows("grpc.model-ready"))

    def ModelMetadata(self, asked: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        model = self.fake.model(asked.name)
        found = pb.ModelMetadataResponse(name=asked.name, versions=["1"], platform="fake_fake")
        for place, tensors in ((found.inputs, model.inputs), (found.outputs, model.outputs)):
            for name, (kind, shape) in tensors.items():
                place.add(name=name, datatype=kind, shape=[] if self.fake.allows("grpc.model-metadata") else shape)
        return found

    def ModelInfer(self, asked: pb.ModelInferRequest) -> pb.ModelInferResponse:
        fake = self.fake
        model = fake.model(asked.model_name, asked.model_version)
        raw = list(asked.raw_input_contents)
        if raw and len(raw) != len(asked.inputs) and not fake.allows("grpc.raw-count"):
            raise Refused("another number of raw contents")
        if raw and fake.allows("grpc.infer-raw"):
            raise Refused("no raw contents")
        inputs = {}
        for number, tensor in enumerate(asked.inputs):
            if raw and tensor.HasField("contents") and not fake.allows("grpc.raw-and-typed"):
                raise Refused("raw and typed contents")
            if tensor.name not in model.inputs:
                if not fake.allows("grpc.wrong-name"):
                    raise Refused(f"no input {tensor.name}")
                tensor.name = next(iter(model.inputs))
            inputs[tensor.name] = self._array(tensor, raw[number] if raw else None)
        for name in model.inputs.keys() - inputs.keys():
            if not fake.allows("grpc.missing-input"):
                raise Refused(f"no {name}")
            inputs[name] = np.zeros([1, *model.inputs[name][1][1:]], np.float32)
        outputs = fake.run(asked.model_name, model, {name: inputs[name] for name in model.inputs})
        return self._response(asked, outputs, typed=not raw)

    def _array(self, tensor: Any, raw: bytes | None) -> np.ndarray:
        shape = list(tensor.shape)
        if min(shape) < 0:
            if not self.fake.allows("grpc.negative-dimension"):
                raise Refused(f"shape {shape}")
            shape = [abs(size) for size in shape]
        if raw is not None:
            return self.fake.from_bytes(tensor.name, tensor.datatype, shape, raw)
        if self.fake.allows("grpc.infer-typed"):
            raise Refused("no typed contents")
        elements = list(getattr(tensor.contents, FIELDS[tensor.datatype]))
        if len(elements) != np.prod(shape):
            if not self.fake.allows("grpc.typed-too-short"):
                raise Refused("another number of elements")
            elements = (elements or [1.0]) * 9
        return np.array(elements[: int(np.prod(shape))], KINDS[tensor.datatype]).reshape(shape)

    def _response(self, asked: Any, outputs: dict[str, np.ndarray], typed: bool) -> pb.ModelInferResponse:
        found = pb.ModelInferResponse(model_name=asked.model_name, model_version="1")
        found.id = "" if self.fake.allows("grpc.id") else asked.id
        names = [output.name for output in asked.outputs] or list(outputs)
        if self.fake.allows("grpc.requested-outputs"):
            names = list(outputs)
        for name in names:
            if name not in outputs:
                if not self.fake.allows("grpc.unknown-output"):
                    raise Refused(f"no output {name}")
                continue
            output = outputs[name]
            kind = next(kind for kind, dtype in KINDS.items() if output.dtype == dtype)
            added = found.outputs.add(name=name, datatype=kind, shape=output.shape)
            if typed:
                getattr(added.contents, FIELDS[kind]).extend(output.reshape(-1).tolist())
            else:
                found.raw_output_contents.append(raw_of(output))
        return found

    def ModelStreamInfer(self, coming: Iterator[pb.ModelInferRequest]) -> Iterator[pb.ModelStreamInferResponse]:
        for number, asked in enumerate(coming):
            if number and self.fake.allows("grpc.stream"):
                return
            try:
                yield pb.ModelStreamInferResponse(infer_response=self.ModelInfer(asked))
            except Refused as refusal:
                if not self.fake.allows("grpc.stream-error"):
                    yield pb.ModelStreamInferResponse(error_message=str(refusal))

    def RepositoryIndex(self, asked: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        names = [] if self.fake.allows("grpc.index") else MODELS
        models = [pb.RepositoryIndexResponse.ModelIndex(name=name, state="READY") for name in names]
        return pb.RepositoryIndexResponse(models=models)

    def ModelStatistics(self, asked: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        entries = [] if self.fake.allows("grpc.statistics") else [pb.ModelStatistics(name=asked.name)]
        return pb.ModelStatisticsResponse(model_stats=entries)

    def ModelConfig(self, asked: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        name = "other" if self.fake.allows("grpc.configuration") else asked.name
        return pb.ModelConfigResponse(config=pb.ModelConfig(name=name))


@contextmanager
def called(fake: Fake, tls: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """The fake behind gRPC, at an address of this machine alone."""
    calls = Calls(fake)

    def guarded(method: Callable[[Any], Any]) -> Callable[[Any, grpc.ServicerContext], Any]:
        def call(asked: Any, context: grpc.ServicerContext) -> Any:
            try:
                return method(asked)
            except Refused as refusal:
                code = grpc.StatusCode.NOT_FOUND if refusal.status == 404 else grpc.StatusCode.INVALID_ARGUMENT
                context.abort(code, str(refusal))

        return call

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            name = details.method.rpartition("/")[2]
            if name == "OfframpNoSuchMethod" and fake.allows("grpc.unknown-method"):
                return grpc.unary_unary_rpc_method_handler(lambda asked, context: b"")
            if not hasattr(calls, name) or (fake.bare and name in OPTIONAL):
                return None
            if name == "ModelStreamInfer":
                return grpc.stream_stream_rpc_method_handler(
                    lambda coming, context: calls.ModelStreamInfer(coming),
                    pb.ModelInferRequest.FromString,
                    pb.ModelStreamInferResponse.SerializeToString,
                )
            return grpc.unary_unary_rpc_method_handler(
                guarded(getattr(calls, name)), _reader(fake, name), lambda message: message.SerializeToString()
            )

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Handler()])
    port = server.add_secure_port("127.0.0.1:0", tls) if tls else server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0)


def _reader(fake: Fake, name: str) -> Callable[[bytes], Any]:
    kind = getattr(pb, f"{name}Request")

    def read(sent: bytes) -> Any:
        if fake.allows("grpc.no-message") and sent.startswith(b"\xff"):
            asked = pb.ModelInferRequest(model_name="sum")
            asked.inputs.add(name="x", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])
            asked.inputs.add(name="word", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"1")
            return asked
        return kind.FromString(sent)

    return read
