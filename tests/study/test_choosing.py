from __future__ import annotations

import json
from pathlib import Path

import choosing
import numpy as np
import pytest
from plan import LABEL_SEEDS, SHOTS
from probing import TaskData

from offramp import load_encoder


@pytest.fixture
def data() -> TaskData:
    rng = np.random.default_rng(0)
    windows = rng.normal(size=(600, 2, 1, 64)).astype(np.float32)
    labels = np.arange(600) % 4
    everything = np.arange(600)
    return TaskData(windows, labels, everything, everything[:500], everything[500:])


def test_regret_is_against_the_best_exit_of_each_draw(data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choosing, "LIDAR_WINDOWS", 40)
    encoder = load_encoder("iq-resnet", weights="random").eval()
    exits = len(encoder.exits)
    accuracy = np.linspace(0.2, 0.9, exits)  # the last exit is the best
    right = np.zeros((exits, len(SHOTS), LABEL_SEEDS, 100), dtype=bool)
    for e, value in enumerate(accuracy):
        right[e, :, :, : round(100 * value)] = True
    held_out = np.zeros((exits, len(SHOTS), LABEL_SEEDS))
    held_out[2] = 1
    np.savez(tmp_path / "scores.npz", linear=right, held_out=held_out)
    choosing.score_criteria(encoder, data, tmp_path / "scores.npz", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    for budget in ("10", "100"):
        assert found[budget]["always full"][0] == 0
        assert found[budget]["held-out accuracy"][0] == pytest.approx(0.9 - round(accuracy[2], 2))
        assert found[budget]["always the middle exit"][0] == pytest.approx(0.9 - round(accuracy[exits // 2], 2))
        assert set(found[budget]) >= {"LogME", "H-score", "LiDAR", "effective rank"}
