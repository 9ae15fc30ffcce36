"""A server whose numbers move, for the tests of the page and for looking at it: ``python tests/serving/moving_page.py --port 8123``."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import uvicorn
from numpy.typing import NDArray
from scipy.special import ndtr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from offramp.bundle import BundleTask, Head
from offramp.errors import BundleError
from offramp.runtime.engine import ServiceLevel
from offramp.runtime.predictor import Prediction
from offramp.serving.page.counts import (
    LatencyBuckets,
    SegmentCounts,
    SliceCounts,
    Snapshot,
    TaskAgreement,
    TaskDrift,
    TaskFacts,
    WorkerCounts,
)
from offramp.serving.page.routes import PageContext, page_routes
from offramp.serving.page.status import RecentSnapshots
from offramp.transforms import Transform

ADMIN = "let-me-in"
EXITS = ("stem", "stage1", "stage2.0", "stage2.1", "stage3.0", "stage3.1", "conv5")
NAMES = ("modulation", "interference", "radio-id", "los", "band", "angle", "occupancy", "direction")
LABELS = ("noise", "bpsk", "qpsk", "16qam")
BOUNDS = tuple(round(1e-3 * 2 ** (number / 3), 6) for number in range(31))
LEVELS = {
    "urllc": ServiceLevel(budget_ms=10, priority=0, under_load="shallower"),
    "embb": ServiceLevel(budget_ms=50, priority=1, under_load="shallower"),
    "mmtc": ServiceLevel(budget_ms=200, priority=2, exit="stage2.0"),
    "default": ServiceLevel(priority=3),
}


@dataclass(frozen=True)
class Scene:
    """What the made server is like."""

    tasks: tuple[str, ...] = NAMES[:3]
    levels: Mapping[str, ServiceLevel] = None  # type: ignore[assignment]
    workers: int = 2
    requests_per_s: float = 240.0
    state: str = "ready"
    alarm: bool = False
    overload: bool = False
    watched: bool = True


class MovingServer:
    """Counts that grow with time as those of a server under load do."""

    def __init__(self, scene: Scene, age: float = 3600.0) -> None:
        self.scene = scene
        self.levels = dict(LEVELS if scene.levels is None else scene.levels)
        self.started = time.time() - age
        self.recent = RecentSnapshots()
        self.gone = False

    def snapshot(self, now: float | None = None) -> Snapshot:
        now = time.time() if now is None else now
        scene = self.scene
        watched = scene.tasks if scene.watched else ()
        return Snapshot(
            time=now,
            title="campus-5g",
            version="0.1.0",
            encoder="iq-resnet-small",
            exits=EXITS,
            policies=("confidence", "patience"),
            tasks=tuple(TaskFacts(name, "classification", self._exits(name), name != "los") for name in scene.tasks),
            levels=self.levels,
            workers=tuple(self._worker(number, now) for number in range(scene.workers)),
            drift={name: self._drift(number, now) for number, name in enumerate(watched)},
            agreement={name: self._agreement(number, now) for number, name in enumerate(watched) if number != 2},
        )

    def status(self) -> dict[str, Any]:
        return self.recent.status(self.snapshot()).document()

    def _exits(self, name: str) -> tuple[str, ...]:
        number = NAMES.index(name) if name in NAMES else 0
        return EXITS[number % 3 :: 2] if number % 3 else (EXITS[0], EXITS[2], EXITS[3], EXITS[6])

    def _worker(self, number: int, now: float) -> WorkerCounts:
        scene, age = self.scene, now - self.started
        rate = scene.requests_per_s
        requests = float(self._requests(age)) / max(1, scene.workers)
        left, classes = {}, {}
        ends = np.append(np.arange(0, age, 5.0), age)
        came = np.diff(self._requests(ends)) / max(1, scene.workers)
        for order, name in enumerate(scene.tasks):
            exits = self._exits(name)
            tilt = 0.4 + 0.2 * np.sin(ends[:-1] / 300 + order) + 0.1 * order
            weights = np.stack([tilt**place for place in range(len(exits))])
            for exit, share in zip(exits, weights / weights.sum(0), strict=True):
                left[name, exit] = int((came * share).sum() * 4)
            for label, share in zip(LABELS, (0.45, 0.1 + 0.02 * order, 0.25, 0.2 - 0.02 * order), strict=True):
                classes[name, label] = int(requests * share * 4)
        shares = np.linspace(2, 1, len(self.levels))
        slices = {
            name: self._slice(name, share / shares.sum() / max(1, scene.workers), age)
            for name, share in zip(self.levels, shares, strict=True)
        }
        crowd = 6 if scene.overload else 1
        segments = {
            f"{exit}": SegmentCounts(
                int(crowd * max(0.0, 14 - 2 * depth + 8 * math.sin(age / 3 + depth))) if rate else 0,
                int(requests / (9 - depth)),
                int(requests * (1 - depth / 8)),
            )
            for depth, exit in enumerate(EXITS)
        }
        return WorkerCounts(
            number,
            4100 + number,
            self.started,
            scene.state,
            180_000_000 + number * 2_400_000,
            left,
            classes,
            slices,
            segments,  # type: ignore[arg-type]
        )

    def _slice(self, name: str, share: float, age: float) -> SliceCounts:
        budget = (self.levels[name].budget_ms or 300) / 1e3
        ends = np.append(np.arange(0, age, 5.0), age)
        requests = share * self._requests(ends)
        # log-normal latencies whose median moves with time
        slow = 0.42 + 0.13 * np.sin(ends[:-1] / 40 + len(name)) + 0.06 * np.sin(ends[:-1] / 7)
        slow += 0.5 if self.scene.overload and name == "mmtc" else 0
        sure = np.log(np.array(BOUNDS)[:, None] / (slow * budget * 0.7)) / 0.26
        below = (np.diff(requests) * ndtr(sure)).sum(1).astype(int)
        all_of_them = int(requests[-1] - requests[0])
        crowded = self.scene.overload
        refused = {
            "load": int(all_of_them * (0.02 if crowded else 4e-4)),
            "deadline": int(all_of_them * 4e-3 * crowded),
        }
        shallower = crowded and self.levels[name].under_load == "shallower"
        steps = int(2 + 1.2 * math.sin(age / 20)) if shallower else 0
        return SliceCounts(all_of_them, refused, LatencyBuckets(BOUNDS, (*below.tolist(), all_of_them)), steps)

    def _requests(self, age: Any) -> Any:
        """The integral of a rate that goes up and down; of all workers."""
        return self.scene.requests_per_s * (age + 40 * (1 - np.cos(age / 120)) + 2 * np.sin(age / 9))

    def _drift(self, number: int, now: float) -> TaskDrift:
        base = 0.3 + 0.25 * math.sin(now / 30 + number)
        values = {"exits": base, "confidence": min(1.0, base * 1.6), "features": min(1.0, base * 2.2)}
        if self.scene.alarm and number == 1:
            return TaskDrift("alarm", {**values, "features": 0.00021}, 0.0033, 418, now - 340)
        if number == 4:
            return TaskDrift("learning", {}, 0.0033, 12)
        return TaskDrift("steady", values, 0.0033, 390 + 11 * number)

    def _agreement(self, number: int, now: float) -> TaskAgreement:
        middle = 0.985 - 0.012 * number
        if self.scene.alarm and number == 1:
            return TaskAgreement(0.861, 0.917, 0.89, 1310, 0.95, "withdrawn")
        return TaskAgreement(
            middle - 0.02,
            min(1.0, middle + 0.012),
            middle,
            2210 + 31 * number,
            0.9 if number % 3 else None,
            "holds" if number % 3 else "none",
        )


def made_task(name: str, samples: int = 64) -> BundleTask:
    """A task that cuts windows as one of a bundle; its answers come from :func:`made_answer`."""
    heads = {
        exit: Head(((np.zeros((len(LABELS), 2), np.float32), np.zeros(len(LABELS), np.float32)),)) for exit in EXITS
    }
    shape = (2, 1, samples)
    return BundleTask(
        name,
        "classification",
        "accuracy",
        EXITS[-1],
        LABELS,
        Transform(),
        shape,
        heads,
        dict.fromkeys(EXITS, 0.5),
        {"sample_rate": 1e6},
    )


def made_answer(windows: NDArray[np.float32], task: str, labels: tuple[str, ...] = LABELS) -> Prediction:
    """By the power of a window and where it is: strong ones are sure, and leave early."""
    signal = windows[:, 0, 0] + 1j * windows[:, 1, 0]
    power = 10 * np.log10(np.mean(np.abs(signal) ** 2, axis=1) + 1e-12)
    spectrum = np.abs(np.fft.fft(signal, axis=1)) ** 2
    peak = np.argmax(spectrum, axis=1) / signal.shape[1]
    kind = np.where(power < -32, 0, 1 + np.minimum(2, np.floor(3 * ((peak + 0.5) % 1))).astype(int))
    sure = np.clip(0.55 + np.abs(power + 32) / 45 + 0.03 * np.sin(np.arange(len(windows))), 0.5, 0.995)
    outputs = np.full((len(windows), len(labels)), 0, np.float32)
    outputs[:] = ((1 - sure) / (len(labels) - 1))[:, None]
    outputs[np.arange(len(windows)), kind] = sure
    left = np.clip(((0.99 - sure) * 9).astype(np.int64), 0, 3)
    return Prediction(
        task,
        "classification",
        outputs,
        labels,
        "confidence",
        (EXITS[0], EXITS[2], EXITS[3], EXITS[6]),
        left,
        sure < 0.56,
    )


def made_application(server: MovingServer, labels: tuple[str, ...] = LABELS, locked: bool = False) -> Starlette:
    """The page's routes, and a ``PUT /slices/NAME`` with an admin key; numbers and recordings need it too if ``locked``."""

    def task(name: str | None) -> BundleTask:
        if name not in server.scene.tasks:
            raise BundleError(f"unknown task {name!r}: the bundle has {', '.join(server.scene.tasks)}")
        return replace(made_task(name), label_names=labels)

    async def ask(windows: NDArray[np.float32], task: str, slice: str | None) -> Prediction:
        await asyncio.sleep(0)
        return made_answer(windows, task, labels)

    async def put_slice(request: Request) -> JSONResponse:
        if request.headers.get("authorization") != f"Bearer {ADMIN}":
            return JSONResponse({"error": "changing a slice needs an admin key: send it as a bearer token"}, 401)
        name = request.path_params["name"]
        if name not in server.levels:
            return JSONResponse({"error": f"there is no slice {name!r}"}, 404)
        try:
            server.levels[name] = ServiceLevel.model_validate(await request.json())
        except ValueError as error:
            return JSONResponse({"error": str(error).splitlines()[-1]}, 400)
        return JSONResponse(server.levels[name].model_dump())

    context = PageContext(server.status, task, ask, 64 * 2**20)
    routes = page_routes(context)
    if locked:
        routes = [_locked(route) if route.path in ("/status", "/recording") else route for route in routes]
    return Starlette(routes=[*routes, Route("/slices/{name:path}", put_slice, methods=["PUT"])])


def _locked(route: Route) -> Route:
    async def guarded(request: Request) -> Any:
        if request.headers.get("authorization") != f"Bearer {ADMIN}":
            return JSONResponse({"error": "give a key"}, 401)
        return await route.endpoint(request)

    return Route(route.path, guarded, methods=sorted(route.methods or ()))


@contextmanager
def served(application: Starlette, port: int = 0) -> Iterator[str]:
    """The URL of an application that runs in a thread."""
    server = uvicorn.Server(uvicorn.Config(application, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the made server did not start")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--state", default="ready")
    parser.add_argument("--alarm", action="store_true")
    parser.add_argument("--overload", action="store_true")
    parser.add_argument("--empty", action="store_true")
    chosen = parser.parse_args()
    levels = dict(list(LEVELS.items())[-chosen.slices :])
    scene = Scene(NAMES[: chosen.tasks], levels, 2, 240.0, chosen.state, chosen.alarm, chosen.overload)
    if chosen.empty:
        scene = replace(scene, requests_per_s=0.0, watched=False, workers=1)
    with served(made_application(MovingServer(scene, 5.0 if chosen.empty else 3600.0)), chosen.port) as url:
        print(url, flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
