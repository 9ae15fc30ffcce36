"""A pretraining run on disk: its checkpoint, its logs, its snapshots."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from offramp.encoders.storage import read_pickle, save_encoder
from offramp.errors import EncoderError, TrainingError
from offramp.files import atomic_path, write_text
from offramp.training.config import PretrainingConfig
from offramp.training.objective import PretrainingModel
from offramp.training.sources import Source

CHECKPOINT, LOG, PROBE = "checkpoint.pt", "log.jsonl", "probe.jsonl"


@dataclass
class TrainingState:
    """All that changes while a run goes on.

    Attributes:
        model: Encoder and the module on top of it.
        optimiser: Over the model's parameters.
        step: Steps done.
        log: Lines of ``log.jsonl``.
        probe: Lines of ``probe.jsonl``.
    """

    model: PretrainingModel
    optimiser: torch.optim.Optimizer
    step: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    probe: list[dict[str, Any]] = field(default_factory=list)


def save_checkpoint(config: PretrainingConfig, out: Path, state: TrainingState) -> None:
    """Write ``out/checkpoint.pt``, and the logs up to its step.

    Raises:
        TrainingError: A weight or statistic is not finite; the older checkpoint stays.
    """
    _check_finite(config, out, state)
    stored = {
        "config": asdict(config),
        "step": state.step,
        "model": state.model.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "log": state.log,
        "probe": state.probe,
    }
    with atomic_path(out / CHECKPOINT) as temporary:
        torch.save(stored, temporary)
    for name, lines in ((LOG, state.log), (PROBE, state.probe)):
        write_text(out / name, "".join(json.dumps(line) + os.linesep for line in lines))


def read_checkpoint(config: PretrainingConfig, out: Path) -> dict[str, Any] | None:
    """The checkpoint in ``out``, None if there is none yet.

    Raises:
        TrainingError: It is damaged, or of another configuration: the line names the settings that differ.
    """
    path = out / CHECKPOINT
    if not path.exists():
        return None
    try:
        stored = dict(read_pickle(path))
        kept = dict(stored["config"])
        stored |= {"step": int(stored["step"]), "log": list(stored["log"]), "probe": list(stored.get("probe", ()))}
    except (EncoderError, KeyError, TypeError, ValueError) as error:
        raise _cannot_resume(path, str(error)) from None
    kept = {f.name: f.default for f in fields(config)} | kept  # an older version's run lacks newer settings
    differing = [f.name for f in fields(config) if kept[f.name] != getattr(config, f.name)]
    if differing:
        changes = ", ".join(f"{name} {kept[name]!r} -> {getattr(config, name)!r}" for name in differing)
        raise TrainingError(f"{out} holds a run with other settings ({changes}): choose another --out")
    return stored


def refuse_foreign(out: Path) -> None:
    """Refuse a folder with an encoder that no training left there: it would be written over.

    Raises:
        TrainingError: There is an encoder and no checkpoint.
    """
    if (out / "encoder").exists() and not (out / CHECKPOINT).exists():
        raise TrainingError(f"{out / 'encoder'} is there without a {CHECKPOINT} beside it: choose another --out")


def restore(stored: dict[str, Any] | None, out: Path, state: TrainingState) -> None:
    """Put what :func:`read_checkpoint` found into a fresh state.

    Raises:
        TrainingError: Its weights do not fit.
    """
    if stored is None:
        return
    try:
        state.model.load_state_dict(stored["model"])
        state.optimiser.load_state_dict(stored["optimiser"])
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError):
        raise _cannot_resume(out / CHECKPOINT, "its weights do not fit the encoder") from None
    state.step, state.log, state.probe = stored["step"], stored["log"], stored["probe"]


def take_snapshot(config: PretrainingConfig, out: Path, state: TrainingState, source: Source) -> None:
    """Keep the encoder as it is now in ``out/snapshots/step-000000``, and add its probe to the state.

    Raises:
        TrainingError: A weight or statistic is not finite.
    """
    _check_finite(config, out, state)
    scores = source.probe(state.model.encoder)
    state.probe.append({"step": state.step, "scores": scores})
    save_pretrained(config, out / "snapshots" / f"step-{state.step:06d}", state, source)


def save_pretrained(config: PretrainingConfig, folder: Path, state: TrainingState, source: Source) -> None:
    """Write the encoder as an encoder folder that says where it comes from."""
    provenance = {
        "pretraining": asdict(config),
        "objective": config.objective,
        "projection_depth": config.projection_depth,
        "labels": list(config.label_names),
        "step": state.step,
        **source.describe(),
    }
    save_encoder(state.model.encoder, folder, provenance)


def diverged(config: PretrainingConfig, out: Path, step: int) -> TrainingError:
    """The loss, or a weight, is no longer finite."""
    path = out / CHECKPOINT
    kept = f": {path} keeps the last good state" if path.exists() else ""
    advice = f"try a --learning-rate below {config.learning_rate:g} in a new --out"
    return TrainingError(f"the loss diverged at step {step}{kept}; {advice}")


@contextmanager
def interrupts_held() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C wait until the caller asks whether there was one, so that no step is cut in two; a second one does not wait."""
    held = False
    if threading.current_thread() is not threading.main_thread():  # where Python delivers no signals
        yield lambda: held
        return
    before = signal.getsignal(signal.SIGINT)

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal held
        held = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: held
    finally:
        signal.signal(signal.SIGINT, before)


def _check_finite(config: PretrainingConfig, out: Path, state: TrainingState) -> None:
    if not all(tensor.isfinite().all() for tensor in state.model.state_dict().values()):
        raise diverged(config, out, state.step)


def _cannot_resume(path: Path, reason: str) -> TrainingError:
    return TrainingError(f"{path} cannot be resumed ({reason}): remove it or choose another --out")
