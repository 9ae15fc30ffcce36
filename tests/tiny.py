"""Tiny windows, data sets, encoders and problems, for the tests of features, fitting, evaluation, controls and pipeline."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from offramp.data.dataset import Dataset
from offramp.data.splits import Draw, Split
from offramp.data.table import WindowSource
from offramp.encoders.base import StagedEncoder
from offramp.encoders.iq_shufflenet import IQShuffleNet
from offramp.encoders.registry import random_encoder
from offramp.heads.fit import Problem
from offramp.schema.tasks import TaskSpec
from offramp.scoring.resampling import resampling_units

CONFIG = {"channels": [8, 8, 16, 16, 32], "repeats": [2, 2, 2]}
EXITS = ["stem", "stage2.0", "stage2.1", "stage3.0", "stage3.1", "stage4.0", "stage4.1", "conv5"]


def tiny_encoder(seed: int = 0, repeats: int = 2) -> StagedEncoder:
    return random_encoder(IQShuffleNet, CONFIG | {"repeats": [repeats] * 3}, seed)


def source(windows: np.ndarray, name: str = "made") -> WindowSource:
    """Windows in memory."""
    fingerprint = hashlib.sha256(windows.tobytes()).hexdigest()
    return WindowSource(name, len(windows), windows.shape[1:], fingerprint, lambda indices: windows[indices])


def noise(count: int, shape: tuple[int, ...] = (2, 1, 64), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def tones(count: int, classes: int = 3, level: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """I/Q windows ``(count, 2, 1, 64)`` with a tone per class in noise, and the classes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    frequency = np.array([0.05, 0.15, 0.3, 0.4])[labels][:, None]
    phase = 2 * np.pi * (frequency * np.arange(64) + rng.uniform(0, 1, (count, 1)))
    signal = np.exp(1j * phase) + level * (rng.standard_normal((count, 64)) + 1j * rng.standard_normal((count, 64)))
    return np.stack([signal.real, signal.imag], axis=1)[:, :, None].astype(np.float32), labels


def dataset(
    targets: Any, groups: Sequence[int] | None = None, windows: np.ndarray | None = None, snr: Any = None
) -> Dataset:
    targets = np.asarray(targets)
    count, classes = len(targets), targets.dtype.kind == "i"
    numbers = np.arange(count) if groups is None else np.asarray(groups)
    return Dataset(
        windows=source(noise(count) if windows is None else windows),
        targets=targets.astype(np.int64) if classes else targets.reshape(count, -1).astype(np.float32),
        label_names=tuple(f"class {value}" for value in range(targets.max() + 1)) if classes else (),
        groups=numbers.astype(np.int64),
        group_names=() if groups is None else tuple(str(value) for value in range(numbers.max() + 1)),
        grouped=groups is not None,
        snr_db=None if snr is None else np.asarray(snr, dtype=np.float32),
        simulated=False,
        positions=None,
    )


def problem(data: Dataset, test: Any, draws: Sequence[Draw], **task: Any) -> Problem:
    """A problem with this test set and these draws."""
    spec = {"name": "t", "data": {"path": "made.h5", "target": "y"}}
    test = np.asarray(test, dtype=np.int64)
    outside = np.setdiff1d(np.arange(len(data.targets)), test)
    return Problem(
        TaskSpec.model_validate(spec | task),
        data,
        Split(test, tuple(draws), "0" * 64),
        resampling_units(data.groups, data.grouped, outside, data.blocks),
        resampling_units(data.groups, data.grouped, test, data.blocks),
    )


def draw(train: Any, validation: Any, seed: int = 0) -> Draw:
    """One fold."""
    train, validation = np.asarray(train, dtype=np.int64), np.asarray(validation, dtype=np.int64)
    return Draw(seed, ((train, validation),), train, True)


def write_hdf5(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            values = np.asarray(values)
            file[name] = values.astype("S") if values.dtype.kind == "U" else values
    return path


def stopped_at(call: int) -> Callable[[str, int, int], None]:
    """Progress of a run that Ctrl-C stops at so many reports."""
    left = iter(range(call))

    def progress(what: str, done: int, total: int) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return progress
