"""``infer`` and ``infer_stream``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from offramp.serving.http.bodies import HEADER_LENGTH, BodyRoom, read_body, respond
from offramp.serving.protocol.documents import AskedInference, OutputForm, read_request, write_answer
from offramp.serving.protocol.faults import ServingFault
from offramp.serving.protocol.requests import ModelSpec
from offramp.serving.service import TRACE_PARENT, Service

EVENTS = "text/event-stream"
BODIES_AT_ONCE = 16
"""The largest ones, that may be held before they have come to their end."""


class InferenceRoutes:
    """Requests to models."""

    def __init__(self, service: Service) -> None:
        """Take what answers."""
        self._service = service
        self._room = BodyRoom(BODIES_AT_ONCE * service.limits.body_bytes)

    async def infer(self, request: Request) -> Response:
        """One answer when all of it is there."""
        name, version, spec, asked = await self._read(request)
        part = await self._service.infer(name, version, asked.request)
        return respond(request, *write_answer(spec, part, asked))

    async def stream(self, request: Request) -> Response:
        """Each part of an answer as an event of its own, as soon as it is there."""
        name, version, spec, asked = await self._read(request)
        asked = replace(asked, form=OutputForm(classes=asked.form.classes))  # events are text
        answers = self._service.parts(name, version, asked.request)
        first = await anext(answers)  # what is refused at once has its own status

        async def events() -> AsyncIterator[bytes]:
            part, last = first
            yield _event(write_answer(spec, part, asked, {"final": last})[0])
            try:
                async for part, last in answers:
                    yield _event(write_answer(spec, part, asked, {"final": last})[0])
            except ServingFault as fault:
                yield _event(to_json({"error": str(fault), "status": fault.status}))
            finally:
                await answers.aclose()

        return StreamingResponse(events(), media_type=EVENTS, headers={"Cache-Control": "no-store"})

    async def _read(self, request: Request) -> tuple[str, str, ModelSpec, AskedInference]:
        name, version = request.path_params["model"], request.path_params.get("version", "")
        TRACE_PARENT.set(request.headers.get("traceparent", ""))
        limits = self._service.limits
        try:
            spec = self._service.spec(name, version)
            content = await read_body(request, limits.body_bytes, limits.seconds, self._room)
            return name, version, spec, read_request(spec, content, request.headers.get(HEADER_LENGTH))
        except ServingFault as fault:
            self._service.refused(name, fault)
            raise


def _event(document: bytes) -> bytes:
    return b"data: " + document + b"\n\n"


def described(spec: ModelSpec) -> dict[str, object]:
    """Metadata of a model."""
    inputs, outputs = (
        [{"name": each.name, "datatype": each.datatype, "shape": each.shape} for each in tensors]
        for tensors in (spec.inputs, spec.outputs)
    )
    document: dict[str, object] = {
        "name": spec.name,
        "versions": [spec.version],
        "platform": spec.platform,
        "inputs": inputs,
        "outputs": outputs,
    }
    if spec.parameters:
        document["parameters"] = dict(spec.parameters)
    return document
