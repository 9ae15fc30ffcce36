"""Servers to compare with, started beside the benchmark on a core of their own: what they serve, how they are asked, what they answer."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from environments import interpreter_with
from numpy.typing import NDArray

from offramp.bundle import Bundle, BundleTask, Head, load_bundle, load_examples, save_bundle, save_examples
from offramp.export import export_onnx
from offramp.transforms import Transform

from .http_load import open_loop, post
from .made import CLASSES, Made, graph_file

SCRIPTS = Path(__file__).parents[1] / "beside_servers"
START_S = 120.0
SERVER_CORE, CLIENT_CORE = 0, 1
BINARY = [("Content-Type", "application/octet-stream")]

Request = Callable[[int, NDArray[np.float32]], bytes]
"""Number of a task and a window -> the bytes of an HTTP request."""
Reader = Callable[[bytes], NDArray[np.float32]]
"""The body of an answer -> probabilities, (classes,)."""


@dataclass(frozen=True)
class Rival:
    """A server.

    Attributes:
        name: Of this way to serve.
        environment: ``runs/NAME-env``; empty for this one.
        packages: What is installed there.
        dependencies: Whether pip follows what these need.
        words: Behind the interpreter, where ``PORT`` and ``RPC_PORT`` stand for ports and ``SEGMENTS`` for our model.
        cut: Whether every task has its own graph, cut at its exit, instead of all at full depth.
        request: How it is asked.
        reader: What it answers.
        body: In words.
    """

    name: str
    environment: str
    packages: tuple[str, ...]
    dependencies: bool
    words: tuple[str, ...]
    cut: bool
    request: Request
    reader: Reader
    body: str


def _raw(path: str) -> Request:
    return lambda task, window: post(path, bytes([task]) + window.tobytes(), BINARY)


def _floats(body: bytes) -> NDArray[np.float32]:
    return np.frombuffer(body, np.float32)


def _base64(task: int, window: NDArray[np.float32]) -> bytes:
    text = base64.b64encode(window.tobytes()).decode()
    inputs = [
        {
            "name": "windows",
            "shape": [1, 1],
            "datatype": "BYTES",
            "parameters": {"content_type": "base64"},
            "data": [text],
        },
        {"name": "task", "shape": [1, 1], "datatype": "INT32", "parameters": {"content_type": "np"}, "data": [task]},
    ]
    return post(
        "/v2/models/tasks/infer", json.dumps({"inputs": inputs}).encode(), [("Content-Type", "application/json")]
    )


def _listed(body: bytes) -> NDArray[np.float32]:
    return np.array(json.loads(body)["outputs"][0]["data"], np.float32)


def protocol_request(
    task: int, window: NDArray[np.float32], parameters: Mapping[str, str | float] | None = None
) -> bytes:
    """Of the Open Inference Protocol, with binary tensors both ways."""
    content = window.tobytes()
    described = {
        "inputs": [
            {
                "name": "windows",
                "shape": [1, *window.shape],
                "datatype": "FP32",
                "parameters": {"binary_data_size": len(content)},
            }
        ],
        "parameters": {"binary_data_output": True, **(parameters or {})},
    }
    head = json.dumps(described).encode()
    headers = [*BINARY, ("Inference-Header-Content-Length", str(len(head)))]
    return post(f"/v2/models/task{task}/infer", head + content, headers)


def _binary_or_listed(body: bytes) -> NDArray[np.float32]:
    """Probabilities from an answer of the protocol: those of the first output, which is the first in the binary part too."""
    described, end = json.JSONDecoder().raw_decode(body[: body.rfind(b"]}") + 2].decode("latin-1"))
    first = described["outputs"][0]
    if "data" in first:
        return np.array(first["data"], np.float32)
    return np.frombuffer(body, np.float32, count=CLASSES, offset=end)


OURS = Rival(
    name="offramp",
    environment="",
    packages=(),
    dependencies=False,
    words=("-m", "offramp", "serve", "SEGMENTS", "--port", "PORT", "--grpc-port", "RPC_PORT"),
    cut=True,
    request=protocol_request,
    reader=_binary_or_listed,
    body="Open Inference Protocol, binary tensors",
)
_MOSEC = ("mosec==0.9.8", "msgspec==0.22.0", "offapi==0.1.4", "defspec==0.7.1")
_FULL = (
    Rival(
        "litserve",
        "litserve",
        ("litserve==0.2.19",),
        True,
        ("with_litserve.py",),
        False,
        _raw("/infer"),
        _floats,
        "raw float32",
    ),
    Rival(
        "fastapi",
        "fastapi",
        ("fastapi==0.165.0",),
        True,
        ("with_fastapi.py",),
        False,
        _raw("/infer"),
        _floats,
        "raw float32",
    ),
    Rival(
        "kserve",
        "kserve",
        ("kserve==0.21.0",),
        True,
        ("with_kserve.py",),
        False,
        protocol_request,
        _binary_or_listed,
        "Open Inference Protocol, binary tensors",
    ),
    Rival(
        "mlserver",
        "mlserver",
        ("mlserver==1.7.1",),
        True,
        ("with_mlserver.py",),
        False,
        _base64,
        _listed,
        "Open Inference Protocol, base64 in JSON",
    ),
    Rival(
        "mosec",
        "mosec",
        _MOSEC,
        False,
        ("with_mosec.py", "--address", "127.0.0.1", "--port", "PORT", "--timeout", "60000"),
        False,
        _raw("/inference"),
        _floats,
        "raw float32",
    ),
    Rival("ray", "ray", ("ray[serve]==2.55.1",), True, ("with_ray.py",), False, _raw("/infer"), _floats, "raw float32"),
)
RIVALS = (
    OURS,
    *_FULL,
    *(replace(each, name=f"{each.name}, truncated", cut=True) for each in _FULL if each.name in ("litserve", "mosec")),
)


def write_graphs(made: Made, folder: Path) -> dict[bool, Path]:
    """What the others serve: False for ``full.onnx``, True for ``task0.onnx`` and so on, each cut at the task's exit."""
    folders = {cut: folder / name for cut, name in ((False, "full"), (True, "truncated"))}
    for each in folders.values():
        each.mkdir(parents=True)
    for number, exit in enumerate(made.exits):
        graph_file(made, f"task{number}", exit).rename(folders[True] / f"task{number}.onnx")
    export_onnx(_all_in_one(made, folder / "all"), None, folders[False] / "full.onnx")
    return folders


