"""What learned criteria are fitted to, against scikit-learn, a search by hand and counts, and that a policy uses it as it was meant."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge

from offramp.errors import DataError, PolicyError
from offramp.policies import CRITERIA, Policy
from offramp.policies.criteria import Seen, confidence, descriptors
from offramp.policies.learning import learned_parameters
from offramp.policies.simulation import certainties
from offramp.scoring.calibration import failure_auroc

EXITS = ("shallow", "middle", "deep")
TEMPERATURES = (0.5, 1.0, 1.7)
LEARNED = [(name, kind) for name, criterion in CRITERIA.items() if criterion.learned for kind in criterion.kinds]


def classified(count: int = 600, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Logits of three exits, deeper ones better, for labels of four classes; some windows are noisier than others."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    noise = rng.uniform(0.3, 2.5, (count, 1))
    outputs = {
        exit: (2 * np.eye(4)[labels] + noise * rng.normal(size=(count, 4)) / (1 + depth)).astype(np.float32)
        for depth, exit in enumerate(EXITS)
    }
    return outputs, labels


def measured(count: int = 600, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Values of three exits for two-dimensional targets of unlike spread."""
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=(count, 2)) * (3, 200) + (1, 50)
    noise = rng.uniform(0.05, 1.5, (count, 1))
    outputs = {
        exit: (targets + noise * rng.normal(size=(count, 2)) * (3, 200) / (1 + depth)).astype(np.float32)
        for depth, exit in enumerate(EXITS)
    }
    return outputs, targets


def windows(kind: str, count: int = 600, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, tuple[float, ...]]:
    outputs, targets = classified(count, seed) if kind == "classification" else measured(count, seed)
    return outputs, targets, TEMPERATURES if kind == "classification" else (1.0, 1.0, 1.0)


def fitted(criterion: str, kind: Any, outputs: dict, targets: np.ndarray, temperatures: tuple[float, ...]) -> Policy:
    """A policy with learned parameters, through JSON as a bundle holds it."""
    parameters = learned_parameters(criterion, kind, EXITS, outputs, targets, temperatures)
    policy = Policy(kind, criterion, EXITS, (0.0, 0.0), temperatures, temperatures, parameters)
    return Policy.from_dict(json.loads(json.dumps(policy.to_dict(), allow_nan=False)))


def described_by_hand(outputs: dict, temperatures: tuple[float, ...]) -> list[np.ndarray]:
    """Confidence, margin, entropy and share of the streak, window by window."""
    rows = []
    for depth, (exit, temperature) in enumerate(zip(EXITS, temperatures, strict=True)):
        probability = np.exp(outputs[exit].astype(np.float64) / temperature)
        probability /= probability.sum(1, keepdims=True)
        ordered = np.sort(probability, axis=1)
        certain = 1 + (probability * np.log(probability)).sum(1) / np.log(4)
        answers = [outputs[name].argmax(1) for name in EXITS[: depth + 1]]
        streak = [
            next((k for k in range(1, depth + 1) if row[-1 - k] != row[-1]), depth + 1)
            for row in np.stack(answers, axis=1)
        ]
        rows.append(
            np.stack([ordered[:, -1], ordered[:, -1] - ordered[:, -2], certain, np.array(streak) / (depth + 1)], axis=1)
        )
    return rows


def losses_of(kind: str, outputs: dict, targets: np.ndarray) -> np.ndarray:
    if kind == "classification":
        return np.stack([outputs[exit].argmax(1) != targets for exit in EXITS]).astype(float)
    return np.stack([np.sqrt((((outputs[exit] - targets) / targets.std(0)) ** 2).mean(1)) for exit in EXITS])


