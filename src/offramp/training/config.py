"""What determines a pretraining run, and what follows from it: window sizes, batch sizes, learning rates, snapshots."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from offramp.errors import TrainingError
from offramp.simulation.views import VIEWS
from offramp.training.labels import LABELS

INPUT_SHAPES = (
    (4, 256, 0.21),
    (4, 128, 0.10),
    (4, 512, 0.05),
    (4, 1024, 0.01),
    (1, 128, 0.15),
    (1, 256, 0.05),
    (1, 512, 0.05),
    (1, 1024, 0.03),
    (2, 128, 0.05),
    (2, 256, 0.08),
    (2, 512, 0.05),
    (3, 192, 0.05),
    (8, 128, 0.06),
    (8, 256, 0.05),
    (8, 512, 0.01),
)
"""Antennas, samples and the share of steps that see windows of that size. The mean size is 0.85 times 4 x 256."""

FULL_BATCH_VALUES = 4 * 256
"""Windows of more values (antennas x samples) come in smaller batches, so that neither memory nor a step's time grows."""
LEAST_PAIRS = 64
"""A batch does not shrink below this."""
WARM_UP = 0.05
"""Share of the steps in which the learning rate rises to its peak."""
SNAPSHOT_HALVINGS = 10
SUPERVISED = ("supervised", "mixed")
"""Objectives with labels."""


@dataclass(frozen=True)
class PretrainingConfig:
    """All that determines a pretraining run.

    Attributes:
        encoder: Registered architecture with I/Q input, or one that takes images too.
        modality: ``"iq"``, or ``"vision"`` for an encoder that knows both and then sees spectrograms (``wavesfm``).
        objective: ``"contrastive"`` (:mod:`.contrastive`), ``"masked"`` (:mod:`.masked`; :mod:`.masked_channels` with ``data``),
            ``"supervised"`` or ``"mixed"``, which is contrastive and supervised together (:mod:`.supervised`).
        labels: Which of the quantities that the generator draws are labels of a supervised or mixed objective: ``"all"``,
            ``"general"`` or ``"non-task"``, see :mod:`.labels`.
        views: What the two views of a pair share: ``"same"``, ``"crop"`` or ``"redrawn"``, see
            :func:`~offramp.simulation.views.view_pairs`.
        data: A file of channels over time, for an encoder of channels; simulated signals if it is empty.
        projection_depth: Linear layers of the head that is discarded after contrastive pretraining, 0 to 3; 0 compares the
            taps themselves.
        steps: Optimiser steps.
        batch: Pairs of views per step, over all processes; fewer for windows of more than 4 x 256 values.
        learning_rate: Peak of a one-cycle cosine with a linear warm-up over the first 5%.
        weight_decay: Decoupled weight decay of AdamW.
        temperature: Of the InfoNCE loss.
        snr_low_db: Lower end of the views' SNR.
        snr_high_db: Upper end of the views' SNR.
        exit_aware: Ask the objective of every exit, not of full depth alone.
        seed: Of initial weights and all data.
    """

    encoder: str = "iq-resnet"
    modality: str = "iq"
    objective: str = "contrastive"
    labels: str = "general"
    views: str = "same"
    data: str = ""
    projection_depth: int = 2
    steps: int = 4500
    batch: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    temperature: float = 0.1
    snr_low_db: float = -6.0
    snr_high_db: float = 20.0
    exit_aware: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.modality not in ("iq", "vision"):
            raise TrainingError(f"modality {self.modality!r}: choose 'iq' or 'vision'")
        if self.data and self.objective != "masked":
            raise TrainingError("--data is for the masked objective of channels: add --objective masked")
        if self.modality == "vision" and self.objective == "masked":
            raise TrainingError("the masked objective is for I/Q: use --objective contrastive with --modality vision")
        if self.objective not in ("contrastive", "masked", *SUPERVISED):
            raise TrainingError(
                f"objective {self.objective!r}: choose 'contrastive' or 'masked', 'supervised' or 'mixed'"
            )
        if self.labels not in LABELS:
            raise TrainingError(f"labels {self.labels!r}: choose {', '.join(LABELS)}")
        if self.views not in VIEWS:
            raise TrainingError(f"views {self.views!r}: choose {', '.join(VIEWS)}")
        if self.labels != PretrainingConfig.labels and self.objective not in SUPERVISED:
            raise TrainingError("--labels is for an objective that has some: add --objective supervised or mixed")
        if self.views != PretrainingConfig.views and self.data:
            raise TrainingError("--views is for simulated signals: leave it out with --data")
        if self.modality == "vision" and self.objective in SUPERVISED:
            raise TrainingError(
                f"the {self.objective} objective is for I/Q: a spectrogram shows no phase between antennas; use --objective "
                "contrastive with --modality vision"
            )
        if not 0 <= self.projection_depth <= 3:
            raise TrainingError(f"projection depth {self.projection_depth}: choose 0, 1, 2 or 3")

    @property
    def label_names(self) -> tuple[str, ...]:
        """The quantities that are labels, none for an objective without labels."""
        return LABELS[self.labels] if self.objective in SUPERVISED else ()


def input_shape(seed: int, step: int) -> tuple[int, int]:
    """Antennas and samples of the windows that a step sees, drawn by their share in ``INPUT_SHAPES``."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step + 1)
    weights = torch.tensor([share for _, _, share in INPUT_SHAPES])
    antennas, samples, _ = INPUT_SHAPES[int(torch.multinomial(weights, 1, generator=generator))]
    return antennas, samples


def pairs_of(batch: int, antennas: int, samples: int) -> int:
    """Pairs in a batch of such windows: ``batch``, or what holds as many values as that many windows of 4 x 256."""
    return min(batch, max(LEAST_PAIRS, batch * FULL_BATCH_VALUES // (antennas * samples)))


def rate_share(step: int, steps: int) -> float:
    """Learning rate of a step over its peak: linear warm-up, then a cosine to zero (Loshchilov and Hutter, arXiv 1608.03983)."""
    warm_up = max(1, int(steps * WARM_UP))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def snapshot_steps(steps: int) -> tuple[int, ...]:
    """Steps after which the encoder is kept for analysis: 0, and a run's length halved again and again (12 in a long run)."""
    return tuple(sorted({0} | {math.ceil(steps / 2**halving) for halving in range(SNAPSHOT_HALVINGS + 1)}))
