"""Augmentation undone by hand: every window is some cyclic shift of its old self, times a number, perhaps less an antenna."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from offramp.training.augmentation import augment


def windows(count: int, antennas: int, samples: int = 32) -> Tensor:
    return torch.randn(count, 2, antennas, samples, generator=Generator().manual_seed(0))


def augmented(views: Tensor, seed: int = 1) -> Tensor:
    return augment(views, Generator().manual_seed(seed))


@pytest.mark.parametrize("antennas", [1, 2, 3, 8])
def test_every_window_is_shifted_scaled_and_perhaps_loses_one_antenna(antennas: int) -> None:
    before = windows(200, antennas)
    after = augmented(before)
    assert after.shape == before.shape
    assert after.dtype == torch.float32
    shifts, gains, silent = [], [], 0
    for old, new in zip(before, after, strict=True):
        present = new.abs().amax((0, 2)) > 0
        lost = antennas - int(present.sum())
        assert lost <= (antennas >= 3)
        silent += lost
        candidates = torch.stack([old[:, present].roll(shift, dims=2) for shift in range(32)])
        gain = new.norm() / old[:, present].norm()
        distances = (candidates * gain - new[:, present]).flatten(1).norm(dim=1)
        assert distances.min() < 1e-4 * new.norm()
        shifts.append(int(distances.argmin()))
        gains.append(20 * float(gain.log10()))
    assert len(set(shifts)) == 32
    assert -10 <= min(gains) < -8
    assert 8 < max(gains) <= 10
    assert silent / 200 == pytest.approx(0.25 if antennas >= 3 else 0, abs=0.1)


def test_the_seed_decides() -> None:
    before = windows(5, 4)
    assert torch.equal(augmented(before), augmented(before))
    assert not torch.equal(augmented(before), augmented(before, seed=2))
