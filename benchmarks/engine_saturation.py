"""Requests of one window and one of eight tasks at mixed exits, as many as can be done: the engine against other ways to batch them.

python benchmarks/engine_saturation.py [--encoder lwm] [--outstanding 64] [--seconds 10]

So many requests are always outstanding: an answer makes room for the next. All ways run ONNX Runtime on one thread in this process, one after the other:

- ``engine``: segments, re-batched at every exit;
- ``to_the_deepest``: whatever waits is one batch, and runs to the deepest exit of all;
- ``per_task``: whatever waits for the most urgent task is one batch through that task's own graph (batch and model by decision, as EdgeServing does, arXiv 2605.05527);
- ``alone``: every request by itself through its task's own graph.

Prints one JSON line: requests a second, p50 and p99 in milliseconds, and what the engine's last segment was filled with.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from serving.made import SHAPES, Made, graph_session, make

from offramp import load
from offramp.runtime import Predictor
from offramp.runtime.engine import Engine

MOST = 64
"""Windows of a batch."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", choices=list(SHAPES), default="lwm")
    parser.add_argument("--outstanding", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0, help="per way")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        made = make(Path(place) / "mixed", arguments.encoder)
        asked = np.random.default_rng(0).integers(0, len(made.exits), 1 << 16)
        ways = {
            "engine": lambda: through_engine(made, asked, arguments.outstanding, arguments.seconds),
            "to_the_deepest": lambda: by_batches(deepest(made), asked, made, arguments.outstanding, arguments.seconds),
            "per_task": lambda: by_batches(per_task(made), asked, made, arguments.outstanding, arguments.seconds),
            "alone": lambda: by_batches(alone(made), asked, made, arguments.outstanding, arguments.seconds),
        }
        found = {name: way() for name, way in ways.items()}
    engine = found["engine"]
    ratios = {
        name: round(engine["requests_per_second"] / each["requests_per_second"], 2) for name, each in found.items()
    }
    print(
        json.dumps({"encoder": arguments.encoder, "outstanding": arguments.outstanding, **found, "engine_over": ratios})
    )


def through_engine(made: Made, asked: NDArray[np.int64], outstanding: int, seconds: float) -> dict[str, Any]:
    """Through the engine."""
    took: list[float] = []
    with Engine(load(made.segments), most_windows=MOST) as engine:
        room = threading.Semaphore(outstanding)
        ends = time.perf_counter() + seconds

        def answered(started: float) -> None:
            took.append(time.perf_counter() - started)
            room.release()

        number = 0
        while time.perf_counter() < ends:
            room.acquire()
            started = time.perf_counter()
            task = f"task{asked[number % len(asked)]}"
            request = engine.submit(made.windows[number % 256 : number % 256 + 1], [task])
            request.answers[task].add_done_callback(lambda _, started=started: answered(started))
            number += 1
        counts = engine.counts
    return summary(took, seconds) | {"windows_per_batch": round(counts.computed / max(1, counts.batches), 1)}


Serve = Callable[[list[tuple[int, int]]], set[int]]
"""Waiting requests ``(task, window)``, oldest first, to the places of those that were answered."""


def by_batches(serve: Serve, asked: NDArray[np.int64], made: Made, outstanding: int, seconds: float) -> dict[str, Any]:
    """One loop that serves what waits."""
    waiting: deque[tuple[float, int, int]] = deque()
    took: list[float] = []
    number, ends = 0, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        while len(waiting) < outstanding:
            waiting.append((time.perf_counter(), int(asked[number % len(asked)]), number % 256))
            number += 1
        served = serve([(task, window) for _, task, window in waiting])
        now = time.perf_counter()
        kept: deque[tuple[float, int, int]] = deque()
        for place, each in enumerate(waiting):
            if place in served:
                took.append(now - each[0])
            else:
                kept.append(each)
        waiting = kept
    return summary(took, seconds)


def deepest(made: Made) -> Serve:
    """All of a batch to the deepest exit."""
    predictor = load(made.segments)
    last = made.exits[-1]
    whole = {name: replace(task, exit=last) for name, task in predictor.bundle.tasks.items()}
    everyone = Predictor(replace(predictor.bundle, tasks=whole), predictor.backend)

    def serve(waiting: list[tuple[int, int]]) -> set[int]:
        batch = waiting[:MOST]
        names = sorted({f"task{task}" for task, _ in batch})
        everyone.predict(made.windows[[window for _, window in batch]], names)
        return set(range(len(batch)))

    return serve


def per_task(made: Made) -> Serve:
    """All that waits for the task of the oldest request."""
    sessions = [graph_session(made, f"task{number}", exit) for number, exit in enumerate(made.exits)]

    def serve(waiting: list[tuple[int, int]]) -> set[int]:
        first = waiting[0][0]
        places = [place for place, (task, _) in enumerate(waiting) if task == first][:MOST]
        sessions[first].run(None, {"windows": made.windows[[waiting[place][1] for place in places]]})
        return set(places)

    return serve


def alone(made: Made) -> Serve:
    """The oldest request by itself."""
    sessions = [graph_session(made, f"task{number}", exit) for number, exit in enumerate(made.exits)]

    def serve(waiting: list[tuple[int, int]]) -> set[int]:
        task, window = waiting[0]
        sessions[task].run(None, {"windows": made.windows[window : window + 1]})
        return {0}

    return serve


def summary(took: list[float], seconds: float) -> dict[str, Any]:
    """Of the seconds that requests took."""
    times = 1e3 * np.array(took)
    p50, p99 = np.quantile(times, [0.5, 0.99])
    return {"requests_per_second": round(len(took) / seconds, 1), "p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}


if __name__ == "__main__":
    main()
