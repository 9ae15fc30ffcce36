"""What serving adds: p50 of a request to our server over a bare echo of the same protocol and bytes, and over the engine in this process.

python benchmarks/serving_overhead.py [--encoder iq-resnet-small] [--task 0] [--seconds 10]

One window and one task, one request at a time. HTTP: binary tensors, beside an application of starlette on uvicorn that takes the body, looks at nothing and gives the bytes that ours gave. gRPC: raw contents,
beside a service of grpc.aio that takes the message as bytes and gives the bytes that ours gave. Ours twice: `ready`, in front of a model whose answer is there at once, so that `ready_over_echo` is what serving
costs; and `offramp serve` with the model, so that `over_engine` compares with `Engine.predict` here, and `over_echo` with doing nothing at all. Blocks of 25 requests alternate; the ratios in the one JSON line
that is printed are medians over rounds of blocks. Servers have one core, the client the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from serving.http_load import Connection, alone_on
from serving.made import MIXED, make
from serving.rivals import CLIENT_CORE, OURS, SCRIPTS, SERVER_CORE, free_ports, protocol_request, served, stop

from offramp import load
from offramp.runtime.engine import Engine
from offramp.serving.protocol import inference_pb2 as pb

BLOCK = 25
PATIENCE_S = 30.0
Way = Callable[[], bytes]
"""One request and its answer."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", choices=list(MIXED), default="iq-resnet-small")
    parser.add_argument("--task", type=int, default=0, help="0 leaves first, 7 last")
    parser.add_argument("--seconds", type=float, default=10.0, help="of all ways together")
    arguments = parser.parse_args()
    task, started = arguments.task, list[subprocess.Popen[bytes]]()
    with tempfile.TemporaryDirectory() as place:
        made = make(Path(place) / "mixed", arguments.encoder)
        window = made.windows[:1]
        asked, message = protocol_request(task, window[0]), _message(task, window).SerializeToString()
        alone_on(CLIENT_CORE)
        with served(OURS, {}, made) as ours, Engine(load(made.segments)) as engine:
            ways = {"http": _http(ours.port, asked), "grpc": _grpc(ours.rpc_port, message)}
            try:
                shape = ",".join(map(str, window.shape[1:]))
                port, rpc_port, http_echo, rpc_echo = free_ports(4)
                started.append(_started("ours_ready.py", PORT=port, RPC_PORT=rpc_port, SHAPE=shape))
                for name, echo in (("http", http_echo), ("grpc", rpc_echo)):
                    answer = Path(place) / name
                    answer.write_bytes(ways[name]())
                    started.append(_started(f"echo_{name}.py", PORT=echo, ANSWER=answer))
                ways["http, ready"], ways["grpc, ready"] = _until(_http, port, asked), _until(_grpc, rpc_port, message)
                ways["http, echo"], ways["grpc, echo"] = (
                    _until(_http, http_echo, asked),
                    _until(_grpc, rpc_echo, message),
                )
                took = _alternating(
                    {"engine": lambda: engine.predict(window, [f"task{task}"]), **ways}, arguments.seconds
                )
            finally:
                for each in started:
                    stop(each)
    print(
        json.dumps(
            {
                "benchmark": "serving_overhead",
                "encoder": arguments.encoder,
                "task": task,
                "bytes": window.nbytes,
                **took,
            }
        )
    )


def _message(task: int, window: np.ndarray[Any, Any]) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=f"task{task}", raw_input_contents=[window.tobytes()])
    message.inputs.add(name="windows", datatype="FP32", shape=window.shape)
    return message


def _http(port: int, request: bytes) -> Way:
    connection = Connection(port)
    connection.ask(request)
    return lambda: connection.ask(request)


def _grpc(port: int, message: bytes) -> Way:
    call = grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary("/inference.GRPCInferenceService/ModelInfer")
    call(message)
    return lambda: call(message)


def _started(script: str, **variables: object) -> subprocess.Popen[bytes]:
    pinned = ["taskset", "--cpu-list", str(SERVER_CORE)] if (os.cpu_count() or 1) > 1 else []
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*pinned, sys.executable, str(SCRIPTS / script)], env=environment, start_new_session=True)


def _until(way: Callable[[int, bytes], Way], port: int, request: bytes) -> Way:
    """A way to a server that may still be starting."""
    ends = time.monotonic() + PATIENCE_S
    while True:
        try:
            return way(port, request)
        except (OSError, grpc.RpcError):
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)


def _alternating(ways: dict[str, Callable[[], object]], seconds: float) -> dict[str, Any]:
    """Medians of blocks, and of their ratios."""
    blocks: dict[str, list[float]] = {name: [] for name in ways}
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for name, way in ways.items():
            took = []
            for _ in range(BLOCK):
                began = time.perf_counter()
                way()
                took.append(time.perf_counter() - began)
            blocks[name].append(1e3 * float(np.median(took)))
    times = {name: np.array(each) for name, each in blocks.items()}
    found: dict[str, Any] = {"p50_ms": {name: round(float(np.median(each)), 3) for name, each in times.items()}}
    for name in ("http", "grpc"):
        ours, ready, echo = times[name], times[f"{name}, ready"], times[f"{name}, echo"]
        ratios = {"ready_over_echo": ready / echo, "over_echo": ours / echo, "over_engine": ours / times["engine"]}
        found[name] = {key: round(float(np.median(ratio)), 2) for key, ratio in ratios.items()}
    return found


if __name__ == "__main__":
    main()
