"""Pretraining of an I/Q encoder on simulated transmissions, resumable after a kill at any moment."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from offramp.encoders.base import StagedEncoder
from offramp.encoders.registry import load_encoder
from offramp.errors import TrainingError
from offramp.files import run_folder
from offramp.training.checkpoint import (
    CHECKPOINT,
    LOG,
    PROBE,
    TrainingState,
    diverged,
    interrupts_held,
    read_checkpoint,
    refuse_foreign,
    restore,
    save_checkpoint,
    save_pretrained,
    take_snapshot,
)
from offramp.training.config import PretrainingConfig, rate_share, snapshot_steps
from offramp.training.contrastive import ContrastiveModel
from offramp.training.curves import draw_probe
from offramp.training.masked import MaskedModel
from offramp.training.masked_channels import MaskedChannelModel
from offramp.training.objective import PretrainingModel
from offramp.training.processes import Processes, averaged, joined, leads
from offramp.training.sources import Source, open_source
from offramp.training.supervised import MixedModel, SupervisedModel

LOG_EVERY = 20
OUTPUTS = (CHECKPOINT, LOG, PROBE, "probe.svg", "snapshots", "encoder")


@dataclass(frozen=True)
class PretrainingProgress:
    """What one optimiser step showed.

    Attributes:
        step: Number of the step, from 1.
        loss: Of the objective.
        matched: Share of views whose nearest other view is their partner; None without partners (masked objective).
        seconds: That the step took.
        views: Views in the step's batch, over all processes.
    """

    step: int
    loss: float
    matched: float | None
    seconds: float
    views: int = 0


def pretrain(
    config: PretrainingConfig,
    out: Path,
    device: str = "cpu",
    on_step: Callable[[PretrainingProgress], None] = lambda _: None,
    checkpoint_every_s: float = 60.0,
) -> Path:
    """Run, or go on with, a pretraining run and leave an encoder folder at ``out/encoder``.

    Every step draws its data from (seed, step, process), so that a resumed run sees what an uninterrupted one would have
    seen. In ``out``: ``checkpoint.pt`` is the newest good state; ``log.jsonl`` has a line per 20 steps; ``snapshots/`` has
    encoder folders at steps that double; ``probe.jsonl`` has every exit's ID probe at those, ``probe.svg`` draws it.
    Under ``torchrun`` the processes share each step's batch; the first one alone writes and calls ``on_step``.

    Args:
        config: All that determines the run.
        out: Its folder.
        device: ``"cpu"``, ``"cuda"`` (bfloat16 inside the encoder, data generated there), or any other of torch.
        on_step: Called after every step.
        checkpoint_every_s: Seconds between two checkpoints. Ctrl-C writes one more.

    Raises:
        TrainingError: The loss diverged, ``out`` holds a run of another configuration, or the batch cannot be shared.
        EncoderError: The encoder or the device does not exist, or the encoder does not take the windows.
        DataError: ``config.data`` cannot be read.
    """
    source = open_source(config)
    data = [Path(config.data)] if config.data else []
    kept = run_folder(out, OUTPUTS, data) if leads() else nullcontext()
    with kept, joined(device) as processes:
        refuse_foreign(out)
        if config.batch % processes.count:
            raise TrainingError(
                f"a batch of {config.batch} cannot be shared by {processes.count} processes: use a multiple"
            )
        state = _start(config, out, processes)
        with interrupts_held() as interrupted:
            _run(config, out, state, source, processes, on_step, checkpoint_every_s, interrupted)
        if processes.leads:
            draw_probe(state.probe, out / "probe.svg")
            save_pretrained(config, out / "encoder", state, source)
    return out / "encoder"


def _start(config: PretrainingConfig, out: Path, processes: Processes) -> TrainingState:
    """The state to go on from: that of the checkpoint, or a fresh one."""
    stored = read_checkpoint(config, out)
    chosen = {"modality": config.modality} if config.modality != "iq" else {}
    encoder = load_encoder(config.encoder, weights="random", seed=config.seed, device=processes.device, **chosen)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        model = _model(config, encoder)
    model = processes.normalised_together(model.to(processes.device))
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    state = TrainingState(model, optimiser)
    restore(stored, out, state)
    return state


def _model(config: PretrainingConfig, encoder: StagedEncoder) -> PretrainingModel:
    if config.data:
        return MaskedChannelModel(encoder, config.exit_aware)
    if config.objective == "masked":
        return MaskedModel(encoder, config.exit_aware)
    if config.objective == "supervised":
        return SupervisedModel(encoder, config.label_names, config.exit_aware)
    if config.objective == "mixed":
        return MixedModel(encoder, config.label_names, config.projection_depth, config.temperature, config.exit_aware)
    return ContrastiveModel(encoder, config.projection_depth, config.temperature, config.exit_aware)


def _run(
    config: PretrainingConfig,
    out: Path,
    state: TrainingState,
    source: Source,
    processes: Processes,
    on_step: Callable[[PretrainingProgress], None],
    checkpoint_every_s: float,
    interrupted: Callable[[], bool],
) -> None:
    """The loop: train, report, keep."""
    replica = processes.replicated(state.model)
    snapshots = snapshot_steps(config.steps)
    if processes.leads and not state.probe:
        take_snapshot(config, out, state, source)
    last_checkpoint = time.monotonic()
    while state.step < config.steps:
        progress = _train_step(config, state, source, replica, processes)
        if not math.isfinite(progress.loss):
            raise diverged(config, out, state.step)
        state.step += 1
        if not processes.leads:
            continue
        on_step(progress)
        if state.step % LOG_EVERY == 0:
            state.log.append(asdict(progress) | source.shape(state.step - 1))
        if state.step in snapshots:
            take_snapshot(config, out, state, source)
        due = time.monotonic() - last_checkpoint > checkpoint_every_s
        if due or interrupted() or state.step == config.steps:
            save_checkpoint(config, out, state)
            last_checkpoint = time.monotonic()
        if interrupted():
            raise KeyboardInterrupt


def _train_step(
    config: PretrainingConfig, state: TrainingState, source: Source, replica: nn.Module, processes: Processes
) -> PretrainingProgress:
    """Draw a batch and take one optimiser step on it, unless the loss is not finite."""
    started = time.monotonic()
    step = state.step
    views, generator, drawn = source.batch(step, processes, state.model.encoder)
    state.model.train()
    loss, matched = replica(views, generator, drawn)
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    for group in state.optimiser.param_groups:
        group["lr"] = config.learning_rate * rate_share(step, config.steps)
    whole = averaged(loss).item()
    if math.isfinite(whole):
        state.optimiser.step()
    share = None if matched is None else matched.item()
    return PretrainingProgress(step + 1, whole, share, time.monotonic() - started, len(views) * processes.count)
