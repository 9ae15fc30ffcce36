"""``offramp serve --ray``: the same engine and the same applications on Ray Serve, in as many replicas as the work that waits asks for.

Every machine of the cluster has a proxy for HTTP and one for gRPC; they hand requests to replicas, each of which is one process with an engine of
its own. The folder that is served travels to all machines as the job's working directory, so that they share one bundle without a shared disk.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from offramp.errors import OfframpError, SuiteError
from offramp.runtime import load
from offramp.runtime.engine import Engine, ServiceLevel, load_slices
from offramp.serving.keys import NO_KEYS, Keys, load_keys
from offramp.serving.listening import bound_socket
from offramp.serving.replica import WAITING, RayReplica, replica_app
from offramp.serving.settings import ServerSettings

NAME = "offramp"
"""Of the application."""
QUEUE_MS = 10.0
HEALTH_S, ANSWER_S = 5.0, 10.0


@dataclass(frozen=True)
class RayOptions:
    """How an engine is laid out on a cluster.

    Attributes:
        address: Of the cluster, as ``ray.init`` takes it; None starts one on this machine, which ends with the server.
        replicas: The least.
        most_replicas: As many as there may be.
        queue_ms: Milliseconds of work that wait for a replica, on average, above which there are to be more of them; None for a fifth of the
            least budget of all slices, or 10 where none has one.
        cores: That Ray keeps for each replica.
        up_after_s: Seconds for which more must be wanted.
        down_after_s: Seconds for which fewer must be wanted.
    """

    address: str | None = None
    replicas: int = 1
    most_replicas: int = 1
    queue_ms: float | None = None
    cores: float = 1.0
    up_after_s: float = 5.0
    down_after_s: float = 120.0


def run_on_ray(settings: ServerSettings, options: RayOptions, on_ready: Callable[[int, int], object]) -> int:
    """Serve on Ray until a signal ends it, and return its number.

    Args:
        settings: Checked, with a folder that can be loaded.
        options: How it is laid out.
        on_ready: Called with the ports of HTTP and gRPC as soon as requests are answered; 0 for gRPC where it stays closed, see
            :func:`speaks_rpc`.

    Raises:
        OfframpError: Ray is missing, has another opinion, or the bundle cannot be served.
    """
    ray, serve = _ray()
    _check(settings, options)
    alone = options.address is None
    settings = replace(
        settings,
        port=_port(settings.host, settings.port, alone, "--port"),
        grpc_port=_port("", settings.grpc_port, alone, "--grpc-port"),
    )
    keys = NO_KEYS if settings.keys is None else load_keys(settings.keys)
    levels = {} if settings.slices is None else load_slices(settings.slices)
    # what cannot be served is told here and now: a replica that fails is started again and again
    Engine(load(settings.folder, backend=settings.backend, threads=settings.threads), levels).close()
    server, ended = uuid.uuid4().hex, threading.Event()
    numbers: list[int] = []

    def end(number: int, frame: object) -> None:
        numbers.append(number)
        ended.set()

    try:
        _start(ray, serve, settings, options)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, end)
        serve.run(application(settings, options, levels, keys, server), name=NAME, route_prefix="/")
        on_ready(settings.port, settings.grpc_port if speaks_rpc(settings) else 0)
        ended.wait()
        if (
            serve.get_app_handle(NAME).server.remote().result(timeout_s=ANSWER_S) == server
        ):  # else another one has taken over
            serve.delete(NAME)
    except (RuntimeError, ConnectionError, ValueError, TimeoutError) as error:
        raise OfframpError(f"Ray could not serve this: {str(error).strip().splitlines()[-1]}") from None
    finally:
        ray.shutdown()
    return numbers[0]


def speaks_rpc(settings: ServerSettings) -> bool:
    """Whether gRPC is open: Ray listens for it on every address and without TLS, so there must be keys, or the wish to let everybody in."""
    return settings.certificate is None and (settings.keys is not None or settings.insecure)


def application(
    settings: ServerSettings, options: RayOptions, levels: Mapping[str, ServiceLevel], keys: Keys, server: str
) -> Any:
    """The application of Ray Serve; what it refers to is sent to the replicas, paths of this machine are not.

    Args:
        settings: Whose folder is the job's working directory.
        options: How it is laid out.
        levels: Service levels.
        keys: Who may do what.
        server: A name that no other application has.
    """
    _, serve = _ray()
    sent = replace(settings, bundle=Path(), folder=Path(), slices=None, keys=None, certificate=None, private_key=None)
    queue_ms = options.queue_ms or _a_fifth_of_the_least_budget(levels)

    def build() -> Starlette:
        return replica_app(sent, levels, keys, server, serve.get_replica_context().rank.rank)

    deployment = serve.deployment(
        name="engine",
        max_ongoing_requests=settings.limits.connections,
        ray_actor_options={"num_cpus": options.cores},
        health_check_period_s=HEALTH_S,
        graceful_shutdown_timeout_s=settings.drain_seconds,
        autoscaling_config=serve.config.AutoscalingConfig(
            min_replicas=options.replicas,
            max_replicas=options.most_replicas,
            upscale_delay_s=options.up_after_s,
            downscale_delay_s=options.down_after_s,
            policy=serve.config.AutoscalingPolicy(
                policy_function=f"{__name__}:{ScaleByWaiting.__name__}", policy_kwargs={"queue_ms": queue_ms}
            ),
        ),
    )
    return deployment(serve.ingress(build)(RayReplica)).bind()


class ScaleByWaiting:
    """The policy by which Ray's controller scales; Ray applies the bounds and delays of its configuration to what this says."""

    def __init__(self, queue_ms: float) -> None:
        """Take what may wait for each replica."""
        self._queue_ms = queue_ms

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """How many replicas there are to be, and nothing to remember."""
        waiting = (context.aggregated_metrics or {}).get(WAITING, {}).values()
        return wanted_replicas(list(waiting), context.target_num_replicas, self._queue_ms), {}


