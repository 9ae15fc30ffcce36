"""Choosing an exit with few labels or none: what criteria cost against the best exit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from analysis.agreement import criterion_regret, kendall_tau, regret
from analysis.spectrum import effective_rank
from analysis.transferability import h_score, lidar, log_me
from numpy.typing import NDArray
from plan import LABEL_SEEDS, SHOTS
from probing import TaskData, taps_of

from offramp.encoders.base import StagedEncoder
from offramp.files import write_text
from offramp.training.augmentation import augment

BUDGETS = (10, 100)
UNLABELLED = 1000
LIDAR_WINDOWS, LIDAR_VIEWS = 250, 8


def criteria_without_labels(encoder: StagedEncoder, data: TaskData) -> dict[str, list[float]]:
    """Effective rank over 1,000 windows of the pool; LiDAR over 8 augmented views of 250 of them. One value per exit."""
    windows = data.windows[data.pool[:: max(1, len(data.pool) // UNLABELLED)][:UNLABELLED]]
    taps = taps_of(encoder, windows)
    generator = torch.Generator().manual_seed(0)
    repeated = torch.from_numpy(windows[:LIDAR_WINDOWS]).repeat_interleave(LIDAR_VIEWS, 0)
    views = taps_of(encoder, augment(repeated, generator).numpy())
    return {
        "effective rank": [effective_rank(tap) for tap in taps.values()],
        "LiDAR": [lidar(_standard(tap).reshape(LIDAR_WINDOWS, LIDAR_VIEWS, -1)) for tap in views.values()],
    }


def criteria_with_labels(encoder: StagedEncoder, data: TaskData, shots: int, seed: int) -> dict[str, list[float]]:
    """LogME and H-score on ``shots`` labels per class. One value per exit."""
    index = data.shots(shots, seed)
    taps = {name: _standard(tap) for name, tap in taps_of(encoder, data.windows[index]).items()}
    return {
        "LogME": [log_me(tap, data.labels[index]) for tap in taps.values()],
        "H-score": [h_score(tap, data.labels[index]) for tap in taps.values()],
    }


def _standard(taps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Columns of mean 0 and variance 1, as the probe sees them."""
    spread = taps.std(0)
    return (taps - taps.mean(0)) / np.where(spread > 1e-6 * spread.max(), spread, np.inf)


def score_criteria(encoder: StagedEncoder, data: TaskData, scores: Path, out: Path) -> None:
    """Regret and Kendall's tau of every criterion per budget, mean over label seeds; JSON ``{budget: {criterion: [regret, tau]}}``.

    Regret is against the exit with the best test score at that budget. Beside the criteria: held-out accuracy, and the two
    rules that look at nothing, the full encoder and always the same middle exit.
    """
    stored = np.load(scores)
    test, held_out = stored["linear"].mean(-1), stored["held_out"]
    free = criteria_without_labels(encoder, data)
    result: dict[str, dict[str, list[float]]] = {}
    for budget in BUDGETS:
        b = SHOTS.index(budget)
        rows: dict[str, list[tuple[float, float]]] = {}
        for seed in range(LABEL_SEEDS):
            of_exit = test[:, b, seed]
            criteria = {name: np.array(values) for name, values in free.items()}
            criteria |= {name: np.array(v) for name, v in criteria_with_labels(encoder, data, budget, seed).items()}
            criteria["held-out accuracy"] = held_out[:, b, seed]
            for name, values in criteria.items():
                rows.setdefault(name, []).append((criterion_regret(values, of_exit), kendall_tau(values, of_exit)))
            rows.setdefault("always full", []).append((regret(of_exit, len(of_exit) - 1), 0.0))
            rows.setdefault("always the middle exit", []).append((regret(of_exit, len(of_exit) // 2), 0.0))
        result[str(budget)] = {name: [float(v) for v in np.mean(pairs, axis=0)] for name, pairs in rows.items()}
    write_text(out, json.dumps(result))
