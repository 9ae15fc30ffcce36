"""The training loop: a copy of an encoder learns, with a head per exit; resumable after a kill at any moment."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from offramp.bundle import Head
from offramp.costs import exit_costs
from offramp.encoders.base import StagedEncoder, seeded
from offramp.errors import DataError, TrainingError
from offramp.schema.metrics import Kind
from offramp.training.checkpoint import interrupts_held
from offramp.training.exits.checkpoints import TrainingProgress, identity_of, restore_progress, save_progress
from offramp.training.exits.config import ONE_EXIT, ExitTraining
from offramp.training.exits.losses import Goal, class_weights, distilled_losses, task_loss
from offramp.training.exits.low_rank import add_adapters, merge_adapters
from offramp.training.exits.model import ExitModel, heads_of, set_head, skippable_stages
from offramp.training.exits.schedules import StepPlan, dropout_rates, exit_weights, plan_step

LOG_EVERY = 20
LARGEST_GRADIENT = 1.0
"""Norm that gradients are cut to."""


@dataclass(frozen=True)
class ExitStep:
    """What one optimiser step showed.

    Attributes:
        step: Number of the step, from 1.
        loss: Weighted mean of the exits' losses.
        losses: Loss of every exit that the step asked, by name.
        seconds: That the step took.
    """

    step: int
    loss: float
    losses: dict[str, float]
    seconds: float


@dataclass(frozen=True, eq=False)
class TrainedExits:
    """What a training leaves.

    Attributes:
        encoder: A new encoder, in inference mode, of the same architecture and configuration as the one given.
        heads: A head for every exit that was trained, by name and in order of depth: ``heads[exit](taps)``; as a module through
            :func:`offramp.heads.modules.head_module`. One object for exits that share a head.
        log: A line per 20 steps and one of the last: the attributes of :class:`ExitStep`.
    """

    encoder: StagedEncoder
    heads: dict[str, Head]
    log: tuple[dict[str, Any], ...]


@dataclass(frozen=True, eq=False)
class _Lessons:
    """What is learned: inputs, standardised targets, and how outputs go back to the target's own unit."""

    inputs: Tensor
    targets: Tensor
    class_weights: Tensor | None
    centre: NDArray[np.float64]
    spread: NDArray[np.float64]

    def batch(self, config: ExitTraining, step: int, device: torch.device) -> tuple[Tensor, Goal]:
        """The windows of a step: the data in a random order, over and over, each time in a new one."""
        count = len(self.inputs)
        size = min(config.batch, count)
        place = np.arange(step * size, (step + 1) * size)
        orders = {int(epoch): self._order(config, int(epoch)) for epoch in np.unique(place // count)}
        chosen = torch.tensor([orders[int(at // count)][at % count] for at in place])
        weights = None if self.class_weights is None else self.class_weights.to(device)
        return self.inputs[chosen].to(device), Goal(self.targets[chosen].to(device), weights)

    def _order(self, config: ExitTraining, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([config.seed, epoch]).permutation(len(self.inputs))


def train_exits(
    encoder: StagedEncoder,
    inputs: Tensor,
    targets: Tensor | NDArray[Any],
    kind: Kind,
    outputs: int,
    config: ExitTraining,
    on_step: Callable[[ExitStep], None] = lambda _: None,
    checkpoint: Path | None = None,
    heads: Mapping[str, Head] | None = None,
    checkpoint_every_s: float = 60.0,
) -> TrainedExits:
    """Train a copy of an encoder together with heads on its exits; the encoder given does not change in a single bit.

    AdamW, learning rate in one cosine with warm-up, gradients cut to norm 1, weights of single precision. Minibatches and all
    else that is drawn follow from (seed, step), so that a resumed training on a processor ends with the bits of an uninterrupted one.

    Args:
        encoder: To start from, on any device.
        inputs: ``(N, *encoder.input.shape)`` of ``encoder.input.dtype``, as the encoder sees them, on any device.
        targets: Classes int64 ``(N,)`` from 0, or values ``(N, outputs)``, which are learned standardised.
        kind: ``classification`` or ``regression``.
        outputs: Classes, or dimensions of a value.
        config: All that determines the training.
        on_step: Called after every step.
        checkpoint: File to go on from, and to write to every ``checkpoint_every_s`` seconds, on Ctrl-C and in the end.
        heads: Heads that training starts from, by exit, of the kind and size that ``config`` asks for; random ones where it has none.
        checkpoint_every_s: Seconds between two checkpoints.

    Raises:
        TrainingError: The loss diverged, the checkpoint is of another training, or a setting does not fit the encoder.
        EncoderError: An exit is unknown, or the inputs do not fit the encoder.
        DataError: Targets do not fit, or something is NaN or infinite.
    """
    encoder.input.check(tuple(inputs.shape[1:]))
    encoder.input.check_values(inputs)
    lessons = _lessons(inputs, targets, kind, outputs, config)
    identity = "" if checkpoint is None else identity_of(encoder, lessons.inputs, lessons.targets, outputs)
    progress, weights = _start(encoder, lessons, config, outputs, heads or {})
    if checkpoint is not None:
        restore_progress(config, identity, checkpoint, progress)

    def keep() -> None:
        if checkpoint is not None:
            _check_finite(config, progress, checkpoint)
            save_progress(config, identity, checkpoint, progress)

    skippable = _skippable(config, progress.model.encoder, lessons)
    last_kept = time.monotonic()
    with interrupts_held() as interrupted:
        while progress.step < config.steps:
            plan = plan_step(config, progress.step, weights)
            done = _train_step(config, progress, lessons, plan, skippable)
            if not math.isfinite(done.loss):
                raise _diverged(config, progress.step, checkpoint)
            progress.step += 1
            if progress.step % LOG_EVERY == 0 or progress.step == config.steps:
                progress.log.append(asdict(done))
            on_step(done)
            if interrupted() or time.monotonic() - last_kept > checkpoint_every_s or progress.step == config.steps:
                keep()
                last_kept = time.monotonic()
            if interrupted():
                raise KeyboardInterrupt
    _check_finite(config, progress, checkpoint)
    trained = progress.model.encoder
    if config.method == "low-rank":
        merge_adapters(trained)
    trained.eval().requires_grad_(True)
    return TrainedExits(trained, dict(heads_of(progress.model, lessons.centre, lessons.spread)), tuple(progress.log))


def trained_places(encoder: StagedEncoder, config: ExitTraining) -> list[int]:
    """Indices of the exits that get heads, ascending.

    Raises:
        EncoderError: An exit is unknown.
        TrainingError: The method needs more exits than these.
    """
    if config.method in ONE_EXIT:
        return [encoder.exit_index(config.exit) if config.exit else len(encoder.exits) - 1]
    places = sorted({encoder.exit_index(name) for name in config.exits} or range(len(encoder.exits)))
    if config.method == "two-stage" and len(places) < 2:
        raise TrainingError("two-stage needs two exits or more: name more exits, or choose method full")
    return places


def _start(
    encoder: StagedEncoder, lessons: _Lessons, config: ExitTraining, outputs: int, heads: Mapping[str, Head]
) -> tuple[TrainingProgress, tuple[float, ...]]:
    """A copy of the encoder with heads and an optimiser; and the weights of the exits' losses."""
    places = trained_places(encoder, config)
    copied = copy.deepcopy(encoder).requires_grad_(True)
    with seeded(config.seed):
        model = ExitModel(copied, places, config.head, outputs, shared=config.method == "layerskip")
        for place, exit in enumerate(model.exits):
            if exit.name in heads:
                given = heads[exit.name]
                expected = [tuple(p.shape) for p in model.head(place).parameters() if p.ndim == 2]
                if given.positions is not None or [weight.shape for weight, _ in given.layers] != expected:
                    raise TrainingError(
                        f"the head to start from at {exit.name} is not a {config.head} head of {expected}"
                    )
                set_head(model.head(place), given, lessons.centre, lessons.spread)
        macs = [1] * len(places)
        if config.weights == "macs":
            by_exit = {exit.name: model.head(place) for place, exit in enumerate(model.exits)}
            costs = exit_costs(encoder, tuple(lessons.inputs.shape[1:]), by_exit, measure=False)
            macs = [costs[exit.name].macs for exit in model.exits]
        if config.method == "low-rank":
            add_adapters(copied, places[-1], config.rank)
    model.to(next(encoder.parameters()).device)
    peaks = (config.learning_rate, config.head_learning_rate or config.learning_rate)
    parts = ([p for p in copied.parameters() if p.requires_grad], list(model.heads.parameters()))
    groups = [{"params": part, "lr": peak, "peak": peak} for part, peak in zip(parts, peaks, strict=True)]
    optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    return TrainingProgress(model, optimiser), exit_weights(config, macs)


def _train_step(
    config: ExitTraining,
    progress: TrainingProgress,
    lessons: _Lessons,
    plan: StepPlan,
    skippable: Sequence[bool] | None,
) -> ExitStep:
    """Take one optimiser step, unless the loss is not finite."""
    started = time.monotonic()
    step, model = progress.step, progress.model
    x, goal = lessons.batch(config, step, next(model.parameters()).device)
    _set_mode(config, model, plan)
    places = [place for place, weight in enumerate(plan.weights) if weight > 0]
    with seeded((config.seed * 1_000_003 + step + 1) % 2**63):
        skipped = None
        if skippable is not None:
            rates = torch.tensor(dropout_rates(config, len(skippable))) * torch.tensor(skippable)
            skipped = (torch.rand(len(skippable), len(x)) < rates[:, None]).to(x.device)
        outputs = model(x, places, skipped)
    if config.method == "self-distillation":
        losses = distilled_losses(outputs, goal, config.distillation, config.temperature)
    else:
        losses = [task_loss(output, goal) for output in outputs]
    each = torch.stack(losses)
    loss = (each * each.new_tensor([plan.weights[place] for place in places])).sum()
    progress.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
    for group in progress.optimiser.param_groups:
        group["lr"] = group["peak"] * plan.rate
    whole, *by_exit = torch.cat([loss.detach()[None], each.detach()]).tolist()
    if math.isfinite(whole):
        progress.optimiser.step()
    names = [model.exits[place].name for place in places]
    return ExitStep(step + 1, whole, dict(zip(names, by_exit, strict=True)), time.monotonic() - started)


def _set_mode(config: ExitTraining, model: ExitModel, plan: StepPlan) -> None:
    """Training mode, except where statistics, or the whole encoder, must stay as they are."""
    model.train()
    if not plan.encoder_learns:
        model.encoder.eval().requires_grad_(False)
    elif config.normalisation == "stored" or config.method == "low-rank":
        for module in model.encoder.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def _skippable(config: ExitTraining, encoder: StagedEncoder, lessons: _Lessons) -> tuple[bool, ...] | None:
    if config.method != "layerskip":
        return None
    return skippable_stages(encoder, lessons.inputs[:2].to(next(encoder.parameters()).device))


def _lessons(
    inputs: Tensor, targets: Tensor | NDArray[Any], kind: Kind, outputs: int, config: ExitTraining
) -> _Lessons:
    """Check the data and standardise a regression's targets."""
    goal = torch.as_tensor(targets).detach().cpu()
    if not len(inputs) or len(goal) != len(inputs):
        raise DataError(
            f"{len(inputs)} windows and {len(goal)} targets: give one target per window, and one window at least"
        )
    if inputs.is_floating_point() and not inputs.isfinite().all():
        bad = int((~inputs.isfinite().flatten(1).all(1)).nonzero()[0])
        raise DataError(f"window {bad} holds NaN or infinity: remove it or correct the data")
    if kind == "classification":
        if goal.ndim != 1 or goal.is_floating_point() or goal.is_complex() or goal.dtype == torch.bool:
            raise DataError(f"targets {tuple(goal.shape)} of {goal.dtype}: classification takes integers (N,)")
        if int(goal.min()) < 0 or int(goal.max()) >= outputs:
            raise DataError(
                f"targets hold {int(goal.min())} to {int(goal.max())}: {outputs} classes are 0 to {outputs - 1}"
            )
        goal = goal.long()
        weights = class_weights(goal, outputs) if config.balanced else None
        return _Lessons(inputs, goal, weights, np.zeros(outputs), np.ones(outputs))
    if goal.ndim != 2 or goal.shape[1] != outputs:
        raise DataError(f"targets {tuple(goal.shape)}: a regression of {outputs} dimensions takes (N, {outputs})")
    if config.balanced:
        raise TrainingError("balanced is for classes: leave it out of a regression")
    values = goal.double().numpy()
    if not np.isfinite(values).all():
        raise DataError(
            f"target {int(np.argmin(np.isfinite(values).all(1)))} is NaN or infinite: remove it or correct the data"
        )
    centre, spread = values.mean(0), values.std(0)
    spread = np.where(spread > 1e-12 * np.maximum(np.abs(centre), 1), spread, 1.0)
    return _Lessons(inputs, torch.from_numpy((values - centre) / spread).float(), None, centre, spread)


def _check_finite(config: ExitTraining, progress: TrainingProgress, checkpoint: Path | None) -> None:
    if not all(tensor.isfinite().all() for tensor in progress.model.state_dict().values()):
        raise _diverged(config, progress.step, checkpoint)


def _diverged(config: ExitTraining, step: int, checkpoint: Path | None) -> TrainingError:
    kept = f": {checkpoint} keeps the last good state" if checkpoint is not None and checkpoint.exists() else ""
    peak = max(config.learning_rate, config.head_learning_rate or 0)
    return TrainingError(f"the loss diverged at step {step}{kept}; try a learning rate below {peak:g}")
