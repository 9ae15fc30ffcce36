"""What runs a bundle's encoder: torch, or ONNX Runtime on exported segments."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import BundleTask
from offramp.runtime.execution import RunHead, Segments


@dataclass(frozen=True, eq=False)
class SharedPass:
    """One pass for several tasks.

    Attributes:
        segments: The encoder.
        seen: By task, in the order asked, what names its view of the state.
    """

    segments: Segments
    seen: tuple[Hashable, ...]


class Backend(Protocol):
    """Runs the encoder of a bundle for any set of its tasks that have transform and BatchNorm statistics in common."""

    name: str
    version: str
    """Of what computes."""
    folder: Path | None
    """Where measured times may lie, see :mod:`offramp.runtime.engine.tables`."""
    threads: int
    """That compute."""

    def together(self, tasks: Sequence[str]) -> SharedPass:
        """The pass that some tasks share, by their names."""

    def head(self, task: BundleTask, exit: str) -> RunHead:
        """A head of a task, from its tap to logits or values."""

    def inputs(self, windows: NDArray[np.float32]) -> Any:
        """Transformed windows as the pass takes them."""
