from __future__ import annotations

import numpy as np
import pytest
import scratch
from probing import TaskData


def tones(count: int) -> TaskData:
    """Two classes of tones in noise: slow and fast."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    rate = np.where(labels == 0, 0.05, 0.3)
    phase = 2 * np.pi * (rate[:, None] * np.arange(64) + rng.random((count, 1)))
    windows = np.stack([np.cos(phase), np.sin(phase)], 1)[:, :, None] + 0.3 * rng.normal(size=(count, 2, 1, 64))
    everything = np.arange(count)
    return TaskData(windows.astype(np.float32), labels, everything, everything[: count // 2], everything[count // 2 :])


def test_a_cut_network_learns_and_repeats(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scratch, "STEPS", 80)
    data = tones(200)
    right = scratch.train_from_scratch(data, "stage1.1", 40, seed=1)
    assert right.shape == (100,)
    assert right.mean() > 0.9
    np.testing.assert_array_equal(right, scratch.train_from_scratch(data, "stage1.1", 40, seed=1))
