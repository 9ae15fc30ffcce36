"""A task that is to be exported, and the bundle's answers that an export has to give before it is put in place."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle, BundleTask, load_bundle, load_examples
from offramp.encoders.view import TaskView
from offramp.errors import DataError, OfframpError
from offramp.export.folding import fold_batchnorm
from offramp.export.modules import DeployedTask
from offramp.files import Kind
from offramp.runtime.predictor import Predictor
from offramp.runtime.torch_backend import TorchBackend, load_bundle_encoder
from offramp.runtime.views import TaskViews

GRAPH = Kind("a graph that Offramp exported", mark=b"offramp.version")
TOLERANCE = 1e-4
"""Largest difference between a float32 export and the bundle."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ExportSource:
    """One task of a bundle.

    Attributes:
        bundle: It.
        task: The task; ``exit`` is where an export of it ends.
        view: The encoder as the task sees it.
        predictor: The bundle, ready to answer this task.
        raw: Windows to compare on, ``(n, *window_shape)`` of any dtype, at least one.
    """

    bundle: Bundle
    task: BundleTask
    view: TaskView
    predictor: Predictor
    raw: NDArray[np.generic]

    @property
    def windows(self) -> Floats:
        """The windows as an export takes them."""
        return np.asarray(self.raw, np.float32)

    @property
    def output(self) -> str:
        """What an export calls its answers, ``probabilities`` or ``values``."""
        return "probabilities" if self.task.kind == "classification" else "values"

    @property
    def properties(self) -> dict[str, str]:
        """Metadata that an export carries."""
        return {
            "offramp.version": importlib.metadata.version("offramp"),
            "offramp.task": self.task.name,
            "offramp.kind": self.task.kind,
            "offramp.exit": self.task.exit,
            "offramp.labels": json.dumps(self.task.label_names),
            "offramp.encoder": self.bundle.encoder["architecture"],
            "offramp.encoder_sha256": self.bundle.encoder["sha256"],
        }

    def network(self) -> DeployedTask:
        """The task up to its exit as one module."""
        return DeployedTask(fold_batchnorm(self.view.truncate(self.task.exit)), self.task, self.task.exit)

    def expected(self) -> Floats:
        """What the bundle answers at the exit, ``(n, outputs)``; raises :class:`DataError` if an answer is not finite."""
        return self.predictor.predict(self.raw, [self.task.name])[self.task.name].outputs

    def check(self, difference: float, window: int) -> None:
        """Raise :class:`OfframpError` if the largest difference from the bundle, which is at a window, is too large or NaN."""
        if not difference <= TOLERANCE:
            raise OfframpError(
                f"the exported graph of task {self.task.name!r} differs from the bundle by {difference:.2g} at window {window}, more "
                f"than {TOLERANCE:g}: nothing was written"
            )


def read_source(folder: Path, task: str | None, exit: str | None, windows: NDArray[np.float32] | None) -> ExportSource:
    """Read a bundle for an export.

    Args:
        folder: The bundle.
        task: Name of the task; None where the bundle has one.
        exit: Where to end instead of the task's chosen exit.
        windows: Raw windows to compare on instead of those in the bundle, in any form that
            :meth:`offramp.runtime.Predictor.predict` takes.

    Raises:
        BundleError: The bundle cannot be used, or has no such task or exit.
        DataError: There are no windows to compare on.
    """
    bundle = load_bundle(folder)
    chosen = bundle.choose(task)
    name = chosen.name
    encoder = load_bundle_encoder(bundle, folder)
    view = TaskViews(bundle, encoder).of(chosen)
    if exit is not None:
        view.exit_index(exit)
        chosen = replace(chosen, exit=exit)
    if windows is None:
        windows = load_examples(folder).get(name)
    if windows is None or not len(windows):
        raise DataError(f"the bundle holds no example windows of task {name!r}: give some to compare the graph on")
    alone = replace(bundle, tasks={name: chosen})
    predictor = Predictor(alone, TorchBackend(alone, encoder))
    return ExportSource(bundle, chosen, view, predictor, predictor.raw_windows(windows))


def largest_difference(
    answer: Callable[[Floats], Floats], windows: Floats, expected: Floats, kind: str
) -> tuple[float, int]:
    """Largest difference of answers to batches of 1, 3 and all windows, and the window where it is; NaN where one is not finite.

    Args:
        answer: From windows to answers.
        windows: ``(n, *window_shape)``.
        expected: ``(n, outputs)``.
        kind: For ``regression`` differences are relative to the largest value.
    """
    scale = scale_of(expected, kind)
    found = np.zeros(len(windows))
    for size in {1, min(3, len(windows)), len(windows)}:
        answers = answer(windows[:size])
        found[:size] = np.maximum(found[:size], np.abs(answers - expected[:size]).max(1) / scale)  # NaN stays
    worst = int(np.argmax(found))
    return float(found[worst]), worst


def scale_of(expected: Floats, kind: str) -> float:
    """What differences are divided by: 1 for probabilities, the largest value for values."""
    return 1.0 if kind == "classification" else max(float(np.abs(expected).max()), 1e-30)
