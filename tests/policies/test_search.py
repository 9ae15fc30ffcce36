"""The search for policies against counting by hand, brute force and properties."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.errors import PolicyError
from offramp.policies.costs import CascadeCosts
from offramp.policies.policy import Policy
from offramp.policies.search import (
    Found,
    Searcher,
    candidate,
    exit_subsets,
    exit_temperatures,
    outcomes,
    shared_thresholds,
    survivors,
    sweep,
    with_answer_temperatures,
)
from offramp.policies.simulation import simulate
from offramp.policies.windows import Windows
from offramp.scoring.metrics import METRICS

EXITS = ("a", "b", "c", "d")
COSTS = CascadeCosts((10.0, 20.0, 40.0, 80.0), (1.0, 2.0, 3.0, 4.0), "MACs")


def classified(seed: int, count: int = 200, classes: int = 3) -> Windows:
    """Outputs that grow better with depth."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    outputs = {
        exit: (np.eye(classes)[labels] * (0.5 + depth) + rng.normal(size=(count, classes))).astype(np.float32)
        for depth, exit in enumerate(EXITS)
    }
    return Windows(EXITS, outputs, labels, METRICS["accuracy"])


def regressed(seed: int, count: int = 200) -> Windows:
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=(count, 2)).astype(np.float32)
    outputs = {
        exit: (targets + rng.normal(size=targets.shape) / (1 + depth)).astype(np.float32)
        for depth, exit in enumerate(EXITS)
    }
    return Windows(EXITS, outputs, targets, METRICS["mean_error"])


def test_costs_of_leaving_hold_all_heads_on_the_way() -> None:
    assert COSTS.leaving((0, 2, 3)).tolist() == [10 + 1, 40 + 1 + 3, 80 + 1 + 3 + 4]
    assert COSTS.fixed().tolist() == [11, 22, 43, 84]
    assert COSTS.of((1, 3)).leaving((0, 1)).tolist() == [22, 86]


def test_subsets_are_singles_pairs_triples_and_prefixes() -> None:
    found = exit_subsets(5)
    assert len(found) == 5 + 10 + 10 + 2
    assert (0, 1, 2, 3) in found
    assert (0, 1, 2, 3, 4) in found
    assert exit_subsets(1) == [(0,)]


def test_a_budget_below_the_cheapest_exit_names_the_nearest() -> None:
    with pytest.raises(PolicyError, match="nearest possible is 11 MACs"):
        COSTS.check_budget(10)
    COSTS.check_budget(11)


def test_a_service_level_below_the_cheapest_exit_names_the_nearest() -> None:
    with pytest.raises(PolicyError, match="every exit costs more than 5 MACs; the nearest possible is 11 MACs"):
        COSTS.check_service_level(5)
    with pytest.raises(PolicyError, match="nearest possible is 11 MACs"):
        search(classified(0), ("confidence",), [50.0], worst=5)


def test_a_service_level_that_one_exit_alone_keeps_is_kept_by_it() -> None:
    (found,) = search(classified(0), ("confidence",), [50.0], worst=22)  # two heads on the way to b would cost 23
    assert found["confidence"].policy.exits == ("b",)
    assert found["confidence"].cost == 22


def search(
    windows: Windows, criteria: tuple[str, ...], budgets: list[float], worst: float | None = None
) -> list[dict[str, Found]]:
    return Searcher(windows, windows.metric.kind).search(criteria, COSTS, budgets, worst)


@pytest.mark.parametrize("windows", [classified(0), regressed(0)], ids=["classification", "regression"])
def test_outcomes_are_those_of_the_simulation(windows: Windows) -> None:
    kind = windows.metric.kind
    criterion = "margin" if kind == "classification" else "agreement"
    tried = candidate(windows, kind, criterion, (0, 1, 3), exit_temperatures(windows, kind))
    points = sweep(tried, windows, COSTS)
    sign = 1 if kind == "classification" else -1
    for number in range(len(points.thresholds)):
        place = (float(points.scores[number]), -float(points.costs[number]), number)
        policy = points.found(place, tried).policy
        decided = simulate(policy, windows.outputs)
        assert sign * points.scores[number] == pytest.approx(windows.metric(decided.outputs, windows.targets), abs=1e-9)
        assert points.costs[number] == pytest.approx(COSTS.leaving((0, 1, 3))[decided.exit].mean())


