"""Small bundles with random weights, for the tests of bundle, runtime, export and benching."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from offramp.bundle import ENCODER, Bundle, BundleTask, Head, save_bundle, save_examples
from offramp.encoders.base import StagedEncoder
from offramp.encoders.iq_shufflenet import IQShuffleNet
from offramp.encoders.lwm import LWM
from offramp.encoders.registry import random_encoder
from offramp.encoders.storage import save_encoder
from offramp.encoders.taps import tap_shapes
from offramp.encoders.view import TaskView
from offramp.runtime import Predictor
from offramp.runtime.torch_backend import TorchBackend
from offramp.transforms import Transform

IQ_SHAPE, CSI_SHAPE = (2, 2, 96), (2, 32, 32)
STANDARDIZE = Transform("standardize", (0.1, -0.2), (1.5, 0.5))


def small_shufflenet() -> StagedEncoder:
    """With BatchNorm statistics that folding has to take into account: measured, so that no stage is dead, then moved a little."""
    encoder = random_encoder(IQShuffleNet, {"channels": (8, 8, 16, 16, 32), "repeats": (2, 2, 2)}, seed=1)
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches, here of one
    with torch.no_grad():
        encoder.train().taps(encoder.input.draw(64, IQ_SHAPE, seed=1))
        rng = np.random.default_rng(0)
        for norm in norms:
            norm.momentum = 0.1
            for statistic in (norm.running_mean, norm.running_var):
                assert statistic is not None
                statistic.mul_(statistic.new_tensor(rng.uniform(0.5, 1.5, statistic.shape)))
    return encoder.eval()


def small_lwm() -> StagedEncoder:
    return random_encoder(LWM, {"layers": 2}, seed=2).eval()


def random_head(rng: np.random.Generator, *widths: int) -> Head:
    """Layers from the first width to the last."""
    pairs = pairwise(widths)
    layers = (
        (rng.standard_normal((b, a)).astype(np.float32), rng.standard_normal(b).astype(np.float32)) for a, b in pairs
    )
    return Head(tuple(layers))


def task(
    encoder: StagedEncoder,
    name: str,
    exit: str,
    window_shape: tuple[int, ...],
    labels: tuple[str, ...] = (),
    transform: Transform | None = None,
    hidden: tuple[int, ...] = (),
) -> BundleTask:
    """A classification if there are labels, else a regression of two values."""
    rng = np.random.default_rng(len(name))
    outputs = len(labels) or 2
    return BundleTask(
        name=name,
        kind="classification" if labels else "regression",
        metric="accuracy" if labels else "mean_error",
        exit=exit,
        label_names=labels,
        transform=transform or Transform(),
        window_shape=window_shape,
        heads={each.name: random_head(rng, each.width, *hidden, outputs) for each in encoder.exits},
        val={each.name: 0.5 for each in encoder.exits},
        data={"format": "npz", "input": "sample"},
    )


def token_task(
    encoder: StagedEncoder, name: str, exit: str, window_shape: tuple[int, ...], target_shape: tuple[int, ...]
) -> BundleTask:
    """A regression on tokens; the positions of every exit share the target's entries in an order of their own."""
    rng = np.random.default_rng(len(name))
    heads = {}
    for each, (positions, width) in tap_shapes(encoder, window_shape, "tokens").items():
        layout = rng.permutation(math.prod(target_shape)).reshape(positions, -1)
        heads[each] = replace(random_head(rng, width, layout.shape[1]), positions=layout)
    plain = task(encoder, name, exit, window_shape)
    poolings = dict.fromkeys(heads, "tokens")
    return replace(plain, metric="nmse_db", heads=heads, target_shape=target_shape, poolings=poolings)


def bundle_of(encoder: StagedEncoder, *tasks: BundleTask) -> Bundle:
    description = {
        "architecture": encoder.architecture,
        "config": encoder.config,
        "sha256": encoder.fingerprint(),
        "exits": [asdict(exit) for exit in encoder.exits],
    }
    return Bundle(description, {each.name: each for each in tasks})


def predictor_of(bundle: Bundle, encoder: StagedEncoder) -> Predictor:
    return Predictor(bundle, TorchBackend(bundle, encoder))


def write(folder: Path, encoder: StagedEncoder, *tasks: BundleTask) -> Path:
    """A whole bundle folder with five example windows per task."""
    rng = np.random.default_rng(5)
    save_encoder(encoder, folder / ENCODER)
    save_examples({t.name: rng.standard_normal((5, *t.window_shape)).astype(np.float32) for t in tasks}, folder)
    save_bundle(bundle_of(encoder, *tasks), folder, "# A bundle\n")
    return folder


def iq_bundle(folder: Path) -> Path:
    """Four tasks on one encoder; ``shape`` takes longer windows than the others."""
    encoder = small_shufflenet()
    return write(
        folder,
        encoder,
        task(encoder, "modulation", "stage2.1", IQ_SHAPE, ("bpsk", "qpsk", "noise")),
        task(encoder, "angle", "stage3.0", IQ_SHAPE, hidden=(7,)),
        task(encoder, "device", "stem", IQ_SHAPE, ("a", "b"), STANDARDIZE),
        task(encoder, "shape", "conv5", (2, 1, 128), ("x", "y")),
    )


def seeing_task(
    encoder: StagedEncoder,
    name: str,
    exit: str,
    window_shape: tuple[int, ...],
    poolings: Mapping[str, str] | None = None,
    side: str | None = None,
    labels: tuple[str, ...] = ("a", "b", "c"),
) -> BundleTask:
    """A classification whose heads see poolings and side features of their own, on scales where windows differ."""
    rng = np.random.default_rng(len(name))
    view = TaskView(encoder, window_shape, poolings or {}, side)
    with torch.no_grad():
        taps = view.taps(encoder.input.draw(64, window_shape, seed=3))
    heads = {}
    for each, tap in taps.items():
        mean, spread = tap.mean(0).numpy(), tap.std(0).numpy() + 1e-3
        weight = rng.standard_normal((len(labels), tap.shape[1])).astype(np.float32) / spread / tap.shape[1] ** 0.5
        heads[each] = Head(((weight, -weight @ mean),))
    plain = task(encoder, name, exit, window_shape, labels)
    val = dict.fromkeys(heads, 0.5)
    return replace(plain, heads=heads, val=val, poolings=dict(poolings or {}), side=side)
