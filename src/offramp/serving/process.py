"""One serving process from start to end: engine, models, watching, HTTP and gRPC on one event loop."""

from __future__ import annotations

import asyncio
import gc
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import uvicorn
import uvloop
from grpc import aio
from starlette.types import ASGIApp

import offramp
from offramp.errors import SuiteError
from offramp.runtime import load
from offramp.runtime.engine import Engine, ServiceLevel, load_slices
from offramp.serving.control import LOOK_S, Control
from offramp.serving.http.app import build_app
from offramp.serving.keys import NO_KEYS, Keys, load_keys
from offramp.serving.listening import FIRST_WORD_S, ImpatientProtocol, QuietServer, bound_socket
from offramp.serving.models.repository import FixedModels, Repository
from offramp.serving.models.tasks import BundleSource
from offramp.serving.protocol.requests import Model
from offramp.serving.rpc.server import InferenceServicer, generic_handler
from offramp.serving.service import Service
from offramp.serving.settings import ServerSettings, check_settings
from offramp.serving.watching.logs import LOG, log_outcome, start_logging
from offramp.serving.watching.overview import Overview, overview_routes
from offramp.serving.watching.traces import start_traces
from offramp.serving.watching.watch import Watch

STILL_S = 0.3
"""In which a draining server still answers that it is, before it stops listening."""

KEEP_ALIVE_MS = 60_000
"""After which a gRPC client that says nothing is asked whether it is still there."""
IDLE_MS = 600_000
"""After which a gRPC connection without calls is closed; clients open another one by themselves."""


@dataclass(frozen=True)
class Place:
    """Which of the processes of a server this is.

    Attributes:
        number: From 0.
        of: How many there are.
        folder: That they share; None for one alone.
    """

    number: int = 0
    of: int = 1
    folder: Path | None = None


@dataclass(frozen=True, eq=False)
class Process:
    """What serves.

    Attributes:
        settings: Of the server.
        place: Of this process.
        engine: That computes; None where models are any callables.
        service: What answers.
        control: What administrators change.
        keys: Who may do what.
        overview: What is shown of all processes; None where models are any callables.
    """

    settings: ServerSettings
    place: Place
    engine: Engine | None
    service: Service
    control: Control
    keys: Keys
    overview: Overview | None

    def app(self, lifespan: Any = None) -> ASGIApp:
        """All that is served over HTTP."""
        routes = [] if self.overview is None else overview_routes(self.overview, self.keys)
        return build_app(self.service, self.control, self.keys, routes, lifespan)


def run_process(settings: ServerSettings, place: Place, on_ready: Callable[[int, int], object]) -> int:
    """Serve until a signal ends it, and return its number.

    Raises:
        OfframpError: It cannot start.
    """
    keys = NO_KEYS if settings.keys is None else load_keys(settings.keys)
    levels = None if settings.slices is None else load_slices(settings.slices)
    with (
        assembled(settings, place, levels, keys) as process,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_serve(process, on_ready))


@contextmanager
def assembled(
    settings: ServerSettings, place: Place, levels: Mapping[str, ServiceLevel] | None, keys: Keys
) -> Iterator[Process]:
    """What serves in this process, before it listens anywhere; its engine is closed in the end.

    Raises:
        OfframpError: The bundle or a level cannot be used.
    """
    start_logging(settings.log)
    traced, end_traces = (None, None) if settings.trace is None else start_traces(settings.trace, offramp.__version__)
    predictor = load(settings.folder, backend=settings.backend, threads=settings.threads)
    watch = Watch(predictor, place.number, traced)
    with (
        Engine(predictor, levels, on_batch=watch.on_batch) as engine,
        watch.watching(engine, settings.bundle, settings.shadow),
    ):
        repository = Repository(BundleSource(engine, settings.bundle, predictor.bundle, watch.on_answer))
        service = Service(
            repository,
            version=offramp.__version__,
            limits=settings.limits,
            backlog=lambda: engine.backlog,
            on_outcome=watch.on_outcome,
        )
        control = Control(repository, engine, place.folder, lambda: watch.begin_anew(settings.bundle))
        overview = Overview(
            service, engine, predictor.bundle, watch, place.folder, settings.bundle.resolve().parent.name
        )
        try:
            yield Process(settings, place, engine, service, control, keys, overview)
        finally:
            if end_traces is not None:
                end_traces()


