"""Rows of the comparison against recounting by hand, and properties of oracle and random exits."""

from __future__ import annotations

import numpy as np
import pytest
from contests import COSTS, EXITS, contest

from offramp.experiment.policies.budgets import (
    Contest,
    fixed_exit,
    oracle_row,
    policy_row,
    random_row,
    run_contest,
    verdict,
)
from offramp.heads.fit import head_outputs
from offramp.policies.policy import Policy
from offramp.schema.results import Gain


@pytest.fixture(scope="module")
def classified() -> Contest:
    return contest()[0]


def patient(threshold: float = 2.0) -> Policy:
    return Policy("classification", "patience", EXITS, (threshold, threshold), (1, 1, 1), (1, 1, 1))


def test_fixed_rows_are_the_exits_own_scores(classified: Contest) -> None:
    row, sums = fixed_exit(classified, 1e9)
    vals = [np.mean([head_score(classified, exit, seed, "val") for seed in range(2)]) for exit in EXITS]
    assert row.name == EXITS[int(np.argmax(vals))]
    index = EXITS.index(row.name)
    assert row.cost == COSTS.fixed()[index]
    assert row.test.mean == pytest.approx(
        np.mean([head_score(classified, row.name, seed, "test") for seed in range(2)])
    )
    assert sums is classified.fitted[index].test_sums
    assert fixed_exit(classified, 111)[0].name == "early"


def head_score(made: Contest, exit: str, seed: int, which: str) -> float:
    sample = (made.val if which == "val" else made.test)[seed]
    return float((sample.windows.outputs[exit].argmax(1) == sample.windows.targets).mean())


def test_outputs_are_those_of_the_seeds_own_heads() -> None:
    made, taps = contest()
    for seed, sample in enumerate(made.test):
        for exit in made.fitted:
            expected = head_outputs(exit.heads[seed], taps[exit.name], made.problem.split.test)
            np.testing.assert_array_equal(sample.windows.outputs[exit.name], expected)
    for seed, sample in enumerate(made.val):
        assert set(sample.indices) == set(made.problem.split.draws[seed].folds[0][1])


def test_a_policy_row_by_hand(classified: Contest) -> None:
    """Patience 2: a window leaves at the middle exit where its two first answers agree, at the late one otherwise."""
    row, sums = policy_row(classified, "patience", [patient(), patient()])
    scores, costs, early = [], [], []
    for sample in classified.test:
        answers = {exit: sample.windows.outputs[exit].argmax(1) for exit in EXITS}
        agree = answers["early"] == answers["middle"]
        final = np.where(agree, answers["middle"], answers["late"])
        scores.append((final == sample.windows.targets).mean())
        costs.append(np.where(agree, 220, 430).mean())
        early.append(agree.mean())
    assert row.test.mean == pytest.approx(np.mean(scores))
    assert row.cost == pytest.approx(np.mean(costs))
    assert row.exit_share == pytest.approx({"early": 0, "middle": np.mean(early), "late": 1 - np.mean(early)})
    assert sums.sum(1)[:, 0] / sums.sum(1)[:, 1] == pytest.approx(scores)


def test_random_exits_are_the_expectation_over_dealings(classified: Contest) -> None:
    policies = [patient(), patient()]
    row, _ = policy_row(classified, "patience", policies)
    dealt = random_row(classified, row, policies)
    rng, scores = np.random.default_rng(0), []
    for sample, policy in zip(classified.test, policies, strict=True):
        left = sample.decide(policy).exit
        answers = np.stack([sample.windows.outputs[exit].argmax(1) for exit in EXITS])
        for _ in range(400):
            mixed = answers[rng.permutation(left), np.arange(len(left))]
            scores.append((mixed == sample.windows.targets).mean())
    assert dealt.test.mean == pytest.approx(np.mean(scores), abs=4 * np.std(scores) / np.sqrt(len(scores)))
    assert dealt.cost == row.cost


def test_the_oracle_is_right_where_any_exit_is(classified: Contest) -> None:
    row = oracle_row(classified)
    right = [
        np.any([sample.windows.outputs[exit].argmax(1) == sample.windows.targets for exit in EXITS], axis=0).mean()
        for sample in classified.test
    ]
    assert row.test.mean == pytest.approx(np.mean(right))
    assert row.cost <= COSTS.leaving(range(3))[-1]


def test_the_oracle_of_a_regression_is_no_worse_than_full_depth() -> None:
    made = contest("regression")[0]
    assert oracle_row(made).test.mean <= fixed_row_of(made, 2) + 1e-9


def fixed_row_of(made: Contest, index: int) -> float:
    metric = made.problem.metric
    return float(np.mean([metric.score(sums.sum(0)) for sums in made.fitted[index].test_sums]))


def test_a_contest_at_every_budget(classified: Contest) -> None:
    budgets = run_contest(
        classified,
        ("confidence", "patience"),
        [(exit, float(cost)) for exit, cost in zip(EXITS, COSTS.fixed(), strict=True)],
        None,
    )
    assert [budget.row.exit for budget in budgets] == list(EXITS)
    for budget in budgets:
        assert {row.name for row in budget.row.policies} == set(budget.policies)
        assert len(budget.routed) == 2
        best = max(budget.row.policies, key=lambda row: (row.val.mean, -row.val_cost))
        routed = next(row for row in budget.row.policies if row.name == budget.row.routed)
        assert routed.val.mean == best.val.mean
        assert all(row.val_cost <= budget.row.budget * 1.000001 for row in budget.row.policies)
        assert budget.row.gain.mean == pytest.approx(routed.test.mean - budget.row.fixed.test.mean)
        assert routed.gain == budget.row.gain
    first = budgets[0].row
    assert first.gain.mean == 0  # at the cheapest exit's cost there is only one way
    assert first.verdict == "neither"


def test_verdicts() -> None:
    def gain(low: float, high: float) -> Gain:
        return Gain(mean=0, ci95=(low, high), unit="group")

    assert verdict(gain(0.1, 0.2)) == "routing"
    assert verdict(gain(-0.2, -0.1)) == "fixed"
    assert verdict(gain(-0.1, 0.1)) == "neither"
    assert verdict(gain(0.0, 0.0)) == "neither"
