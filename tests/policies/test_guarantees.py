"""What a guarantee promises is counted: over a thousand calibration sets, how often is the risk of the returned threshold too high?"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from offramp.errors import PolicyError
from offramp.policies.guarantees import (
    GUARANTEES,
    RISKS,
    certify,
    conformal_risk_control,
    fewest_groups,
    group_losses,
    hoeffding_bentkus,
    learn_then_test,
    upper_confidence_bound,
    window_losses,
)

LEVEL, DELTA, GROUPS, CALIBRATIONS = 0.1, 0.1, 60, 1000
MOST = binom.ppf(0.999, CALIBRATIONS, DELTA) / CALIBRATIONS
"""A violation rate of delta exceeds it once in a thousand such simulations."""
WITH_DELTA: dict[str, Callable[[np.ndarray, float, float], int | None]] = {
    "learn_then_test": learn_then_test,
    "upper_confidence_bound": upper_confidence_bound,
}
CURVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rising": lambda x: 0.3 * x,
    "jump right above the level": lambda x: np.where(x < 0.5, 0.0, LEVEL + 1e-3),
    "hump": lambda x: 0.3 * np.sin(np.pi * x) + 0.05 * x,
    "in and out": lambda x: np.where(np.arange(len(x)) % 2 == 1, LEVEL + 1e-3, 0.3 * LEVEL) * (x > 0),
}
"""True risks along the sequence; the last two are not monotone."""


def draw(
    rng: np.random.Generator,
    risks: np.ndarray,
    groups: int,
    windows: int = 1,
    shared: float = 0.0,
    coupled: bool = True,
) -> np.ndarray:
    """Losses of windows, ``(T, groups, windows)``, each 1 with the probability that is the threshold's risk.

    A window draws its luck for itself or, with the probability ``shared``, has its group's; ``coupled``: the same at all thresholds.
    """
    shape = (1 if coupled else len(risks), groups, windows)
    luck = np.where(rng.random(shape) < shared, rng.random((*shape[:2], 1)), rng.random(shape))
    return (luck < risks[:, None, None]).astype(np.float64)


def violations(returned: list[int | None], risks: np.ndarray) -> float:
    return float(np.mean([index is not None and risks[index] > LEVEL for index in returned]))


@pytest.mark.parametrize("method", WITH_DELTA)
@pytest.mark.parametrize("length", [3, 5, 101])
@pytest.mark.parametrize("curve", CURVES)
def test_violations_are_as_rare_as_promised(method: str, length: int, curve: str) -> None:
    risks = CURVES[curve](np.linspace(0, 1, length))
    assert (risks > LEVEL).any()
    rng = np.random.default_rng(length)
    found = []
    for _ in range(CALIBRATIONS):
        losses = draw(rng, risks, GROUPS, 3, 0.6, coupled=curve != "in and out").mean(-1)
        found.append(WITH_DELTA[method](losses, LEVEL, DELTA))
    assert violations(found, risks) <= MOST
    if curve == "rising" and length == 101:
        # a method that never certifies would hold too
        assert np.mean([0 if index is None else risks[index] for index in found]) > 0.3 * LEVEL


@pytest.mark.parametrize("length", [3, 5, 101])
@pytest.mark.parametrize("curve", CURVES)
def test_the_expected_risk_is_as_low_as_promised(length: int, curve: str) -> None:
    risks = CURVES[curve](np.linspace(0, 1, length))
    rng = np.random.default_rng(length)
    reached = []
    for _ in range(CALIBRATIONS):
        index = conformal_risk_control(draw(rng, risks, GROUPS, 3, 0.6).mean(-1), LEVEL)
        reached.append(0.0 if index is None else risks[index])
    assert np.mean(reached) <= LEVEL + 3 * np.std(reached) / math.sqrt(CALIBRATIONS)
    if curve == "rising" and length == 101:
        assert np.mean(reached) > 0.8 * LEVEL


def test_the_first_uncertified_threshold_would_violate() -> None:
    """The mistake of returning the threshold at which testing stops shows most on a short grid."""
    risks = np.array([0.0, 0.01, 0.4])
    rng = np.random.default_rng(0)
    found = [learn_then_test(draw(rng, risks, GROUPS)[..., 0], LEVEL, DELTA) for _ in range(CALIBRATIONS)]
    stopped = [0 if index is None else min(index + 1, len(risks) - 1) for index in found]
    assert violations(found, risks) <= MOST
    assert violations(stopped, risks) > 5 * DELTA


@pytest.mark.parametrize("method", WITH_DELTA)
def test_windows_of_a_group_are_not_independent(method: str) -> None:
    """Counting windows violates many times as often as promised; counting groups holds."""
    risks = np.array([0.0, LEVEL + 1e-3])
    rng = np.random.default_rng(1)
    of_group = np.repeat(np.arange(GROUPS), 20)
    by_window, by_group = [], []
    for _ in range(CALIBRATIONS):
        losses = draw(rng, risks, GROUPS, 20, 0.9).reshape(2, -1)
        by_window.append(WITH_DELTA[method](losses, LEVEL, DELTA))
        by_group.append(WITH_DELTA[method](group_losses(losses, of_group), LEVEL, DELTA))
    assert violations(by_group, risks) <= MOST
    assert violations(by_window, risks) > 2 * DELTA


def test_the_order_of_groups_promises_nothing() -> None:
    """Betting on groups in the order of their losses would win at first; their names may well have that order."""
    risks = np.array([0.0, LEVEL + 1e-3])
    rng = np.random.default_rng(2)
    found = [
        upper_confidence_bound(np.sort(draw(rng, risks, GROUPS)[..., 0], axis=1), LEVEL, DELTA)
        for _ in range(CALIBRATIONS)
    ]
    assert violations(found, risks) <= MOST


@pytest.mark.parametrize("method", WITH_DELTA)
def test_losses_between_0_and_1(method: str) -> None:
    rng = np.random.default_rng(3)
    # their mean is the level, so that it is wrong to certify any
    certified = [WITH_DELTA[method](rng.beta(0.5, 4.5, (1, GROUPS)), 0.1, DELTA) == 0 for _ in range(CALIBRATIONS)]
    assert np.mean(certified) <= MOST


def test_betting_adapts_to_the_variance() -> None:
    """Why the upper bound is by betting: means over windows vary little, and Hoeffding-Bentkus does not see it."""
    losses = np.random.default_rng(4).beta(2, 48, (1, 100))
    bounds = {method: certify(losses, 0.2, DELTA, method).bound for method in WITH_DELTA}
    excess = {method: bound - losses.mean() for method, bound in bounds.items()}
    assert 0 < excess["upper_confidence_bound"] < 0.7 * excess["learn_then_test"]


@pytest.mark.parametrize("count", [1, 7, 40, 300])
@pytest.mark.parametrize("level", [0.01, 0.1, 0.37, 0.9])
def test_p_values_are_valid_without_simulation(count: int, level: float) -> None:
    """For losses 0 and 1 the probability of p <= delta is a sum, at the largest risk that the hypothesis leaves out."""
    successes = np.arange(count + 1)
    p_values = hoeffding_bentkus(successes / count, count, level)
    for delta in np.unique(p_values):
        assert binom.pmf(successes[p_values <= delta], count, level).sum() <= delta * (1 + 1e-9)
    assert (np.diff(p_values) >= 0).all()


@given(count=st.integers(1, 60), level=st.floats(0.01, 0.99), mean=st.floats(0, 1))
def test_p_value_by_hand(count: int, level: float, mean: float) -> None:
    below = min(mean, level)
    divergence = (below * math.log(below / level) if below > 0 else 0) + (1 - below) * math.log(
        (1 - below) / (1 - level)
    )
    upto = math.ceil(round(count * mean, 9))
    tail = sum(math.comb(count, k) * level**k * (1 - level) ** (count - k) for k in range(upto + 1))
    expected = min(math.exp(-count * divergence), math.e * tail, 1)
    assert float(hoeffding_bentkus(mean, count, level)) == pytest.approx(expected, rel=1e-9, abs=1e-300)
    pair = hoeffding_bentkus([[mean], [0]], count, [level, 0.5])
    assert pair.shape == (2, 2)
    assert pair[0, 0] == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_p_value_does_not_suffer_from_rounding() -> None:
    for count in range(1, 400):
        for successes in range(0, count, 7):
            exact = math.e * binom.cdf(successes, count, 0.3)
            assert float(hoeffding_bentkus(successes / count, count, 0.3)) <= exact * (1 + 1e-9)


@given(loss=st.floats(0, 0.15), count=st.integers(30, 80), delta=st.floats(0.05, 0.5))
def test_betting_by_hand(loss: float, count: int, delta: float) -> None:
    """Equal losses, so that their order does not matter."""

    def capital(risk: float) -> float:
        capital, most, seen, squares, variance = 1.0, 1.0, 0.0, 0.0, 0.25
        for i in range(1, count + 1):
            bet = min(1, math.sqrt(2 * math.log(1 / delta) / (count * variance)))
            capital *= 1 - bet * (loss - risk)
            most = max(most, capital)
            seen += loss
            squares += (loss - (0.5 + seen) / (1 + i)) ** 2
            variance = (0.25 + squares) / (1 + i)
        return most

    found = certify(np.full((1, count), loss), 0.2, delta, "upper_confidence_bound")
    assert found.p_value == pytest.approx(1 / capital(0.2), rel=1e-9)
    assert capital(found.bound - 1e-6) < 1 / delta < capital(found.bound + 1e-6) or found.bound == 1
    assert (found.index == 0) == (found.bound < 0.2)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 12),
    groups=st.integers(30, 70),
    scale=st.floats(0, 0.4),
    method=st.sampled_from(GUARANTEES),
    seed=st.integers(0, 10_000),
)
def test_the_last_certified_threshold_is_returned(
    length: int, groups: int, scale: float, method: str, seed: int
) -> None:
    """Thresholds are certified one by one, and the last before the first failure is the answer, whatever comes later."""
    losses = (
        np.random.default_rng(seed).random((length, groups)) * np.random.default_rng(seed).random((length, 1)) * scale
    )
    found = certify(losses, LEVEL, DELTA, method)
    expected = None
    for index in range(length):
        if method == "conformal_risk_control":
            bound = (losses[: index + 1].max(axis=0).sum() + 1) / (groups + 1)
            passed = bound <= LEVEL
        else:
            alone = certify(losses[[index]], LEVEL, DELTA, method)
            passed, bound = alone.bound <= LEVEL, alone.bound
            assert passed == (alone.p_value <= DELTA)
        if not passed:
            break
        expected = index
        assert certify(losses[: index + 1], LEVEL, DELTA, method).bound == pytest.approx(bound)
    assert found.index == expected
    assert found.mean_loss == pytest.approx(losses[expected or 0].mean())
    assert (found.bound <= LEVEL) == (expected is not None)
    assert (found.groups, found.thresholds, found.level, found.method) == (groups, length, LEVEL, method)
    without = method == "conformal_risk_control"
    assert (found.delta, found.p_value is None) == ((None, True) if without else (DELTA, False))


@given(windows=st.integers(1, 60), seed=st.integers(0, 1000))
def test_group_losses_are_means_within_groups(windows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses, groups = rng.random((3, windows)), rng.choice(["b", "a", "c", "d"], windows)
    found = group_losses(losses, groups)
    for column, name in enumerate(np.unique(groups)):
        np.testing.assert_allclose(found[:, column], losses[:, groups == name].mean(axis=1), rtol=1e-12)
    assert group_losses(np.ones((2, windows)), groups).max() == 1


def test_risks_of_classes() -> None:
    #          both right, policy wrong, full wrong, both wrong alike, both wrong otherwise, policy not finite
    targets = np.array([0, 1, 2, 0, 0, 2])
    full = np.eye(3)[[0, 1, 1, 1, 1, 2]]
    answers = np.eye(3)[[0, 2, 2, 1, 2, 2]]
    answers[5] = [0, np.nan, 1]
    expected = {
        "error_above_full": [0, 1, 0, 0, 0, 1],
        "disagreement": [0, 1, 1, 0, 1, 1],
        "error": [0, 1, 0, 1, 1, 1],
    }
    for risk in RISKS:
        losses = window_losses(risk, "classification", answers, full, targets)
        assert losses.tolist() == expected[risk]
        assert losses.dtype == np.float64
        stacked = window_losses(risk, "classification", np.stack([full, answers]), full, targets)
        assert stacked[1].tolist() == expected[risk]
        if risk != "error":
            assert not stacked[0].any()


@given(seed=st.integers(0, 1000))
def test_error_above_full_bounds_the_gap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answers, full, targets = rng.normal(size=(30, 3)), rng.normal(size=(30, 3)), rng.integers(0, 3, 30)
    gap = (full.argmax(1) == targets).mean() - (answers.argmax(1) == targets).mean()
    losses = {risk: window_losses(risk, "classification", answers, full, targets) for risk in RISKS}
    assert losses["error_above_full"].mean() >= gap
    assert (losses["error_above_full"] <= np.minimum(losses["disagreement"], losses["error"])).all()


def test_risks_of_values() -> None:
    targets = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]])
    full = np.array([[0.6, 0.8], [0.0, 3.0], [3.0, 4.0]])
    answers = np.array([[3.0, 4.0], [0.0, 2.0], [np.inf, 4.0]])
    assert window_losses("error", "regression", answers, full, targets, 4.9).tolist() == [1, 0, 1]
    assert window_losses("error", "regression", answers, full, targets, 5).tolist() == [0, 0, 1]
    assert window_losses("disagreement", "regression", answers, full, targets, 1).tolist() == [1, 0, 1]
    assert window_losses("error_above_full", "regression", answers, full, targets, 1).tolist() == [1, 0, 1]


@pytest.mark.parametrize("method", GUARANTEES)
@pytest.mark.parametrize(("level", "delta"), [(0.05, 0.1), (0.01, 0.05), (0.3, 0.5), (0.9, 0.9)])
def test_too_few_groups_say_how_many(method: str, level: float, delta: float) -> None:
    needed = fewest_groups(level, delta, method)
    assert certify(np.zeros((2, needed)), level, delta, method).index == 1
    if method != "conformal_risk_control":
        # nothing can certify a risk of `level` that shows no loss in so few groups with a probability above delta
        assert (1 - level) ** needed <= delta
    if needed == 1:
        return
    with pytest.raises(PolicyError, match=rf"{needed - 1} calibration groups?, and at least {needed} are needed"):
        certify(np.zeros((2, needed - 1)), level, delta, method)
    with pytest.raises(PolicyError, match=f"at least {needed} are needed.*set aside more groups"):
        certify(np.zeros((2, 0)), level, delta, method)


def test_numbers_of_groups_by_hand() -> None:
    assert fewest_groups(0.05, 0.1) == math.ceil(math.log(0.1) / math.log(0.95)) == 45
    assert fewest_groups(0.05, method="conformal_risk_control") == 19


@pytest.mark.parametrize("method", GUARANTEES)
def test_the_nearest_possible_is_possible(method: str) -> None:
    with pytest.raises(PolicyError) as caught:
        certify(np.zeros((1, 12)), 0.05, 0.1, method)
    offered = {
        name: float(value) for name, value in re.findall(r"(level|delta) (0\.\d+)", str(caught.value).split(";")[1])
    }
    assert set(offered) == ({"level"} if method == "conformal_risk_control" else {"level", "delta"})
    for name, value in offered.items():
        asked = {"level": 0.05, "delta": 0.1}
        assert certify(np.zeros((1, 12)), **asked | {name: value}, method=method).index == 0
        with pytest.raises(PolicyError):
            certify(np.zeros((1, 12)), **asked | {name: 0.99 * value}, method=method)


def test_not_even_the_safest() -> None:
    losses = np.stack([np.full(GROUPS, 0.5), np.zeros(GROUPS)])
    for method in GUARANTEES:
        found = certify(losses, LEVEL, DELTA, method)
        assert found.index is None
        assert found.mean_loss == 0.5
        assert found.bound > 0.5


def test_what_cannot_be_asked() -> None:
    good = np.zeros((3, 100))
    for value in (0, 1, -0.1, 1.5, float("nan"), 1e-9):
        for method in GUARANTEES:
            with pytest.raises(PolicyError, match=r"level .* is impossible"):
                certify(good, value, 0.1, method)
        for method in WITH_DELTA:
            with pytest.raises(PolicyError, match=r"delta .* is impossible"):
                certify(good, 0.1, value, method)
    with pytest.raises(PolicyError, match="delta is missing"):
        certify(good, 0.1)
    with pytest.raises(PolicyError, match="unknown guarantee 'luck': choose one of learn_then_test"):
        certify(good, 0.1, 0.1, "luck")
    for losses in (np.full((3, 100), np.nan), good - 0.1, good + 1.1):
        with pytest.raises(PolicyError, match=r"losses in \[0, 1\]"):
            certify(losses, 0.1, 0.1)
    for losses in (np.zeros(100), np.zeros((0, 100)), np.zeros((1, 2, 100))):
        with pytest.raises(PolicyError, match="thresholds, groups"):
            certify(losses, 0.1, 0.1)
    for wrong in ((-0.1, 5, 0.1), (0.1, 0, 0.1), (0.1, 5, 1.1), (np.nan, 5, 0.1)):
        with pytest.raises(PolicyError, match="p-value"):
            hoeffding_bentkus(*wrong)
    with pytest.raises(PolicyError, match=r"shapes \(2, 5\) and \(4,\)"):
        group_losses(np.zeros((2, 5)), np.zeros(4))


def test_risks_that_do_not_fit() -> None:
    scores, values, targets = np.zeros((4, 3)), np.zeros((4, 2)), np.zeros(4, dtype=np.int64)
    with pytest.raises(PolicyError, match="unknown risk 'harm': choose one of error_above_full"):
        window_losses("harm", "classification", scores, scores, targets)
    with pytest.raises(PolicyError, match="give limit, in the target's unit"):
        window_losses("error", "regression", values, values, values)
    with pytest.raises(PolicyError, match="leave limit out"):
        window_losses("error", "classification", scores, scores, targets, 1.0)
    for limit in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(PolicyError, match="a distance above 0"):
            window_losses("error", "regression", values, values, values, limit)
    for wrong in ((scores[:3], scores, targets), (scores, scores, targets[:3]), (scores, values, targets)):
        with pytest.raises(PolicyError, match="do not belong together"):
            window_losses("error", "classification", *wrong)
    with pytest.raises(PolicyError, match="not finite"):
        window_losses("disagreement", "classification", scores, np.full((4, 3), np.nan), targets)
