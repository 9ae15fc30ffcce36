"""All routes of a server as one ASGI application, and what stands before them: keys, limits, errors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from offramp.errors import OfframpError
from offramp.serving.control import Control
from offramp.serving.http.bodies import fault_headers
from offramp.serving.http.inference import InferenceRoutes
from offramp.serving.http.management import ManagementRoutes
from offramp.serving.http.openapi import openapi
from offramp.serving.keys import NO_KEYS, Keys, Scope
from offramp.serving.protocol.faults import Broken, NotFound, ServingFault, fault_of
from offramp.serving.service import Service

Endpoint = Callable[[Request], Awaitable[Response]]
LOG = logging.getLogger("offramp.serving")


def build_app(
    service: Service,
    control: Control,
    keys: Keys = NO_KEYS,
    others: Sequence[BaseRoute] = (),
    lifespan: Any = None,
) -> ASGIApp:
    """The application.

    Args:
        service: What answers.
        control: What administrators change.
        keys: Who may do what.
        others: Routes beside the protocol's, such as those of the live page; they guard themselves with :func:`guarded`.
        lifespan: Of starlette, around the time in which it serves.
    """
    asks, manages = InferenceRoutes(service), ManagementRoutes(service, control)

    async def document(request: Request) -> Response:
        return Response(to_json(openapi(service)), media_type="application/json")

    def route(path: str, endpoint: Endpoint, method: str = "GET", scope: Scope | None = "infer") -> Route:
        return Route(path, guarded(endpoint, keys, scope), methods=[method])

    routes: list[BaseRoute] = [
        route("/v2/health/live", manages.live, scope=None),
        route("/v2/health/ready", manages.ready, scope=None),
        route("/v2", manages.server),
        route("/v2/", manages.server),
        route("/v2/models", manages.models),
        route("/v2/models/stats", manages.statistics),
        route("/v2/repository/index", manages.index, "POST"),
        route("/v2/repository/models/{model}/load", manages.load, "POST", "admin"),
        route("/v2/repository/models/{model}/unload", manages.unload, "POST", "admin"),
        route("/slices", manages.slices),
        route("/slices/{slice}", manages.put_slice, "PUT", "admin"),
        route("/slices/{slice}", manages.delete_slice, "DELETE", "admin"),
        route("/openapi.json", document),
    ]
    for before in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes += [
            route(f"{before}/infer", asks.infer, "POST"),
            route(f"{before}/infer_stream", asks.stream, "POST"),
            route(before, manages.model),
            route(f"{before}/ready", manages.model_ready, scope=None),
            route(f"{before}/config", manages.config),
            route(f"{before}/stats", manages.statistics),
        ]
    handlers: Mapping[Any, Any] = {HTTPException: _no_route, Exception: _failed}
    everything = Starlette(routes=[*routes, *others], exception_handlers=handlers, lifespan=lifespan)
    everything.router.redirect_slashes = False  # to wherever the header Host says
    infer = guarded(asks.infer, keys, "infer")

    async def app(scope: Connection, receive: Receive, send: Send) -> None:
        """Most requests are for ``infer``: it is found without looking through routes and layers, a third of what serving adds."""
        model = _asked(scope)
        if model is None:
            await everything(scope, receive, send)
            return
        request = Request({**scope, "path_params": {"model": model}}, receive)
        try:
            response = await infer(request)
        except Exception as error:
            response = await _failed(request, error)
        await response(scope, receive, send)

    return app


def _asked(scope: Connection) -> str | None:
    """The model of a request ``POST /v2/models/MODEL/infer``; None for any other."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    parts = scope["path"].split("/")
    fits = len(parts) == 5 and parts[:3] == ["", "v2", "models"] and parts[4] == "infer"
    return parts[3] if fits else None


def guarded(endpoint: Endpoint, keys: Keys, scope: Scope | None) -> Endpoint:
    """An endpoint that asks for a key first, and answers what it refuses as the protocol wants it."""

    async def answer(request: Request) -> Response:
        try:
            if scope is not None:
                request.state.key = keys.check(request.headers.get("authorization"), scope)
            return await endpoint(request)
        except OfframpError as error:
            return refused(error if isinstance(error, ServingFault) else fault_of(error))

    return answer


def refused(fault: ServingFault) -> Response:
    """The answer to a request that is not answered."""
    return Response(
        to_json({"error": str(fault)}),
        fault.status,
        media_type="application/json",
        headers=fault_headers(fault),
    )


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 404:
        return refused(NotFound(f"there is nothing at {request.url.path[:120]}: /openapi.json lists what there is"))
    return Response(
        to_json({"error": f"{request.method} is not for {request.url.path[:120]}"}),
        status,
        media_type="application/json",
        headers=getattr(error, "headers", None),
    )


async def _failed(request: Request, error: Exception) -> Response:
    LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return refused(Broken("this is a fault of the server, which its log describes"))
