"""What a run leaves behind besides its scores: descriptions of encoder, machine and latency, and the bundle."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from offramp.bundle import Bundle, BundleTask, TaskReference, save_bundle, save_examples, save_reference
from offramp.encoders.base import StagedEncoder
from offramp.encoders.storage import save_encoder
from offramp.errors import OfframpError
from offramp.report.card import model_card
from offramp.schema.results import EncoderInfo, ExitInfo, Results
from offramp.schema.suite import EncoderSpec


def describe_encoder(encoder: StagedEncoder, spec: EncoderSpec) -> EncoderInfo:
    """The encoder in the form of results.json."""
    exits = [ExitInfo(name=e.name, index=e.index, width=e.width, params=e.params) for e in encoder.exits]
    return EncoderInfo(name=Path(spec.name).name, params=exits[-1].params, sha256=encoder.fingerprint(), exits=exits)


def describe_environment(device: str, started: float) -> dict[str, Any]:
    """Machine, versions and time; the part of the results that is not reproduced."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        "started": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(started)) + " UTC",
        "seconds": round(time.time() - started, 1),
    }


def encoder_reference(spec: EncoderSpec) -> str:
    """Where an encoder's own files are: its checkpoint or its folder.

    Raises:
        OfframpError: It is one that ships with the package, which a bundle has to copy.
    """
    path = spec.checkpoint or Path(spec.name)
    if not (path.is_absolute() and path.exists()):
        raise OfframpError(f"--by-reference: encoder {spec.name!r} has no files of its own; leave the option out")
    return str(path.resolve())


def write_bundle(
    folder: Path,
    encoder: StagedEncoder,
    tasks: Sequence[BundleTask],
    statistics: Mapping[str, dict[str, NDArray[np.float32]]],
    examples: Mapping[str, NDArray[np.float32]],
    references: Mapping[str, TaskReference],
    results: Results,
    reference: str | None,
) -> None:
    """Write the bundle: heads of all exits, BatchNorm statistics, some raw windows of each task and what held-out ones look like, the encoder or a reference to it."""
    if reference is None:
        save_encoder(encoder, folder / "encoder", {"name": results.encoder.name})
    described = {
        "architecture": encoder.architecture,
        "config": encoder.config,
        "sha256": results.encoder.sha256,
        "exits": [exit.model_dump() for exit in results.encoder.exits],
    }
    save_examples(examples, folder)
    save_reference(references, folder)
    bundle = Bundle(described, {task.name: task for task in tasks}, reference, dict(statistics))
    save_bundle(bundle, folder, model_card(results))
