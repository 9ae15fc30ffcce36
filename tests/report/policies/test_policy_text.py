from __future__ import annotations

from typing import Any

import pytest
from report_samples import gain, results, task
from routed_samples import (
    budget_row,
    certified,
    comparison,
    instability,
    measured_policies,
    measured_row,
    policy_row,
    routed_task,
    shift_row,
    told,
)

from offramp.report.policies.text import (
    Tally,
    certificate_sentences,
    instability_sentence,
    measured_policy_sentence,
    policy_line,
    policy_name,
    policy_sentence,
    verdict_counts,
    verdict_sentence,
)
from offramp.schema.results import PolicyComparison

BUDGET = budget_row(
    "stage2.0",
    370.0,
    0.62,
    0.612,
    routed="entropy",
    policies=[policy_row("margin", 360, 0.6), policy_row("entropy", 368, 0.612)],
    random=policy_row("random", 368, 0.583),
    gain=gain(-0.008, -0.019, 0.002),
)
ACCURACY = ("classification", "accuracy", True)


def compared(budget: Any = BUDGET, **changes: Any) -> PolicyComparison:
    values = {"budgets": [budget], "chosen": 0, "full_cost": 1000.0, "oracle": policy_row("oracle", 100, 0.801)}
    return PolicyComparison(**(values | changes))


def test_at_matched_cost() -> None:
    assert policy_sentence(compared(), *ACCURACY) == (
        "At the cost of stage2.0 (63% fewer MACs) routing by entropy reaches accuracy 61.2% against 62.0% for the fixed exit "
        "(-0.8 points [-1.9, 0.2]): neither wins; random exits reach 58.3%; an oracle that leaves at the first right answer would "
        "reach 80.1% with 90% fewer MACs."
    )


@pytest.mark.parametrize(
    ("verdict", "words"),
    [("fixed", "the fixed exit wins"), ("routing", "routing wins"), ("neither", "neither wins")],
)
def test_verdicts(verdict: str, words: str) -> None:
    budget = BUDGET.model_copy(update={"verdict": verdict})
    assert f"0.2]): {words}; random" in policy_sentence(compared(budget), *ACCURACY)


def test_errors_are_better_when_lower() -> None:
    budget = budget_row(
        "conv2", 500, 4.3, 4.21, sign=-1, gain=gain(0.09, 0.02, 0.16, "window"), random=policy_row("random", 500, 4.2)
    )
    text = policy_sentence(compared(budget, oracle=policy_row("oracle", 1200, 2.5)), "regression", "mean_error", False)
    assert "confidence reaches mean error 4.21 against 4.30 for the fixed exit" in text
    assert "(gain +0.090 [0.020, 0.160] over the windows of few groups only)" in text
    assert "random exits do as well: 4.20" in text
    assert text.endswith("an oracle that leaves at the best answer would reach 2.50 with 20% more MACs.")


def test_what_is_not_known_is_left_out() -> None:
    text = policy_sentence(compared(full_cost=None), *ACCURACY)
    assert "At the cost of stage2.0 (370 MACs) routing" in text
    assert text.endswith("80.1% with 100 MACs.")
    none = BUDGET.model_copy(update={"policies": [], "routed": ""})
    text = policy_sentence(compared(none), *ACCURACY)
    assert "no policy keeps to the budget; the fixed exit reaches accuracy 62.0%; an oracle" in text


def test_a_budget_of_the_suite_and_full_depth() -> None:
    fixed = policy_row("fixed", 200, 0.62, exits=["stem"])
    asked = BUDGET.model_copy(update={"exit": "asked", "budget": 400.0, "fixed": fixed})
    text = policy_sentence(compared(asked), *ACCURACY)
    assert text.startswith("At the budget asked for (60% fewer MACs) routing by entropy")
    assert "for the fixed exit stem (" in text
    text = measured_policy_sentence(measured_policies(at_matched_time=asked), "accuracy", True)
    assert text.startswith("At the time asked for (400 ms")
    full = BUDGET.model_copy(update={"budget": 1000.0})
    assert policy_sentence(compared(full), *ACCURACY).startswith("At the cost of stage2.0 (full depth) routing")


def test_another_fixed_exit_than_that_of_the_budget_is_named() -> None:
    fixed = policy_row("fixed", 200, 0.62, exits=["stem"])
    text = policy_sentence(compared(BUDGET.model_copy(update={"fixed": fixed})), *ACCURACY)
    assert "62.0% for the fixed exit stem (" in text


