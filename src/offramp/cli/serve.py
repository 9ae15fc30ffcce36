"""``offramp serve``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ServeBackend(StrEnum):
    """What runs the encoder."""

    onnxruntime = "onnxruntime"
    torch = "torch"
    torch_compiled = "torch-compiled"


class LogOption(StrEnum):
    """How a line of the log looks."""

    text = "text"
    json = "json"


def serve(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, or a folder of segments.")],
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than loopback need --keys or --insecure.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of HTTP; 0 for any that is free.")] = 8000,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="Of gRPC; 0 for any that is free.")] = 8001,
    slices: Annotated[Path | None, typer.Option(help="YAML file of service levels.")] = None,
    keys: Annotated[Path | None, typer.Option(help="YAML file of API keys.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let everybody in who reaches the address.")] = False,
    certificate: Annotated[Path | None, typer.Option(help="PEM file for TLS.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="PEM file for TLS.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes, each with an engine of its own.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="That an engine computes with.")] = 1,
    backend: Annotated[
        ServeBackend | None, typer.Option(help="What runs the encoder; ONNX Runtime if left out.")
    ] = None,
    exit: Annotated[
        list[str] | None, typer.Option(help="A further exit to cut at, for slices that leave earlier under load.")
    ] = None,
    shadow: Annotated[
        float, typer.Option(min=0, max=1, help="Share of early answers that idle time finishes to full depth.")
    ] = 0.01,
    drain: Annotated[
        float, typer.Option(min=0, max=3600, help="Seconds that requests under way have at the end.")
    ] = 10.0,
    trace: Annotated[
        str | None, typer.Option(help="Where OpenTelemetry traces go: URL of a collector, OTLP over HTTP.")
    ] = None,
    log: Annotated[LogOption, typer.Option(help="How a line of the log looks.")] = LogOption.text,
    most_bytes: Annotated[int, typer.Option(min=1024, help="Of the body of a request.")] = 64 << 20,
    most_windows: Annotated[int, typer.Option(min=1, help="Of a request.")] = 4096,
    most_connections: Annotated[int, typer.Option(min=1, help="At once.")] = 1024,
    most_seconds: Annotated[float, typer.Option(min=0.001, help="From a request to its answer.")] = 60.0,
    ray: Annotated[bool, typer.Option("--ray", help="On Ray Serve, over many machines.")] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="--ray: of the cluster; one is started on this machine if left out.")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="--ray: engines, at least.")] = 1,
    most_replicas: Annotated[int | None, typer.Option(min=1, help="--ray: engines, at most.")] = None,
    queue_ms: Annotated[
        float | None, typer.Option(min=0.001, help="--ray: work that waits for an engine before there is another one.")
    ] = None,
) -> None:
    """Serve a bundle by the Open Inference Protocol, HTTP and gRPC.

    A model for each task, and one called shared that answers all of them from one input. The page at / shows what goes on. Ctrl-C or
    SIGTERM lets requests under way end first.

    Example: offramp serve runs/demo/bundle --slices slices.yaml
    """
    from offramp.cli.streams import say
    from offramp.serving.server import serve as run
    from offramp.serving.service import Limits
    from offramp.serving.settings import ServerSettings

    settings = ServerSettings(
        bundle=bundle,
        folder=bundle,
        host=host,
        port=port,
        grpc_port=grpc_port,
        slices=slices,
        keys=keys,
        insecure=insecure,
        certificate=certificate,
        private_key=private_key,
        workers=workers,
        threads=threads,
        backend=backend.value if backend else None,
        drain_seconds=drain,
        trace=trace,
        log=log.value,
        shadow=shadow,
        limits=Limits(most_bytes, most_windows, most_seconds, most_connections),
    )

    def ready(http: int, rpc: int) -> None:
        scheme = "http" if certificate is None else "https"
        also = (
            f"{'gRPC' if certificate is None else 'grpcs'} {host}:{rpc}"
            if rpc
            else "no gRPC, which Ray opens everywhere: give --keys or --insecure"
        )
        print(f"serving {bundle} at {scheme}://{_in_url(host)}:{http} ({also}); Ctrl-C ends it", flush=True)

    on_ray = None
    if ray:
        from offramp.serving.ray import RayOptions

        on_ray = RayOptions(ray_address, replicas, most_replicas or replicas, queue_ms)
    run(settings, exit or [], ready, say, on_ray)
    say(f"offramp: {bundle} is served no more")


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
