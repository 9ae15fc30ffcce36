"""When a slice of the traffic moves to shallower exits, and back."""

from __future__ import annotations

from offramp.runtime.engine.levels import ServiceLevel

HIGH, LOW = 0.5, 0.1
"""Shares of a level's budget: more work than the first is too much, less than the second is little."""
SETTLE = 0.25
"""Share of the budget between two steps down: what the last step brought must show first."""
CALM_S = 1.0
"""Seconds between two steps back: load that comes in bursts does not make answers flicker."""


class LoadControl:
    """Counts by how many exits a slice is moved towards the input; with hysteresis."""

    def __init__(self, level: ServiceLevel) -> None:
        """Start where nothing is moved."""
        moves = level.under_load == "shallower" and level.budget_ms is not None
        self._budget = (level.budget_ms or 0.0) / 1e3 if moves else None
        self._changed = float("-inf")
        self.steps = 0

    def observe(self, backlog: float, now: float, most: int) -> None:
        """Take note of the seconds of work that wait; ``most`` steps at most."""
        if self._budget is None:
            return
        since = now - self._changed
        if backlog > HIGH * self._budget and since >= SETTLE * self._budget and self.steps < most:
            self.steps, self._changed = self.steps + 1, now
        elif backlog < LOW * self._budget and since >= CALM_S and self.steps:
            self.steps, self._changed = self.steps - 1, now