def test_at_matched_time() -> None:
    measured = measured_policies(at_matched_time=BUDGET.model_copy(update={"budget": 0.12}))
    assert measured_policy_sentence(measured, "accuracy", True) == (
        "At the time of stage2.0 (0.120 ms a window, batch 256, 1 thread) routing by entropy reaches accuracy 61.2% against 62.0% "
        "for the fixed exit (-0.8 points [-1.9, 0.2]): neither wins; random exits reach 58.3%; executed, it takes 8% more time "
        "than the fixed exit."
    )
    assert measured_policy_sentence(measured_policies(at_matched_time=None), "accuracy", True) == ""


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(0.1204, "as long as the"), (0.09, "25% less time than the"), (0.18, "50% more time than the")],
)
def test_time_of_the_executed_policy(milliseconds: float, words: str) -> None:
    rows = [measured_row("stage2.0", 0.12, 0.6, 0.6), measured_row("entropy", milliseconds, 0.6, 0.6)]
    text = measured_policy_sentence(measured_policies(executed=rows, threads=2), "accuracy", True)
    assert text.endswith(f"executed, it takes {words} fixed exit.")
    assert "2 threads" in text
    assert "executed" not in measured_policy_sentence(measured_policies(executed=rows[:1]), "accuracy", True)


def test_names() -> None:
    assert policy_name("learned_halting per exit") == "learned halting with a threshold per exit"
    assert policy_name("bin_accuracy") == "bin accuracy"


def test_guarantee_in_words() -> None:
    text = " ".join(
        certificate_sentences(certified(), [shift_row("test"), shift_row("noise added", risk=0.2124)], "accuracy")
    )
    assert "with a probability of at least 90% the error above full, mean over groups, is at most 0.05." in text
    assert "learn-then-test on 48 calibration groups (1,200 windows)" in text
    assert "entropy reaches 0.713, the last that passes of 101 thresholds" in text
    assert "the risk is 0.021 on calibration and 0.033 on test; accuracy is 81.5% against 83.0% at full depth" in text
    assert "41% fewer MACs" in text
    assert text.endswith("Shift voids the guarantee; the risk under shift is 0.212 on noise added.")


def test_guarantee_without_its_optional_parts() -> None:
    bare = certified(
        delta=None, calibration_risk=None, test_risk=None, score=None, macs_saved_fraction=None, exchangeable=False
    )
    text = " ".join(certificate_sentences(bare, [], "accuracy"))
    assert "Certified: on average over calibrations the error above full" in text
    assert "With it" not in text
    assert "the guarantee does not speak of them" in text
    assert text.endswith("it was not measured under shift here.")
    none = certificate_sentences(certified(threshold=None), [], "accuracy")
    assert len(none) == 1
    assert "Not certified by learn-then-test on 48 calibration groups" in none[0]


def test_instability_in_words() -> None:
    text = instability_sentence(comparison(task(), instability=instability()), "accuracy")
    for part in ("200 times", "0.660 to 0.740", "12% of the", "81.2% to 82.9%", "4.60M to 5.60M"):
        assert part in text
    assert instability_sentence(comparison(task()), "accuracy") == ""


def test_verdicts_are_counted() -> None:
    one = task()
    fixed = told(
        one, comparison(one, chosen=4), measured_policies(at_matched_time=budget_row("a", 1, 0.8, 0.9, "routing"))
    )
    runs = [
        results({"a": routed_task(), "b": task()}),
        results({"a": fixed, "c": told(one, comparison(one, chosen=0))}),
    ]
    counts = verdict_counts(runs)
    assert counts.tasks == Tally(fixed=1, routing=1, neither=1)
    assert counts.budgets == Tally(fixed=3, routing=6, neither=9)
    assert counts.timed == Tally(fixed=0, routing=1, neither=1)
    text = verdict_sentence(counts)
    assert text.startswith(
        "On 3 tasks, at the MACs of each one's budget, the fixed exit wins on 1, routing on 1, neither on 1;"
    )
    assert "at all 18 budgets of these tasks 3, 6 and 9; at matched time on 2 tasks 0, 1 and 1." in text
    assert "about 2.5%" in text
    assert "over the windows" not in text


def test_wins_over_windows_are_told_apart() -> None:
    one = task()
    budget = comparison(one, chosen=0).budgets[0]
    row = budget.model_copy(update={"verdict": "routing", "gain": budget.gain.model_copy(update={"unit": "window"})})
    found = comparison(one, chosen=0).model_copy(update={"budgets": [row]})
    counts = verdict_counts([results({"a": told(one, found)})])
    assert counts.tasks == Tally(fixed=0, routing=1, neither=0, by_window=1)
    assert "Of these wins 1, 1 and 0 are over the windows" in verdict_sentence(counts)


def test_nothing_to_count() -> None:
    assert verdict_sentence(verdict_counts([results({"a": task()})])) == ""
    assert "matched time" not in verdict_sentence(verdict_counts([results({"a": told(task(), comparison(task()))})]))


def test_line_of_the_terminal() -> None:
    assert policy_line(task()) is None
    line = policy_line(routed_task())
    assert line is not None
    assert line.startswith("at the cost of stage3.0 routing by confidence: +0.3 points [")
    assert line.endswith("against the fixed exit, neither wins; 5 warnings in the report")
