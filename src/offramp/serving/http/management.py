"""Health, metadata, configuration, statistics, and the repository."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from offramp.serving.control import Control
from offramp.serving.http.bodies import read_body
from offramp.serving.http.inference import described
from offramp.serving.models.repository import ModelEntry
from offramp.serving.protocol.documents import read_json
from offramp.serving.protocol.faults import BadRequest, NotFound
from offramp.serving.service import EXTENSIONS, Service

_CONFIG_TYPES = {"BYTES": "TYPE_STRING"}
MOST_SAID = 1 << 20
"""Bytes of a request that only names things."""


class ManagementRoutes:
    """Everything that asks no model."""

    def __init__(self, service: Service, control: Control) -> None:
        """Take what answers, and what changes it."""
        self._service, self._control = service, control

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        return JSONResponse({"ready": self._service.ready}, 200 if self._service.ready else 503)

    async def server(self, request: Request) -> Response:
        service = self._service
        return JSONResponse({"name": service.name, "version": service.version, "extensions": list(EXTENSIONS)})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"models": [entry.name for entry in self._service.repository.index]})

    async def model(self, request: Request) -> Response:
        return JSONResponse(described(self._service.repository.model(*_named(request)).spec))

    async def model_ready(self, request: Request) -> Response:
        entry = self._service.repository.entry(*_named(request))
        ready = entry.model is not None and not self._service.draining
        return JSONResponse({"name": entry.name, "ready": ready}, 200 if ready else 503)

    async def config(self, request: Request) -> Response:
        spec = self._service.repository.model(*_named(request)).spec
        inputs, outputs = (
            [
                {
                    "name": each.name,
                    "data_type": _CONFIG_TYPES.get(each.datatype, f"TYPE_{each.datatype}"),
                    "dims": each.shape,
                }
                for each in tensors
            ]
            for tensors in (spec.inputs, spec.outputs)
        )
        document = {
            "name": spec.name,
            "platform": spec.platform,
            "backend": spec.platform,
            "max_batch_size": 0,
            "input": inputs,
            "output": outputs,
            "model_transaction_policy": {"decoupled": spec.streams},
            "parameters": {name: {"string_value": value} for name, value in spec.parameters.items()},
        }
        return JSONResponse(document)

    async def statistics(self, request: Request) -> Response:
        repository = self._service.repository
        named = "model" in request.path_params
        entries = [repository.entry(*_named(request))] if named else repository.index
        return JSONResponse({"model_stats": [_statistics(entry) for entry in entries]})

    async def index(self, request: Request) -> Response:
        said = await self._said(request)
        only_ready = said.get("ready", False)
        if not isinstance(only_ready, bool):
            raise BadRequest("ready: true or false is expected")
        entries = [entry for entry in self._service.repository.index if entry.model is not None or not only_ready]
        return JSONResponse(
            [{"name": e.name, "version": str(e.version), "state": e.state, "reason": e.reason} for e in entries]
        )

    async def load(self, request: Request) -> Response:
        await self._said(request, allowed=("parameters",))
        await anyio.to_thread.run_sync(self._control.load, request.path_params["model"])
        return JSONResponse({})

    async def unload(self, request: Request) -> Response:
        await self._said(request, allowed=("parameters",))
        await anyio.to_thread.run_sync(self._control.unload, request.path_params["model"])
        return JSONResponse({})

    async def slices(self, request: Request) -> Response:
        return JSONResponse({"slices": self._control.slices()})

    async def put_slice(self, request: Request) -> Response:
        content = await read_body(request, MOST_SAID, self._service.limits.seconds)
        name = request.path_params["slice"]
        self._control.put_slice(name, read_json(content))
        return JSONResponse({"slices": self._control.slices()})

    async def delete_slice(self, request: Request) -> Response:
        name = request.path_params["slice"]
        if name not in self._control.slices():
            raise NotFound(f"there is no slice {name!r}: the server has {', '.join(self._control.slices())}")
        self._control.delete_slice(name)
        return JSONResponse({"slices": self._control.slices()})

    async def _said(self, request: Request, allowed: tuple[str, ...] | None = None) -> dict[str, Any]:
        content = await read_body(request, MOST_SAID, self._service.limits.seconds)
        said = read_json(content) if content else {}
        parameters = said.get("parameters") or {}
        if allowed is not None and isinstance(parameters, dict):
            unfit = [key for key in parameters if key != "unload_dependents"]
            if unfit:
                raise BadRequest(
                    f"parameters: {unfit[0][:60]!r} is not taken: models come from the folder of the server alone"
                )
        return said


def _named(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")


def _statistics(entry: ModelEntry) -> dict[str, Any]:
    use = entry.use
    nothing = {"count": 0, "ns": 0}
    return {
        "name": entry.name,
        "version": str(entry.version),
        "last_inference": use.last_ms,
        "inference_count": use.inferences,
        "execution_count": use.executions,
        "inference_stats": {
            "success": {"count": use.executions, "ns": use.success_ns},
            "fail": {"count": use.failures, "ns": use.failure_ns},
            "queue": nothing,
            "compute_input": nothing,
            "compute_infer": nothing,
            "compute_output": nothing,
        },
        "batch_stats": [],
    }
