"""The service ``inference.GRPCInferenceService`` on grpc.aio."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import aio

from offramp.errors import OfframpError
from offramp.serving.control import Control
from offramp.serving.keys import NO_KEYS, Keys, Scope
from offramp.serving.models.repository import ModelEntry
from offramp.serving.protocol import inference_pb2 as pb
from offramp.serving.protocol.documents import AskedInference
from offramp.serving.protocol.faults import BadRequest, Broken, ServingFault, fault_of
from offramp.serving.protocol.requests import ModelSpec, TensorSpec
from offramp.serving.rpc.conversion import read_message, write_message
from offramp.serving.rpc.messages import reading
from offramp.serving.service import EXTENSIONS, TRACE_PARENT, Limits, Service

LOG = logging.getLogger("offramp.serving")
SERVICE = "inference.GRPCInferenceService"
Context = aio.ServicerContext[Any, Any]
_TYPES = {"BYTES": "STRING"}


@dataclass(frozen=True, eq=False)
class InferenceServicer:
    """What each call of the service does.

    Attributes:
        service: What answers.
        control: What administrators change.
        keys: Who may do what.
    """

    service: Service
    control: Control
    keys: Keys = NO_KEYS

    async def server_live(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self.service.ready)

    async def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        entry = self.service.repository.entry(request.name, request.version)
        return pb.ModelReadyResponse(ready=entry.model is not None and not self.service.draining)

    async def server_metadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name=self.service.name, version=self.service.version, extensions=[*EXTENSIONS, "model_stream_infer"]
        )

    async def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        spec = self.service.repository.model(request.name, request.version).spec
        tensor = pb.ModelMetadataResponse.TensorMetadata
        inputs, outputs = (
            [tensor(name=each.name, datatype=each.datatype, shape=each.shape) for each in tensors]
            for tensors in (spec.inputs, spec.outputs)
        )
        return pb.ModelMetadataResponse(
            name=spec.name, versions=[spec.version], platform=spec.platform, inputs=inputs, outputs=outputs
        )

    async def model_infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        spec, asked = self._read(request)
        part = await self.service.infer(request.model_name, request.model_version, asked.request)
        return write_message(spec, part, asked)

    async def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        spec = self.service.repository.model(request.name, request.version).spec
        config = pb.ModelConfig(
            name=spec.name,
            platform=spec.platform,
            backend=spec.platform,
            input=[pb.ModelInput(name=each.name, data_type=_type(each), dims=each.shape) for each in spec.inputs],
            output=[pb.ModelOutput(name=each.name, data_type=_type(each), dims=each.shape) for each in spec.outputs],
            model_transaction_policy=pb.ModelTransactionPolicy(decoupled=spec.streams),
        )
        for name, value in spec.parameters.items():
            config.parameters[name].string_value = value
        return pb.ModelConfigResponse(config=config)

    async def model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        repository = self.service.repository
        entries = [repository.entry(request.name, request.version)] if request.name else repository.index
        return pb.ModelStatisticsResponse(model_stats=[_statistics(entry) for entry in entries])

    async def repository_index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        model = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[
                model(name=e.name, version=str(e.version), state=e.state, reason=e.reason)
                for e in self.service.repository.index
                if e.model is not None or not request.ready
            ]
        )

    async def repository_model_load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        _no_files(request.parameters)
        await asyncio.to_thread(self.control.load, request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def repository_model_unload(
        self, request: pb.RepositoryModelUnloadRequest
    ) -> pb.RepositoryModelUnloadResponse:
        _no_files(request.parameters)
        await asyncio.to_thread(self.control.unload, request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def model_stream_infer(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Each part of each answer as soon as it is there; a request that is not answered has an ``error_message``."""
        try:
            self.keys.check(_metadata(context, "authorization"), "infer")
        except ServingFault as fault:
            await _abort(context, fault)
        answers = _Answers(2 * self.service.limits.streams)
        places = asyncio.Semaphore(self.service.limits.streams)

        async def read() -> None:
            async with asyncio.TaskGroup() as group:
                async for request in requests:
                    await places.acquire()
                    group.create_task(self._stream_one(request, answers)).add_done_callback(lambda _: places.release())

        reading = asyncio.create_task(read())
        reading.add_done_callback(lambda _: answers.end())
        try:
            async for answer in answers:
                yield answer
        finally:
            reading.cancel()

    def _read(self, request: pb.ModelInferRequest) -> tuple[ModelSpec, AskedInference]:
        try:
            spec = self.service.spec(request.model_name, request.model_version)
            return spec, read_message(spec, request)
        except ServingFault as fault:
            self.service.refused(request.model_name, fault)
            raise

    async def _stream_one(self, request: pb.ModelInferRequest | ServingFault, answers: _Answers) -> None:
        try:
            if isinstance(request, ServingFault):
                raise request
            spec, asked = self._read(request)
            async for part, last in self.service.parts(request.model_name, request.model_version, asked.request):
                said = {"triton_final_response": last, "final": last}
                await answers.put(pb.ModelStreamInferResponse(infer_response=write_message(spec, part, asked, said)))
        except Exception as error:
            response = pb.ModelInferResponse()
            if not isinstance(request, ServingFault):
                response.id, response.model_name = request.id, request.model_name
            await answers.put(pb.ModelStreamInferResponse(error_message=str(_fault(error)), infer_response=response))


