"""One window under a policy as one ONNX file with branches: time saved over MACs saved, against segments and against the truncated file.

python benchmarks/branches_time.py [--encoder iq-resnet-small] [--exits stem stage1.0 stage2.0 stage3.1]

Prints one JSON line. For each exit there is a policy by which every window leaves there, having been asked at all exits before. Times are medians of calls in
turn within this run, one window, one thread, ONNX Runtime throughout; savings are against the truncated file of the last exit.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from serving.made import SHAPES, graph_session, make

from offramp import load
from offramp.costs import exit_costs, time_interleaved
from offramp.encoders.registry import load_encoder, packaged_weights
from offramp.export.branches import export_branches
from offramp.policies import Policy

INFINITE = float("inf")


def leaving_at(exits: tuple[str, ...], exit: str) -> Policy:
    """Every window is asked at each exit up to one, and leaves there."""
    ones = (1.5,) * len(exits)
    thresholds = tuple(-INFINITE if name == exit else INFINITE for name in exits[:-1])
    return Policy("classification", "confidence", exits, thresholds, ones, ones)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", choices=list(SHAPES), default="iq-resnet-small")
    parser.add_argument("--exits", nargs="*", default=["stem", "stage1.0", "stage2.0", "stage3.1"])
    parser.add_argument("--seconds", type=float, default=2.0, help="per way")
    arguments = parser.parse_args()
    exits, name = tuple(arguments.exits), arguments.encoder
    encoder = load_encoder(name, weights="pretrained" if packaged_weights(name) else "random")
    costs = exit_costs(encoder, SHAPES[name], measure=False)
    full = costs[exits[-1]].macs
    with tempfile.TemporaryDirectory() as place:
        made = make(Path(place) / "made", name, (exits[-1],), {exit: leaving_at(exits, exit) for exit in exits})
        x, predictor = made.windows[:1], load(made.segments)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        calls = {}
        for exit in exits:
            file = Path(place) / f"{exit}.onnx"
            export_branches(made.bundle, "task0", exit, file)
            branches = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
            truncated = graph_session(made, "task0", exit)
            calls[f"branches {exit}"] = lambda session=branches: session.run(None, {"windows": x})
            calls[f"segments {exit}"] = lambda exit=exit: predictor.predict(x, policy=exit)
            calls[f"truncated {exit}"] = lambda session=truncated: session.run(None, {"windows": x})
        times = {
            call: 1e3 * float(np.median(each))
            for call, each in time_interleaved(calls, seconds=arguments.seconds).items()
        }
    whole = times[f"truncated {exits[-1]}"]
    rows = {}
    for exit in exits:
        saved = 1 - costs[exit].macs / full
        rows[exit] = {"macs_saved": round(saved, 3)}
        for way in ("branches", "segments", "truncated"):
            took = times[f"{way} {exit}"]
            rows[exit][way] = {"ms": round(took, 4), "time_saved": round(1 - took / whole, 3)}
            if saved:
                rows[exit][way]["over_macs_saved"] = round((1 - took / whole) / saved, 3)
    print(json.dumps({"benchmark": "branches_time", "encoder": name, "exits": rows}))


if __name__ == "__main__":
    main()
