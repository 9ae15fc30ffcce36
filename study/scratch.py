"""The same network cut at an exit and trained on the task's labels alone: what a pretrained encoder must beat at equal MACs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from plan import ENCODER, SCRATCH_EXITS, SCRATCH_SEEDS, SCRATCH_SHOTS
from probing import Bools, TaskData
from torch import nn

from offramp import load_encoder
from offramp.files import atomic_path
from offramp.training.augmentation import augment
from offramp.training.config import rate_share

STEPS = 400
BATCH = 64
LEARNING_RATE = 2e-3


def train_from_scratch(data: TaskData, exit_name: str, shots: int, seed: int) -> Bools:
    """Whether each test window is classified rightly, bool ``(M,)``, by a truncated network trained on ``shots`` labels per class.

    400 steps of 64 windows (AdamW, one cosine), every window cyclically shifted and scaled as in pretraining.
    """
    encoder = load_encoder(ENCODER, weights="random", seed=seed)
    classes = len(np.unique(data.labels))
    torch.manual_seed(seed)
    network = nn.Sequential(
        encoder.truncate(exit_name), nn.Linear(encoder.exits[encoder.exit_index(exit_name)].width, classes)
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    index = data.shots(shots, seed)
    generator = torch.Generator().manual_seed(seed)
    network.train()
    for step in range(STEPS):
        rows = index[torch.randint(len(index), (BATCH,), generator=generator).numpy()]
        windows = augment(torch.from_numpy(data.windows[rows]), generator)
        loss = nn.functional.cross_entropy(network(windows), torch.from_numpy(data.labels[rows]), label_smoothing=0.1)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * rate_share(step, STEPS)
        optimiser.step()
    network.eval()
    with torch.inference_mode():
        parts = [network(torch.from_numpy(data.windows[at])).argmax(1) for at in np.array_split(data.test, 10)]
    return torch.cat(parts).numpy() == data.labels[data.test]


def score_scratch(data: TaskData, out: Path) -> None:
    """Write ``right`` bool (exits, budgets, seeds, M) and ``groups`` (M,) to ``out`` (npz)."""
    right = np.zeros((len(SCRATCH_EXITS), len(SCRATCH_SHOTS), SCRATCH_SEEDS, len(data.test)), dtype=bool)
    for e, exit_name in enumerate(SCRATCH_EXITS):
        for b, shots in enumerate(SCRATCH_SHOTS):
            for seed in range(SCRATCH_SEEDS):
                right[e, b, seed] = train_from_scratch(data, exit_name, shots, seed)
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, right=right, groups=data.groups[data.test])