@pytest.mark.parametrize(("criterion", "kind"), LEARNED)
class TestEveryLearnedCriterion:
    def test_orders_new_windows_better_than_chance(self, criterion: str, kind: str) -> None:
        policy = fitted(criterion, kind, *windows(kind, 2000))
        outputs, targets, _ = windows(kind, 2000, seed=1)
        losses = losses_of(kind, outputs, targets)
        wanted = -(losses - losses[-1]) if criterion == "benefit" else -losses
        certain = certainties(policy, outputs)
        for depth in (0, 1):
            assert np.isfinite(certain[depth]).all()
            assert spearmanr(certain[depth], wanted[depth]).statistic > 0.1

    def test_the_same_twice(self, criterion: str, kind: Any) -> None:
        outputs, targets, temperatures = windows(kind, 200)
        first, second = (learned_parameters(criterion, kind, EXITS, outputs, targets, temperatures) for _ in range(2))
        assert first.keys() == second.keys()
        assert all((first[name] == second[name]).all() and first[name].dtype == np.float32 for name in first)

    @pytest.mark.parametrize("count", [1, 2, 15])
    def test_few_windows_give_finite_certainties(self, criterion: str, kind: str, count: int) -> None:
        outputs, targets, temperatures = windows(kind, count)
        assert np.isfinite(certainties(fitted(criterion, kind, outputs, targets, temperatures), outputs)).all()

    def test_exits_that_are_always_right_give_finite_certainties(self, criterion: str, kind: str) -> None:
        outputs, targets, temperatures = windows(kind, 50)
        perfect = 9 * np.eye(4)[targets] if kind == "classification" else targets
        outputs = dict.fromkeys(EXITS, perfect.astype(np.float32))
        certain = certainties(fitted(criterion, kind, outputs, targets, temperatures), outputs)
        assert np.isfinite(certain).all()
        assert (certain[:2] > (-1e-3 if criterion == "benefit" else 0.9)).all()

    def test_one_exit_is_enough(self, criterion: str, kind: Any) -> None:
        outputs, targets, _ = windows(kind, 60)
        parameters = learned_parameters(criterion, kind, ["deep"], outputs, targets, [1.0])
        policy = Policy(kind, criterion, ("deep",), (), (1.0,), (1.0,), parameters)
        assert certainties(policy, outputs).shape == (1, 60)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_outputs_that_are_not_finite_name_the_exit(self, criterion: str, kind: Any, value: float) -> None:
        outputs, targets, temperatures = windows(kind, 60)
        outputs["middle"][7, 1] = value
        with pytest.raises(DataError, match="exit 'middle': validation outputs are not all finite"):
            learned_parameters(criterion, kind, EXITS, outputs, targets, temperatures)


class TestLearnedHalting:
    def test_no_other_layer_is_closer_to_the_certainty(self) -> None:
        outputs, labels, temperatures = windows("classification")
        parameters = learned_parameters("learned_halting", "classification", EXITS, outputs, labels, temperatures)
        features = np.concatenate(described_by_hand(outputs, temperatures)[:2])
        right = 1 - losses_of("classification", outputs, labels)[:2].ravel()

        def penalised(weight: np.ndarray, bias: float) -> float:
            error = ((expit(features @ weight + bias) - right) ** 2).mean()
            return error + 1e-3 * ((weight * features.std(0)) ** 2).sum()

        found = penalised(parameters["weight"].astype(float), float(parameters["bias"]))
        searched = minimize(lambda p: penalised(p[:-1], p[-1]), np.zeros(5), method="Powell", options={"maxiter": 50})
        assert found <= searched.fun + 1e-5
        assert found < penalised(np.zeros(4), np.log(right.mean() / (1 - right.mean()))) - 0.01

    def test_the_target_of_regression_is_one_minus_tanh_of_the_error(self) -> None:
        outputs, targets, temperatures = windows("regression")
        policy = fitted("learned_halting", "regression", outputs, targets, temperatures)
        wanted = 1 - np.tanh(losses_of("regression", outputs, targets)[:2])
        # least squares through a logistic function with a bias leaves a mean residual near zero
        assert certainties(policy, outputs)[:2].mean() == pytest.approx(wanted.mean(), abs=0.01)


