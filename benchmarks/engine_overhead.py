"""What predictor and engine add to bare ONNX Runtime for one task at one exit.

python benchmarks/engine_overhead.py [--batch 1 64]

Prints one JSON line: milliseconds of the bare graph, of ``predict`` on segments, and of ``submit`` and wait through the engine, measured in turn on one thread.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from serving.made import graph_session, make

from offramp import load
from offramp.costs import time_interleaved
from offramp.runtime.engine import Engine

EXIT = "stage2.1"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 64])
    parser.add_argument("--seconds", type=float, default=3.0, help="per way and batch")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        made = make(Path(place), exits=(EXIT,))
        bare, windows = graph_session(made, "task0", EXIT), made.windows
        predictor = load(made.segments)
        report = {"encoder": predictor.bundle.encoder["architecture"], "exit": EXIT}
        with Engine(predictor) as engine:
            for batch in arguments.batch:
                x = windows[:batch]
                times = time_interleaved(
                    {
                        "bare": lambda x=x: bare.run(None, {"windows": x}),
                        "predictor": lambda x=x: predictor.predict(x),
                        "engine": lambda x=x: engine.predict(x),
                    },
                    seconds=arguments.seconds,
                )
                medians = {name: 1e3 * float(np.median(each)) for name, each in times.items()}
                added = {name: round(medians[name] - medians["bare"], 4) for name in ("predictor", "engine")}
                share = {name: round(medians[name] / medians["bare"] - 1, 4) for name in ("predictor", "engine")}
                report[f"batch_{batch}"] = {"ms": medians, "added_ms": added, "added_share": share}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
