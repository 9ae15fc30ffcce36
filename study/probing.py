"""Linear and nearest-neighbour probes on taps, for every exit, label budget and seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from plan import ENCODER, LABEL_SEEDS, SHOTS, TEST_WINDOWS, StudyTask

from offramp import load_encoder
from offramp.controls import handmade, random_twin
from offramp.data.synthesis.source import read_synthetic
from offramp.encoders.base import StagedEncoder
from offramp.features import freeze
from offramp.files import atomic_path
from offramp.transforms import Transform

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]

STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4)
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


def encoder_of(name: str, task: StudyTask, runs: Path) -> StagedEncoder:
    """A frozen encoder by its name in the plan."""
    if name.startswith("random-"):
        plain = load_encoder(ENCODER, weights="random")
        return random_twin(plain, read_synthetic(task.spec).windows, Transform(), int(name[-1]), "cpu")
    return freeze(load_encoder(str(runs / "pretraining" / name / "encoder")))


def taps_of(encoder: StagedEncoder, windows: NDArray[np.float32], batch: int = 256) -> dict[str, NDArray[np.float32]]:
    """Taps of every exit, float32 ``(N, width)``."""
    parts: dict[str, list[NDArray[np.float32]]] = {exit.name: [] for exit in encoder.exits}
    with torch.inference_mode():
        for start in range(0, len(windows), batch):
            for name, tap in encoder.taps(torch.from_numpy(windows[start : start + batch])).items():
                parts[name].append(tap.numpy())
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def by_hand(windows: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The handmade control as if it were an exit."""
    return {"handmade": np.concatenate([handmade(windows[at : at + 1024]) for at in range(0, len(windows), 1024)])}


@dataclass(frozen=True)
class LinearProbe:
    """A ridge regression on one-hot labels, its strength chosen by leave-one-group-out accuracy.

    Attributes:
        right: bool ``(M,)``: whether each test window is classified rightly.
        left_out_right: bool ``(n,)``: the same for every training window by the model without its group.
    """

    right: Bools
    left_out_right: Bools


def linear_probe(
    train: Floats, labels: Indices, groups: Indices, test: Floats, test_labels: Indices, classes: int
) -> LinearProbe:
    """Fit on ``(n, width)``, score on ``(M, width)``; leave-one-group-out in closed form.

    What a ridge regression predicts for a group g that it was not fitted on follows from the fit on all rows: its residuals are
    ``(I - H_gg)^-1`` times those of the fit, H the hat matrix (Hastie et al., ESL, eq. 7.64, by blocks).

    With one label per class leaving one out removes its class, so that nothing can be chosen: the middle strength is taken.
    """
    mean, spread = train.mean(0), train.std(0)
    scale = np.where(spread > 1e-6 * max(spread.max(), 1e-30), 1 / np.maximum(spread, 1e-30), 0)
    x, other = (train - mean) * scale, (test - mean) * scale
    one_hot = np.eye(classes)[labels]
    prior = one_hot.mean(0)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    values = np.maximum(values, 0)
    projected = x @ vectors
    loading = projected.T @ (one_hot - prior) / len(x)
    best: tuple[float, Bools, Floats] | None = None
    for strength in STRENGTHS if len(x) > classes else (1.0,):
        shrunk = 1 / (values + strength)
        residual = one_hot - prior - projected @ (shrunk[:, None] * loading)
        left_out = one_hot - _residual_without_own_group(projected, shrunk, residual, groups)
        right = left_out.argmax(1) == labels
        if best is None or right.mean() > best[0]:
            best = float(right.mean()), right, shrunk
    assert best is not None
    guess = (other @ vectors @ (best[2][:, None] * loading) + prior).argmax(1)
    return LinearProbe(guess == test_labels, best[1])


