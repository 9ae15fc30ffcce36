"""Linear and nearest-neighbour probes on taps, for every exit, label budget and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from plan import ENCODER, LABEL_SEEDS, POOLING, SIDE, TEST_WINDOWS, StudyTask

from offramp import load_encoder
from offramp.bundle import Head
from offramp.data.simulated import read_synthetic
from offramp.encoders.base import StagedEncoder
from offramp.encoders.recalibration import recalibrated
from offramp.encoders.taps import freeze
from offramp.encoders.view import TaskView
from offramp.experiment.controls.features import random_twin
from offramp.experiment.features import batch_size
from offramp.experiment.prepare import CALIBRATION_WINDOWS
from offramp.files import atomic_path
from offramp.heads.fit import STRENGTHS as STRENGTHS_BY_HEAD
from offramp.heads.logistic import fit_logistic
from offramp.heads.rows import Rows

Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]

STRENGTHS = STRENGTHS_BY_HEAD["logistic"]
FOLDS = 4
MOST_SHOTS_IN_ALL_FOLDS = 10
"""With more labels one fold in four is held out, once: that is enough windows."""
NEIGHBOURS = 5
EQUAL_WIDTH = 24
"""Principal components that the equal-width row keeps of every exit: the width of the narrowest."""


@dataclass(frozen=True)
class TaskData:
    """The windows of one task: a pool to draw labels from and a test set behind it.

    Attributes:
        windows: float32 ``(N, 2, antennas, samples)``.
        labels: int64 ``(N,)``.
        groups: int64 ``(N,)``.
        pool: Indices that labels may come from.
        test: Indices of the test set; no group of the pool is in it.
    """

    windows: NDArray[np.float32]
    labels: Indices
    groups: Indices
    pool: Indices
    test: Indices

    def shots(self, count: int, seed: int) -> Indices:
        """``count`` windows of every class, drawn from the pool; the draws of one seed are nested."""
        order = np.random.default_rng([2024, seed]).permutation(self.pool)
        chosen = [order[self.labels[order] == label][:count] for label in np.unique(self.labels)]
        return np.sort(np.concatenate(chosen))


def task_data(task: StudyTask) -> TaskData:
    """Read a task's windows; the last 2,560 (whole sessions where there are any) are the test set."""
    table = read_synthetic(task.spec)
    everything = np.arange(table.windows.count)
    labels = table.columns[task.target].astype(np.int64)
    groups = table.columns[task.group].astype(np.int64) if task.group else everything
    cut = len(everything) - TEST_WINDOWS
    return TaskData(table.windows.read(everything), labels, groups, everything[:cut], everything[cut:])


def encoder_of(name: str, task: StudyTask, runs: Path) -> TaskView:
    """A frozen encoder by its name in the plan, as the heads see it; its BatchNorm statistics, pretrained or not, are those of the task's windows."""
    windows = read_synthetic(task.spec).windows
    spread = np.unique(np.linspace(0, windows.count - 1, CALIBRATION_WINDOWS).astype(np.int64))
    batches = torch.from_numpy(windows.read(spread)).split(batch_size(windows.shape))
    if name.startswith("random-"):
        encoder = random_twin(load_encoder(ENCODER, weights="random"), batches, int(name[-1]))
    else:
        encoder = freeze(recalibrated(load_encoder(str(runs / "pretraining" / name / "encoder")), batches))
    return seen(encoder, windows.shape)


def seen(encoder: StagedEncoder, shape: tuple[int, ...]) -> TaskView:
    """An encoder as the heads see it: statistics over positions at every exit, features by hand in front."""
    return TaskView(encoder, shape, {exit.name: POOLING for exit in encoder.exits}, SIDE)


