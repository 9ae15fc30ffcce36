"""Temperatures and policies chosen anew, against what is known of made-up windows and against the search, the simulation and sums by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from offramp.policies import Policy, simulate
from offramp.policies.certificates import losses_along, renew
from offramp.policies.guarantees import certify, fewest_groups, group_losses
from offramp.policies.purpose import Aim, StoredGuarantee
from offramp.policies.refitting import FOLDS, dealt, refit
from offramp.policies.windows import Windows
from offramp.scoring.metrics import METRICS

EXITS = ("early", "middle", "late")
MACS = (100.0, 210.0, 420.0)
COUNT, GROUPS, CLASSES = 1200, 120, 4


def labelled(scale: float = 1.0, seed: int = 0, count: int = COUNT, kind: str = "classification") -> Windows:
    """Logits that say what they mean at the temperature ``scale``; deeper exits say more. Or values that come closer with depth."""
    rng = np.random.default_rng(seed)
    sure = rng.normal(scale=2.5, size=(count, CLASSES))
    late = sure - sure.mean(1, keepdims=True)
    labels = (rng.random((count, 1)) < softmax(late, axis=1).cumsum(1)).argmax(1)
    if kind == "regression":
        targets = labels[:, None].astype(np.float32)
        noise = {exit: spread * rng.normal(size=(count, 1)) for exit, spread in zip(EXITS, (1, 0.5, 0.1), strict=True)}
        outputs = {exit: (targets + noise[exit]).astype(np.float32) for exit in EXITS}
        return Windows(EXITS, outputs, targets, METRICS["mean_error"])
    shallow = {exit: late * share for exit, share in zip(EXITS, (0.3, 0.6, 1.0), strict=True)}
    blurred = {
        exit: logits + (1 - logits.std() / late.std()) * rng.normal(size=late.shape) for exit, logits in shallow.items()
    }
    outputs = {exit: (scale * logits).astype(np.float32) for exit, logits in blurred.items()}
    return Windows(EXITS, outputs, labels, METRICS["accuracy"])


GROUP = np.arange(COUNT) % GROUPS


def policy(windows: Windows, thresholds: tuple[float, ...] = (0.8, 0.8), **changes: object) -> Policy:
    ones = (1.0,) * len(EXITS)
    kind = windows.metric.kind
    plain = Policy(kind, "confidence" if kind == "classification" else "agreement", EXITS, thresholds, ones, ones)
    return replace(plain, **{"aim": Aim(250.0, "MACs", MACS)} | changes)


def test_the_temperature_that_logits_were_scaled_by_is_found() -> None:
    windows = labelled(scale=3.0)
    found = refit(windows, GROUP, {"late": 1.0, "elsewhere": 2.5}, {})
    by_exit = {change.exit: change for change in found.exits}
    late = by_exit["late"]
    assert not late.kept
    assert late.after == pytest.approx(3.0, rel=0.1)
    assert found.temperatures["late"] == late.after
    assert found.temperatures["elsewhere"] == 2.5  # an exit that is not cut keeps what it has
    assert late.ece_after < 0.5 * late.ece_before
    logits = windows.outputs["late"].astype(np.float64)
    lost = -log_softmax(logits, axis=1)[np.arange(COUNT), windows.targets].mean()
    assert late.nll_before == pytest.approx(lost)


def test_what_is_said_of_a_temperature_is_of_groups_that_it_was_not_fitted_to() -> None:
    windows = labelled(scale=2.0)
    late = refit(windows, GROUP, {}, {}, seed=3).exits[-1]
    folds = dealt(GROUP, 3)
    assert all(len(np.unique(folds[group == GROUP])) == 1 for group in range(GROUPS))
    assert np.bincount(folds[:GROUPS]).tolist() == [GROUPS // FOLDS] * FOLDS
    logits, grid, lost = windows.outputs["late"].astype(np.float64), np.geomspace(1, 4, 400), np.empty(COUNT)

    def loss(rows: np.ndarray, temperature: float) -> np.ndarray:
        return -log_softmax(logits[rows] / temperature, axis=1)[np.arange(len(rows)), windows.targets[rows]]

    for fold in range(FOLDS):
        others, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        best = grid[np.argmin([loss(others, temperature).mean() for temperature in grid])]
        lost[held] = loss(held, best)
    assert late.nll_after == pytest.approx(lost.mean(), rel=1e-4)


def test_a_right_temperature_is_not_changed_for_a_worse_one() -> None:
    """With the true temperature stored, one fitted to a few windows is worse on others, in most sets; then the stored one stays."""
    kept = 0
    for seed in range(20):
        windows = labelled(count=60, seed=seed)
        found = refit(windows, np.arange(60) // 5, {"late": 1.0}, {}, seed)
        late = found.exits[-1]
        assert late.kept == (late.nll_after > late.nll_before)
        assert (found.temperatures["late"] == 1.0) == late.kept
        kept += late.kept
    assert kept >= 10


def test_thresholds_are_the_best_within_the_budget() -> None:
    windows = labelled(scale=3.0)
    found = refit(windows, GROUP, {}, {"p": policy(windows)})
    new, (change,) = found.policies["p"], found.changes
    assert change.outcome == "refitted"
    assert new.temperatures == pytest.approx([found.temperatures[exit] for exit in EXITS])
    decided = simulate(new, windows.outputs)
    assert np.asarray(MACS)[decided.exit].mean() == pytest.approx(change.cost_after)
    assert change.cost_after <= 250
    score = (decided.outputs.argmax(1) == windows.targets).mean()
    for threshold in np.linspace(0.25, 1, 60):
        other = simulate(replace(new, thresholds=(threshold,) * 2), windows.outputs)
        if np.asarray(MACS)[other.exit].mean() <= 250:
            assert (other.outputs.argmax(1) == windows.targets).mean() <= score + 0.01  # between two quantiles
    assert change.shares_after == pytest.approx(np.bincount(decided.exit, minlength=3) / COUNT)
    before = simulate(policy(windows), windows.outputs)
    assert change.shares_before == pytest.approx(np.bincount(before.exit, minlength=3) / COUNT)
    assert change.score_before == pytest.approx((before.outputs.argmax(1) == windows.targets).mean())


def test_exits_with_thresholds_of_their_own_keep_their_own() -> None:
    windows = labelled(scale=3.0)
    found = refit(windows, GROUP, {}, {"p": policy(windows, (0.9, 0.4)), "q": policy(windows, (0.9, 0.9))})
    assert len(set(found.policies["q"].thresholds)) == 1
    own, shared = (simulate(found.policies[name], windows.outputs).outputs.argmax(1) for name in "pq")
    assert (own == windows.targets).mean() >= (shared == windows.targets).mean()


def test_a_policy_that_is_better_than_what_is_fitted_is_kept() -> None:
    """Thresholds of full depth within an ample budget; whatever is fitted to other folds loses a little."""
    windows = labelled()
    stored = policy(windows, (np.inf, np.inf), aim=Aim(1000.0, "MACs", MACS))
    found = refit(windows, GROUP, {}, {"p": stored})
    (change,) = found.changes
    if change.outcome == "kept":
        assert found.policies["p"].thresholds == stored.thresholds
        assert found.policies["p"].temperatures == stored.temperatures
    else:
        assert change.score_after >= change.score_before
    worse = replace(windows, targets=np.roll(windows.targets, 1))  # labels that no exit knows anything of
    sure = policy(worse, (0.5, 0.5))
    outcomes = {refit(worse, GROUP, {}, {"p": sure}, seed).changes[0].outcome for seed in range(6)}
    assert outcomes == {"kept", "refitted"}, "chance decides, and both are possible"


def test_a_policy_over_its_budget_is_not_kept() -> None:
    windows = labelled()
    dear = policy(windows, (np.inf, np.inf))
    (change,) = refit(windows, GROUP, {}, {"p": dear}).changes
    assert change.cost_before > 250
    assert change.outcome == "refitted"
    assert change.cost_after <= 250


def test_a_policy_whose_budget_nobody_stored_may_spend_what_it_spends_now() -> None:
    windows = labelled(scale=3.0)
    stored = policy(windows, aim=None)
    found = refit(windows, GROUP, {}, {"p": stored})
    (change,) = found.changes
    spent = simulate(stored, windows.outputs).exit.mean() + 1
    assert (change.unit, change.budget) == ("exits", pytest.approx(spent))
    assert change.cost_after <= spent * (1 + 1e-9)
    assert found.policies["p"].aim is None


def test_rejecting_holds_the_error_that_was_asked_for_at_as_few_as_possible() -> None:
    windows = labelled(scale=3.0)
    stored = policy(windows, reject_below=0.3, aim=Aim(250.0, "MACs", MACS, reject_error=0.25))
    found = refit(windows, GROUP, {}, {"p": stored})
    new, (change,) = found.policies["p"], found.changes
    decided = simulate(new, windows.outputs)
    wrong = decided.outputs.argmax(1) != windows.targets
    assert change.rejected_after == pytest.approx(decided.rejected.mean())
    assert wrong[~decided.rejected].mean() <= 0.25
    last = decided.exit == 2
    certain = softmax(decided.outputs / new.answer_temperatures[2], axis=1).max(1)
    lower = certain[last & (certain < new.reject_below)].max()
    one_less = ~(last & (certain < lower))
    assert wrong[one_less].mean() > 0.25
    as_many = refit(windows, GROUP, {}, {"p": replace(stored, aim=None)}).changes[0]
    assert as_many.rejected_after == pytest.approx(as_many.rejected_before, abs=1 / COUNT)


def test_a_regression_has_thresholds_alone() -> None:
    windows = labelled(kind="regression")
    stored = policy(windows, (-0.5, -0.5))
    found = refit(windows, GROUP, {}, {"p": stored})
    assert found.exits == ()
    assert found.temperatures == {}
    (change,) = found.changes
    assert change.cost_after <= 250
    decided = simulate(found.policies["p"], windows.outputs)
    if change.outcome == "refitted":
        assert np.abs(decided.outputs - windows.targets).mean() < 0.6


def test_one_exit_for_all_has_nothing_to_choose() -> None:
    windows = labelled()
    single = Policy("classification", "confidence", ("middle",), (), (1.0,), (1.0,), aim=Aim(210.0, "MACs", (210.0,)))
    found = refit(windows, GROUP, {}, {"p": single})
    assert found.changes[0].outcome == "kept"
    assert "nothing to choose" in found.changes[0].sentence
    assert found.policies["p"].answer_temperatures[0] == pytest.approx(
        {change.exit: change.after for change in found.exits}["middle"], rel=0.2
    )


# --- guarantees

THRESHOLDS = (np.inf, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.0)


def promised(level: float = 0.1, **changes: object) -> StoredGuarantee:
    made = StoredGuarantee("disagreement", level, 0.1, "learn_then_test", None, THRESHOLDS, 100, 0.05, 0.09)
    return replace(made, **changes)


def certified(windows: Windows, threshold: float, **changes: object) -> Policy:
    return policy(windows, (threshold,) * 2, aim=None, guarantee=promised(**changes))


def disagreements(windows: Windows, threshold: float) -> np.ndarray:
    decided = simulate(certified(windows, threshold), windows.outputs)
    return (decided.outputs.argmax(1) != windows.outputs["late"].argmax(1)).astype(float)


def test_losses_along_thresholds_are_those_of_the_simulation() -> None:
    windows = labelled()
    found = losses_along(certified(windows, 0.8), windows.outputs, windows.targets, THRESHOLDS, "disagreement", None)
    for row, threshold in zip(found, THRESHOLDS, strict=True):
        np.testing.assert_array_equal(row, disagreements(windows, threshold))


@pytest.mark.parametrize("stored", [0.95, 0.4])
def test_a_promise_is_certified_anew_on_the_sequence_that_was_fixed_before(stored: float) -> None:
    """Whether the stored threshold was too careful or too bold; nothing else of the policy moves, and all groups certify."""
    windows = labelled()
    losses = np.stack([group_losses(disagreements(windows, t)[None], GROUP)[0] for t in THRESHOLDS])
    expected = certify(losses, 0.1, 0.1, "learn_then_test")
    assert expected.index
    found = refit(windows, GROUP, {"late": 4.0}, {"certified": certified(windows, stored)})
    new, (change,) = found.policies["certified"], found.changes
    assert change.outcome == "renewed"
    assert set(new.thresholds) == {THRESHOLDS[expected.index]}
    assert new.temperatures == (1.0,) * 3
    assert new.guarantee == promised(groups=GROUPS, mean_loss=expected.mean_loss, bound=expected.bound)
    assert change.mean_loss == pytest.approx(losses[expected.index].mean())
    assert "renewed (at most 10.0% answers other than full depth's, with probability 0.9" in change.sentence
    assert Policy.from_dict(json.loads(json.dumps(new.to_dict()))).guarantee == new.guarantee


def test_a_promise_that_does_not_hold_any_more_is_withdrawn_with_its_policy() -> None:
    """Traffic on which early exits are sure, and disagree with full depth."""
    windows = labelled(scale=20.0)
    odd = {**windows.outputs, "late": np.roll(windows.outputs["late"], 1, axis=1)}
    found = refit(
        replace(windows, outputs=odd), GROUP, {}, {"certified": certified(windows, 0.9), "p": policy(windows)}
    )
    certificate, plain = found.changes
    assert certificate.outcome == "withdrawn"
    assert certificate.thresholds_after is None
    assert list(found.policies) == ["p"]
    assert plain.outcome in ("refitted", "kept")
    assert "the guarantee is withdrawn" in certificate.sentence
    assert "at any threshold that lets windows leave early" in certificate.sentence


def test_too_few_recordings_withdraw_and_say_how_many_are_needed() -> None:
    windows = labelled(count=200)
    needed = fewest_groups(0.1, 0.1)
    found = refit(windows, np.arange(200) % (needed - 1), {}, {"certified": certified(windows, 0.95)})
    assert found.policies == {}
    assert f"at least {needed} are needed" in (found.changes[0].reason or "")


def test_a_policy_of_the_name_without_a_stored_guarantee_is_not_certified() -> None:
    windows = labelled()
    found = refit(windows, GROUP, {}, {"certified": policy(windows)})
    assert found.policies == {}
    assert "does not say what was certified" in found.changes[0].sentence


def test_the_renewed_promise_is_broken_as_rarely_as_it_says() -> None:
    """Two hundred sets of recordings of one population, of which the risk of every threshold is known: at most a tenth may violate."""
    rng, level, broken = np.random.default_rng(0), 0.2, 0
    population = labelled(count=20_000, seed=9)
    risks = {t: disagreements(population, t).mean() for t in THRESHOLDS}
    assert max(risks.values()) > level
    for _ in range(200):
        rows = rng.integers(0, 20_000, 120)
        drawn = replace(population.subset(rows), metric=population.metric)
        found = renew(certified(drawn, 0.9, level=level), drawn.outputs, drawn.targets, np.arange(120))
        broken += found.policy is not None and risks[found.policy.thresholds[0]] > level
    assert broken / 200 <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 200)


# --- what is stored


@pytest.mark.parametrize(
    "damage",
    [
        {"risk": "luck"},
        {"method": "prayer"},
        {"level": 1.5},
        {"delta": 0.0},
        {"delta": None},
        {"limit": -1.0},
        {"thresholds": []},
        {"thresholds": ["nan"]},
        {"groups": "many"},
    ],
)
def test_a_damaged_guarantee_is_not_read(damage: dict[str, object]) -> None:
    stored = certified(labelled(count=40), 0.9).to_dict()
    Policy.from_dict(json.loads(json.dumps(stored)))
    stored["guarantee"] |= damage
    with pytest.raises((ValueError, TypeError)):
        Policy.from_dict(stored)


@pytest.mark.parametrize(
    "damage", [{"budget": -1}, {"leaving": []}, {"leaving": [3, 2, 1]}, {"leaving": ["x"]}, {"reject_error": 1.0}]
)
def test_a_damaged_aim_is_not_read(damage: dict[str, object]) -> None:
    stored = policy(labelled(count=40)).to_dict()
    assert Policy.from_dict(json.loads(json.dumps(stored))).aim == Aim(250.0, "MACs", MACS)
    stored["aim"] |= damage
    with pytest.raises((ValueError, TypeError)):
        Policy.from_dict(stored)
