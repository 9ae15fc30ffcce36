"""Time saved over MACs saved when windows really leave on the way: torch, one thread, against the plain full pass.

Prints one JSON line. Thresholds are quantiles of the certainty on another batch, set so that about 25, 50 or 75% of the windows
leave before the last exit, spread evenly over four exits; the MACs saved are counted from where the timed windows left, the heads
of all exits consulted included. ``of_time`` is the time saved over what would be saved if windows cost what a batch of them costs that
goes to the same exit: where MACs at different depths take unlike time, it alone says what execution loses. Times are CPU time of the
one thread; the saving is the median over interleaved rounds.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offramp.costs import exit_costs, time_interleaved
from offramp.encoders.base import StagedEncoder
from offramp.encoders.registry import load_encoder, random_encoder
from offramp.encoders.wavesfm import WavesFM
from offramp.policies import Policy
from offramp.runtime.torch_segments import run_cascade

CHECKPOINT = Path(__file__).parents[2] / "shared" / "data" / "lwm-v1.0.pth"
BATCHES = {256: 5, 1024: 2}
"""Windows, and rounds that are timed."""
SHARES = (0.25, 0.5, 0.75)
"""Windows that leave before the last exit."""
EARLY = 4
CLASSES = 10


def encoders() -> dict[str, tuple[StagedEncoder, tuple[int, ...]]]:
    """wavesfm-wide is twice as wide as the shipped one, with random weights."""
    lwm = load_encoder("lwm", checkpoint=CHECKPOINT) if CHECKPOINT.exists() else load_encoder("lwm", weights="random")
    return {
        "lwm": (lwm, (2, 32, 32)),
        "wavesfm-micro-iq": (load_encoder("wavesfm-micro-iq"), (2, 4, 256)),
        "wavesfm-wide": (random_encoder(WavesFM, {"width": 256, "depth": 6}, 0), (2, 2, 256)),
        "iq-resnet": (load_encoder("iq-resnet"), (2, 4, 256)),
        "iq-shufflenet": (load_encoder("iq-shufflenet"), (2, 4, 256)),
    }


def windows(encoder: StagedEncoder, shape: tuple[int, ...], count: int, seed: int) -> Tensor:
    """Noise, coloured by another amount in every window, so that an encoder tells them apart."""
    x = encoder.input.draw(count, shape, seed)
    amount = torch.rand(count, *[1] * len(shape), generator=torch.Generator().manual_seed(seed))
    return x + 2 * amount * x.roll(1, -1)


def telling_heads(encoder: StagedEncoder, x: Tensor) -> dict[str, nn.Module]:
    """Random linear heads whose logits have variance 1 over the windows."""
    heads: dict[str, nn.Module] = {}
    with torch.inference_mode():
        for exit, tap in encoder.taps(x).items():
            spread = tap.std(0).clamp_min(1e-6)
            head = nn.Linear(tap.shape[1], CLASSES)
            head.weight.copy_(torch.randn_like(head.weight) / spread / tap.shape[1] ** 0.5)
            head.bias.copy_(-head.weight @ tap.mean(0))
            heads[exit] = head
    return heads


def leaving_policy(encoder: StagedEncoder, heads: dict[str, nn.Module], x: Tensor, share: float) -> Policy:
    """Of the windows ``x`` as many leave at each of the early exits, ``share`` of them in all."""
    names = [exit.name for exit in encoder.exits]
    early = sorted({round(place) for place in np.linspace(0, len(names) - 1, EARLY + 2)[1:-1]})
    exits = (*(names[index] for index in early), names[-1])
    ones = (1.0,) * len(exits)
    policy = Policy("classification", "confidence", exits, (np.inf,) * len(early), ones, ones)
    left, thresholds = np.zeros(len(x), bool), []
    with torch.inference_mode():
        taps = encoder.taps(x, exits[:-1])
        for exit in exits[:-1]:
            certain, _ = policy.certainty(exit, heads[exit](taps[exit]).numpy(), policy.start(len(x)))
            staying = np.flatnonzero(~left)
            leaves = round(share * len(x) / len(early))
            thresholds.append(float(np.sort(certain[staying])[-leaves]))
            left[staying[certain[staying] >= thresholds[-1]]] = True
    return Policy("classification", "confidence", exits, tuple(thresholds), ones, ones)


def macs_saved(
    encoder: StagedEncoder, heads: dict[str, nn.Module], shape: tuple[int, ...], policy: Policy, left: NDArray[np.int64]
) -> float:
    costs = exit_costs(encoder, shape, heads, measure=False)
    head = np.array([heads[exit].weight.numel() for exit in policy.exits])
    reach = np.array([costs[exit].macs for exit in policy.exits]) - head + np.cumsum(head)
    return float(1 - reach[left].mean() / costs[policy.exits[-1]].macs)


def measure(encoder: StagedEncoder, shape: tuple[int, ...], batch: int, rounds: int) -> dict[str, Any]:
    encoder = encoder.eval().requires_grad_(False)
    torch.manual_seed(0)
    other = windows(encoder, shape, 256, 1)
    heads = telling_heads(encoder, other)
    x = windows(encoder, shape, batch, 2)
    policies = {f"{share:.0%} leave": leaving_policy(encoder, heads, other, share) for share in SHARES}
    exits = policies["50% leave"].exits
    routed = {name: lambda policy=policy: run_cascade(encoder, heads, policy, x) for name, policy in policies.items()}
    fixed = {exit: lambda exit=exit: heads[exit](encoder.taps(x, [exit])[exit]) for exit in exits}
    times = time_interleaved(fixed | routed, seconds=0.1, repeats=rounds, clock=time.thread_time)
    share_of_time = np.array([float(np.median(times[exit] / times[exits[-1]])) for exit in exits])
    found = {}
    for name, policy in policies.items():
        left = routed[name]().exit
        saved = macs_saved(encoder, heads, shape, policy, left)
        gained = float(np.median(1 - times[name] / times[exits[-1]]))
        found[name] = {
            "left": round(float((left < len(exits) - 1).mean()), 3),
            "macs_saved": round(saved, 3),
            "time_saved": round(gained, 3),
            "ratio": round(gained / saved, 3),
            "of_time": round(gained / float(1 - share_of_time[left].mean()), 3),
        }
    return found


def main() -> None:
    result = {
        f"{name}, batch {batch}": measure(encoder, shape, batch, rounds)
        for name, (encoder, shape) in encoders().items()
        for batch, rounds in BATCHES.items()
    }
    lowest = {name: min(row["ratio"] for row in rows.values()) for name, rows in result.items()}
    print(json.dumps({"benchmark": "dynamic_inference", "target": 0.90, "lowest": lowest, "all": result}))


if __name__ == "__main__":
    main()
