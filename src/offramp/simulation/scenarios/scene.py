"""What every scenario returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from offramp.schema.tasks import SyntheticSpec


@dataclass(frozen=True)
class Scene:
    """One block of simulated windows.

    Attributes:
        iq: float32 ``(N, 2, antennas, samples)``; channels are ``(N, 2, slots, antennas, subcarriers)``.
        columns: What is known of every window, each of length N.
    """

    iq: Tensor
    columns: dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Scenario:
    """How a scenario's windows are made and what they carry.

    Attributes:
        make: ``(spec, count, block)`` to the windows of that block.
        target: The column a task predicts if it names none.
        label_names: Names of the classes 0, 1, ... of its integer columns.
        group: Column whose values must not cross from one split to another; None where windows are independent.
    """

    make: Callable[[SyntheticSpec, int, int], Scene]
    target: str
    label_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    group: str | None = None
