"""The section ``policies:`` of a suite."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from offramp.schema.metrics import Kind
from offramp.schema.tasks import Spec, TaskSpec

CRITERION_KINDS: dict[str, tuple[Kind, ...]] = {
    "confidence": ("classification",),
    "entropy": ("classification",),
    "margin": ("classification",),
    "patience": ("classification",),
    "bin_accuracy": ("classification",),
    "agreement": ("regression",),
    "learned_halting": ("classification", "regression"),
    "benefit": ("classification", "regression"),
}
"""The kinds of task that each criterion is for; what they compute is in :mod:`offramp.policies.criteria`."""
Guarantee = Literal["learn_then_test", "conformal_risk_control", "upper_confidence_bound"]
Risk = Literal["error_above_full", "disagreement", "error"]


class CostSpec(Spec):
    """A cost of one window, all heads that are consulted included: either in MACs or in measured time.

    Attributes:
        macs: Multiply-accumulate operations.
        latency_ms: Milliseconds, in batches of ``batch`` windows on one thread.
    """

    macs: Annotated[float, Field(gt=0)] | None = None
    latency_ms: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one_unit(self) -> CostSpec:
        if (self.macs is None) == (self.latency_ms is None):
            raise ValueError("give either macs or latency_ms")
        return self


class GuaranteeSpec(Spec):
    """A risk that must hold for new groups, with thresholds certified on the calibration groups.

    Attributes:
        risk: ``error_above_full`` (wrong where full depth is right), ``disagreement`` with full depth, or ``error``.
        level: Most risk, in (0, 1).
        delta: Probability that the guarantee fails.
        method: ``learn_then_test``, ``upper_confidence_bound`` or ``conformal_risk_control`` (of the mean, without delta).
        limit: For regression: an answer farther than this from the target is wrong, in the target's unit.
    """

    risk: Risk = "error_above_full"
    level: Annotated[float, Field(gt=0, lt=1)]
    delta: Annotated[float, Field(gt=0, lt=1)] = 0.1
    method: Guarantee = "learn_then_test"
    limit: Annotated[float, Field(gt=0)] | None = None


class PoliciesSpec(Spec):
    """Which per-sample policies are compared with fixed exits, and how.

    Attributes:
        criteria: Names of criteria; all that fit the kind of the task if left out.
        budget: Most mean cost of a window; that of the chosen fixed exit if left out, in MACs and in time.
        service_level: Most cost of any one window: a cascade ends before it would be exceeded.
        reject_error: Windows at the last exit are rejected, the least certain first, until the share of wrong answers on validation is
            at most this.
        guarantee: What a threshold is certified for, on ``split.calibration``.
        noise_db: The behaviour under a shift is shown on test windows with noise added at this SNR, dB; not at all if left out.
        unseen_class: The behaviour is also shown for windows of this class when no head has seen it.
        batch: Windows per batch where policies are executed and timed.
    """

    criteria: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    budget: CostSpec | None = None
    service_level: CostSpec | None = None
    reject_error: Annotated[float, Field(gt=0, lt=1)] | None = None
    guarantee: GuaranteeSpec | None = None
    noise_db: Annotated[float, Field(allow_inf_nan=False)] | None = None
    unseen_class: str | None = None
    batch: Annotated[int, Field(ge=1, le=4096)] = 64

    @field_validator("criteria")
    @classmethod
    def _known(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in value or ():
            if name not in CRITERION_KINDS:
                raise ValueError(f"unknown criterion {name!r}: choose from {', '.join(CRITERION_KINDS)}")
        return value

    @model_validator(mode="after")
    def _given_once(self) -> PoliciesSpec:
        if self.criteria is not None and len(set(self.criteria)) < len(self.criteria):
            raise ValueError("a criterion is given twice")
        return self

    def criteria_for(self, kind: Kind) -> tuple[str, ...]:
        """Those of the criteria that are for a kind of task."""
        names = self.criteria or tuple(CRITERION_KINDS)
        return tuple(name for name in names if kind in CRITERION_KINDS[name])

    def applies_to(self, task: TaskSpec) -> bool:
        """Whether a task has one answer per window, and criteria for its kind."""
        return task.head.pooling != "tokens" and bool(self.criteria_for(task.kind))
