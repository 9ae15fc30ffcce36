"""A bundle of eight tasks at mixed exits on the shipped encoder, with random heads, and its segments; and whole graphs to compare with."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import ENCODER, Bundle, BundleTask, Head, save_bundle, save_examples
from offramp.encoders.registry import load_encoder
from offramp.encoders.taps import freeze
from offramp.export import export_onnx
from offramp.export.segments import export_segments
from offramp.transforms import Transform

SHAPE = (2, 4, 256)
NAME = "iq-resnet-small"
MIXED = ("stem", "mixing.1", "stage1.0", "stage1.1", "stage1.1", "stage2.1", "stage2.1", "stage3.0")
"""Where the eight tasks leave."""
CLASSES = 8


def make(folder: Path, exits: tuple[str, ...] = MIXED) -> tuple[Path, Path, NDArray[np.float32]]:
    """Bundle, segments, and 256 windows."""
    encoder, rng = freeze(load_encoder(NAME)), np.random.default_rng(0)
    windows = rng.standard_normal((256, *SHAPE)).astype(np.float32)
    tasks = {}
    for number, exit in enumerate(exits):
        heads = {
            each.name: Head(
                ((rng.standard_normal((CLASSES, each.width)).astype(np.float32), np.zeros(CLASSES, np.float32)),)
            )
            for each in encoder.exits
        }
        name = f"task{number}"
        labels = tuple(map(str, range(CLASSES)))
        val = dict.fromkeys(heads, 0.5)
        tasks[name] = BundleTask(name, "classification", "accuracy", exit, labels, Transform(), SHAPE, heads, val)
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
    return bundle, folder / "segments", windows


def graph_session(bundle: Path, task: str, exit: str, out: Path) -> Any:
    """One task's own graph up to an exit, in ONNX Runtime on one thread."""
    import onnxruntime

    export_onnx(bundle, task, out, exit)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(out, settings, providers=["CPUExecutionProvider"])
