"""What a server shows of all its processes: ``/metrics``, and the live page with ``/status``.

Each process writes what it has seen into the folder that they share, a few times a second; whichever is asked adds it up. A process that ended
leaves its counts to ``ended.json``, so that counters never go back, and nothing else of it is shown any more.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

import offramp
from offramp.bundle import Bundle, BundleTask
from offramp.files import write_text
from offramp.runtime.engine import DEFAULT, Engine
from offramp.runtime.predictor import Prediction
from offramp.serving.http.app import guarded
from offramp.serving.keys import Keys
from offramp.serving.page.counts import (
    LatencyBuckets,
    SegmentCounts,
    SliceCounts,
    Snapshot,
    TaskFacts,
    WorkerCounts,
    WorkerState,
)
from offramp.serving.page.routes import PageContext, page_routes
from offramp.serving.page.status import RecentSnapshots
from offramp.serving.service import Service
from offramp.serving.watching.prometheus import REASONS, Gauges, exposition
from offramp.serving.watching.shadow import SLICE
from offramp.serving.watching.tally import LATENCY_S, ServingTally, added
from offramp.serving.watching.watch import Watch

Document = Mapping[str, Any]
ENDED = "ended.json"
MOST_RECORDING_BYTES = 64 << 20
TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Overview:
    """All processes of a server, as one of them sees them."""

    def __init__(
        self, service: Service, engine: Engine, bundle: Bundle, watch: Watch, folder: Path | None, title: str
    ) -> None:
        """Take what this process has, and the folder that processes share; None for one alone."""
        self._service, self._engine, self._bundle, self._watch = service, engine, bundle, watch
        self._folder, self._title, self._recent = folder, title, RecentSnapshots()

    def publish(self) -> None:
        """Write what this process has seen, for the others."""
        if self._folder is not None:
            document = self._own()
            write_text(worker_file(self._folder, document["number"]), json.dumps(document))

    def metrics(self) -> bytes:
        """The text of ``/metrics``."""
        living, ended = self._documents()
        queues: dict[tuple[str, ...], int] = {}
        steps: dict[str, int] = {}
        for document in living:
            for depth in document["queues"]:
                key = (str(depth["number"]), depth["exit"], "whole" if depth["whole"] else "segment")
                queues[key] = queues.get(key, 0) + depth["windows"]
            for name, count in document["steps"].items():
                steps[name] = max(steps.get(name, 0), count)
        drift = _joined(document["drift"] for document in living)
        agreement = _joined(document["agreement"] for document in living)
        gauges = Gauges(
            ready=all(document["ready"] for document in living),
            workers=len(living),
            queues=queues,
            steps=steps,
            drift={task: said["state"] == "alarm" for task, said in drift.items()},
            disagreement={task: 1 - said["lower"] for task, said in agreement.items()},
        )
        return exposition(added([document["tally"] for document in (*living, *ended)]), gauges)

    def status(self) -> dict[str, Any]:
        """The document of ``/status``."""
        living, _ = self._documents()
        return self._recent.status(self._snapshot(living)).document()

    def context(self) -> PageContext:
        """What the page needs."""
        return PageContext(self.status, self._bundle.choose, self._answer, MOST_RECORDING_BYTES)

    async def _answer(self, windows: NDArray[np.float32], task: str, slice: str | None) -> Prediction:
        submission = self._engine.submit(windows, [task], slice or DEFAULT)
        return (await asyncio.wrap_future(submission.answers[task])).prediction

    def _own(self) -> dict[str, Any]:
        return self._watch.document(self._engine, self._service.repository.ready, self._service.draining)

    def _documents(self) -> tuple[list[Document], list[Document]]:
        """Of the processes that live, this one as it is now, and what those that ended have counted."""
        own = self._own()
        living: list[Document] = [own]
        ended: list[Document] = []
        if self._folder is not None:
            for path in sorted(self._folder.glob("worker-*.json")):
                document = _read(path)
                if document is not None and document["pid"] != own["pid"]:
                    living.append(document)
            left = _read(self._folder / ENDED)
            ended = [] if left is None else [left]
        return living, ended

    def _snapshot(self, living: Iterable[Document]) -> Snapshot:
        documents = list(living)
        exits = tuple(exit["name"] for exit in self._bundle.encoder["exits"])
        tasks = list(self._bundle.tasks.values())
        return Snapshot(
            time=time.time(),
            title=self._title,
            version=offramp.__version__,
            encoder=str(self._bundle.encoder["architecture"]),
            exits=exits,
            policies=tuple(dict.fromkeys(policy for task in tasks for policy in task.policies)),
            tasks=tuple(_facts(task, self._engine) for task in tasks),
            levels={name: level for name, level in self._engine.slices.items() if name != SLICE},
            workers=tuple(_worker(document) for document in documents),
            drift=self._watch.page_drift(_joined(document["drift"] for document in documents)),
            agreement=self._watch.page_agreement(_joined(document["agreement"] for document in documents)),
            most_recording_bytes=MOST_RECORDING_BYTES,
        )


def overview_routes(overview: Overview, keys: Keys) -> list[BaseRoute]:
    """``/metrics`` and those of the page; what says something about the traffic needs a key, where there are keys."""

    async def metrics(request: Request) -> Response:
        content = await asyncio.to_thread(overview.metrics)
        return Response(content, media_type=TEXT)

    routes: list[BaseRoute] = [Route("/metrics", guarded(metrics, keys, "infer"))]
    for route in page_routes(overview.context()):
        open_to_all = route.path == "/" or route.path.startswith("/page/")
        methods = sorted(route.methods or {"GET"})
        endpoint = guarded(route.endpoint, keys, None if open_to_all else "infer")
        routes.append(Route(route.path, endpoint, methods=methods))
    return routes


def worker_file(folder: Path, number: int) -> Path:
    """Where a process writes what it has seen."""
    return folder / f"worker-{number}.json"


def bury(folder: Path, number: int) -> None:
    """Add the counts of a process that ended to those of the others that did, and forget the rest of it."""
    path = worker_file(folder, number)
    document = _read(path)
    if document is None:
        return
    before = _read(folder / ENDED)
    tallies = [document["tally"], *([] if before is None else [before["tally"]])]
    write_text(folder / ENDED, json.dumps({"tally": added(tallies).document()}))
    path.unlink(missing_ok=True)


def _read(path: Path) -> Document | None:
    try:
        found: Document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def _joined(documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """By task, what the process says that has seen most."""
    found: dict[str, Any] = {}
    for document in documents:
        for task, said in document.items():
            if task not in found or said["seen"] > found[task]["seen"]:
                found[task] = said
    return found


def _facts(task: BundleTask, engine: Engine) -> TaskFacts:
    takes = len(task.window_shape) == 3 and task.window_shape[0] == 2
    exits = engine.exits(task.name) if task.name in engine.tasks else ()
    return TaskFacts(task.name, task.kind, exits, takes)


def _worker(document: Document) -> WorkerCounts:
    tally = added([document["tally"]])
    state: WorkerState = "draining" if document["draining"] else "ready" if document["ready"] else "starting"
    left: dict[tuple[str, str], int] = {}
    classes: dict[tuple[str, str], int] = {}
    for (task, exit, label, _), count in tally.answers.items():
        left[task, exit] = left.get((task, exit), 0) + count
        if label:
            classes[task, label] = classes.get((task, label), 0) + count
    return WorkerCounts(
        number=document["number"],
        pid=document["pid"],
        started=document["started"],
        state=state,
        memory_bytes=document["memory_bytes"],
        left=left,
        classes=classes,
        slices=_slices(tally, document["steps"]),
        segments=_segments(tally, document["queues"]),
    )


def _slices(tally: ServingTally, steps: Mapping[str, int]) -> dict[str, SliceCounts]:
    requests: dict[str, int] = {}
    refused: dict[str, dict[str, int]] = {}
    for (_, slice, status), count in tally.requests.items():
        requests[slice] = requests.get(slice, 0) + count
        if status in REASONS:
            of_slice = refused.setdefault(slice, {})
            of_slice[REASONS[status]] = of_slice.get(REASONS[status], 0) + count
    latency: dict[str, list[int]] = {}
    for (_, slice), buckets in tally.latency.items():
        before = latency.get(slice, [0] * len(buckets.counts))
        latency[slice] = [a + b for a, b in zip(before, buckets.counts, strict=True)]
    return {
        name: SliceCounts(
            requests.get(name, 0),
            refused.get(name, {}),
            LatencyBuckets(LATENCY_S, tuple(accumulate(latency[name]))) if name in latency else LatencyBuckets(),
            steps.get(name, 0),
        )
        for name in {*requests, *steps}
    }


def _segments(tally: ServingTally, queues: Iterable[Mapping[str, Any]]) -> dict[str, SegmentCounts]:
    """By the exit where they end, whole passes to it among them, in order of depth."""
    found: dict[str, SegmentCounts] = {}
    for depth in queues:
        before = found.get(depth["exit"], SegmentCounts())
        found[depth["exit"]] = SegmentCounts(before.waiting + depth["windows"], before.batches, before.windows)
    for (_, exit, _), buckets in tally.batch_windows.items():
        before = found.get(exit, SegmentCounts())
        batches = before.batches + sum(buckets.counts)
        found[exit] = SegmentCounts(before.waiting, batches, before.windows + int(buckets.total))
    return found
