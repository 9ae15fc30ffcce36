"""What each step of a training for exits asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.errors import TrainingError
from offramp.training.config import rate_share
from offramp.training.exits.config import ExitTraining, Method
from offramp.training.exits.schedules import StepPlan, dropout_rates, exit_weights, plan_step

UNIFORM = (0.25,) * 4
MANY: list[Method] = ["joint", "progressive", "alternating", "two-stage", "self-distillation", "layerskip"]


def plans(exits: int = 4, weights: tuple[float, ...] = UNIFORM, **settings: Any) -> list[StepPlan]:
    config = ExitTraining(**settings)
    return [plan_step(config, step, weights) for step in range(config.steps)]


def asked(plan: StepPlan) -> list[int]:
    return [place for place, weight in enumerate(plan.weights) if weight > 0]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("uniform", [1, 1, 1]),
        ("linear", [1, 2, 3]),
        ("square-root", [1, 2**0.5, 3**0.5]),
        ("inverse", [1, 1 / 2, 1 / 3]),
        ("macs", [10, 30, 60]),
    ],
)
def test_weights_of_joint_training(weights: Any, expected: list[float]) -> None:
    found = exit_weights(ExitTraining(weights=weights), [10, 30, 60])
    np.testing.assert_allclose(found, np.array(expected) / np.sum(expected))


def test_weights_of_layerskip_are_sums_of_numbers() -> None:
    found = exit_weights(ExitTraining(method="layerskip", early_exit_scale=0.5), [1, 1, 1, 1])
    raw = np.array([0.5 * 1, 0.5 * 3, 0.5 * 6, 4 + 0.5 * 6])
    np.testing.assert_allclose(found, raw / raw.sum())
    assert exit_weights(ExitTraining(method="layerskip", early_exit_scale=0.0), [1, 1]) == (0, 1)


@settings(deadline=None, max_examples=60)
@given(
    method=st.sampled_from(MANY),
    count=st.integers(2, 9),
    steps=st.integers(2, 40),
    order=st.sampled_from(["shallow-to-deep", "deep-to-shallow"]),
    curriculum=st.sampled_from(["none", "rotational", "gradual"]),
    rotation=st.integers(1, 5),
)
def test_every_step_has_a_loss_and_every_rate_is_a_share(
    method: Any, count: int, steps: int, order: Any, curriculum: Any, rotation: int
) -> None:
    config = ExitTraining(method=method, steps=steps, order=order, curriculum=curriculum, rotation=rotation)
    weights = exit_weights(config, [1] * count)
    for step in range(steps):
        plan = plan_step(config, step, weights)
        assert sum(plan.weights) == pytest.approx(1)
        assert min(plan.weights) >= 0
        assert 0 <= plan.rate <= 1
        if method == "layerskip":
            assert plan.weights[-1] > 0


def test_alternating_asks_the_last_exit_alone_at_odd_steps() -> None:
    found = [asked(plan) for plan in plans(method="alternating", steps=4)]
    assert found == [[3], [0, 1, 2, 3], [3], [0, 1, 2, 3]]


def test_two_stages_train_the_encoder_then_the_other_heads() -> None:
    found = plans(method="two-stage", steps=7)
    assert [asked(plan) for plan in found] == [[3]] * 4 + [[0, 1, 2]] * 3
    assert [plan.encoder_learns for plan in found] == [True] * 4 + [False] * 3
    assert [plan.rate for plan in found] == [rate_share(step, 4) for step in range(4)] + [
        rate_share(step, 3) for step in range(3)
    ]


@pytest.mark.parametrize(("order", "first"), [("shallow-to-deep", 0), ("deep-to-shallow", 3)])
def test_exits_join_one_after_another_and_rise(order: Any, first: int) -> None:
    found = plans(method="progressive", order=order, steps=160)
    joined = [asked(plan) for plan in found]
    assert joined[0] == [first]
    places = [0, 1, 2, 3] if first == 0 else [3, 2, 1, 0]
    since = [next(step for step, exits in enumerate(joined) if place in exits) for place in places]
    assert since == [0, 20, 40, 60]
    for plan in found[80:]:
        np.testing.assert_allclose(plan.weights, UNIFORM)
    share = [plan.weights[places[1]] / plan.weights[first] for plan in found]
    assert share[20] == pytest.approx(0.1)
    assert share[29] == pytest.approx(1)
    assert np.all(np.diff(share) >= -1e-12)


def test_the_rotational_curriculum_asks_every_exit_once_in_a_turn() -> None:
    weights = exit_weights(ExitTraining(method="layerskip"), [1] * 7)
    found = plans(weights=weights, method="layerskip", curriculum="rotational", rotation=3, steps=6)
    for start in range(4):
        turn = [place for plan in found[start : start + 3] for place in asked(plan) if place < 6]
        assert sorted(turn) == list(range(6))


def test_the_gradual_curriculum_goes_from_the_last_exit_to_the_first() -> None:
    weights = exit_weights(ExitTraining(method="layerskip"), [1] * 4)
    found = [asked(plan) for plan in plans(weights=weights, method="layerskip", curriculum="gradual", steps=80)]
    assert found[0] == [3]
    assert found[10] == [2, 3]
    assert found[29] == [1, 2, 3]
    assert all(exits == [0, 1, 2, 3] for exits in found[30:])


def test_layers_drop_out_exponentially_more_with_depth() -> None:
    rates = dropout_rates(ExitTraining(method="layerskip", layer_dropout=0.2), 5)
    np.testing.assert_allclose(rates, [0.2 * (np.exp(np.log(2) * layer / 4) - 1) for layer in range(5)])
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.2)
    assert dropout_rates(ExitTraining(), 1) == (0.0,)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "jointly"}, "'jointly': choose one of joint, progressive"),
        ({"weights": "cubic"}, "choose one of uniform, linear"),
        ({"steps": 0}, "steps 0: give 1 or more"),
        ({"method": "two-stage", "steps": 1}, "two-stage takes 2"),
        ({"learning_rate": float("nan")}, "learning rate nan: give a positive number"),
        ({"head_learning_rate": -1.0}, "head learning rate -1.0"),
        ({"layer_dropout": 1.0}, "layer dropout 1.0"),
        ({"exit": "stem"}, "is for the methods low-rank and full"),
        ({"method": "full", "exits": ("stem",)}, "full has one head: give exit"),
        ({"normalisation": "none"}, "choose one of batch, stored"),
    ],
)
def test_settings_that_cannot_be_say_so(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingError, match=r"[a-z]") as raised:
        ExitTraining(**settings)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
