"""What the parts of results.json share: scores, paired gains, latencies."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

UnitKind = Literal["group", "block", "window"]
"""What the bootstrap resamples."""


class Part(BaseModel):
    """Base of all parts of a result."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)


class Score(Part):
    """A score over seeds, in the metric's own unit."""

    mean: float
    std: float = Field(description="Sample standard deviation over seeds; 0 for one seed")
    per_seed: list[float]
    ci95: tuple[float, float] | None = Field(None, description="Bootstrap over groups crossed with seeds (test scores)")


class Gain(Part):
    """A paired difference, positive when the first is better, whatever the metric's direction."""

    mean: float
    ci95: tuple[float, float]
    unit: UnitKind = Field(
        description="What was resampled: blocks of neighbouring windows, or windows, where there are fewer than eight groups"
    )
    significant: bool = Field(
        False, description="Above zero after Holm's correction across tasks, and resampled by group"
    )
    p_value: float | None = Field(None, description="One-sided bootstrap p-value of no gain")
    equivalent_within: float | None = Field(
        None,
        description="Two one-sided tests at 5% call the difference equivalent to zero within this bound: the farther end of the 90% interval",
    )


class Latency(Part):
    """Milliseconds for one batch."""

    p50: float
    p95: float
    p99: float
