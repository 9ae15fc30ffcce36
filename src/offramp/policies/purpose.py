"""What a policy's thresholds were chosen for, kept with the policy: what it takes to choose them again, and to keep or take back what was promised."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np

from offramp.schema.policies import Guarantee, Risk


@dataclass(frozen=True)
class Aim:
    """Thresholds that give the best score within a budget.

    Attributes:
        budget: Most mean cost of a window.
        unit: Of costs: ``MACs``, ``ms``, or ``exits`` where only their number is known.
        leaving: Cost of leaving at each exit consulted, in order.
        reject_error: For a policy that rejects: the largest share of wrong answers among those that it gives; None if it was not asked for.
    """

    budget: float
    unit: str
    leaving: tuple[float, ...]
    reject_error: float | None = None

    def __post_init__(self) -> None:
        costs = (self.budget, *self.leaving)
        if (
            not self.leaving
            or not all(0 <= cost < math.inf for cost in costs)
            or list(self.leaving) != sorted(self.leaving)
        ):
            raise ValueError("aim: budget and costs are numbers from 0 on, and deeper exits cost no less")
        if self.reject_error is not None and not 0 < self.reject_error < 1:
            raise ValueError(f"aim: reject_error {self.reject_error!r} is not between 0 and 1")

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Aim:
        """From what ``asdict`` gave. Raises KeyError, TypeError or ValueError where it is damaged."""
        error = stored.get("reject_error")
        leaving = tuple(map(float, stored["leaving"]))
        return cls(float(stored["budget"]), str(stored["unit"]), leaving, None if error is None else float(error))


@dataclass(frozen=True)
class StoredGuarantee:
    """What was certified for a policy, and what it takes to certify it anew.

    Attributes:
        risk: One of :data:`~offramp.policies.guarantees.RISKS`.
        level: Most risk.
        delta: Probability that the guarantee fails; None for one on the mean risk.
        method: One of :data:`~offramp.policies.guarantees.GUARANTEES`.
        limit: For regression: how far off an answer is wrong, in the target's unit.
        thresholds: That were tested, from the safest on, fixed without the calibration groups. The policy has one of them at all exits.
        groups: Number of calibration groups.
        mean_loss: Of these at the policy's threshold.
        bound: What was held against the level there.
    """

    risk: Risk
    level: float
    delta: float | None
    method: Guarantee
    limit: float | None
    thresholds: tuple[float, ...]
    groups: int
    mean_loss: float
    bound: float

    def __post_init__(self) -> None:
        if self.risk not in get_args(Risk) or self.method not in get_args(Guarantee):
            raise ValueError(f"guarantee: {self.risk!r} by {self.method!r} is unknown")
        if not 0 < self.level < 1 or (self.delta is not None and not 0 < self.delta < 1):
            raise ValueError("guarantee: level and delta are between 0 and 1")
        if (self.delta is None) != (self.method == "conformal_risk_control"):
            raise ValueError(f"guarantee: {self.method} {'needs a' if self.delta is None else 'has no'} delta")
        if self.limit is not None and not 0 < self.limit < math.inf:
            raise ValueError(f"guarantee: limit {self.limit!r} is no distance above 0")
        if not self.thresholds or any(math.isnan(threshold) for threshold in self.thresholds):
            raise ValueError("guarantee: it takes the thresholds that were tested")

    @property
    def failing(self) -> str:
        """How sure it is, in words."""
        return "in the mean over draws of recordings" if self.delta is None else f"with probability {1 - self.delta:g}"

    def to_dict(self) -> dict[str, Any]:
        """JSON types only; infinite thresholds as strings."""
        return asdict(self) | {"thresholds": json_numbers(self.thresholds)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> StoredGuarantee:
        """From what :meth:`to_dict` gave. Raises KeyError, TypeError or ValueError where it is damaged."""
        delta, limit = stored["delta"], stored["limit"]
        return cls(
            risk=stored["risk"],
            level=float(stored["level"]),
            delta=None if delta is None else float(delta),
            method=stored["method"],
            limit=None if limit is None else float(limit),
            thresholds=tuple(map(float, stored["thresholds"])),
            groups=int(stored["groups"]),
            mean_loss=float(stored["mean_loss"]),
            bound=float(stored["bound"]),
        )


def json_numbers(values: Sequence[float]) -> list[float | str]:
    """Numbers as JSON holds them: those that are not finite as text, which ``float`` reads."""
    return [value if np.isfinite(value) else str(value) for value in values]
