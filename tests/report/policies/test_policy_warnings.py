from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from report_samples import task
from routed_samples import (
    budget_row,
    certified,
    comparison,
    full_comparison,
    instability,
    policy_row,
    reliability_row,
    shift_row,
)

from offramp.report.policies.warnings import policy_warnings


def warned(metric: str = "accuracy", higher_is_better: bool = True, **changes: Any) -> list[str]:
    return policy_warnings(comparison(task(), **changes), metric, higher_is_better)


def above(level: float) -> float:
    return float(np.nextafter(level, np.inf))


def overspent(cost: float) -> list[Any]:
    budget = budget_row("stem", 1000.0, 0.8, 0.8)
    return [budget, budget.model_copy(update={"policies": [policy_row("confidence", cost, 0.8)]})]


CASES = {
    "Premature exits": lambda value: {"shifts": [shift_row(premature=value)]},
    "Shallow overconfidence": lambda value: {"shifts": [shift_row(overconfidence=value)]},
    "Unstable threshold": lambda value: {"instability": instability(threshold_spread=value)},
    "Unstable score": lambda value: {"instability": instability(score_ci95=(0.0, value))},
    "Overthinking": lambda value: {"overthinking": value},
    "Degraded last exit": lambda value: {"shifts": [shift_row(score=value, full_score=0.0)]},
    "Budget missed": lambda value: {"chosen": 0, "budgets": overspent(1000 * (1 + value))},
    "Survivors are not calibrated": lambda value: {"reliability": [reliability_row(survivors_ece_after=value)]},
    "Guarantee exceeded on test": lambda value: {"certified": certified(test_risk=value)},
    "Shift voids the guarantee": lambda value: {"certified": certified(), "shifts": [shift_row("noise added", risk=value)]},
}  # fmt: skip
LEVELS = {"Shallow overconfidence": 0.1, "Unstable threshold": 0.5, "Survivors are not calibrated": 0.1}
TEXTS = {
    "Unstable threshold": "level: 0.50",
    "Unstable score": "level: 5 points apart",
    "Degraded last exit": "level: 5 points worse",
    "Shallow overconfidence": "level: 0.10",
    "Survivors are not calibrated": "level: 0.10 where that of all is below 0.05",
    "Guarantee exceeded on test": "where at most 0.05 was asked",
    "Shift voids the guarantee": "level: 0.05",
}


@pytest.mark.parametrize("kind", CASES)
def test_exactly_past_the_level_which_is_stated(kind: str) -> None:
    level = LEVELS.get(kind, 0.05)
    assert warned(**CASES[kind](level)) == []
    past = warned(**CASES[kind](above(level) if kind != "Budget missed" else 0.0500001))
    assert len(past) == 1
    assert past[0].startswith(f"{kind}:")
    assert TEXTS.get(kind, "level: 5.0%") in past[0]


def test_all_is_well_without_the_optional_parts() -> None:
    assert warned() == []


def test_missing_values_do_not_warn() -> None:
    row = shift_row("unseen class", score=None, full_score=None, premature=None, overconfidence=None, risk=None)
    nothing = reliability_row(survivors_ece_before=None, survivors_ece_after=None, survivors_ece_own=None)
    assert warned(shifts=[row], reliability=[nothing], certified=certified(test_risk=None)) == []


def test_the_worst_is_named_and_all_are_counted() -> None:
    rows = [shift_row(name, premature=value) for name, value in (("a", 0.06), ("b", 0.123), ("c", 0.09), ("d", 0.01))]
    assert warned(shifts=rows) == [
        "Premature exits: on b 12.3% of windows leave early and wrong where full depth is right (level: 5.0%; 3 populations are past it)."
    ]


def test_premature_exits_of_regression_have_a_level_of_their_own() -> None:
    assert warned("mean_error", False, shifts=[shift_row(premature=0.5, score=None)]) == []
    (text,) = warned("mean_error", False, shifts=[shift_row(premature=above(0.5), score=None)])
    assert "50.0% of windows leave early with a larger error than at full depth (level: 50.0%)" in text


def test_survivors_where_all_are_badly_calibrated_too() -> None:
    assert warned(reliability=[reliability_row(ece_after=0.05, survivors_ece_after=0.3)]) == []
    (text,) = warned(reliability=[reliability_row(ece_after=0.049, survivors_ece_after=0.3, survivors_share=0.12)])
    assert "at stem the calibration error is 0.049 over all windows but 0.300 over the 12% that reach it" in text


def test_only_the_routed_policy_is_held_to_its_budget() -> None:
    budget = budget_row("stem", 1000.0, 0.8, 0.8)
    rows = [policy_row("margin", 5000, 0.8), policy_row("confidence", 1200, 0.8)]
    assert warned(chosen=0, budgets=[budget.model_copy(update={"policies": rows[:1]})]) == []
    (text,) = warned(chosen=0, budgets=[budget.model_copy(update={"policies": rows})])
    assert "at the cost of stem spends 1.20K MACs where 1.00K were allowed, 20.0% more" in text


def test_the_guarantee_is_not_of_populations_that_it_speaks_of() -> None:
    assert warned(certified=certified(), shifts=[shift_row(name, risk=0.9) for name in ("validation", "test")]) == []
    (text,) = warned(certified=certified(), shifts=[shift_row("noise added", risk=0.21)])
    assert (
        "holds for windows drawn as the calibration groups were; on noise added the error above full is 0.210" in text
    )


def test_groups_that_are_not_alike_are_told() -> None:
    (text,) = warned(certified=certified(test_risk=0.2, exchangeable=False))
    assert text.endswith(
        "test groups were not drawn as the calibration groups were, and a guarantee speaks of such alone."
    )


def test_no_guarantee_names_the_groups() -> None:
    rows = [shift_row("noise added", risk=0.9)]
    assert warned(certified=certified(threshold=None, test_risk=None, groups=7), shifts=rows) == [
        "No guarantee: 7 calibration groups do not certify that the error above full is at most 0.05 at any of 101 thresholds; give more "
        "groups, or ask for less."
    ]


@pytest.mark.parametrize(
    ("metric", "score", "full", "past"),
    [
        ("mean_error", 9.6, 10.0, False),
        ("mean_error", 9.4, 10.0, True),
        ("mean_error", 10.0, 9.0, False),  # full depth is better
        ("nmse_db", -10.2, -10.0, False),
        ("nmse_db", -10.22, -10.0, True),
    ],
)
def test_unbounded_scores_are_compared_relatively(metric: str, score: float, full: float, past: bool) -> None:
    texts = warned(metric, False, shifts=[shift_row(score=score, full_score=full)])
    assert len(texts) == past
    if past:
        assert texts[0].startswith("Degraded last exit")
        assert ("level: 0.21 dB worse" if metric == "nmse_db" else "level: 5.0% worse") in texts[0]


def test_scores_of_zero_do_no_harm() -> None:
    assert warned("rmse", False, instability=instability(score_ci95=(0.0, 0.0))) == []


def test_every_failure_of_the_sample_is_told() -> None:
    starts = [text.partition(":")[0] for text in policy_warnings(full_comparison(task()), "accuracy", True)]
    assert starts == [
        "Premature exits",
        "Shallow overconfidence",
        "Overthinking",
        "Survivors are not calibrated",
        "Shift voids the guarantee",
    ]
