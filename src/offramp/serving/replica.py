"""A replica of ``offramp serve --ray``: what Ray Serve calls in each of its processes. Nothing here needs Ray."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from starlette.applications import Starlette
from starlette.routing import Mount

from offramp.runtime.engine import ServiceLevel
from offramp.serving.keys import Keys
from offramp.serving.process import Place, Process, assembled, keep_up
from offramp.serving.protocol import inference_pb2 as pb
from offramp.serving.rpc.server import SERVICE, InferenceServicer, generic_handler
from offramp.serving.settings import ServerSettings
from offramp.serving.watching.overview import bury

WAITING = "waiting_ms"
"""What a replica reports, and is scaled by: milliseconds of work that wait."""
CALLS = (
    *("ServerLive", "ServerReady", "ServerMetadata"),
    *("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "ModelInfer"),
    *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
)
STREAM = "ModelStreamInfer"
TIDY_S = 5.0


def replica_app(
    settings: ServerSettings, levels: Mapping[str, ServiceLevel], keys: Keys, server: str, number: int
) -> Starlette:
    """The application of one replica, whose :class:`~offramp.serving.process.Process` is its ``state.process``.

    Args:
        settings: Whose folder is the working directory.
        levels: Service levels.
        keys: Who may do what.
        server: A name that the replicas of one server share, and no others.
        number: Of this one among all.
    """
    folder = Path(tempfile.gettempdir()) / f"offramp-ray-{server}"
    folder.mkdir(mode=0o700, exist_ok=True)
    bury_dead(folder)
    parts = ExitStack()
    process = parts.enter_context(assembled(settings, Place(number, 2, folder), levels, keys))

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        background = [asyncio.create_task(each) for each in (keep_up(process), _keep_tidy(folder))]
        try:
            yield
        finally:
            for each in background:
                each.cancel()
            await asyncio.wait(background)
            parts.close()
            bury_dead(folder, gone=os.getpid())

    app = Starlette(
        routes=[Mount("/", process.app())], lifespan=lifespan
    )  # Ray changes its handlers, so that it must be one
    app.state.process, app.state.server = process, server
    return app


class RayReplica:
    """What Ray calls beside the ASGI application, which ``serve.ingress`` makes the attribute ``app``: health, load, and the calls of gRPC by name."""

    app: Starlette

    @property
    def _process(self) -> Process:
        process: Process = self.app.state.process
        return process

    def server(self) -> str:
        """Whose replica it is."""
        return str(self.app.state.server)

    def check_health(self) -> None:
        """Raise RuntimeError where a model is not ready: Ray starts another replica then."""
        if not self._process.service.ready:
            raise RuntimeError("not every model is ready")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What replicas are scaled by."""
        return {WAITING: 1e3 * self._process.service.backlog()}


def bury_dead(folder: Path, gone: int | None = None) -> None:
    """Add the counts of replicas that ended to those of the others that did; the last one of a machine takes the folder with it.

    Args:
        folder: That the replicas of one server share on this machine.
        gone: The number of a process that counts as ended although it runs.
    """
    with open(folder / "burying", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = sorted(folder.glob("worker-*.json"))
        dead = [each for each in files if (pid := json.loads(each.read_text())["pid"]) == gone or not _lives(pid)]
        for each in dead:
            bury(folder, int(each.stem.rpartition("-")[2]))
    if gone is not None and len(dead) == len(files):
        shutil.rmtree(folder, ignore_errors=True)


async def _keep_tidy(folder: Path) -> None:
    while True:
        await asyncio.sleep(TIDY_S)
        await asyncio.to_thread(bury_dead, folder)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


# --- gRPC: Ray's proxies take the calls, and ask the method of a replica that has the call's name


def add_inference_service(servicer: Any, server: Any) -> None:
    """What Ray's proxies are told of the service: names and messages, to which they put handlers of their own."""
    server.add_generic_rpc_handlers((generic_handler(servicer),))


class RayContext:
    """Of a call, as :mod:`offramp.serving.rpc.server` knows it."""

    def __init__(self, context: Any) -> None:
        """Take Ray's, which goes back to the proxy with the answer."""
        self._context = context

    def invocation_metadata(self) -> Any:
        return self._context.invocation_metadata()

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Sequence[tuple[str, str]] = ()) -> None:
        """Say why there is no answer, and raise :class:`CallEnded`."""
        self._context.set_code(code)
        self._context.set_details(details)
        self._context.set_trailing_metadata(list(trailing))
        raise CallEnded


class CallEnded(Exception):
    """A call that is refused; why is said in its context."""


class _Details(grpc.HandlerCallDetails):
    """Whose handler is wanted."""

    def __init__(self, name: str) -> None:
        self.method, self.invocation_metadata = f"/{SERVICE}/{name}", ()


def _handler(replica: RayReplica, name: str) -> Any:
    process = replica.app.state.process
    servicer = InferenceServicer(process.service, process.control, process.keys)
    return generic_handler(servicer).service(_Details(name))


def _unary(name: str) -> Callable[[RayReplica, Any, Any], Any]:
    async def call(self: RayReplica, request: Any, grpc_context: Any) -> Any:
        try:
            return await _handler(self, name).unary_unary(request, RayContext(grpc_context))
        except CallEnded:
            return pb.ServerLiveResponse()  # of which nothing is sent, as the context says that it failed

    return call


async def _stream(self: RayReplica, request_stream: Any, grpc_context: Any) -> AsyncIterator[Any]:
    try:
        async for answer in _handler(self, STREAM).stream_stream(request_stream, RayContext(grpc_context)):
            yield answer
    except CallEnded:
        return


for _name in CALLS:
    setattr(RayReplica, _name, _unary(_name))
setattr(RayReplica, STREAM, _stream)
