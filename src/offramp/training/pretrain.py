"""Contrastive pretraining of an I/Q encoder on simulated transmissions, resumable after a kill at any moment."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from offramp.data.synthesis.windows import view_pairs
from offramp.encoders.registry import load_encoder
from offramp.encoders.storage import read_pickle, save_encoder
from offramp.errors import EncoderError, TrainingError
from offramp.files import atomic_path, output_folder, write_text
from offramp.training.contrastive import ContrastiveModel, info_nce

INPUT_SHAPES = ((4, 256, 0.2), (4, 128, 0.3), (2, 192, 0.125), (1, 256, 0.125), (1, 128, 0.25))
"""Antennas, samples and the share of steps that see windows of that size."""


@dataclass(frozen=True)
class PretrainingConfig:
    """All that determines a pretraining run.

    Attributes:
        encoder: Registered architecture with I/Q input.
        steps: Optimiser steps.
        batch: Pairs of views per step.
        learning_rate: Peak of a one-cycle cosine with a linear warm-up over the first 5%.
        weight_decay: Decoupled weight decay of AdamW.
        temperature: Of the InfoNCE loss.
        snr_low_db: Lower end of the views' SNR.
        snr_high_db: Upper end of the views' SNR.
        seed: Of initial weights and all data.
    """

    encoder: str = "iq-shufflenet"
    steps: int = 4500
    batch: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    temperature: float = 0.1
    snr_low_db: float = -6.0
    snr_high_db: float = 20.0
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """What one optimiser step showed."""

    step: int
    loss: float
    matched: float
    seconds: float


def pretrain(
    config: PretrainingConfig,
    out: Path,
    device: str = "cpu",
    on_step: Callable[[Progress], None] = lambda _: None,
    checkpoint_every_s: float = 60.0,
) -> Path:
    """Run, or go on with, a pretraining run and leave an encoder folder at ``out/encoder``.

    Every step draws its data from (seed, step), so that a resumed run sees what an uninterrupted one would have seen.
    ``out/log.jsonl`` holds one line per 20 steps; ``out/checkpoint.pt`` the newest good state.

    Raises:
        TrainingError: The loss diverged, or ``out`` holds a run of another configuration.
    """
    output_folder(out)
    encoder = load_encoder(config.encoder, weights="random", seed=config.seed, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        model = ContrastiveModel(encoder).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    done, log = _restore(config, out, model, optimiser, device)
    last_checkpoint = time.monotonic()
    for step in range(done, config.steps):
        started = time.monotonic()
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config.steps)
        loss, matched = _train_step(config, model, optimiser, step, device)
        if not math.isfinite(loss):
            raise _diverged(config, out, step)
        progress = Progress(step + 1, loss, matched, time.monotonic() - started)
        on_step(progress)
        if (step + 1) % 20 == 0:
            log.append(asdict(progress))
        if time.monotonic() - last_checkpoint > checkpoint_every_s:
            _checkpoint(config, out, model, optimiser, step + 1, log)
            last_checkpoint = time.monotonic()
    _checkpoint(config, out, model, optimiser, config.steps, log)
    provenance = {
        "pretraining": asdict(config),
        "data": "simulated",
        "input_shapes": INPUT_SHAPES,
        "objective": "InfoNCE",
    }
    save_encoder(model.encoder, out / "encoder", provenance)
    return out / "encoder"


def _train_step(
    config: PretrainingConfig, model: ContrastiveModel, optimiser: torch.optim.Optimizer, step: int, device: str
) -> tuple[float, float]:
    antennas, samples = _input_shape(config.seed, step)
    snr = (config.snr_low_db, config.snr_high_db)
    first, second = view_pairs(config.batch, antennas, samples, snr, config.seed, step, device)
    model.train()
    projections = model(torch.cat([first, second]))
    own, partner = projections.chunk(2)
    loss, matched = info_nce(own, partner, config.temperature)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if torch.isfinite(loss):
        optimiser.step()
    return loss.item(), matched.item()


def _input_shape(seed: int, step: int) -> tuple[int, int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step + 1)
    weights = torch.tensor([share for _, _, share in INPUT_SHAPES])
    antennas, samples, _ = INPUT_SHAPES[int(torch.multinomial(weights, 1, generator=generator))]
    return antennas, samples


def _schedule(step: int, steps: int) -> float:
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _checkpoint(
    config: PretrainingConfig,
    out: Path,
    model: ContrastiveModel,
    optimiser: torch.optim.Optimizer,
    step: int,
    log: list[dict[str, Any]],
) -> None:
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise _diverged(config, out, step)
    state = {
        "config": asdict(config),
        "step": step,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "log": log,
    }
    with atomic_path(out / "checkpoint.pt") as temporary:
        torch.save(state, temporary)
    write_text(out / "log.jsonl", "".join(json.dumps(line) + os.linesep for line in log))


def _restore(
    config: PretrainingConfig, out: Path, model: ContrastiveModel, optimiser: torch.optim.Optimizer, device: str
) -> tuple[int, list[dict[str, Any]]]:
    path = out / "checkpoint.pt"
    if not path.exists():
        return 0, []
    try:
        state = read_pickle(path, device)
        stored, step, log = dict(state["config"]), int(state["step"]), list(state["log"])
    except (EncoderError, KeyError, TypeError, ValueError) as error:
        raise _cannot_resume(path, str(error)) from None
    differing = [f.name for f in fields(config) if stored.get(f.name) != getattr(config, f.name)]
    if differing:
        changes = ", ".join(f"{name} {stored.get(name)!r} -> {getattr(config, name)!r}" for name in differing)
        raise TrainingError(f"{out} holds a run with other settings ({changes}): choose another --out")
    try:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError):
        raise _cannot_resume(path, "its weights do not fit the encoder") from None
    return step, log


def _cannot_resume(path: Path, reason: str) -> TrainingError:
    return TrainingError(f"{path} cannot be resumed ({reason}): remove it or choose another --out")


def _diverged(config: PretrainingConfig, out: Path, step: int) -> TrainingError:
    path = out / "checkpoint.pt"
    kept = f": {path} keeps the last good state" if path.exists() else ""
    mend = f"try a --learning-rate below {config.learning_rate:g} in a new --out"
    return TrainingError(f"the loss diverged at step {step}{kept}; {mend}")