class _Answers:
    """Answers of a stream on their way to a client, which takes them when it likes: only so many wait."""

    def __init__(self, most: int) -> None:
        self._waiting: asyncio.Queue[pb.ModelStreamInferResponse | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(most)

    async def put(self, answer: pb.ModelStreamInferResponse) -> None:
        await self._room.acquire()
        self._waiting.put_nowait(answer)

    def end(self) -> None:
        self._waiting.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[pb.ModelStreamInferResponse]:
        while (answer := await self._waiting.get()) is not None:
            self._room.release()
            yield answer


def generic_handler(servicer: InferenceServicer, most: int = Limits.body_bytes) -> grpc.GenericRpcHandler[Any, Any]:
    """What a gRPC server registers: the names of the calls are the protocol's, and messages have at most so many bytes behind a compression."""
    calls: list[tuple[str, Callable[[Any], Awaitable[Any]], Any, Scope | None]] = [
        ("ServerLive", servicer.server_live, pb.ServerLiveRequest, None),
        ("ServerReady", servicer.server_ready, pb.ServerReadyRequest, None),
        ("ModelReady", servicer.model_ready, pb.ModelReadyRequest, None),
        ("ServerMetadata", servicer.server_metadata, pb.ServerMetadataRequest, "infer"),
        ("ModelMetadata", servicer.model_metadata, pb.ModelMetadataRequest, "infer"),
        ("ModelInfer", servicer.model_infer, pb.ModelInferRequest, "infer"),
        ("ModelConfig", servicer.model_config, pb.ModelConfigRequest, "infer"),
        ("ModelStatistics", servicer.model_statistics, pb.ModelStatisticsRequest, "infer"),
        ("RepositoryIndex", servicer.repository_index, pb.RepositoryIndexRequest, "infer"),
        ("RepositoryModelLoad", servicer.repository_model_load, pb.RepositoryModelLoadRequest, "admin"),
        ("RepositoryModelUnload", servicer.repository_model_unload, pb.RepositoryModelUnloadRequest, "admin"),
    ]
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            _answering(call, servicer.keys, scope),
            reading(request_type, most),
            lambda answer: answer.SerializeToString(),
        )
        for name, call, request_type, scope in calls
    }
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
        servicer.model_stream_infer, reading(pb.ModelInferRequest, most), lambda answer: answer.SerializeToString()
    )
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


def _answering(
    call: Callable[[Any], Awaitable[Any]], keys: Keys, scope: Scope | None
) -> Callable[[Any, Context], Awaitable[Any]]:
    async def answer(request: Any, context: Context) -> Any:
        try:
            if scope is not None:
                keys.check(_metadata(context, "authorization"), scope)
            TRACE_PARENT.set(_metadata(context, "traceparent") or "")
            if isinstance(request, ServingFault):
                raise request
            return await call(request)
        except Exception as error:
            await _abort(context, _fault(error))

    return answer


def _fault(error: Exception) -> ServingFault:
    """What to answer for an error; what nobody has foreseen is logged."""
    if isinstance(error, OfframpError):
        return error if isinstance(error, ServingFault) else fault_of(error)
    LOG.error("a call failed", exc_info=error)
    return Broken("this is a fault of the server, which its log describes")


async def _abort(context: Context, fault: ServingFault) -> None:
    trailing = () if fault.retry_after is None else (("retry-after-ms", str(max(1, round(1e3 * fault.retry_after)))),)
    await context.abort(grpc.StatusCode[fault.code], str(fault), trailing)


def _metadata(context: Context, wanted: str) -> str | None:
    for name, value in context.invocation_metadata() or ():
        if name == wanted:
            return value if isinstance(value, str) else value.decode("latin-1")
    return None


def _no_files(parameters: Any) -> None:
    unfit = [name for name in parameters if name != "unload_dependents"]
    if unfit:
        raise BadRequest(f"parameters: {unfit[0][:60]!r} is not taken: models come from the folder of the server alone")


def _type(tensor: TensorSpec) -> Any:
    return pb.DataType.Value(f"TYPE_{_TYPES.get(tensor.datatype, tensor.datatype)}")


def _statistics(entry: ModelEntry) -> pb.ModelStatistics:
    use = entry.use
    return pb.ModelStatistics(
        name=entry.name,
        version=str(entry.version),
        last_inference=use.last_ms,
        inference_count=use.inferences,
        execution_count=use.executions,
        inference_stats=pb.InferStatistics(
            success=pb.StatisticDuration(count=use.executions, ns=use.success_ns),
            fail=pb.StatisticDuration(count=use.failures, ns=use.failure_ns),
        ),
    )
