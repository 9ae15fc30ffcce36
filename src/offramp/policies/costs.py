"""What one window costs in a cascade, in MACs or in time, and which budgets can be met at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from offramp.errors import PolicyError
from offramp.scoring.metrics import Array

if TYPE_CHECKING:
    from offramp.costs import ExitCost  # which imports torch

SAME = 1 + 1e-9
"""A cost may exceed a budget by rounding."""


@dataclass(frozen=True)
class CascadeCosts:
    """Cost of one window.

    Attributes:
        reach: Encoder up to each exit, ``(E,)``.
        consult: Pooling, head and decision at each exit, ``(E,)``.
        unit: ``MACs`` or ``ms``.
    """

    reach: tuple[float, ...]
    consult: tuple[float, ...]
    unit: str

    @classmethod
    def of_exits(cls, costs: Iterable[ExitCost]) -> CascadeCosts:
        """MACs, from what it takes to reach each exit and its head."""
        listed = list(costs)
        return cls(
            tuple(float(cost.reach_macs) for cost in listed), tuple(float(cost.head_macs) for cost in listed), "MACs"
        )

    def leaving(self, consulted: Sequence[int]) -> Array:
        """Cost of leaving at each of the consulted exits, ``(k,)``, all heads before it included."""
        reach, consult = np.asarray(self.reach)[list(consulted)], np.asarray(self.consult)[list(consulted)]
        cost: Array = reach + np.cumsum(consult)
        return cost

    def fixed(self) -> Array:
        """Cost of each fixed exit, ``(E,)``: one head."""
        cost: Array = np.asarray(self.reach) + np.asarray(self.consult)
        return cost

    def of(self, exits: Sequence[int]) -> CascadeCosts:
        """Costs of some of the exits alone."""
        return CascadeCosts(
            tuple(self.reach[index] for index in exits), tuple(self.consult[index] for index in exits), self.unit
        )

    def check_budget(self, budget: float) -> None:
        """Raise :class:`PolicyError` that says the nearest possible budget where not even the cheapest exit fits."""
        cheapest = float(self.fixed().min())
        if cheapest > budget * SAME:
            raise PolicyError(
                f"policies.budget: no window can leave for {budget:g} {self.unit}; "
                f"the nearest possible is {cheapest:g} {self.unit}"
            )

    def check_service_level(self, worst: float) -> None:
        """Raise :class:`PolicyError` that says the nearest possible service level where not even the cheapest exit keeps it."""
        cheapest = float(self.fixed().min())
        if cheapest > worst * SAME:
            raise PolicyError(
                f"policies.service_level: every exit costs more than {worst:g} {self.unit}; "
                f"the nearest possible is {cheapest:g} {self.unit}"
            )
