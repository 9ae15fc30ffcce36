"""The ID probe: how well a linear readout of every exit tells what the pretraining data vary in, as pretraining goes on.

A plain ridge regression on one-hot targets serves as the classifier (Hastie et al., "Elements of Statistical Learning", 4.2): it
has a closed form, so that every exit is probed in a second and the curves carry no noise of an optimiser. It ranks
exits and steps; the scores of a suite come from better heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from offramp.encoders.base import StagedEncoder
from offramp.simulation.windows import synthetic_windows
from offramp.training.images import as_input

Scores = dict[str, dict[str, float]]
"""Accuracy by task (``modulation``, ``sector``) and exit."""

BLOCK = 250
FIT_BLOCKS, SCORED_BLOCKS = 12, 6
"""3,000 windows to fit on, 1,500 to score."""
ANTENNAS, SAMPLES = 4, 256
SNR_DB = (-6.0, 18.0)
SEED = 31_415
"""The probe's own windows, the same for every run; no suite's default seed gives them."""
STRENGTH = 0.01
"""Of the ridge, in units of a standardised feature's variance."""
CONSTANT = 1e-6
"""A feature that spreads less than this share of the widest one's spread is left out."""


@dataclass(frozen=True)
class ProbeRows:
    """Taps of every exit, float32 ``(N, width)``, with labels by task, int64 ``(N,)``; -1 where a window has none."""

    taps: dict[str, Tensor]
    labels: dict[str, Tensor]


def probe_exits(encoder: StagedEncoder) -> Scores:
    """Accuracy of a linear readout of every exit on simulated windows of 4 antennas and 256 samples, SNR -6 to 18 dB.

    The encoder runs in inference mode (BatchNorm with its running statistics) and is left as it was, as are
    the global random states.
    """
    training = encoder.training
    encoder.eval()
    fit = _rows(encoder, range(FIT_BLOCKS))
    scored = _rows(encoder, range(FIT_BLOCKS, FIT_BLOCKS + SCORED_BLOCKS))
    encoder.train(training)
    return accuracies(fit, scored)


def accuracies(fit: ProbeRows, scored: ProbeRows) -> Scores:
    """Accuracy of a ridge probe per task and exit, fitted on some rows and scored on others; rows without a label do not count."""
    return {task: {name: _accuracy(fit, scored, task, name) for name in fit.taps} for task in fit.labels}


def ridge_accuracy(features: Tensor, labels: Tensor, other_features: Tensor, other_labels: Tensor) -> float:
    """Fit a ridge regression on the one-hot labels of some rows; share of other rows whose largest output is their label.

    Args:
        features: ``(N, width)``.
        labels: int64 ``(N,)``.
        other_features: ``(M, width)``.
        other_labels: int64 ``(M,)``, among the classes of ``labels``.
    """
    rows, others = features.double(), other_features.double()
    mean, spread = rows.mean(0), rows.std(0, unbiased=False)
    scale = torch.where(spread > CONSTANT * spread.max(), 1 / spread, 0.0)
    rows, others = (rows - mean) * scale, (others - mean) * scale
    targets = functional.one_hot(labels).double()
    prior = targets.mean(0)
    moment = rows.T @ rows / len(rows)
    moment.diagonal().add_(STRENGTH)
    weight = torch.linalg.solve(moment, rows.T @ (targets - prior) / len(rows))
    return float(((others @ weight + prior).argmax(1) == other_labels).double().mean())


def _accuracy(fit: ProbeRows, scored: ProbeRows, task: str, exit: str) -> float:
    known, asked = fit.labels[task] >= 0, scored.labels[task] >= 0
    return ridge_accuracy(
        fit.taps[exit][known], fit.labels[task][known], scored.taps[exit][asked], scored.labels[task][asked]
    )


def _rows(encoder: StagedEncoder, blocks: range) -> ProbeRows:
    device = next(encoder.parameters()).device
    parts: dict[str, dict[str, list[Tensor]]] = {"taps": {}, "labels": {}}
    for block in blocks:
        windows = synthetic_windows(BLOCK, ANTENNAS, SAMPLES, SNR_DB, SEED, block)
        with torch.inference_mode():
            taps = encoder.taps(as_input(encoder, windows.iq.to(device)))
        for name, tap in taps.items():
            parts["taps"].setdefault(name, []).append(tap.float().cpu())
        for task in ("modulation", "sector"):
            parts["labels"].setdefault(task, []).append(getattr(windows, task))
    return ProbeRows(
        **{kind: {name: torch.cat(tensors) for name, tensors in named.items()} for kind, named in parts.items()}
    )