def taps_of(encoder: StagedEncoder, windows: NDArray[np.float32], batch: int = 256) -> dict[str, NDArray[np.float32]]:
    """Taps of every exit, float32 ``(N, width)``."""
    parts: dict[str, list[NDArray[np.float32]]] = {exit.name: [] for exit in encoder.exits}
    with torch.inference_mode():
        for start in range(0, len(windows), batch):
            for name, tap in encoder.taps(torch.from_numpy(windows[start : start + batch])).items():
                parts[name].append(tap.numpy())
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


@dataclass(frozen=True)
class LinearProbe:
    """Logistic regressions on several sets of labels.

    Attributes:
        right: bool ``(sets, M)``: whether each test window is classified rightly.
        held_out: Indices of the windows of each set that were held out in turn; empty where nothing can be held out.
        held_out_right: Whether each of those was classified rightly by the model without its fold.
    """

    right: Bools
    held_out: tuple[Indices, ...]
    held_out_right: tuple[Bools, ...]


def linear_probe(
    taps: NDArray[np.float32], data: TaskData, sets: Sequence[Indices], folds: int, held_folds: int
) -> LinearProbe:
    """Fit the product's linear head on every set of labels and score it on the test set.

    The strength of each set is the one with the best accuracy on held-out windows: ``held_folds`` of ``folds`` folds, drawn by groups,
    are held out in turn. The head that is scored is fitted on the whole set. With ``held_folds`` 0 the middle strength is taken.
    """
    classes = len(np.unique(data.labels))
    held = [held_out_folds(data.groups[chosen], folds, seed)[:held_folds] for seed, chosen in enumerate(sets)]
    strengths = [STRENGTHS[len(STRENGTHS) // 2]] * len(sets)
    held_right: list[Bools] = [np.zeros(0, dtype=bool)] * len(sets)
    if held_folds:
        kept = [np.delete(chosen, fold) for chosen, of_set in zip(sets, held, strict=True) for fold in of_set]
        fitted = iter(_fit(taps, data.labels, kept, classes, STRENGTHS))
        for number, (chosen, of_set) in enumerate(zip(sets, held, strict=True)):
            grids = [(chosen[fold], next(fitted)) for fold in of_set]
            by_strength = [
                np.concatenate([heads[s](taps[rows]).argmax(1) == data.labels[rows] for rows, heads in grids])
                for s in range(len(STRENGTHS))
            ]
            best = int(np.argmax([right.mean() for right in by_strength]))
            strengths[number], held_right[number] = STRENGTHS[best], by_strength[best]
    right = np.zeros((len(sets), len(data.test)), dtype=bool)
    for strength in set(strengths):
        numbers = [number for number, value in enumerate(strengths) if value == strength]
        for number, (head,) in zip(
            numbers, _fit(taps, data.labels, [sets[n] for n in numbers], classes, [strength]), strict=True
        ):
            right[number] = head(taps[data.test]).argmax(1) == data.labels[data.test]
    held_out = [
        np.concatenate([chosen[fold] for fold in of_set] or [chosen[:0]])
        for chosen, of_set in zip(sets, held, strict=True)
    ]
    return LinearProbe(right, tuple(held_out), tuple(held_right))


def held_out_folds(groups: Indices, folds: int, seed: int) -> list[Indices]:
    """Positions ``0 .. n - 1`` dealt into folds, all of a group into the same one."""
    present, group = np.unique(groups, return_inverse=True)
    fold = np.random.default_rng([7, seed]).permutation(len(present)) % folds
    return [np.flatnonzero(fold[group] == number) for number in range(folds)]


def _fit(
    taps: NDArray[np.float32], labels: Indices, sets: Sequence[Indices], classes: int, strengths: Sequence[float]
) -> tuple[tuple[Head, ...], ...]:
    union = np.unique(np.concatenate(sets))
    weights = np.stack([np.isin(union, chosen) for chosen in sets], axis=1).astype(np.float32)
    return fit_logistic(Rows(taps, union), labels[union], classes, strengths, weights)


def neighbour_probe(taps: NDArray[np.float32], data: TaskData, labelled: Indices) -> Bools:
    """Whether the nearest labelled windows (cosine of standardised taps) classify each test window rightly, ``(M,)``.

    Five vote, weighted by similarity plus two; with fewer than five labels per class the nearest decides.
    """
    labels, classes = data.labels[labelled], len(np.unique(data.labels))
    mean, spread = taps[labelled].mean(0), np.maximum(taps[labelled].std(0), 1e-9)
    x, other = ((taps[rows] - mean) / spread for rows in (labelled, data.test))
    x, other = (part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in (x, other))
    count = NEIGHBOURS if len(x) >= NEIGHBOURS * classes else 1
    guess = np.empty(len(other), dtype=np.int64)
    for start in range(0, len(other), 512):
        similarity = other[start : start + 512] @ x.T
        nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        votes = np.zeros((len(similarity), classes))
        places = np.arange(len(similarity))[:, None], labels[nearest]
        np.add.at(votes, places, np.take_along_axis(similarity, nearest, 1) + 2)
        guess[start : start + 512] = votes.argmax(1)
    return np.asarray(guess == data.labels[data.test])


def equal_width(taps: NDArray[np.float32], pool: Indices) -> NDArray[np.float32]:
    """Taps cut to their first 24 principal components, found on the pool without labels."""
    centred = taps - taps[pool].mean(0)
    _, vectors = np.linalg.eigh(centred[pool].T @ centred[pool])
    return np.asarray(centred @ vectors[:, ::-1][:, :EQUAL_WIDTH], dtype=np.float32)


def score(
    taps: dict[str, NDArray[np.float32]], data: TaskData, out: Path, budgets: tuple[int, ...], probes: tuple[str, ...]
) -> None:
    """Score every exit and write ``out`` (npz).

    Arrays: ``exits`` (E,), ``budgets`` (B,), ``groups`` (M,) of the test windows; ``linear`` bool (E, B, seeds, M); ``held_out`` float (E, B, seeds),
    the accuracy on held-out windows by which an exit may be chosen. At the largest budget alone: ``held_out_right`` bool (E, seeds, n) and
    ``held_out_groups`` int (seeds, n); ``neighbour`` and ``equal_width`` bool (E, seeds, M), where asked for.
    """
    right = np.zeros((len(taps), len(budgets), LABEL_SEEDS, len(data.test)), dtype=bool)
    other = {probe: np.zeros((len(taps), LABEL_SEEDS, len(data.test)), dtype=bool) for probe in probes}
    held_out = np.zeros((len(taps), len(budgets), LABEL_SEEDS))
    held_out_right: list[list[Bools]] = []
    for e, tap in enumerate(taps.values()):
        for b, budget in enumerate(budgets):
            sets = [data.shots(budget, seed) for seed in range(LABEL_SEEDS)]
            held_folds = 0 if budget == 1 else FOLDS if budget <= MOST_SHOTS_IN_ALL_FOLDS else 1
            found = linear_probe(tap, data, sets, FOLDS, held_folds)
            right[e, b] = found.right
            if held_folds:
                held_out[e, b] = [one.mean() for one in found.held_out_right]
        held_out_right.append(list(found.held_out_right))
        if "equal_width" in probes:
            other["equal_width"][e] = linear_probe(equal_width(tap, data.pool), data, sets, FOLDS, held_folds).right
        if "neighbour" in probes:
            other["neighbour"][e] = [neighbour_probe(tap, data, index) for index in sets]
    fewest = min(map(len, held_out_right[0]))
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            exits=np.array(list(taps)),
            budgets=np.array(budgets),
            groups=data.groups[data.test],
            linear=right,
            held_out=held_out,
            held_out_right=np.array([[one[:fewest] for one in of_exit] for of_exit in held_out_right]),
            held_out_groups=np.stack([data.groups[one[:fewest]] for one in found.held_out]),
            **other,
        )
