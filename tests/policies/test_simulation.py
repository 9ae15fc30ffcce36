"""The simulation against a loop over single windows, and thresholds looked at all at once against it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_samples import PAIRS, drawn_policy

from offramp.errors import DataError, PolicyError
from offramp.policies import Policy, simulate
from offramp.policies.simulation import certainties, leaving

EXITS = ("a", "b", "c", "d")


def outputs_of(count: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {exit: (rng.normal(size=(count, 3)) * 2).astype(np.float32) for exit in EXITS}


def one_by_one(policy: Policy, outputs: dict[str, np.ndarray]) -> list[tuple[int, list[float], bool]]:
    """Each window alone, without batches."""
    found = []
    for window in range(len(outputs["a"])):
        memory = policy.start(1)
        for index, exit in enumerate(policy.exits):
            row = outputs[exit][window : window + 1]
            leave, memory = policy.step(exit, row, memory)
            if leave[0]:
                found.append((index, row[0].tolist(), bool(policy.rejects(exit, row)[0])))
                break
    return found


@settings(max_examples=60, deadline=None)
@given(pair=st.sampled_from(PAIRS), count=st.integers(1, 20), seed=st.integers(0, 10_000))
def test_a_batch_decides_as_single_windows_do(pair: tuple[str, str], count: int, seed: int):
    outputs = outputs_of(max(count, 12), seed)
    policy = drawn_policy(*pair, EXITS, outputs, np.random.default_rng(seed))
    decisions = simulate(policy, outputs)
    expected = one_by_one(policy, outputs)
    assert decisions.exit.tolist() == [index for index, _, _ in expected]
    assert decisions.outputs.tolist() == [row for _, row, _ in expected]
    assert decisions.rejected.tolist() == [rejected for _, _, rejected in expected]


@settings(max_examples=40, deadline=None)
@given(pair=st.sampled_from(PAIRS), seed=st.integers(0, 10_000))
def test_many_thresholds_at_once(pair: tuple[str, str], seed: int):
    """Certainties do not depend on thresholds, so that where windows leave follows without running the policy again."""
    outputs, rng = outputs_of(30, seed), np.random.default_rng(seed)
    policies = [replace(drawn_policy(*pair, EXITS, outputs, rng), reject_below=None) for _ in range(3)]
    policies = [replace(policies[0], thresholds=policy.thresholds) for policy in policies]
    thresholds = np.array([policy.thresholds for policy in policies])
    left = leaving(certainties(policies[0], outputs), thresholds)
    assert left.shape == (3, 30)
    for row, policy in zip(left, policies, strict=True):
        np.testing.assert_array_equal(row, simulate(policy, outputs).exit)


def test_one_exit():
    policy = Policy("classification", "confidence", ("c",), (), (1.0,), (1.0,))
    outputs = outputs_of(5, 0)
    assert simulate(policy, outputs).exit.tolist() == [0] * 5
    np.testing.assert_array_equal(simulate(policy, outputs).outputs, outputs["c"])
    assert leaving(certainties(policy, outputs), np.zeros((2, 0))).tolist() == [[0] * 5] * 2


def test_no_windows():
    policy = Policy("classification", "patience", EXITS, (1.0,) * 3, (1.0,) * 4, (1.0,) * 4)
    decisions = simulate(policy, outputs_of(0, 0))
    assert (decisions.exit.shape, decisions.outputs.shape, decisions.rejected.shape) == ((0,), (0, 3), (0,))


def test_rejected_only_at_the_last_exit():
    ones = (1.0, 1.0)
    policy = Policy("classification", "confidence", ("a", "b"), (0.5,), ones, ones, {}, 0.99)
    outputs = {"a": np.float32([[2, 0, 0], [0, 0, 0], [0, 0, 0]]), "b": np.float32([[0, 0, 0], [0, 0, 0], [0, 0, 9]])}
    decisions = simulate(policy, outputs)
    assert decisions.exit.tolist() == [0, 1, 1]
    assert decisions.rejected.tolist() == [False, True, False]


def test_refusals():
    policy = Policy("classification", "confidence", EXITS, (0.9,) * 3, (1.0,) * 4, (1.0,) * 4)
    outputs = outputs_of(4, 0)
    with pytest.raises(PolicyError, match="no outputs of exit 'b'"):
        simulate(policy, {exit: values for exit, values in outputs.items() if exit != "b"})
    for values in outputs.values():
        values[2] = np.nan
    with pytest.raises(DataError, match="window 2: the outputs are not finite"):
        simulate(policy, outputs)
