"""Made-up comparisons of policies with fixed exits, for the tests of the report."""

from __future__ import annotations

import math
from typing import Any

from report_samples import gain, score, task

from offramp.schema.results import (
    Arrivals,
    BudgetRow,
    Certified,
    Instability,
    Measured,
    MeasuredPolicies,
    MeasuredRow,
    PolicyComparison,
    PolicyRow,
    ReliabilityRow,
    ShiftRow,
    SnrScores,
    TaskResult,
)

BUDGETS = ("stem", "stage2.1", "stage3.0", "stage3.3", "stage3.7", "conv5")
CONSULTED = ["stem", "stage2.1", "stage3.0", "stage3.3", "conv5"]
SHARE = {"stem": 0.22, "stage2.1": 0.31, "stage3.0": 0.17, "stage3.3": 0.1, "conv5": 0.2}
CRITERIA = ("confidence", "entropy", "margin", "patience", "learned_halting", "entropy per exit", "benefit")


def policy_row(name: str, cost: float, mean: float, half: float = 0.01, **changes: Any) -> PolicyRow:
    values: dict[str, Any] = {
        "name": name,
        "exits": CONSULTED,
        "thresholds": [0.9, 0.8, 0.8, None],
        "cost": cost,
        "val_cost": cost,
        "val": score(mean),
        "test": score(mean, half),
        "exit_share": SHARE,
    }
    return PolicyRow(**(values | changes))


def budget_row(
    exit_: str,
    budget: float,
    fixed: float,
    routed_score: float,
    verdict: Any = "neither",
    sign: int = 1,
    **changes: Any,
) -> BudgetRow:
    lead, half = sign * (routed_score - fixed), abs(fixed) / 60
    policies = [
        policy_row(name, budget * (0.97 - 0.02 * index), routed_score - sign * 0.2 * half * index, half, gain=gain(lead, lead - half, lead + half))
        for index, name in enumerate(CRITERIA)
    ]  # fmt: skip
    values: dict[str, Any] = {
        "exit": exit_,
        "budget": budget,
        "fixed": policy_row("fixed", budget, fixed, half, exits=[exit_], thresholds=[], exit_share={exit_: 1.0}),
        "policies": policies[::-1],
        "routed": "confidence",
        "random": policy_row("random", budget * 0.97, routed_score - sign * 3 * half, half),
        "gain": gain(lead, lead - half, lead + half),
        "verdict": verdict,
    }
    return BudgetRow(**(values | changes))


def comparison(one: TaskResult, **changes: Any) -> PolicyComparison:
    """Budgets at six exits of a task, and nothing that warns."""
    sign = 1 if one.higher_is_better else -1
    exits = {row.exit: row for row in one.exits}
    leads = (0.01, 0.015, 0.004, -0.004, -0.03, -0.02)
    verdicts = ("routing", "routing", "neither", "neither", "fixed", "neither")
    best = (max if sign > 0 else min)(row.test.mean for row in one.exits)
    values: dict[str, Any] = {
        "budgets": [
            budget_row(name, exits[name].macs, mean, mean + sign * lead * abs(best), verdict, sign)
            for name, lead, verdict in zip(BUDGETS, leads, verdicts, strict=True)
            for mean in [exits[name].test.mean]
        ],
        "chosen": 2,
        "full_cost": one.full.macs,
        "oracle": policy_row("oracle", 3.1e6, best * (1 + sign * 0.1), 0.01),
    }
    return PolicyComparison(**(values | changes))


def shift_row(name: str = "test", **changes: Any) -> ShiftRow:
    values: dict[str, Any] = {
        "name": name,
        "windows": 1500,
        "score": 0.82,
        "full_score": 0.83,
        "cost": 5e6,
        "exit_share": SHARE,
        "premature": 0.02,
        "overconfidence": 0.03,
        "confidence": 0.85,
        "risk": 0.02,
    }
    return ShiftRow(**(values | changes))


def reliability_row(exit_: str = "stem", **changes: Any) -> ReliabilityRow:
    values: dict[str, Any] = {
        "exit": exit_,
        "temperature": 1.42,
        "survivors_temperature": 2.13,
        "survivors_share": 0.47,
        "ece_before": 0.091,
        "ece_after": 0.023,
        "failure_auroc_before": 0.781,
        "failure_auroc_after": 0.792,
        "survivors_ece_before": 0.142,
        "survivors_ece_after": 0.081,
        "survivors_ece_own": 0.031,
        "survivors_failure_auroc": 0.633,
    }
    return ReliabilityRow(**(values | changes))


def certified(**changes: Any) -> Certified:
    values: dict[str, Any] = {
        "risk": "error_above_full",
        "level": 0.05,
        "delta": 0.1,
        "method": "learn-then-test",
        "criterion": "entropy",
        "exits": CONSULTED,
        "groups": 48,
        "windows": 1200,
        "thresholds": 101,
        "threshold": 0.713,
        "calibration_risk": 0.021,
        "test_risk": 0.033,
        "macs_saved_fraction": 0.41,
        "score": 0.815,
        "full_score": 0.83,
        "exchangeable": True,
    }
    return Certified(**(values | changes))


