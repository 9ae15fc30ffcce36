"""What `policy_batch_one.py` runs: one window at a time under one policy, by `earlyon` and by ours, at the very same decisions.

The policy asks three exits by confidence; about half of the windows leave before the last. Heads are random, the encoders are those that ship. `nothing leaves` is
the same policy with thresholds that no window reaches, over the same back end's fixed exit at the end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import theirs
import torch
from earlyon.staged import staged_model
from serving.made import SHAPES, make
from threadpoolctl import threadpool_limits
from torch import nn

from offramp import load
from offramp.bundle import load_bundle
from offramp.costs import time_interleaved
from offramp.encoders.registry import load_encoder
from offramp.export.branches import export_branches
from offramp.heads.modules import head_module
from offramp.policies import Policy
from offramp.runtime.torch_backend import load_bundle_encoder

CLASSES = 8


def three(names: list[str], thresholds: tuple[float, float]) -> Policy:
    """Asks three exits spread over the depth."""
    exits = tuple(names[index] for index in np.linspace(0, len(names) - 1, 4).round().astype(int)[1:])
    return Policy("classification", "confidence", exits, thresholds, (1.0,) * 3, (1.0,) * 3)


def halving(folder: Path, name: str, names: list[str]) -> Policy:
    """A quarter of the windows leaves at each of the first two exits."""
    made = make(folder, name, (names[-1],), {"p": three(names, (2.0, 2.0))})
    bundle = load_bundle(made.bundle)
    task, policy, thresholds = bundle.tasks["task0"], three(names, (2.0, 2.0)), []
    staying = np.ones(len(made.windows), bool)
    encoder = load_bundle_encoder(bundle, made.bundle)
    for exit in policy.exits[:-1]:
        with torch.inference_mode():
            tap = encoder.taps(torch.from_numpy(made.windows), [exit])[exit].numpy()
        certain = policy.confidence(exit, task.heads[exit](tap))
        thresholds.append(float(np.sort(certain[staying])[-len(certain) // 4]))
        staying &= certain < thresholds[-1]
    return three(names, (thresholds[0], thresholds[1]))


def measure(name: str, folder: Path, rounds: int) -> dict[str, object]:
    """All ways on the same windows, in turn."""
    names = [exit.name for exit in load_encoder(name).exits]
    policy = halving(folder / "thresholds", name, names)
    policies = {"half": policy, "none": replace(policy, thresholds=(float("inf"),) * 2)}
    made = make(folder / "made", name, (names[-1],), policies)
    bundle = load_bundle(made.bundle)
    encoder, task = load_bundle_encoder(bundle, made.bundle), bundle.tasks["task0"]
    heads: dict[str, nn.Module] = {exit: head_module(task.heads[exit]).eval() for exit in policy.exits}
    in_torch, in_onnx = load(made.bundle), load(made.segments)
    file = folder / "branches.onnx"
    export_branches(made.bundle, "task0", "half", file)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    branches = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    windows, tensors = made.windows, torch.from_numpy(made.windows)

    def cycled(call: Callable[[int], object]) -> Callable[[], object]:
        numbers = itertools.cycle(range(len(windows)))
        return lambda: call(next(numbers))

    def ours(predictor: object, named: str | None) -> Callable[[], object]:
        return cycled(lambda n: predictor.predict(windows[n : n + 1], policy=named))  # type: ignore[attr-defined]

    calls = {
        "torch": ours(in_torch, "half"),
        "onnxruntime": ours(in_onnx, "half"),
        "one file with branches": cycled(lambda n: branches.run(None, {"windows": windows[n : n + 1]})),
        "torch, nothing leaves": ours(in_torch, "none"),
        "torch, fixed": ours(in_torch, None),
        "onnxruntime, nothing leaves": ours(in_onnx, "none"),
        "onnxruntime, fixed": ours(in_onnx, None),
    }
    by_ours = in_onnx.predict(windows, policy="half")["task0"].exits
    agreement = None
    if name == "iq-resnet":  # its taps are what earlyon's heads pool: the mean of a map
        same = theirs.wrap_ours(encoder, heads, policy.thresholds, policy.temperatures, CLASSES, SHAPES[name])
        staged = staged_model(same).eval()
        calls["earlyon"] = cycled(lambda n: same(tensors[n : n + 1]))
        calls["earlyon, staged"] = cycled(lambda n: staged.infer(tensors[n : n + 1]))
        places = [*range(len(policy.exits) - 1), -1]
        with torch.inference_mode():
            by_theirs = [policy.exits[places.index(same(window[None]).exit_taken)] for window in tensors]
        agreement = float(np.mean([a == b for a, b in zip(by_theirs, by_ours, strict=True)]))
    found = time_interleaved(calls, seconds=0.0, repeats=rounds)
    milliseconds = {way: 1e3 * float(np.mean(each[len(each) // 10 :])) for way, each in found.items()}
    return {
        "exits": policy.exits,
        "left": [by_ours.count(exit) for exit in policy.exits],
        "same_exits_as_earlyon": agreement,
        "mean_ms": {way: round(each, 4) for way, each in milliseconds.items()},
        "over_earlyon": {
            f"{way} / {rival}": round(milliseconds[way] / milliseconds[rival], 3)
            for way in ("torch", "onnxruntime", "one file with branches")
            for rival in ("earlyon", "earlyon, staged")
            if rival in milliseconds
        },
        "nothing_leaves_over_fixed": {
            way: round(milliseconds[f"{way}, nothing leaves"] / milliseconds[f"{way}, fixed"], 3)
            for way in ("torch", "onnxruntime")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1), tempfile.TemporaryDirectory() as place:
        found = {
            name: measure(name, Path(place) / name, arguments.rounds) for name in ("iq-resnet", "wavesfm-micro-iq")
        }
    print(json.dumps({"benchmark": "policy_batch_one", **found}))


if __name__ == "__main__":
    main()