def _residual_without_own_group(projected: Floats, shrunk: Floats, residual: Floats, groups: Indices) -> Floats:
    count = len(projected)
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    leverage = (np.square(projected) * shrunk).sum(1) / count + 1 / count
    result: Floats = residual / np.maximum(1 - leverage, 1e-9)[:, None]
    for number in np.flatnonzero(sizes > 1):
        rows = np.flatnonzero(group == number)
        hat = (projected[rows] * shrunk) @ projected[rows].T / count + 1 / count
        result[rows] = np.linalg.solve(np.eye(len(rows)) * (1 + 1e-9) - hat, residual[rows])
    return result


def neighbour_probe(train: Floats, labels: Indices, test: Floats, test_labels: Indices, classes: int) -> Bools:
    """Right or wrong by the nearest training windows (cosine of standardised taps): one below 5 labels per class, else five."""
    mean, spread = train.mean(0), np.maximum(train.std(0), 1e-9)
    x, other = ((part - mean) / spread for part in (train, test))
    x, other = (part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in (x, other))
    count = NEIGHBOURS if len(x) >= NEIGHBOURS * classes else 1
    right = np.empty(len(test), dtype=bool)
    for start in range(0, len(test), 512):
        similarity = other[start : start + 512].astype(np.float32) @ x.T.astype(np.float32)
        nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        votes = np.zeros((len(similarity), classes))
        np.add.at(
            votes,
            (np.arange(len(similarity))[:, None], labels[nearest]),
            np.take_along_axis(similarity, nearest, 1) + 2,
        )
        right[start : start + 512] = votes.argmax(1) == test_labels[start : start + 512]
    return right


def equal_width(taps: NDArray[np.float32], pool: Indices) -> NDArray[np.float32]:
    """Taps cut to their first 24 principal components, found on the pool without labels."""
    centred = taps - taps[pool].mean(0)
    _, vectors = np.linalg.eigh(centred[pool].T @ centred[pool])
    return np.asarray(centred @ vectors[:, ::-1][:, :EQUAL_WIDTH], dtype=np.float32)


def score(taps: dict[str, NDArray[np.float32]], data: TaskData, out: Path, probes: tuple[str, ...]) -> None:
    """Score every exit at every label budget and write ``out`` (npz).

    Arrays: ``exits`` (E,), ``groups`` (M,) of the test windows; per probe ``PROBE`` bool (E, budgets, seeds, M); ``left_out`` float
    (E, budgets, seeds), the leave-one-group-out accuracy by which an exit may be chosen; ``left_out_right`` bool (E, seeds, n) and
    ``left_out_groups`` int (seeds, n) at the largest budget.
    """
    classes = len(np.unique(data.labels))
    shape = (len(taps), len(SHOTS), LABEL_SEEDS)
    right = {probe: np.zeros((*shape, len(data.test)), dtype=bool) for probe in probes}
    left_out = np.zeros(shape)
    largest = [data.shots(SHOTS[-1], seed) for seed in range(LABEL_SEEDS)]
    left_out_right = np.zeros((len(taps), LABEL_SEEDS, min(map(len, largest))), dtype=bool)
    for e, tap in enumerate(taps.values()):
        narrow = equal_width(tap, data.pool) if "equal_width" in probes else None
        for b, budget in enumerate(SHOTS):
            for seed in range(LABEL_SEEDS):
                index = data.shots(budget, seed)
                for probe in probes:
                    rows = tap if narrow is None or probe != "equal_width" else narrow
                    fit = rows[index].astype(np.float64), data.labels[index]
                    test = rows[data.test].astype(np.float64), data.labels[data.test], classes
                    if probe == "neighbour":
                        right[probe][e, b, seed] = neighbour_probe(*fit, *test)
                        continue
                    fitted = linear_probe(*fit, data.groups[index], *test)
                    right[probe][e, b, seed] = fitted.right
                    if probe == "linear":
                        left_out[e, b, seed] = fitted.left_out_right.mean()
                        if budget == SHOTS[-1]:
                            left_out_right[e, seed] = fitted.left_out_right[: left_out_right.shape[2]]
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            exits=np.array(list(taps)),
            groups=data.groups[data.test],
            left_out=left_out,
            left_out_right=left_out_right,
            left_out_groups=np.stack([data.groups[index[: left_out_right.shape[2]]] for index in largest]),
            **right,
        )
