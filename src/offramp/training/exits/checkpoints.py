"""The file that a training for exits goes on from after a kill."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offramp.encoders.base import StagedEncoder
from offramp.encoders.storage import read_pickle
from offramp.errors import EncoderError, TrainingError
from offramp.files import atomic_path
from offramp.training.exits.config import ExitTraining
from offramp.training.exits.model import ExitModel


@dataclass
class TrainingProgress:
    """All that changes while a training goes on.

    Attributes:
        model: Encoder and heads.
        optimiser: Over the model's parameters.
        step: Steps done.
        log: A line per 20 steps, and one of the last.
    """

    model: ExitModel
    optimiser: torch.optim.Optimizer
    step: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)


def identity_of(encoder: StagedEncoder, inputs: Tensor, targets: Tensor, outputs: int) -> str:
    """SHA-256 over the encoder that a training starts from and its data."""
    digest = hashlib.sha256(f"{encoder.fingerprint()} {outputs}".encode())
    for tensor in (inputs, targets):
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def save_progress(config: ExitTraining, identity: str, path: Path, progress: TrainingProgress) -> None:
    """Write the checkpoint."""
    stored = {
        "config": asdict(config),
        "identity": identity,
        "step": progress.step,
        "model": progress.model.state_dict(),
        "optimiser": progress.optimiser.state_dict(),
        "log": progress.log,
    }
    with atomic_path(path) as temporary:
        torch.save(stored, temporary)


def restore_progress(config: ExitTraining, identity: str, path: Path, progress: TrainingProgress) -> None:
    """Go on from a checkpoint, if there is one.

    Raises:
        TrainingError: It is damaged, of other settings (the line names them), or of another encoder or other data.
    """
    if not path.exists():
        return
    try:
        stored = dict(read_pickle(path))
        kept, step, log = dict(stored["config"]), int(stored["step"]), list(stored["log"])
        same = stored["identity"] == identity
    except (EncoderError, LookupError, TypeError, ValueError) as error:
        raise _cannot_resume(path, str(error)) from None
    asked = asdict(config)
    differing = [name for name in asked if kept.get(name) != asked[name]]
    if differing:
        changes = ", ".join(f"{name} {kept.get(name)!r} -> {asked[name]!r}" for name in differing)
        raise TrainingError(f"{path} is of a training with other settings ({changes}): choose another place")
    if not same:
        raise TrainingError(f"{path} is of a training of another encoder or on other data: choose another place")
    try:
        progress.model.load_state_dict(stored["model"])
        progress.optimiser.load_state_dict(stored["optimiser"])
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError):
        raise _cannot_resume(path, "its weights do not fit the encoder") from None
    progress.step, progress.log = step, log


def _cannot_resume(path: Path, reason: str) -> TrainingError:
    return TrainingError(f"{path} cannot be resumed ({reason}): remove it or choose another place")