def run_models(models: Mapping[str, Model], settings: ServerSettings, on_ready: Callable[[int, int], object]) -> int:
    """Serve any models, such as :class:`~offramp.serving.models.callables.CallableModel`, until a signal ends it, and return its number.

    Args:
        models: By name.
        settings: What they say of a bundle, slices, workers and watching is not looked at.
        on_ready: Called with the ports of HTTP and gRPC.

    Raises:
        OfframpError: It cannot start.
    """
    check_settings(settings)
    start_logging(settings.log)
    keys = NO_KEYS if settings.keys is None else load_keys(settings.keys)
    repository = Repository(FixedModels(models))
    service = Service(repository, version=offramp.__version__, limits=settings.limits, on_outcome=log_outcome)
    process = Process(settings, Place(), None, service, Control(repository, None, None), keys, None)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(process, on_ready))


async def _serve(process: Process, on_ready: Callable[[int, int], object]) -> int:
    """Listen, say so, wait for a signal, and let requests under way end."""
    settings, several = process.settings, process.place.of > 1
    bound = bound_socket(settings.host, settings.port, several, "--port")
    http = QuietServer(
        uvicorn.Config(
            process.app(),
            http=ImpatientProtocol,
            ws="none",
            timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            limit_concurrency=settings.limits.connections,
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.private_key,
        )
    )
    rpc, rpc_port = _rpc_server(process, several)
    await rpc.start()
    serving = asyncio.create_task(http.serve(sockets=[bound]))
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, _end, ended, each)
    while not http.started and not serving.done():
        await asyncio.sleep(0.01)
    background = asyncio.create_task(keep_up(process))
    gc.collect()
    gc.freeze()  # what is there now stays: collections need not look at it
    LOG.info("ready: %d models", len(process.service.repository.index))
    on_ready(bound.getsockname()[1], rpc_port)
    serving.add_done_callback(lambda _: _end(ended, 0))  # should it stop by itself
    number = await ended
    process.service.draining = True
    LOG.info("draining: %d requests under way", process.service.under_way)
    await _drained(process)
    background.cancel()
    http.should_exit = True
    await asyncio.gather(serving, rpc.stop(settings.drain_seconds))
    return number


def _end(ended: asyncio.Future[int], number: int) -> None:
    if not ended.done():
        ended.set_result(number)


async def _drained(process: Process) -> None:
    """Wait until no request is under way, but not for ever; those that come meanwhile are told that the server drains."""
    loop = asyncio.get_running_loop()
    least, most = loop.time() + STILL_S, loop.time() + process.settings.drain_seconds
    while loop.time() < least or (process.service.under_way and loop.time() < most):
        await asyncio.sleep(0.02)


async def keep_up(process: Process) -> None:
    """Tell the other processes what was seen here, and do what they were told."""
    if process.place.folder is None or process.overview is None:
        return
    while True:
        await asyncio.to_thread(process.control.look)
        await asyncio.to_thread(process.overview.publish)
        await asyncio.sleep(LOOK_S)


def _rpc_server(process: Process, several: bool) -> tuple[aio.Server, int]:
    settings = process.settings
    options = [
        ("grpc.so_reuseport", int(several)),
        ("grpc.max_receive_message_length", settings.limits.body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.per_message_decompression", 0),  # we do it, within the same limit
        ("grpc.max_concurrent_streams", settings.limits.connections),
        ("grpc.server_handshake_timeout_ms", int(1e3 * FIRST_WORD_S)),
        ("grpc.keepalive_time_ms", KEEP_ALIVE_MS),
        ("grpc.max_connection_idle_ms", IDLE_MS),
    ]
    server = aio.server(options=options, maximum_concurrent_rpcs=settings.limits.connections)
    servicer = InferenceServicer(process.service, process.control, process.keys)
    server.add_generic_rpc_handlers((generic_handler(servicer, settings.limits.body_bytes),))
    address = (
        f"[{settings.host}]:{settings.grpc_port}" if ":" in settings.host else f"{settings.host}:{settings.grpc_port}"
    )
    try:
        if settings.certificate is not None and settings.private_key is not None:
            pair = (settings.private_key.read_bytes(), settings.certificate.read_bytes())
            return server, server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        return server, server.add_insecure_port(address)
    except RuntimeError:
        raise SuiteError(f"{address} cannot be had for gRPC: choose another --grpc-port") from None
