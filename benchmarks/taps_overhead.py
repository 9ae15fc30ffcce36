"""Time of all taps over the time of one plain full forward of the same batch: torch, one thread. Prints one JSON line.

Times are CPU time of the one thread; each ratio is the median over interleaved pairs.
"""

import json
import time

import numpy as np
import torch

from offramp.costs import time_interleaved
from offramp.encoders.registry import load_encoder

SHAPES = {"lwm": (2, 32, 32), "iq-resnet": (2, 4, 256), "iq-shufflenet": (2, 4, 256)}
ROUNDS = {1: 300, 64: 20}


def ratio(name: str, batch: int) -> float:
    encoder = load_encoder(name, weights="random").eval().requires_grad_(False)
    last = encoder.exits[-1].name
    full = encoder.truncate(last)
    x = torch.randn(batch, *SHAPES[name], generator=torch.Generator().manual_seed(0))
    calls = {"taps": lambda: encoder.taps(x), "full": lambda: full(x)}
    times = time_interleaved(calls, repeats=ROUNDS[batch], clock=time.thread_time)
    return round(float(np.median(times["taps"] / times["full"])), 3)


def main() -> None:
    result = {f"{name}, batch {batch}": ratio(name, batch) for name in SHAPES for batch in ROUNDS}
    print(json.dumps({"benchmark": "taps_overhead", "target": 1.10, "ratio": result}))


if __name__ == "__main__":
    main()