def wanted_replicas(waiting_ms: Sequence[float], now: int, queue_ms: float) -> int:
    """How many replicas there are to be.

    Queues grow without bound as a server comes to its limit, so that they say when there are too few replicas, but not how many are too many:
    more are added in proportion, up to twice as many at a time, and one at a time is taken away where next to nothing waits.

    Args:
        waiting_ms: Milliseconds of work that wait, on average, for each replica.
        now: Replicas.
        queue_ms: What may wait for each.
    """
    if not waiting_ms:
        return now
    mean = sum(waiting_ms) / len(waiting_ms)
    if mean > queue_ms:
        return min(2 * now, math.ceil(now * mean / queue_ms))
    return max(1, now - 1) if mean < queue_ms / 10 else now


def _ray() -> tuple[Any, Any]:
    try:
        import ray
        import ray.serve.config
    except ImportError:
        raise OfframpError("--ray needs the package ray: pip install offramp[ray]") from None
    return ray, ray.serve


def _check(settings: ServerSettings, options: RayOptions) -> None:
    if settings.workers > 1:
        raise SuiteError(f"--workers {settings.workers}: on Ray, --replicas says how many processes there are")
    if options.replicas > options.most_replicas:
        raise SuiteError(f"--replicas {options.replicas} are more than --most-replicas {options.most_replicas}")


def _start(ray: Any, serve: Any, settings: ServerSettings, options: RayOptions) -> None:
    """Join a cluster or start one, and its proxies."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray tells its makers of it
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    own: dict[str, Any] = {}
    if options.address is None:
        needed = math.ceil(options.cores * options.most_replicas)
        own = {"num_cpus": max(os.cpu_count() or 1, needed), "include_dashboard": False}
    ray.init(
        address=options.address or "local",
        runtime_env={"working_dir": str(settings.folder)},
        log_to_driver=False,
        logging_level="warning",
        **own,
    )
    tls = (
        {}
        if settings.certificate is None
        else {"ssl_certfile": str(settings.certificate), "ssl_keyfile": str(settings.private_key)}
    )
    http = {"host": settings.host, "port": settings.port, "request_timeout_s": settings.limits.seconds + 1, **tls}
    rpc = {"port": settings.grpc_port, "grpc_servicer_functions": ["offramp.serving.replica.add_inference_service"]}
    serve.start(
        proxy_location="EveryNode",
        http_options=http,
        grpc_options=rpc if speaks_rpc(settings) else None,
        logging_config={"enable_access_log": False},
    )


def _a_fifth_of_the_least_budget(levels: Mapping[str, ServiceLevel]) -> float:
    budgets = [level.budget_ms for level in levels.values() if level.budget_ms is not None]
    return min(budgets) / 5 if budgets else QUEUE_MS


def _port(host: str, port: int, alone: bool, option: str) -> int:
    """A port that nobody has, one of our choice for 0, which Ray does not know; that of a cluster may be held by its proxies already."""
    if port and not alone:
        return port
    with bound_socket(host, port, several=False, option=option) as bound:
        return int(bound.getsockname()[1])
