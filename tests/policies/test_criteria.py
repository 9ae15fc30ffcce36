"""Criteria against their formulas written out per window, in both array libraries, and on outputs that are not finite."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from policy_samples import PAIRS

from offramp.policies import CRITERIA, Policy
from offramp.policies.criteria import Seen, agreement, confidence, descriptors, entropy, margin, softmax

LOGITS = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(2, 5)), elements=st.floats(-30, 30, width=32))
PARAMETERS = {
    "bin_accuracy": {
        "edges": np.float32([[0.4, 0.6], [0.5, 2.0]]),
        "accuracy": np.float32([[0.3, 0.5, 0.9], [0.2, 0.8, 0.8]]),
    },
    "learned_halting": {"weight": np.float32([1, -2, 0.5, 3]), "bias": np.float32(0.25)},
    "benefit": {
        "weight": np.float32([[1, -2, 0.5, 3], [0.1, 0.2, 0.3, 0.4]]),
        "bias": np.float32([0.25, -1]),
    },
}
REGRESSION = {
    "center": np.float32([1, -2, 0]),
    "spread": np.float32([2, 1, 4]),
    "learned_halting": {"weight": np.float32([1, -2]), "bias": np.float32(0.25)},
    "benefit": {"weight": np.float32([[1, -2], [0.1, 0.2]]), "bias": np.float32([0.25, -1])},
}


def parameters_of(criterion: str, kind: str) -> dict[str, np.ndarray]:
    if kind == "classification":
        return PARAMETERS.get(criterion, {})
    scale = {name: REGRESSION[name] for name in ("center", "spread")}
    return {**REGRESSION[criterion], **scale} if criterion in REGRESSION else {}


def probabilities(row: np.ndarray) -> list[float]:
    weights = [math.exp(float(value) - float(max(row))) for value in row]
    return [weight / sum(weights) for weight in weights]


@given(LOGITS)
def test_formulas(logits: np.ndarray):
    for index, row in enumerate(logits):
        p = probabilities(row)
        bits = -sum(value * math.log(value) for value in p if value > 0)
        first, second = sorted(p)[::-1][:2]
        assert softmax(logits)[index] == pytest.approx(p, abs=1e-5)
        assert confidence(logits)[index] == pytest.approx(first, abs=1e-5)
        assert entropy(logits)[index] == pytest.approx(1 - bits / math.log(len(row)), abs=1e-5)
        assert margin(logits)[index] == pytest.approx(first - second, abs=1e-5)


def test_extreme_logits():
    """Neither overflow nor NaN where the answer is clear."""
    logits = np.float32([[1e4, 0, -1e4], [0, 0, -np.inf], [3, 3, 3]])
    np.testing.assert_allclose(confidence(logits), [1, 0.5, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(entropy(logits), [1, 1 - math.log(2) / math.log(3), 0], atol=1e-6)
    np.testing.assert_allclose(margin(logits), [1, 0, 0], atol=1e-6)


def run(policy: Policy, outputs: list[np.ndarray] | list[torch.Tensor]) -> list[np.ndarray]:
    memory, found = policy.start(len(outputs[0])), []
    for exit, values in zip(policy.exits, outputs, strict=True):
        certain, memory = policy.certainty(exit, values, memory)
        found.append(np.asarray(certain))
    return found


def policy_of(criterion: str, kind: str) -> Policy:
    ones = (1.0, 1.0)
    return Policy(kind, criterion, ("a", "b"), (0.5,), ones, ones, parameters_of(criterion, kind))


@pytest.mark.parametrize(("criterion", "kind"), PAIRS)
def test_torch_and_numpy_agree(criterion: str, kind: str):
    rng = np.random.default_rng(0)
    outputs = [rng.normal(size=(50, 3)).astype(np.float32) * 2 for _ in range(2)]
    policy = policy_of(criterion, kind)
    for plain, tensor in zip(
        run(policy, outputs), run(policy, [torch.from_numpy(each) for each in outputs]), strict=True
    ):
        np.testing.assert_allclose(plain, tensor, atol=1e-5)
        assert plain.shape == (50,)
        assert plain.dtype == np.float32


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
@pytest.mark.parametrize(("criterion", "kind"), PAIRS)
def test_what_is_not_finite_is_not_certain(criterion: str, kind: str, spoilt: float):
    """The certainty is NaN, or minus infinity, and the other windows' are what they were."""
    rng = np.random.default_rng(0)
    outputs = [rng.normal(size=(5, 3)).astype(np.float32) for _ in range(2)]
    policy = policy_of(criterion, kind)
    clean = run(policy, outputs)
    for exit in range(2):
        broken = [each.copy() for each in outputs]
        broken[exit][3, 1] = spoilt
        with np.errstate(invalid="ignore", over="ignore"):
            found = run(policy, broken)[exit]
        if not (math.isinf(spoilt) and kind == "regression" and CRITERIA[criterion].learned):
            assert np.isnan(found[3]) or found[3] == -np.inf
        others = [0, 1, 2, 4]
        np.testing.assert_allclose(found[others], clean[exit][others], rtol=1e-6)


def test_agreement_by_hand():
    nothing = np.zeros((2, 0), np.float32)
    streak = np.zeros(2, np.int64)
    now, before = np.float32([[0, 0], [3, 4]]), np.float32([[3, 4], [3, 4]])
    assert agreement(Seen(0, now, streak, nothing)).tolist() == [-np.inf, -np.inf]
    assert agreement(Seen(1, now, streak, before)).tolist() == [-5, 0]


def test_learned_by_hand():
    logits = np.float32([[2, 0, 0], [0, 1, 0.5]])
    streak = np.array([2, 1])
    seen = Seen(1, logits, streak, logits)
    described = np.stack([confidence(logits), margin(logits), entropy(logits), [1, 0.5]], axis=1)
    np.testing.assert_allclose(descriptors(seen, {}), described, rtol=1e-6)
    said = CRITERIA["learned_halting"].certainty(seen, PARAMETERS["learned_halting"])
    np.testing.assert_allclose(said, 1 / (1 + np.exp(-(described @ [1, -2, 0.5, 3] + 0.25))), rtol=1e-5)
    gain = CRITERIA["benefit"].certainty(seen, PARAMETERS["benefit"])
    np.testing.assert_allclose(gain, -(described @ [0.1, 0.2, 0.3, 0.4] - 1), rtol=1e-5)
    # confidences 0.787 and 0.506; the edges of the exit with index 1 are 0.5 and 2
    np.testing.assert_allclose(CRITERIA["bin_accuracy"].certainty(seen, PARAMETERS["bin_accuracy"]), [0.8, 0.8])
    first = Seen(0, logits, streak, logits)
    np.testing.assert_allclose(CRITERIA["bin_accuracy"].certainty(first, PARAMETERS["bin_accuracy"]), [0.9, 0.5])


def test_descriptors_of_values_by_hand():
    scale = {"center": np.float32([1, -2]), "spread": np.float32([2, 1])}
    values, before = np.float32([[3, -2]]), np.float32([[3, 0]])
    found = descriptors(Seen(1, values, np.array([1]), before), scale)
    np.testing.assert_allclose(found, [[math.sqrt((0 + 4) / 2), math.sqrt((1 + 0) / 2)]], rtol=1e-6)


def test_no_torch_is_imported():
    code = "import sys, offramp.policies; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