class TestBenefit:
    @pytest.mark.parametrize("kind", ["classification", "regression"])
    def test_is_the_ridge_regression_of_the_loss_against_the_last_exits(self, kind: Any) -> None:
        outputs, targets, temperatures = windows(kind)
        policy = fitted("benefit", kind, outputs, targets, temperatures)
        losses = losses_of(kind, outputs, targets)
        if kind == "classification":
            features = described_by_hand(outputs, temperatures)
        else:
            scaled = [(outputs[exit] - targets.mean(0)) / targets.std(0) for exit in EXITS]
            moved = [np.ones_like(scaled[0]), scaled[1] - scaled[0], scaled[2] - scaled[1]]
            features = [
                np.stack([np.sqrt((m**2).mean(1)), np.sqrt((s**2).mean(1))], axis=1)
                for m, s in zip(moved, scaled, strict=True)
            ]
        certain = certainties(policy, outputs)
        for depth in (0, 1):
            center, spread = features[depth].mean(0), features[depth].std(0)
            standard = (features[depth] - center) / np.where(spread < 1e-6, 1, spread)
            ridge = Ridge(alpha=1e-3 * len(targets)).fit(standard, losses[depth] - losses[-1])
            assert certain[depth] == pytest.approx(-ridge.predict(standard), abs=1e-4)

    def test_nothing_is_to_be_gained_at_the_last_exit(self) -> None:
        policy = fitted("benefit", "classification", *windows("classification"))
        assert (certainties(policy, windows("classification", seed=1)[0])[-1] == 0).all()


class TestBinAccuracy:
    def test_certainty_is_laplaces_estimate_of_the_accuracy_among_windows_in_the_bin(self) -> None:
        outputs, labels, temperatures = windows("classification", 410)
        policy = fitted("bin_accuracy", "classification", outputs, labels, temperatures)
        certain = certainties(policy, outputs)
        edges = policy.parameters["edges"]
        assert edges.shape == (3, 9)
        for depth, exit in enumerate(EXITS):
            sure, right = confidence(outputs[exit] / temperatures[depth]), outputs[exit].argmax(1) == labels
            bounds = [-np.inf, *edges[depth], np.inf]
            for low, high in pairwise(bounds):
                inside = (sure >= low) & (sure < high)
                assert 40 <= inside.sum() <= 42
                assert certain[depth][inside] == pytest.approx((right[inside].sum() + 1) / (inside.sum() + 2))

    def test_no_bin_holds_fewer_than_twenty_where_confidences_are_tied(self) -> None:
        outputs, labels, _ = windows("classification", 300)
        outputs["shallow"][:250] = np.eye(4, dtype=np.float32)[labels[:250]] * 3
        outputs["middle"][:] = 0
        parameters = learned_parameters("bin_accuracy", "classification", EXITS, outputs, labels, (1.0, 1.0, 1.0))
        for depth, exit in enumerate(EXITS):
            inside = np.bincount((confidence(outputs[exit])[:, None] >= parameters["edges"][depth]).sum(1))
            assert inside[inside > 0].min() >= 20
        assert (parameters["edges"][1] > 1).all()
        rate = (labels == 0).mean()
        assert parameters["accuracy"][1] == pytest.approx(np.full(10, (300 * rate + 1) / 302), abs=1e-6)

    def test_few_windows_share_one_bin(self) -> None:
        outputs, labels, temperatures = windows("classification", 39)
        parameters = learned_parameters("bin_accuracy", "classification", EXITS, outputs, labels, temperatures)
        assert parameters["edges"].shape == (3, 0)
        assert parameters["accuracy"].shape == (3, 1)


class TestMemoryIsThatOfTheRunningPolicy:
    @pytest.mark.parametrize("order", [EXITS, ("middle", "deep"), ("shallow", "deep")])
    def test_descriptors_when_learning_are_those_seen_later(self, order: tuple[str, ...]) -> None:
        """Benefit is linear in descriptors: with them computed by hand it gives what the running policy gives."""
        outputs, labels, _ = windows("classification", 200)
        scale = (1.3,) * len(order)
        parameters = learned_parameters("benefit", "classification", order, outputs, labels, scale)
        policy = Policy("classification", "benefit", order, (0.0,) * (len(order) - 1), scale, scale, parameters)
        streak, previous = np.ones(200, int), np.zeros((200, 0), np.float32)
        for index, exit in enumerate(order):
            if index:
                streak = np.where(outputs[exit].argmax(1) == previous.argmax(1), streak + 1, 1)
            described = descriptors(Seen(index, outputs[exit] / 1.3, streak, previous), {})
            predicted = described @ parameters["weight"][index] + parameters["bias"][index]
            assert certainties(policy, outputs)[index] == pytest.approx(-predicted, abs=1e-5)
            # residuals of a regression with an intercept sum to zero on the windows that it was fitted to
            gain = (outputs[exit].argmax(1) != labels).mean() - (outputs["deep"].argmax(1) != labels).mean()
            assert predicted.mean() == pytest.approx(gain, abs=1e-4)
            previous = outputs[exit]


