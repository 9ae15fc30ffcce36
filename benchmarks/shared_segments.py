"""Eight tasks at mixed exits from one window or batch: one pass through segments against the deepest task alone, eight graphs, and one full pass.

python benchmarks/shared_segments.py [--encoder lwm] [--batch 1 64]

Prints one JSON line. All ratios are of times measured in turn within this run, on one thread, ONNX Runtime throughout; the engine adds nothing here, it is
the predictor's own pass.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from serving.made import SHAPES, graph_session, make

from offramp import load
from offramp.costs import time_interleaved


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", choices=list(SHAPES), default="iq-resnet-small")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 64])
    parser.add_argument("--seconds", type=float, default=3.0, help="per way and batch")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        made = make(Path(place) / "mixed", arguments.encoder)
        predictor = load(made.segments)
        deepest = graph_session(made, "task7", made.exits[-1])
        full = [graph_session(made, f"task{number}", made.last) for number in range(len(made.exits))]
        shared_full = load(make(Path(place) / "full", arguments.encoder, (made.last,) * len(made.exits)).segments)
        windows = made.windows
        report = {"encoder": arguments.encoder, "exits": made.exits}
        for batch in arguments.batch:
            x = windows[:batch]
            times = time_interleaved(
                {
                    "segments": lambda x=x: predictor.predict(x),
                    "deepest_alone": lambda x=x: deepest.run(None, {"windows": x}),
                    "eight_full_graphs": lambda x=x: [session.run(None, {"windows": x}) for session in full],
                    "one_full_pass": lambda x=x: shared_full.predict(x),
                },
                seconds=arguments.seconds,
            )
            medians = {name: float(np.median(each)) for name, each in times.items()}
            report[f"batch_{batch}"] = {
                "ms": {name: round(1e3 * seconds, 3) for name, seconds in medians.items()},
                "over_deepest_alone": round(medians["segments"] / medians["deepest_alone"], 3),
                "throughput_over_eight_full_graphs": round(medians["eight_full_graphs"] / medians["segments"], 2),
                "throughput_over_one_full_pass": round(medians["one_full_pass"] / medians["segments"], 2),
            }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
