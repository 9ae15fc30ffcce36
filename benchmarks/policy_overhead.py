"""Time of a policy that lets nothing leave over the time of the plain full pass with its last head: torch, one thread.

Prints one JSON line. Thresholds are infinite, so that the head and the criterion of every exit consulted are all that is added.
Times are CPU time of the one thread; each ratio is the median over interleaved pairs. Published for such routing: about 1.20.
"""

import json
import time

import numpy as np
import torch
from torch import nn

from offramp.costs import time_interleaved
from offramp.encoders.registry import load_encoder
from offramp.policies import Policy
from offramp.runtime.torch_segments import run_cascade

SHAPES = {"lwm": (2, 32, 32), "wavesfm": (2, 4, 256), "iq-resnet": (2, 4, 256), "iq-shufflenet": (2, 4, 256)}
ROUNDS = {1: 300, 64: 15, 256: 7, 1024: 5}
CLASSES = 10


def never(exits: tuple[str, ...]) -> Policy:
    """Whatever the outputs, all windows reach the last exit."""
    infinite = (float("inf"),) * (len(exits) - 1)
    return Policy("classification", "confidence", exits, infinite, (1.5,) * len(exits), (1.5,) * len(exits))


def ratios(name: str, batch: int) -> dict[str, float]:
    torch.manual_seed(0)
    encoder = load_encoder(name, weights="random").eval().requires_grad_(False)
    exits = tuple(exit.name for exit in encoder.exits)
    heads = {exit.name: nn.Linear(exit.width, CLASSES) for exit in encoder.exits}
    full, head = encoder.truncate(exits[-1]), heads[exits[-1]]
    x = encoder.input.draw(batch, SHAPES[name])
    every = never(exits)
    three = never(tuple(exits[index] for index in np.linspace(0, len(exits) - 1, 4).round().astype(int)[1:]))
    calls = {
        "full": lambda: head(full(x)),
        "every exit": lambda: run_cascade(encoder, heads, every, x),
        "three exits": lambda: run_cascade(encoder, heads, three, x),
    }
    times = time_interleaved(calls, seconds=0.1, repeats=ROUNDS[batch], clock=time.thread_time)
    return {call: round(float(np.median(times[call] / times["full"])), 3) for call in ("every exit", "three exits")}


def main() -> None:
    result = {f"{name}, batch {batch}": ratios(name, batch) for name in SHAPES for batch in ROUNDS}
    print(json.dumps({"benchmark": "policy_overhead", "target": 1.05, "ratio": result}))


if __name__ == "__main__":
    main()
