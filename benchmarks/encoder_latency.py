"""Time of a full pass of iq-resnet over that of iq-shufflenet: PyTorch and ONNX Runtime, one thread, batch 1 and 64.

Prints one JSON line. Times are CPU time of the one thread; the encoders take turns call by call.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
import torch

from offramp import load_encoder
from offramp.costs import time_interleaved
from offramp.export.folding import fold_batchnorm
from offramp.export.graph import onnx_bytes, open_session

ENCODERS = ("iq-resnet", "iq-shufflenet")
SHAPES = ((2, 4, 256), (2, 1, 128), (2, 1, 512))
ROUNDS = {1: 150, 64: 20}


def eager(name: str, windows: torch.Tensor) -> Callable[[], object]:
    encoder = load_encoder(name, weights="random").eval()
    last = [encoder.exits[-1].name]
    return lambda: encoder.taps(windows, last)


def onnx(name: str, windows: torch.Tensor) -> Callable[[], object]:
    encoder = load_encoder(name, weights="random").eval()
    network = fold_batchnorm(encoder.truncate(encoder.exits[-1].name))
    session = open_session(onnx_bytes(network, windows.shape[1:], ["tap"]), shared_arena=True)
    fed = {"windows": windows.numpy()}
    return lambda: session.run(None, fed)


def main() -> None:
    ratios = {}
    for shape in SHAPES:
        for batch, rounds in ROUNDS.items():
            windows = torch.randn(batch, *shape)
            for runtime, call in (("PyTorch", eager), ("ONNX Runtime", onnx)):
                calls = {name: call(name, windows) for name in ENCODERS}
                times = time_interleaved(calls, seconds=0, repeats=rounds, clock=time.thread_time)
                ours, theirs = (float(np.median(times[name])) for name in ENCODERS)
                case = f"{runtime}, {'x'.join(map(str, shape))}, batch {batch}"
                ratios[case] = {"ratio": round(ours / theirs, 3), "iq-resnet_ms": round(1e3 * ours, 3)}
    largest = max(case["ratio"] for case in ratios.values())
    print(json.dumps({"benchmark": "encoder_latency", "target": 1.0, "largest_ratio": largest, "cases": ratios}))


if __name__ == "__main__":
    main()
