"""Requests of one window and one of eight tasks at mixed exits, as many as can be done: the engine in this process against PyPI's `mosec` 0.9.8 behind HTTP.

python benchmarks/engine_beside_mosec.py [--encoder lwm] [--outstanding 64] [--seconds 10]

`mosec` batches dynamically and runs the same truncated graphs, each task by its own; it gets an environment of its own, `runs/mosec-env`, that sees the packages of this
one. The engine has no network here: what that spares is the time of `mosec` for a graph that does nothing, `echo`, which stands beside. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from engine_saturation import summary, through_engine
from environments import interpreter_with
from serving.made import SHAPES, Made, graph_file, make

PACKAGES = ("mosec==0.9.8", "msgspec==0.22.0", "offapi==0.1.4", "defspec==0.7.1")
START_S = 60.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", choices=list(SHAPES), default="lwm")
    parser.add_argument("--outstanding", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0, help="per way")
    arguments = parser.parse_args()
    outstanding, seconds = arguments.outstanding, arguments.seconds
    with tempfile.TemporaryDirectory() as place:
        made = make(Path(place) / "mixed", arguments.encoder)
        asked = np.random.default_rng(0).integers(0, len(made.exits), 1 << 16)
        graphs = {name: Path(place) / name for name in ("truncated", "echo")}
        for name, folder in graphs.items():
            folder.mkdir()
            for number, exit in enumerate(made.exits):
                target = folder / f"task{number}.onnx"
                graph_file(made, f"task{number}", exit).rename(target) if name == "truncated" else _echo(target, made)
        found = {"engine": through_engine(made, asked, outstanding, seconds)}
        for name, folder in graphs.items():
            with _served(folder, made) as port:
                found[f"mosec, {name}"] = _asked_over_http(port, made, asked, outstanding, seconds)
    ratio = found["engine"]["requests_per_second"] / found["mosec, truncated"]["requests_per_second"]
    print(
        json.dumps(
            {"benchmark": "engine_beside_mosec", "encoder": arguments.encoder, "outstanding": outstanding, **found}
            | {"engine_over_mosec": round(ratio, 2)}
        )
    )


def _echo(path: Path, made: Made) -> None:
    """A graph that gives the first values of a window."""
    import onnx
    from onnx import TensorProto, helper

    shape = made.windows.shape[1:]
    starts, ends, axes = (helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in _PARTS)
    nodes = [
        helper.make_node("Flatten", ["windows"], ["flat"], axis=1),
        helper.make_node("Slice", ["flat", "starts", "ends", "axes"], ["first"]),
    ]
    given = helper.make_tensor_value_info("windows", TensorProto.FLOAT, ["batch", *shape])
    taken = helper.make_tensor_value_info("first", TensorProto.FLOAT, ["batch", 8])
    graph = helper.make_graph(nodes, "echo", [given], [taken], [starts, ends, axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


_PARTS = (("starts", 0), ("ends", 8), ("axes", 1))


@contextmanager
def _served(graphs: Path, made: Made) -> Iterator[int]:
    """The port of a server that has started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shape = ",".join(map(str, made.windows.shape[1:]))
    variables = {**os.environ, "GRAPHS": str(graphs), "SHAPE": shape, "OMP_NUM_THREADS": "1"}
    script = Path(__file__).parent / "beside_mosec" / "server.py"
    words = [
        interpreter_with("mosec", PACKAGES),
        script,
        "--address",
        "127.0.0.1",
        "--port",
        str(port),
        "--timeout",
        "60000",
    ]
    server = subprocess.Popen([*map(str, words)], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ends = time.monotonic() + START_S
        while not _answers(port, made):
            if time.monotonic() > ends or server.poll() is not None:
                raise SystemExit("mosec did not start")
            time.sleep(0.2)
        yield port
    finally:
        server.terminate()
        server.wait()


def _answers(port: int, made: Made) -> bool:
    try:
        _ask(http.client.HTTPConnection("127.0.0.1", port, timeout=5), 0, made.windows[0])
    except OSError:
        return False
    return True


def _ask(connection: http.client.HTTPConnection, task: int, window: np.ndarray) -> bytes:
    connection.request("POST", "/inference", bytes([task]) + window.tobytes())
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise OSError(f"{answer.status}: {content!r}")
    return content


def _asked_over_http(port: int, made: Made, asked: np.ndarray, outstanding: int, seconds: float) -> dict[str, Any]:
    took: list[float] = []
    ends = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while time.perf_counter() < ends:
            started = time.perf_counter()
            _ask(connection, int(asked[number % len(asked)]), made.windows[number % 256])
            took.append(time.perf_counter() - started)
            number += outstanding

    clients = [threading.Thread(target=client, args=(number,)) for number in range(outstanding)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    return summary(took, seconds)


if __name__ == "__main__":
    main()
