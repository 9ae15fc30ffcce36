"""Training for exits on one task of a suite: its training windows in, an encoder folder that a suite can name out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from offramp.bundle import Head
from offramp.encoders.base import StagedEncoder
from offramp.errors import EncoderError, SuiteError
from offramp.experiment.features import batch_size, encoder_inputs
from offramp.experiment.prepare import Prepared, inputs_of, load, prepare
from offramp.files import run_folder, write_text
from offramp.schema.suite import LoadedSuite
from offramp.schema.tasks import TaskSpec
from offramp.training.checkpoint import CHECKPOINT, LOG, refuse_foreign
from offramp.training.exits.config import ExitTraining
from offramp.training.exits.trainer import ExitStep, train_exits


@dataclass(frozen=True)
class TaskTraining:
    """What a training on a task leaves.

    Attributes:
        folder: The encoder folder.
        metric: Of the task.
        validation: Score of every trained exit on the validation windows, with the heads that were trained.
    """

    folder: Path
    metric: str
    validation: dict[str, float]


def train_on_task(
    loaded: LoadedSuite,
    task: str,
    config: ExitTraining,
    out: Path,
    device: str = "cpu",
    on_step: Callable[[ExitStep], None] = lambda _: None,
) -> TaskTraining:
    """Train the suite's encoder for its exits on the first seed's training windows, and leave an encoder folder.

    Test windows are never read; validation windows are scored once, in the end. The kind of head is the task's; where its metric
    is balanced accuracy, every class has the same weight in the loss. In ``out``: ``encoder``, ``log.jsonl``, and
    ``checkpoint.pt``, which the same call goes on from after a kill.

    Args:
        loaded: From :func:`offramp.schema.suite.load_suite`.
        task: Name of the task.
        config: All that determines the training.
        out: Folder.
        device: Where it trains.
        on_step: Called after every step.

    Raises:
        OfframpError: Anything the user can correct; see the message.
    """
    found = [spec for spec in loaded.tasks if spec.name == task]
    if not found:
        raise SuiteError(f"unknown task {task!r}: the suite has {', '.join(spec.name for spec in loaded.tasks)}")
    if found[0].head.pooling != "default":
        raise SuiteError(f"task {task}: training for exits takes head.pooling: default, not {found[0].head.pooling}")
    with run_folder(out, (CHECKPOINT, LOG, "encoder"), inputs_of(loaded)):
        refuse_foreign(out)
        return _train(loaded, found[0], config, out, device, on_step)


def _train(
    loaded: LoadedSuite,
    task: TaskSpec,
    config: ExitTraining,
    out: Path,
    device: str,
    on_step: Callable[[ExitStep], None],
) -> TaskTraining:
    """As :func:`train_on_task`, in a folder that no other run writes to."""
    encoder = load(loaded, device)
    if not encoder.rebuildable:
        raise EncoderError(
            f"{encoder.architecture!r} cannot be saved, so that a trained one would be lost: register it"
        )
    prepared = prepare(task, loaded, encoder)
    problem = prepared.problem
    train, validation = problem.split.draws[0].folds[0]
    config = replace(config, head=task.head.kind, balanced=problem.metric.name == "balanced_accuracy")
    try:
        trained = train_exits(
            encoder,
            torch.from_numpy(_inputs(prepared, train)),
            prepared.dataset.targets[train],
            task.kind,
            problem.outputs,
            config,
            on_step,
            out / CHECKPOINT,
        )
    except EncoderError as error:
        raise EncoderError(f"task {task.name}, {prepared.dataset.windows.name}: {error}") from None
    scores = validation_scores(prepared, trained.encoder, trained.heads, validation)
    write_text(out / LOG, "".join(json.dumps(line) + "\n" for line in trained.log))
    provenance = {
        "training": asdict(config),
        "task": task.model_dump(mode="json"),
        "started_from": {"name": loaded.encoder.name, "sha256": encoder.fingerprint()},
        "split_sha256": problem.split.sha256,
        "split_seed": problem.split.draws[0].seed,
        "training_windows": len(train),
        "validation": {"metric": problem.metric.name, **scores},
    }
    trained.encoder.save(out / "encoder", provenance)
    return TaskTraining(out / "encoder", problem.metric.name, scores)


def validation_scores(
    prepared: Prepared, encoder: StagedEncoder, heads: dict[str, Head], indices: NDArray[np.int64]
) -> dict[str, float]:
    """Score of every exit's head on the windows ``indices``."""
    problem = prepared.problem
    outputs: dict[str, list[NDArray[np.float32]]] = {name: [] for name in heads}
    device = next(encoder.parameters()).device
    step = batch_size(prepared.dataset.windows.shape)
    with torch.inference_mode():
        for start in range(0, len(indices), step):
            x = torch.from_numpy(_inputs(prepared, indices[start : start + step])).to(device)
            for name, tap in encoder.taps(x, heads).items():
                outputs[name].append(heads[name](tap.float().cpu().numpy()))
    targets = problem.dataset.targets[indices]
    return {name: problem.metric(np.concatenate(parts), targets) for name, parts in outputs.items()}


def _inputs(prepared: Prepared, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Windows as the encoder sees them."""
    return encoder_inputs(prepared.dataset.windows, prepared.transform, indices)
