"""Several engines in one process, each with a model of its own, all asked at once: do their sessions fight for cores?

python benchmarks/engine_threads.py [--models 1 4 16] [--threads 1 2] [--seconds 5]

Prints one JSON line: windows a second in all, and processor seconds per second, by number of models and threads of each; `spinning` is how ONNX Runtime comes, where
the threads of a session that waits keep their cores busy.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from serving.made import Made, make

from offramp import load
from offramp.runtime.engine import Engine
from offramp.runtime.onnx_backend import OnnxBackend

BATCH = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as place:
        made = make(Path(place), exits=("stage2.1",))
        for models in arguments.models:
            for threads in arguments.threads:
                for spinning in (False, True) if threads > 1 else (False,):
                    row = asked_at_once(made, models, threads, spinning, arguments.seconds)
                    found.append({"models": models, "threads": threads, "spinning": spinning, **row})
    print(json.dumps({"benchmark": "engine_threads", "batch": BATCH, "found": found}))


def spins(backend: OnnxBackend) -> None:
    """Opens the sessions of a back end as ONNX Runtime does if it is not told otherwise."""

    def session(graph: Any) -> Any:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = backend.threads, 1
        return onnxruntime.InferenceSession(backend.folder / graph.file, settings, providers=["CPUExecutionProvider"])

    backend._session = session  # type: ignore[method-assign]


def asked_at_once(made: Made, models: int, threads: int, spinning: bool, seconds: float) -> dict[str, float]:
    """One caller for each model, as fast as answers come."""
    engines = []
    for _ in range(models):
        predictor = load(made.segments, threads=threads)
        if spinning:
            assert isinstance(predictor.backend, OnnxBackend)
            spins(predictor.backend)
        engines.append(Engine(predictor))
    windows, done = made.windows[:BATCH], [0] * models
    for engine in engines:
        engine.predict(windows)
    ends = time.perf_counter() + seconds

    def ask(number: int) -> None:
        while time.perf_counter() < ends:
            engines[number].predict(windows)
            done[number] += BATCH

    computed = time.process_time()
    _together([threading.Thread(target=ask, args=(number,)) for number in range(models)])
    busy = (time.process_time() - computed) / seconds
    for engine in engines:
        engine.close()
    return {"windows_per_second": round(sum(done) / seconds), "processor_seconds_per_second": round(busy, 2)}


def _together(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
