"""The commands that make new encoders, by pretraining and by training for exits: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pretrain(
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted one is resumed.", file_okay=False)],
    encoder: Annotated[str, typer.Option(help="Registered architecture with I/Q input.")] = "iq-resnet",
    modality: Annotated[
        str, typer.Option(help="iq; or vision, for spectrograms into an encoder that takes both.")
    ] = "iq",
    objective: Annotated[str, typer.Option(help="contrastive, masked, supervised or mixed.")] = "contrastive",
    labels: Annotated[
        str,
        typer.Option(
            help="supervised, mixed: all that is drawn; general, not the transmitter; non-task, not the ID tasks."
        ),
    ] = "general",
    views: Annotated[
        str,
        typer.Option(help="Of a pair: same receiver and direction; all but the sender redrawn; crop of one window."),
    ] = "same",
    projection_depth: Annotated[
        int, typer.Option(min=0, max=3, help="Layers of the contrastive head that is discarded in the end.")
    ] = 2,
    exit_aware: Annotated[
        bool, typer.Option("--exit-aware", help="Ask the objective of every exit, not of full depth alone.")
    ] = False,
    data: Annotated[str, typer.Option(help="A file of channels over time, for channel-transformer.")] = "",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 4500,
    batch: Annotated[int, typer.Option(min=2, help="Pairs of views, or channels, per step, over all processes.")] = 256,
    learning_rate: Annotated[float, typer.Option(min=1e-8, help="Peak learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and data.")] = 0,
    device: Annotated[str, typer.Option(help="Where the encoder runs, e.g. cpu or cuda.")] = "cpu",
) -> None:
    """Pretrain an encoder on simulated signals, or on channels from a file.

    Leaves an encoder folder in OUT/encoder, others from on the way in OUT/snapshots, and in OUT/probe.svg how well every exit
    did on the way. Under torchrun all processes share the work.

    Example: offramp pretrain --out runs/pretrain --encoder iq-resnet-small --objective mixed --steps 6000
    """
    from offramp.cli.progress import Steps
    from offramp.training.config import PretrainingConfig
    from offramp.training.pretrain import PretrainingProgress
    from offramp.training.pretrain import pretrain as start
    from offramp.training.processes import leads

    config = PretrainingConfig(
        encoder=encoder,
        modality=modality,
        objective=objective,
        labels=labels,
        views=views,
        data=data,
        projection_depth=projection_depth,
        exit_aware=exit_aware,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
    )
    seen, seconds = 0, 0.0
    with Steps() as shown:

        def on_step(progress: PretrainingProgress) -> None:
            nonlocal seen, seconds
            shown("pretraining", progress.step, steps)
            seen, seconds = seen + progress.views, seconds + progress.seconds
            if progress.step % 100 == 0:
                matched = "" if progress.matched is None else f", matched {progress.matched:.1%}"
                shown.note(f"step {progress.step}: loss {progress.loss:.3f}{matched}, {seen / seconds:,.0f} views/s")
                seen, seconds = 0, 0.0

        folder = start(config, out, device, on_step)
    if leads():
        print(folder)


def train(
    suite: Annotated[Path, typer.Argument(help="Suite file; its encoder is what training starts from.")],
    task: Annotated[str, typer.Option(help="Task whose training windows are learned.")],
    out: Annotated[Path, typer.Option(help="Folder of the training; an interrupted one is resumed.", file_okay=False)],
    method: Annotated[
        str,
        typer.Option(
            help="joint, progressive, alternating, two-stage, self-distillation, layerskip; or up to one exit: low-rank, full."
        ),
    ] = "joint",
    weights: Annotated[
        str, typer.Option(help="Of the exits' losses: uniform, linear, square-root, inverse or macs.")
    ] = "uniform",
    order: Annotated[str, typer.Option(help="progressive: shallow-to-deep or deep-to-shallow.")] = "shallow-to-deep",
    exit: Annotated[str | None, typer.Option(help="low-rank, full: up to which exit; the last if left out.")] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 300,
    batch: Annotated[int, typer.Option(help="Windows per step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    temperature: Annotated[float, typer.Option(help="self-distillation: of the last exit's answers.")] = 3.0,
    rank: Annotated[int, typer.Option(help="low-rank: of the adapters.")] = 8,
    normalisation: Annotated[
        str,
        typer.Option(help="BatchNorm: batch, or stored to keep the averages of the encoder (better with few labels)."),
    ] = "batch",
    seed: Annotated[int, typer.Option(help="Seed of heads and minibatches.")] = 0,
    device: Annotated[str, typer.Option(help="Where it trains, e.g. cpu or cuda.")] = "cpu",
) -> None:
    """Train an encoder for its exits on one task; the suite's encoder stays as it is.

    Leaves a new encoder folder in OUT/encoder, which a suite can name as its encoder. It learns the training windows of the
    suite's first seed, never a test window.

    Example: offramp train suite.yaml --task los --method joint --out runs/joint
    """
    from offramp.cli.progress import Steps
    from offramp.schema.suite import load_suite
    from offramp.training.exits.config import ExitTraining
    from offramp.training.exits.on_task import train_on_task
    from offramp.training.exits.trainer import ExitStep

    config = ExitTraining(
        method=method,  # type: ignore[arg-type]
        weights=weights,  # type: ignore[arg-type]
        order=order,  # type: ignore[arg-type]
        exit=exit,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        temperature=temperature,
        rank=rank,
        normalisation=normalisation,  # type: ignore[arg-type]
        seed=seed,
    )
    with Steps() as shown:

        def on_step(done: ExitStep) -> None:
            shown("training", done.step, steps)
            if done.step % 100 == 0:
                shown.note(f"step {done.step}: loss {done.loss:.3f}")

        trained = train_on_task(load_suite(suite), task, config, out, device, on_step)
    width = max(map(len, trained.validation))
    for name, score in trained.validation.items():
        print(f"{name:{width}}  validation {trained.metric} {score:.4g}")
    print(trained.folder)
