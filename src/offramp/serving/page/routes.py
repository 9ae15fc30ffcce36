"""The routes of the live page: ``/``, its files below ``/page/``, ``/status``, and ``/recording``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from offramp.bundle import BundleTask
from offramp.errors import BundleError, OfframpError
from offramp.runtime.predictor import Prediction
from offramp.serving.http.bodies import fault_headers, read_body
from offramp.serving.page.recording import DroppedRecording, read_dropped, recording_document
from offramp.serving.protocol.faults import BadRequest, NotFound, ServingFault, TooMuch, fault_of

BATCH = 64
"""Windows of a recording that are asked at a time, so that other requests come between."""
AT_ONCE = 2
"""Recordings that are in memory at a time; more are refused."""
UPLOAD_S = 60.0
"""Longest time that a recording may take to arrive."""
BINARY = "application/octet-stream"
FILES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SECURITY = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class PageContext:
    """What the page needs of a server.

    Attributes:
        status: Gives the document of :class:`~offramp.serving.page.status.ServerStatus`; called from any thread.
        task: A task that is served, by name; without a name the only one. Raises :class:`~offramp.errors.BundleError`.
        ask: Windows float32 ``(N, *window_shape)``, name of a task, name of a slice or None, to a prediction. Raises an
            :class:`~offramp.errors.OfframpError`.
        most_recording_bytes: Size of the largest recording that is taken.
    """

    status: Callable[[], Mapping[str, Any]]
    task: Callable[[str | None], BundleTask]
    ask: Callable[[NDArray[np.float32], str, str | None], Awaitable[Prediction]]
    most_recording_bytes: int


class NoRecording(ServingFault):
    """It comes as something else than bytes."""

    status = 415
    code = "INVALID_ARGUMENT"


def page_routes(context: PageContext) -> list[Route]:
    """The routes of a server's page.

    ``POST /recording?task=NAME&slice=NAME&metadata=BYTES`` has as its body so many bytes of ``.sigmf-meta`` and then the
    ``.sigmf-data``; without ``metadata`` it is a ``.sigmf`` archive. Its type is ``application/octet-stream``, which browsers let no other
    site send. The answer is that of :func:`~offramp.serving.page.recording.recording_document`; an error is ``{"error": ...}``.
    """
    folder = Path(__file__).parent
    contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in FILES}
    room = asyncio.Semaphore(AT_ONCE)

    async def page(_: Request) -> Response:
        return _file("page.html", contents["page.html"])

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in contents:
            return _refused(NotFound(f"there is no file {name[:60]!r} of the page: open / instead"))
        return _file(name, contents[name])

    async def status(_: Request) -> Response:
        return _json(await asyncio.to_thread(context.status))

    async def recording(request: Request) -> Response:
        if room.locked():
            busy = f"{AT_ONCE} recordings are being answered already: drop it again in a moment"
            return _refused(TooMuch(busy, retry_after=2.0))
        async with room:
            try:
                return _json(await _answer(request, context))
            except OfframpError as error:
                return _refused(fault_of(error))

    return [
        Route("/", page),
        Route("/page/{name}", file),
        Route("/status", status),
        Route("/recording", recording, methods=["POST"]),
    ]


async def _answer(request: Request, context: PageContext) -> dict[str, Any]:
    """Read a recording, ask about its windows, and say what the page draws."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != BINARY:
        raise NoRecording(f"a recording comes as {BINARY}, not {kind[:60] or 'nothing'}: set Content-Type")
    try:
        task = context.task(request.query_params.get("task"))
    except BundleError as error:
        raise NotFound(str(error)) from None
    slice = request.query_params.get("slice")
    cut = _metadata_bytes(request.query_params.get("metadata"))
    body = await read_body(request, context.most_recording_bytes, UPLOAD_S)
    if cut is not None and cut > len(body):
        raise BadRequest(f"metadata={cut}, and the body has {len(body)} bytes: send the metadata first, then the data")
    metadata, content = (None, body) if cut is None else (body[:cut], body[cut:])
    del body
    dropped = await asyncio.to_thread(read_dropped, task, metadata, content)
    predictions = []
    for first in range(0, len(dropped.asked), BATCH):
        windows = await asyncio.to_thread(_windows, dropped, first)
        predictions.append(await context.ask(windows, task.name, slice))
    document = await asyncio.to_thread(recording_document, dropped, predictions)
    return {"task": task.name, "kind": task.kind, "slice": slice, **document}


def _windows(dropped: DroppedRecording, first: int) -> NDArray[np.float32]:
    return dropped.windows(first, first + BATCH)


def _metadata_bytes(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise BadRequest(f"metadata={text[:40]!r} must be the number of bytes of the .sigmf-meta")
    return int(text)


def _file(name: str, content: bytes) -> Response:
    return Response(content, media_type=FILES[Path(name).suffix], headers=SECURITY)


def _json(content: Mapping[str, Any]) -> Response:
    return JSONResponse(dict(content), headers=SECURITY)


def _refused(fault: ServingFault) -> Response:
    return JSONResponse({"error": str(fault)}, fault.status, {**SECURITY, **fault_headers(fault)})