class TestLosses:
    def test_those_given_take_the_place_of_right_and_wrong(self) -> None:
        outputs, labels, temperatures = windows("classification", 400)
        losses = np.random.default_rng(5).random((3, 400))
        parameters = learned_parameters(
            "bin_accuracy", "classification", EXITS, outputs, labels, temperatures, losses=losses
        )
        everything = (parameters["accuracy"] * 42 - 1).sum(1)
        assert everything == pytest.approx((1 - losses).sum(1), rel=1e-4)

    @pytest.mark.parametrize(
        ("losses", "said"),
        [
            (np.zeros((2, 60)), r"losses of shape \(2, 60\)"),
            (np.full((3, 60), np.nan), "finite"),
            (np.full((3, 60), 1.5), "none above 1"),
            (np.full((3, 60), -0.5), "none below 0"),
        ],
    )
    def test_nonsense_is_told(self, losses: np.ndarray, said: str) -> None:
        outputs, labels, temperatures = windows("classification", 60)
        with pytest.raises(DataError, match=said):
            learned_parameters("benefit", "classification", EXITS, outputs, labels, temperatures, losses)


class TestAtTheDoor:
    @pytest.mark.parametrize("criterion", [name for name, criterion in CRITERIA.items() if not criterion.learned])
    def test_criteria_without_parameters_have_none(self, criterion: str) -> None:
        kind: Any = CRITERIA[criterion].kinds[0]
        outputs, targets, temperatures = windows(kind, 60)
        assert learned_parameters(criterion, kind, EXITS, outputs, targets, temperatures) == {}

    def test_wrong_input_is_told(self) -> None:
        outputs, labels, temperatures = windows("classification", 60)

        def fit(criterion: str = "benefit", kind: Any = "classification", exits: Any = EXITS, **changed: Any) -> None:
            told = {"outputs": outputs, "targets": labels, "temperatures": temperatures} | changed
            learned_parameters(criterion, kind, exits, **told)

        with pytest.raises(PolicyError, match="unknown criterion"):
            fit("confidense")
        with pytest.raises(PolicyError, match="not for regression"):
            fit("bin_accuracy", "regression")
        with pytest.raises(PolicyError, match="no outputs of exit 'deeper'"):
            fit(exits=("shallow", "middle", "deeper"))
        with pytest.raises(PolicyError, match="3 temperatures"):
            fit(temperatures=(1.0,))
        with pytest.raises(PolicyError, match="one exit or more"):
            fit(exits=(), temperatures=())
        with pytest.raises(DataError, match="there are none"):
            fit(outputs={exit: rows[:0] for exit, rows in outputs.items()}, targets=labels[:0])
        with pytest.raises(DataError, match="'shallow': 60 outputs for 59"):
            fit(targets=labels[:59])
        with pytest.raises(DataError, match="too large"):
            fit("bin_accuracy", outputs=dict.fromkeys(EXITS, np.full((60, 4), 3e38, np.float32)))
        values, targets, ones = windows("regression", 60)
        with pytest.raises(DataError, match=r"outputs \(60, 2\) and targets \(60, 1\)"):
            fit(kind="regression", outputs=values, targets=targets[:, 0], temperatures=ones)
        targets[3, 1] = np.nan
        with pytest.raises(DataError, match="targets are not all finite"):
            fit(kind="regression", outputs=values, targets=targets, temperatures=ones)


def test_learned_halting_tells_right_from_wrong_at_least_about_as_well_as_confidence() -> None:
    policy = fitted("learned_halting", "classification", *windows("classification", 3000))
    outputs, labels, _ = windows("classification", 3000, seed=1)
    right = outputs["shallow"].argmax(1) == labels
    learned = failure_auroc(certainties(policy, outputs)[0], right)
    plain = failure_auroc(confidence(outputs["shallow"] / TEMPERATURES[0]), right)
    assert learned is not None
    assert plain is not None
    assert learned > plain - 0.02
