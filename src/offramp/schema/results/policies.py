"""The part of results.json that compares policies with fixed exits. All numbers are over all seeds unless said otherwise."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from offramp.schema.results.scores import Gain, Part, Score

Verdict = Literal["fixed", "routing", "neither"]


class PolicyRow(Part):
    """One way to decide where windows leave, at one budget."""

    name: str = Field(description="The criterion; with ' per exit' where every exit has a threshold of its own")
    exits: list[str] = Field(description="Consulted, of the first seed, in order of depth")
    thresholds: list[float | None] = Field(
        [], description="Of the first seed, one less than exits; None lets none leave, the lowest number lets all"
    )
    cost: float = Field(description="Mean per test window, in the budget's unit; every head consulted counts")
    val_cost: float = Field(description="The same on validation, where the budget holds")
    val: Score = Field(description="A little too good: criteria and thresholds were chosen there")
    test: Score
    exit_share: dict[str, float] = Field({}, description="Share of test windows that leave there")
    gain: Gain | None = Field(None, description="Against the fixed exit of the same budget")


class BudgetRow(Part):
    """Fixed exit against policies at one budget, which is what a fixed exit costs."""

    exit: str = Field(description="The fixed exit whose cost is the budget")
    budget: float = Field(description="Mean cost of one window: MACs, or milliseconds in the measured part")
    fixed: PolicyRow = Field(
        description="The fixed exit within the budget that is best on validation; within what the routed row spends on test, if that is more"
    )
    policies: list[PolicyRow] = Field(
        description="Best on validation within the budget, one row per criterion and rule"
    )
    routed: str = Field(description="Name of the row that is best on validation: what a user would deploy")
    random: PolicyRow = Field(description="Windows dealt to exits at random, in the shares of the routed row")
    gain: Gain = Field(description="The routed row against the fixed exit")
    verdict: Verdict = Field(description="Whose interval lies clear of zero, none corrected for the number of budgets")


class ReliabilityRow(Part):
    """How far an exit's confidence can be believed, on test. Before: temperature 1. First for all windows, then for survivors."""

    exit: str
    temperature: float = Field(description="Mean over seeds, fitted on validation")
    survivors_temperature: float | None = Field(
        description="Fitted to the validation windows that reach the exit under the routed policy"
    )
    survivors_share: float = Field(description="Share of test windows that reach the exit")
    ece_before: float = Field(description="Expected calibration error, 15 bins")
    ece_after: float
    failure_auroc_before: float | None = Field(
        description="How well confidence tells right from wrong answers; None if one kind is missing"
    )
    failure_auroc_after: float | None
    survivors_ece_before: float | None
    survivors_ece_after: float | None = Field(description="With the temperature of all windows")
    survivors_ece_own: float | None = Field(description="With the survivors' own temperature")
    survivors_failure_auroc: float | None


class ShiftRow(Part):
    """What a policy does on one population of windows; first seed.

    On an unseen class the heads are fitted without it, and the policy with its temperatures is the one of the other rows.
    """

    policy: str = Field("routed", description="Which of the bundle's policies: certified where there is one")
    name: str = Field(description="validation, test, noise added, a test group, an unseen class")
    windows: int
    score: float | None = Field(description="Of the policy; None where no label is known to the heads")
    full_score: float | None = Field(description="Of full depth")
    cost: float = Field(description="Mean MACs")
    exit_share: dict[str, float]
    premature: float | None = Field(
        description="Share of all windows that left early and wrong where full depth is right"
    )
    overconfidence: float | None = Field(
        description="Mean confidence minus share right, of those that left before the last exit; None if none did"
    )
    confidence: float | None = Field(None, description="Mean confidence of all answers")
    risk: float | None = Field(None, description="The guarantee's risk here, mean over groups")


class Instability(Part):
    """How much a policy changes when validation groups are drawn again; first seed."""

    resamples: int
    threshold_ci95: tuple[float, float] = Field(description="Of the first threshold")
    threshold_spread: float = Field(
        description="Interval's width over the spread of the certainty (its 5% to 95% quantile)"
    )
    score_ci95: tuple[float, float] = Field(description="On test")
    cost_ci95: tuple[float, float] = Field(description="On test, mean MACs")


class Rejection(Part):
    """A policy that rejects windows at its last exit instead of answering them."""

    asked: float = Field(description="Most share of wrong answers among those given")
    validation_error: float = Field(description="Reached on validation, where the limit was chosen")
    test_error: float | None = Field(description="None if all are rejected")
    test_share: float = Field(description="Share of test windows rejected")


class Certified(Part):
    """A threshold with a guarantee; first seed."""

    risk: str
    level: float
    delta: float | None = Field(
        description="Probability that the guarantee fails; None for a guarantee on the mean risk"
    )
    method: str
    criterion: str
    exits: list[str]
    groups: int = Field(description="Calibration groups: used for nothing else")
    windows: int
    thresholds: int = Field(description="Tested, from the safest on")
    threshold: float | None = Field(description="The last one certified; None if none that lets windows leave is")
    calibration_risk: float | None = Field(description="At that threshold, mean over groups")
    test_risk: float | None
    macs_saved_fraction: float | None = Field(description="On test, heads consulted included")
    score: float | None = Field(description="On test")
    full_score: float
    exchangeable: bool = Field(
        description="Whether test groups were drawn as the calibration groups were; else a shift may void it"
    )


class Arrivals(Part):
    """Latency under a bursty trace of arrivals, measured."""

    name: str
    p50_ms: float
    p95_ms: float
    p99_ms: float
    utilisation: float


class PolicyComparison(Part):
    """Policies beside fixed exits for one task, reproduced bit for bit."""

    budgets: list[BudgetRow]
    chosen: int = Field(description="Index of the budget that is the suite's, or that of the chosen fixed exit")
    full_cost: float | None = Field(None, description="MACs of full depth with its head alone: what savings refer to")
    oracle: PolicyRow = Field(description="Each window leaves at the first exit that is right: out of reach")
    by_class: dict[str, dict[str, float]] = Field({}, description="Exit shares of the routed policy by class")
    by_snr: list[dict[str, float]] = Field([], description="Exit shares by bin of SNR; the task's by_snr has the edges")
    reliability: list[ReliabilityRow] = Field([])
    certified: Certified | None = None
    rejecting: Rejection | None = Field(
        None, description="The policy that abstains, where one is asked for; first seed"
    )
    rejection: list[tuple[float, float]] = Field(
        [], description="Share of test windows rejected and score of the others, by threshold"
    )
    shifts: list[ShiftRow] = Field([])
    instability: Instability | None = None
    overthinking: float | None = Field(
        None, description="Share of test windows that an earlier exit answers right and the last one wrong"
    )
    warnings: list[str] = Field([])
    sentence: str = ""


class MeasuredRow(Part):
    """Executed on this machine."""

    name: str
    milliseconds: float = Field(description="Median for one window in a batch")
    macs_saved_fraction: float
    time_saved_fraction: float = Field(description="Against full depth with its head alone")
    score: float | None = Field(None, description="Of the test windows, of what was executed; None if not scored")


class MeasuredPolicies(Part):
    """Policies really executed: survivors are compacted and the batch shrinks."""

    batch: int
    threads: int
    rows: list[MeasuredRow]
    at_matched_time: BudgetRow | None = Field(None, description="The budget is the fixed exit's measured time")
    executed: list[MeasuredRow] = Field(
        [], description="The fixed exit, then the routed policy of the matched time, executed"
    )
    arrivals: list[Arrivals] = Field([])
    sentence: str = ""