def _all_in_one(made: Made, folder: Path) -> Path:
    """A bundle of one task at full depth, whose head is the heads of all tasks one below the other."""
    bundle = load_bundle(made.bundle)
    heads = {}
    for exit in (each["name"] for each in bundle.encoder["exits"]):
        layers = [task.heads[exit].layers[0] for task in bundle.tasks.values()]
        heads[exit] = Head(
            ((np.concatenate([weight for weight, _ in layers]), np.concatenate([bias for _, bias in layers])),)
        )
    shape = made.windows.shape[1:]
    task = BundleTask(
        "all", "regression", "mean_error", made.last, (), Transform(), shape, heads, dict.fromkeys(heads, 0.5)
    )
    folder.mkdir()
    (folder / "encoder").symlink_to((made.bundle / "encoder").resolve())
    save_bundle(Bundle(bundle.encoder, {"all": task}), folder, "# Eight tasks as one\n")
    save_examples({"all": next(iter(load_examples(made.bundle).values()))}, folder)
    return folder


@dataclass(frozen=True, eq=False)
class Running:
    """A server that has started.

    Attributes:
        port: Of HTTP.
        rpc_port: Of gRPC, where it has one.
        process: The first of its processes, which leads a session.
        ready_s: From its start to its first answer.
    """

    port: int
    rpc_port: int
    process: subprocess.Popen[bytes]
    ready_s: float


def free_ports(count: int) -> list[int]:
    """Where nobody listens now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def served(
    rival: Rival, graphs: Mapping[bool, Path], made: Made, core: int | None = SERVER_CORE, log: Path | None = None
) -> Iterator[Running]:
    """A server that has started, on one core.

    Raises:
        SystemExit: It did not start.
    """
    port, rpc_port = free_ports(2)
    named = {"PORT": str(port), "RPC_PORT": str(rpc_port), "SEGMENTS": str(made.segments)}
    words = [named.get(word, str(SCRIPTS / word) if word.startswith("with_") else word) for word in rival.words]
    python = (
        interpreter_with(rival.environment, rival.packages, rival.dependencies) if rival.environment else sys.executable
    )
    variables = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    variables |= {
        "GRAPHS": str(graphs.get(rival.cut, "")),
        "SHAPE": ",".join(map(str, made.windows.shape[1:])),
        "PORT": str(port),
    }
    pinned = [] if core is None or (os.cpu_count() or 1) < 2 else ["taskset", "--cpu-list", str(core)]
    with open(log or os.devnull, "ab") as said:
        began = time.monotonic()
        command = [*pinned, str(python), *words]
        server = subprocess.Popen(command, env=variables, stdout=said, stderr=said, start_new_session=True)
    try:
        while not _answers(port, rival, made):
            if time.monotonic() - began > START_S or server.poll() is not None:
                raise SystemExit(f"{rival.name} did not start{f': see {log}' if log else ''}")
            time.sleep(0.05)
        yield Running(port, rpc_port, server, time.monotonic() - began)
    finally:
        stop(server)


def stop(server: subprocess.Popen[bytes], patience_s: float = 20.0) -> None:
    """Ask a server to end; what is left of its session afterwards is killed: some leave processes behind that go on to look for work."""
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(patience_s)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _answers(port: int, rival: Rival, made: Made) -> bool:
    """Whether it answers a request."""
    request = rival.request(0, made.windows[0])
    return bool(open_loop(port, lambda _: request, np.zeros(1)).good.all())


def largest_error(port: int, rival: Rival, graphs: Mapping[bool, Path], made: Made) -> float:
    """Between what a server answers and what the graphs give, over all tasks."""
    bodies: dict[int, bytes] = {}
    tasks = len(made.exits)
    outcome = open_loop(
        port, lambda number: rival.request(number, made.windows[number]), np.zeros(tasks), 1, seen=bodies.__setitem__
    )
    if not outcome.good.all():
        raise SystemExit(f"{rival.name} answers with {outcome.status.tolist()}: {bodies}")
    expected = [_probabilities(graphs[rival.cut], task, made.windows[task : task + 1]) for task in range(tasks)]
    return max(float(np.abs(rival.reader(bodies[task]) - expected[task]).max()) for task in range(tasks))


def _probabilities(graphs: Path, task: int, window: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    full = graphs / "full.onnx"
    session = onnxruntime.InferenceSession(full if full.exists() else graphs / f"task{task}.onnx")
    found = session.run(None, {"windows": window})[0][0]
    if not full.exists():
        return found
    odds = np.exp(found.reshape(-1, CLASSES)[task])
    return odds / odds.sum()
