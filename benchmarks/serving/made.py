"""A bundle of eight tasks at mixed exits, with random heads, and its segments; and whole graphs to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import ENCODER, Bundle, BundleTask, Head, save_bundle, save_examples
from offramp.encoders.registry import load_encoder, packaged_weights
from offramp.encoders.taps import freeze
from offramp.export import export_onnx
from offramp.export.segments import export_segments
from offramp.policies import Policy
from offramp.transforms import Transform

SHAPES = {
    "iq-resnet-small": (2, 4, 256),
    "iq-resnet": (2, 4, 256),
    "iq-resnet-base": (2, 4, 256),
    "wavesfm-micro-iq": (2, 4, 256),
    "lwm": (2, 32, 32),
}
MIXED = {
    "iq-resnet-small": ("stem", "mixing.1", "stage1.0", "stage1.1", "stage1.1", "stage2.1", "stage2.1", "stage3.0"),
    "iq-resnet-base": (*("stem", "mixing.1", "stage1.0", "stage1.2", "stage1.2", "stage2.1", "stage2.1", "stage3.0"),),
    "lwm": ("embedding", "layer1", "layer2", "layer3", "layer3", "layer6", "layer6", "layer11"),
}
"""Where the eight tasks leave."""
CLASSES = 8


@dataclass(frozen=True)
class Made:
    """What was written.

    Attributes:
        bundle: Folder.
        segments: Folder.
        windows: 256 of them.
        exits: Of the tasks ``task0`` to ``task7``.
        last: Full depth.
    """

    bundle: Path
    segments: Path
    windows: NDArray[np.float32]
    exits: tuple[str, ...]
    last: str


def make(
    folder: Path,
    name: str = "iq-resnet-small",
    exits: tuple[str, ...] | None = None,
    policies: Mapping[str, Policy] | None = None,
) -> Made:
    """Bundle, segments and windows; random weights where none ship, which take as long. All tasks have the policies."""
    stored = {policy: each.to_dict() for policy, each in (policies or {}).items()}
    encoder = freeze(load_encoder(name, weights="pretrained" if packaged_weights(name) else "random"))
    shape, exits, rng = SHAPES[name], exits or MIXED[name], np.random.default_rng(0)
    windows = rng.standard_normal((256, *shape)).astype(np.float32)
    tasks = {}
    for number, exit in enumerate(exits):
        heads = {}
        for each in encoder.exits:
            weight = rng.standard_normal((CLASSES, each.width)).astype(np.float32) / each.width
            heads[each.name] = Head(((weight, np.zeros(CLASSES, np.float32)),))
        labels = tuple(map(str, range(CLASSES)))
        val = dict.fromkeys(heads, 0.5)
        task = BundleTask(f"task{number}", "classification", "accuracy", exit, labels, Transform(), shape, heads, val)
        tasks[task.name] = replace(task, policies=stored)
    described = {
        "architecture": encoder.architecture,
        "config": encoder.config,
        "sha256": encoder.fingerprint(),
        "exits": [asdict(exit) for exit in encoder.exits],
    }
    bundle = folder / "bundle"
    bundle.mkdir(parents=True)
    encoder.save(bundle / ENCODER)
    save_bundle(Bundle(described, tasks), bundle, "# Eight tasks\n")
    save_examples(dict.fromkeys(tasks, windows[:4]), bundle)
    export_segments(bundle, folder / "segments")
    return Made(bundle, folder / "segments", windows, exits, encoder.exits[-1].name)


def graph_session(made: Made, task: str, exit: str) -> Any:
    """One task's own graph up to an exit, in ONNX Runtime on one thread."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(graph_file(made, task, exit), settings, providers=["CPUExecutionProvider"])


def graph_file(made: Made, task: str, exit: str) -> Path:
    """One task's own graph up to an exit."""
    out = made.bundle.parent / f"{task}-{exit}.onnx"
    export_onnx(made.bundle, task, out, exit)
    return out