def instability(**changes: Any) -> Instability:
    values: dict[str, Any] = {
        "resamples": 200,
        "threshold_ci95": (0.66, 0.74),
        "threshold_spread": 0.12,
        "score_ci95": (0.812, 0.829),
        "cost_ci95": (4.6e6, 5.6e6),
    }
    return Instability(**(values | changes))


def measured_row(name: str, milliseconds: float, macs: float, time: float, at: float | None = None) -> MeasuredRow:
    return MeasuredRow(
        name=name, milliseconds=milliseconds, macs_saved_fraction=macs, time_saved_fraction=time, score=at
    )


def measured_policies(**changes: Any) -> MeasuredPolicies:
    matched = budget_row("stage3.0", 0.121, 0.82, 0.815)
    values: dict[str, Any] = {
        "batch": 256,
        "threads": 1,
        "rows": [
            measured_row("fixed stem", 0.02, 0.97, 0.94, 0.4),
            measured_row("fixed stage3.0", 0.121, 0.8, 0.76, 0.82),
            measured_row("full depth", 0.5, 0.0, 0.0, 0.83),
            measured_row("int8 stage3.0", 0.09, 0.8, 0.82, 0.79),
        ],
        "at_matched_time": matched,
        "executed": [measured_row("fixed stage3.0", 0.121, 0.8, 0.76, 0.82), measured_row("routed at matched time", 0.131, 0.76, 0.74, 0.815)],
        "arrivals": [
            Arrivals(name="stage3.0", p50_ms=2.1, p95_ms=4.4, p99_ms=6.1, utilisation=0.61),
            Arrivals(name="confidence", p50_ms=2.4, p95_ms=5.9, p99_ms=9.3, utilisation=0.64),
            Arrivals(name="conv5", p50_ms=6.4, p95_ms=22, p99_ms=31, utilisation=0.93),
        ],
    }  # fmt: skip
    return MeasuredPolicies(**(values | changes))


def full_comparison(one: TaskResult, **changes: Any) -> PolicyComparison:
    """Every optional part there, and some that warn."""
    levels = [-6.0, -1.5, 3.0, 8.0, 12.5]
    values: dict[str, Any] = {
        "by_class": {
            label: _shares(index / 3)
            for index, label in enumerate(one.label_names or ["NLOS", "LOS"])
        },
        "by_snr": [_shares(2.4 - 0.5 * index) for index in range(len(levels))],
        "reliability": [reliability_row(name, survivors_ece_after=0.05 + 0.03 * index) for index, name in enumerate(CONSULTED)],
        "certified": certified(),
        "rejection": [(0.02 * index, 0.83 + 0.15 * (1 - math.exp(-index / 6))) for index in range(18)],
        "shifts": [
            shift_row("validation", premature=0.012, overconfidence=0.01),
            shift_row("test"),
            shift_row("noise added", premature=0.083, overconfidence=0.21, score=0.44, full_score=0.51, risk=0.212),
            shift_row("session 12", premature=0.051, overconfidence=0.04),
            shift_row("unseen class 16qam", score=None, full_score=None, premature=None, overconfidence=0.62, risk=None),
        ],
        "instability": instability(),
        "overthinking": 0.071,
    }  # fmt: skip
    return comparison(one, **(values | changes))


def _shares(depth: float) -> dict[str, float]:
    weights = {name: math.exp(-((index - 1.4 * depth) ** 2) / 1.5) for index, name in enumerate(CONSULTED)}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def told(one: TaskResult, policies: PolicyComparison, measured: MeasuredPolicies | None = None) -> TaskResult:
    """A task with its policies, sentences and warnings filled in as a run does."""
    from offramp.report.policies.text import measured_policy_sentence, policy_sentence, policy_warnings

    how = (one.metric, one.higher_is_better)
    changes = {"sentence": policy_sentence(policies, one.kind, *how), "warnings": policy_warnings(policies, *how)}
    policies = policies.model_copy(update=changes)
    if measured is not None:
        measured = measured.model_copy(update={"sentence": measured_policy_sentence(measured, *how)})
    timed: Measured = one.measured.model_copy(update={"policies": measured})
    return one.model_copy(update={"policies": policies, "measured": timed})


def routed_task(**changes: Any) -> TaskResult:
    """A task with every part of the comparison."""
    edges = [-6.0, -1.5, 3.0, 8.0, 12.5, 18.0]
    by_snr = SnrScores(edges_db=edges, chosen=[0.5, 0.7, 0.9, 0.9, 0.95], full=[0.5, 0.7, 0.9, 0.9, 0.95])
    one = task(by_snr=by_snr, **changes)
    return told(one, full_comparison(one), measured_policies())
