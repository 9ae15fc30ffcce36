"""A policy by itself: what it refuses, its memory, its storage."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from offramp.errors import PolicyError
from offramp.policies import Policy

ONES = (1.0, 1.0, 1.0)
PLAIN = Policy("classification", "confidence", ("a", "b", "c"), (0.9, 0.8), (2.0, 1.0, 0.5), (1.5, 1.0, 3.0))
ONE_HOT = np.eye(3, dtype=np.float32)


def test_a_window_leaves_where_its_certainty_reaches_the_threshold():
    logits = np.log(np.float32([[0.9, 0.05, 0.05], [0.6, 0.2, 0.2]])) * 2  # the temperature 2 undoes the factor
    leave, _ = PLAIN.step("a", logits, PLAIN.start(2))
    assert leave.tolist() == [True, False]
    at = replace(PLAIN, thresholds=(float(PLAIN.certainty("a", logits, PLAIN.start(2))[0][1]), 0.8))
    assert at.step("a", logits, at.start(2))[0].tolist() == [True, True]


def test_all_leave_at_the_last_exit():
    leave, _ = PLAIN.step("c", np.full((2, 3), np.nan, np.float32), PLAIN.start(2))
    assert leave.tolist() == [True, True]


def test_infinite_thresholds():
    logits = ONE_HOT * 100
    never = replace(PLAIN, thresholds=(np.inf, np.inf))
    assert not never.step("a", logits, never.start(3))[0].any()
    always = replace(PLAIN, thresholds=(-np.inf, -np.inf))
    assert always.step("a", logits, always.start(3))[0].all()


def test_patience_counts_equal_answers_in_a_row():
    policy = Policy("classification", "patience", ("a", "b", "c", "d"), (3.0, 3.0, 3.0), (1.0,) * 4, (1.0,) * 4)
    answers = np.array([[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 0, 1], [2, 2, 2, 2]]).T  # exits x windows
    memory, left = policy.start(4), np.full(4, -1)
    for index, exit in enumerate(policy.exits):
        leave, memory = policy.step(exit, ONE_HOT[answers[index]], memory)
        left = np.where((left < 0) & leave, index, left)
    assert left.tolist() == [2, 3, 3, 2]


def test_memory_is_cut_to_the_survivors():
    """What is decided for a window does not depend on those that left."""
    policy = Policy("classification", "patience", ("a", "b", "c"), (2.0, 2.0), ONES, ONES)
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 20, 3)).astype(np.float32)
    _, memory = policy.step("a", first, policy.start(20))
    whole, _ = policy.step("b", second, memory)
    keep = rng.random(20) < 0.5
    some, _ = policy.step("b", second[keep], (memory[0][keep], memory[1][keep]))
    np.testing.assert_array_equal(some, whole[keep])
    assert whole.any()
    assert not whole.all()


def test_confidence_and_rejection_take_the_answer_temperature():
    policy = replace(PLAIN, reject_below=0.5)
    logits = np.log(np.float32([[0.8, 0.1, 0.1], [0.4, 0.3, 0.3], [np.nan, 1, 1]])) * 3
    np.testing.assert_allclose(policy.confidence("c", logits)[:2], [0.8, 0.4], rtol=1e-5)
    assert policy.rejects("c", logits).tolist() == [False, True, True]
    assert policy.rejects("a", logits).tolist() == [False, False, False]
    assert PLAIN.rejects("c", logits).tolist() == [False, False, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"criterion": "luck"}, "unknown criterion 'luck': choose one of confidence"),
        ({"criterion": "agreement"}, "criterion 'agreement' is not for classification: choose one of"),
        ({"exits": ()}, "name one exit or more"),
        ({"exits": ("a", "a", "b")}, "each once"),
        ({"thresholds": (0.5,)}, "a policy of 3 exits takes 2 thresholds and 3 temperatures"),
        ({"temperatures": (1.0,)}, "takes 2 thresholds and 3 temperatures"),
        ({"thresholds": (0.5, np.nan)}, "a threshold is NaN"),
        ({"temperatures": (1.0, 0.0, 1.0)}, "a temperature is not a positive number"),
        ({"answer_temperatures": (1.0, np.nan, 1.0)}, "a temperature is not a positive number"),
        ({"answer_temperatures": (1.0, np.inf, 1.0)}, "a temperature is not a positive number"),
        ({"kind": "regression", "criterion": "agreement", "reject_below": 0.5}, "leave it out for regression"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str):
    with pytest.raises(PolicyError, match=message) as caught:
        replace(PLAIN, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("outputs", [np.zeros(3), np.zeros((3, 1)), np.zeros((3, 2, 2)), None])
@pytest.mark.parametrize("exit", ["a", "c"])
def test_a_policy_needs_scores(outputs: Any, exit: str):
    with pytest.raises(PolicyError, match=f"a policy needs scores: exit '{exit}' gave outputs of shape"):
        PLAIN.step(exit, outputs, PLAIN.start(3))


def test_an_exit_that_is_not_consulted():
    with pytest.raises(PolicyError, match="'x' is not consulted: the policy has a, b, c"):
        PLAIN.step("x", ONE_HOT, PLAIN.start(3))


def test_round_trip_through_json():
    policy = Policy(
        "classification",
        "learned_halting",
        ("a", "b", "c"),
        (np.inf, -np.inf),
        (1.0, 2.0, 0.1),
        (1.0, 1.5, 3.0),
        {"weight": np.float32([0.1, 1 / 3, 2, 3]), "bias": np.float32(0.7)},
        0.35,
    )
    stored = json.loads(json.dumps(policy.to_dict(), allow_nan=False))
    loaded = Policy.from_dict(stored)
    assert loaded.to_dict() == policy.to_dict()
    assert (loaded.exits, loaded.thresholds, loaded.temperatures) == (
        policy.exits,
        policy.thresholds,
        policy.temperatures,
    )
    assert loaded.reject_below == 0.35
    for name, value in policy.parameters.items():
        np.testing.assert_array_equal(loaded.parameters[name], value)
        assert loaded.parameters[name].dtype == np.float32
    logits = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    certain, _ = policy.certainty("b", logits, policy.start(9))
    np.testing.assert_array_equal(loaded.certainty("b", logits, loaded.start(9))[0], certain)


@pytest.mark.parametrize("key", list(PLAIN.to_dict()))
def test_what_is_missing_shows(key: str):
    stored = PLAIN.to_dict()
    del stored[key]
    with pytest.raises(KeyError, match=key):
        Policy.from_dict(stored)
