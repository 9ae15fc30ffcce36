"""Views per second: made by the generator, and trained on with the contrastive objective. Prints one JSON line.

A training step is augmentation, forward, backward and AdamW on windows of 4 x 256 that are there already; ``with_generator`` draws
them too. On a processor one thread works and its own time counts, so that neighbours matter less; the encoders take turns.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch

from offramp.encoders.registry import load_encoder
from offramp.simulation.views import view_pairs
from offramp.training.augmentation import augment
from offramp.training.config import INPUT_SHAPES, pairs_of
from offramp.training.contrastive import ContrastiveModel

ENCODERS = ("iq-resnet", "iq-shufflenet")
SNR_DB = (-6.0, 20.0)
GENERATED_S = 1.0
"""Seconds of generating per shape."""


def seconds(call: Callable[[], object], device: str) -> float:
    if device == "cpu":
        started = time.process_time()
        call()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def generated(pairs: int, antennas: int, samples: int, device: str) -> float:
    """Views per second of the generator."""
    times: list[float] = []
    while not times or sum(times) < GENERATED_S:
        block = len(times)
        times.append(seconds(lambda: view_pairs(pairs, antennas, samples, SNR_DB, 0, block, device), device))  # noqa: B023
    return 2 * pairs / median(times)


def training_step(name: str, device: str) -> Callable[[torch.Tensor], None]:
    model = ContrastiveModel(load_encoder(name, weights="random", device=device)).to(device).train()
    optimiser = torch.optim.AdamW(model.parameters())
    generator = torch.Generator(device)

    def step(views: torch.Tensor) -> None:
        loss, _ = model(augment(views, generator), generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, help="pairs per step; 64 on a processor, 2048 on an accelerator")
    parser.add_argument("--rounds", type=int, help="training steps per encoder; 3 on a processor, 30 on an accelerator")
    given = parser.parse_args()
    on_cpu = given.device == "cpu"
    batch = given.batch or (64 if on_cpu else 2048)
    rounds = given.rounds or (3 if on_cpu else 30)
    torch.set_num_threads(1)

    rates = {
        f"{antennas}x{samples}": generated(pairs_of(batch, antennas, samples), antennas, samples, given.device)
        for antennas, samples, _ in INPUT_SHAPES
    }
    views = torch.cat(view_pairs(batch, 4, 256, SNR_DB, 0, 0, given.device))
    steps = {name: training_step(name, given.device) for name in ENCODERS}
    times: dict[str, list[float]] = {name: [] for name in ENCODERS}
    for number in range(rounds + 1):
        for name, step in steps.items():
            spent = seconds(lambda: step(views), given.device)  # noqa: B023
            if number:  # the first round warms up
                times[name].append(spent)
    trained = {name: len(views) / median(spent) for name, spent in times.items()}
    ratio = median(slow / fast for fast, slow in zip(*times.values(), strict=True))
    result = {
        "benchmark": "pretraining_throughput",
        "device": given.device if on_cpu else torch.cuda.get_device_name(),
        "pairs": batch,
        "generator_views_per_s": {shape: round(rate) for shape, rate in rates.items()},
        "training_views_per_s": {name: round(rate) for name, rate in trained.items()},
        "with_generator": {name: round(1 / (1 / rate + 1 / rates["4x256"])) for name, rate in trained.items()},
        "resnet_over_shufflenet": round(ratio, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