def test_thresholds_go_from_none_leaves_to_all_leave() -> None:
    thresholds = shared_thresholds(np.asarray([[0.5, 0.25, np.nan], [-np.inf, 0.75, 0.5]], dtype=np.float32), 6)
    assert thresholds[0] == np.inf
    assert thresholds[-1] == -np.inf
    assert (np.diff(thresholds) < 0).all()
    assert set(thresholds[1:-1]) <= {0.25, 0.5, 0.75}
    assert shared_thresholds(np.full((1, 3), -np.inf, dtype=np.float32), 6).tolist() == [np.inf, -np.inf]


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000), st.sampled_from([11.0, 15.0, 30.0, 60.0, 84.0, 90.0]))
def test_policies_keep_to_the_budget_and_the_service_level_on_validation(seed: int, budget: float) -> None:
    windows = classified(seed, 120)
    (found,) = search(windows, ("confidence", "patience", "learned_halting"), [budget], worst=60)
    assert set(found) == {
        name + rule for name in ("confidence", "patience", "learned_halting") for rule in ("", " per exit")
    }
    for each in found.values():
        decided = simulate(each.policy, windows.outputs)
        paid = COSTS.leaving([EXITS.index(exit) for exit in each.policy.exits])
        assert paid[decided.exit].mean() <= budget * (1 + 1e-6)
        assert paid[-1] <= 60
        assert each.cost == pytest.approx(paid[decided.exit].mean())
        assert each.score == pytest.approx(windows.metric(decided.outputs, windows.targets))


def test_own_thresholds_are_never_worse_on_validation() -> None:
    for windows, kind in ((classified(3), "classification"), (regressed(3), "regression")):
        criterion = "entropy" if kind == "classification" else "benefit"
        for row in search(windows, (criterion,), [15.0, 40.0, 70.0]):
            assert row[f"{criterion} per exit"].score >= row[criterion].score - 1e-12


def test_the_search_finds_what_brute_force_finds() -> None:
    """All pairs with their thresholds: no shared threshold within the budget scores higher."""
    windows = classified(5, 80)
    budget = 35.0
    (found,) = search(windows, ("confidence",), [budget])
    temperatures = exit_temperatures(windows, "classification")
    best = -np.inf
    for first, second in product(range(4), repeat=2):
        if first < second:
            tried = candidate(windows, "classification", "confidence", (first, second), temperatures)
            thresholds = shared_thresholds(tried.certain[:1], 24)[:, None]
            scores, costs = outcomes(tried, thresholds, windows, COSTS)
            best = max([best, *scores[costs <= budget]])
    assert found["confidence"].score >= best - 1e-12


def test_a_task_that_depth_does_not_help_leaves_at_once() -> None:
    windows = classified(7)
    same = Windows(EXITS, dict.fromkeys(EXITS, windows.outputs["d"]), windows.targets, windows.metric)
    (found,) = search(same, ("confidence",), [200.0])
    assert found["confidence"].cost == pytest.approx(11)


def test_a_regression_finds_the_exits_that_benefit_would_choose() -> None:
    """Agreement knows nothing at a first exit: it must not be what ranks subsets."""
    windows = regressed(11, 400)
    (found,) = search(windows, ("benefit",), [60.0])
    temperatures = dict.fromkeys(EXITS, 1.0)
    for subset in exit_subsets(4):
        points = sweep(candidate(windows, "regression", "benefit", subset, temperatures), windows, COSTS)
        place = points.within(60.0)
        assert place is None or found["benefit"].score >= place[0] - 1e-12


def test_losses_of_a_metric_that_grows_and_of_windows_with_nothing_to_gain() -> None:
    gains = np.asarray([[1.0, 3.0], [0.0, 0.0]], dtype=np.float32)
    outputs = {
        "a": np.asarray([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32),
        "b": np.asarray([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32),
    }
    windows = Windows(("a", "b"), outputs, gains, METRICS["spectral_efficiency"])
    np.testing.assert_allclose(windows.losses, [[1 - np.log2(2) / np.log2(4), 0], [0, 0]])
    assert windows.right.tolist() == [[False, True], [True, True]]


def test_losses_of_accuracies_are_their_misses() -> None:
    labels = np.asarray([0, 1, 2])
    outputs = {"a": np.asarray([[3, 2, 1, 0], [3, 2, 1, 0], [0, 2, -1, 1]], dtype=np.float32)}
    for name, missed in (("accuracy", [0, 1, 1]), ("balanced_accuracy", [0, 1, 1]), ("top3_accuracy", [0, 0, 1])):
        assert Windows(("a",), outputs, labels, METRICS[name]).losses.tolist() == [missed]


def test_an_answer_of_a_regression_that_hardly_differs_is_as_good() -> None:
    windows = regressed(2)
    nearly = dict(windows.outputs) | {"a": windows.outputs["d"] + np.float32(1e-5)}
    assert Windows(EXITS, nearly, windows.targets, windows.metric).right[0].all()


def test_a_policy_of_one_exit_is_the_fixed_exit() -> None:
    windows = classified(1)
    policy = Policy("classification", "confidence", ("c",), (), (1.0,), (1.0,))
    assert (simulate(policy, windows.outputs).exit == 0).all()


def test_survivors_shrink_with_depth_and_have_temperatures_of_their_own() -> None:
    windows = classified(9, 2000)
    (found,) = search(windows, ("confidence",), [40.0])
    policy = with_answer_temperatures(found["confidence"].policy, windows)
    reached = [len(rows) for rows in survivors(policy, windows.outputs)]
    assert reached[0] == 2000
    assert reached == sorted(reached, reverse=True)
    assert policy.answer_temperatures[0] == pytest.approx(policy.temperatures[0], rel=1e-3)
    assert policy.answer_temperatures[-1] != policy.temperatures[-1]
