"""Behaviour of policies, certificates and shifted populations on a small task."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from contests import COSTS, EXITS, contest, grouped_problem
from tiny import noise, source

from offramp.errors import PolicyError
from offramp.experiment.evaluate import Resampling
from offramp.experiment.policies import behaviour
from offramp.experiment.policies.budgets import Contest
from offramp.experiment.policies.certificate import certified_policy, risk_of
from offramp.experiment.policies.check import check_groups, has_class
from offramp.experiment.policies.compare import compare_policies
from offramp.experiment.policies.instability import instability
from offramp.experiment.policies.populations import noisy_windows, unseen_class_sample
from offramp.experiment.policies.rejection import rejecting, rejection_curve
from offramp.experiment.policies.samples import final_sample
from offramp.heads.fit import fit_exit
from offramp.policies.policy import Policy
from offramp.schema.policies import GuaranteeSpec, PoliciesSpec
from offramp.transforms import degrade


@pytest.fixture(scope="module")
def made() -> Contest:
    return contest(calibration=24)[0]


def confident(threshold: float) -> Policy:
    return Policy("classification", "confidence", EXITS, (threshold, threshold), (1, 1, 1), (1, 1, 1))


def test_a_shift_row_by_hand(made: Contest) -> None:
    policy, sample = confident(0.7), made.test[0]
    row = behaviour.shift_row(made, "test", sample, policy, "routed")
    probability = {}
    for exit in EXITS:
        exponential = np.exp(sample.windows.outputs[exit] - sample.windows.outputs[exit].max(1, keepdims=True))
        probability[exit] = exponential / exponential.sum(1, keepdims=True)
    premature = early_confidence = early_right = early = 0.0
    for window in range(sample.windows.count):
        left = next((e for e in EXITS[:-1] if probability[e][window].max() >= 0.7), "late")
        right = probability[left][window].argmax() == sample.windows.targets[window]
        full_right = probability["late"][window].argmax() == sample.windows.targets[window]
        if left != "late":
            premature += full_right and not right
            early, early_right = early + 1, early_right + right
            early_confidence += probability[left][window].max()
    assert row.premature == pytest.approx(premature / sample.windows.count)
    assert row.overconfidence == pytest.approx((early_confidence - early_right) / early, abs=1e-5)
    assert sum(row.exit_share.values()) == pytest.approx(1)


def test_reliability_of_an_exit_that_all_reach_is_that_of_all(made: Contest) -> None:
    rows = {row.exit: row for row in behaviour.reliability(made, [confident(0.9), confident(0.9)])}
    first = rows["early"]
    assert first.survivors_share == 1
    assert first.survivors_ece_before == pytest.approx(first.ece_before)
    assert rows["late"].survivors_share < 1


def test_rejection_makes_the_rest_better(made: Contest) -> None:
    curve = rejection_curve(confident(0.9), made.test[0])
    shares, scores = zip(*curve, strict=True)
    assert shares[0] == 0
    assert list(shares) == sorted(shares)
    assert scores[-1] > scores[0]
    policy, found = rejecting(confident(0.99), 0.1, made.val[0], made.test[0])
    decided = made.val[0].decide(policy)
    kept = ~decided.rejected
    wrong = (decided.outputs[kept].argmax(1) != made.val[0].windows.targets[kept]).mean()
    assert wrong == pytest.approx(found.validation_error)
    assert found.validation_error <= 0.1
    tested = made.test[0].decide(policy)
    assert found.test_share == pytest.approx(tested.rejected.mean())
    assert rejecting(confident(0.9), 0.99, made.val[0], made.test[0])[0].reject_below == 0
    hasty = rejecting(confident(0.0), 0.01, made.val[0], made.test[0])[1]
    assert hasty.validation_error > 0.01  # all left at the first exit: there is nothing to reject
    assert hasty.test_share == 0


@pytest.mark.parametrize("rule", ["confidence", "confidence per exit"])
def test_instability_is_none_without_a_threshold_and_an_interval_with_one(made: Contest, rule: str) -> None:
    alone = Policy("classification", "confidence", ("late",), (), (1,), (1,))
    assert instability(made, alone, "confidence", 1e9, 0) is None
    found = instability(made, confident(0.8), rule, 300.0, 0)
    assert found is not None
    low, high = found.score_ci95
    assert 0 <= low <= high <= 1
    assert found.threshold_spread >= 0


@pytest.mark.parametrize("method", ["learn_then_test", "upper_confidence_bound", "conformal_risk_control"])
def test_a_certificate_names_a_threshold_whose_risk_on_calibration_is_low_enough(made: Contest, method: str) -> None:
    asked = GuaranteeSpec(level=0.3, delta=0.2, method=method, limit=5)
    taps = contest(calibration=24)[1]
    calibration = final_sample(
        made.problem, made.fitted, taps.__getitem__, 0, made.problem.split.calibration, made.problem.test_units
    )
    result, policy = certified_policy(made, calibration, confident(0.8), asked, True)
    assert policy is not None
    assert result.threshold == policy.thresholds[0]
    assert result.groups == 24
    assert result.calibration_risk is not None
    assert result.calibration_risk <= 0.3
    assert result.calibration_risk == pytest.approx(risk_of(made, calibration, policy, asked))
    assert (result.delta is None) == (method == "conformal_risk_control")
    nothing, none = certified_policy(
        made, calibration, confident(0.8), GuaranteeSpec(level=0.12, delta=0.2, risk="error"), True
    )
    assert (nothing.threshold is None) == (none is None)


def test_too_few_groups_are_named() -> None:
    with pytest.raises(PolicyError, match="12 calibration groups, and at least"):
        check_groups(12, GuaranteeSpec(level=0.05))


def test_an_unseen_class_is_answered_by_heads_that_never_saw_it() -> None:
    problem, taps = grouped_problem()
    sample = unseen_class_sample(problem, taps.__getitem__, EXITS, "class 1", lambda done, total: None)
    assert (sample.windows.targets == 1).all()
    assert (sample.windows.outputs["late"].argmax(1) == 1).mean() < 0.05
    assert has_class(problem, "class 1")
    assert not has_class(problem, "class 9")
    assert not has_class(grouped_problem("regression")[0], "class 1")


def test_noisy_windows_are_some_windows_with_noise() -> None:
    windows = noise(6)
    chosen = np.asarray([4, 1])
    noisy = noisy_windows(source(windows), chosen, 0.0)
    np.testing.assert_allclose(noisy.read(np.asarray([1, 0])), degrade(windows[[1, 4]], snr_db=0.0))
    assert noisy.count == 2
    assert noisy.fingerprint != noisy_windows(source(windows), chosen, 3.0).fingerprint
    assert noisy.fingerprint != noisy_windows(source(windows), np.asarray([4, 2]), 0.0).fingerprint


def test_a_whole_comparison_with_everything_asked_for() -> None:
    problem, taps = grouped_problem(calibration=24)
    fitted = [fit_exit(problem, exit, taps[exit]) for exit in EXITS]
    asked = PoliciesSpec.model_validate(
        {
            "criteria": ["confidence", "patience", "benefit"],
            "budget": {"macs": 250},
            "service_level": {"macs": 425},
            "reject_error": 0.1,
            "guarantee": {"level": 0.3, "delta": 0.2},
        }
    )
    shifted = final_sample(problem, fitted, taps.__getitem__, 0, problem.split.test, problem.test_units)
    compared = compare_policies(
        problem,
        fitted,
        taps.__getitem__,
        COSTS,
        2,
        asked,
        Resampling.of(problem, 0),
        0,
        {"elsewhere": (shifted, False)},
    )
    comparison = compared.comparison
    assert [row.exit for row in comparison.budgets] == [*EXITS, "asked"]
    assert comparison.chosen == 3
    assert {"routed", "certified", "rejecting", "confidence", "patience per exit"} <= set(compared.policies)
    for name, policy in compared.policies.items():
        if name != "certified":  # which ends at full depth, whatever it costs
            assert COSTS.leaving([EXITS.index(exit) for exit in policy.exits])[-1] <= 425
    names = [row.name for row in comparison.shifts]
    assert names[:2] == ["validation", "test"]
    assert names[-1] == "elsewhere"
    assert comparison.shifts[-1].score is None
    assert comparison.certified is not None
    assert sum(comparison.by_class["class 0"].values()) == pytest.approx(1)
    again = compare_policies(
        problem,
        fitted,
        taps.__getitem__,
        COSTS,
        2,
        asked,
        Resampling.of(problem, 0),
        0,
        {"elsewhere": (shifted, False)},
    )
    assert again.comparison == comparison


def test_a_regression_has_no_confidence_and_no_rejection() -> None:
    problem, taps = grouped_problem("regression")
    fitted = [fit_exit(problem, exit, taps[exit]) for exit in EXITS]
    asked = PoliciesSpec(reject_error=0.1)
    compared = compare_policies(problem, fitted, taps.__getitem__, COSTS, 1, asked, Resampling.of(problem, 0), 0, {})
    assert compared.comparison.rejection == []
    assert compared.comparison.reliability == []
    assert "rejecting" not in compared.policies
    assert compared.comparison.shifts[0].confidence is None


def test_cross_validated_shots_are_answered_out_of_fold() -> None:
    from offramp.data.splits import Draw
    from offramp.experiment.policies.samples import validation_sample

    problem, taps = grouped_problem()
    rest = np.setdiff1d(np.arange(len(problem.dataset.targets)), problem.split.test)
    folds = tuple((np.setdiff1d(rest, rest[part::2]), rest[part::2]) for part in range(2))
    shots = replace(problem, split=replace(problem.split, draws=(Draw(0, folds, rest, True),)))
    fitted = [fit_exit(shots, exit, taps[exit]) for exit in EXITS]
    sample = validation_sample(shots, fitted, taps.__getitem__, 0)
    sums = shots.val_units.sums(sample.windows.statistics[2], sample.indices)
    np.testing.assert_allclose(sums, fitted[2].val_sums[0])
