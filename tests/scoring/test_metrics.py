"""Scores against scikit-learn and against formulas written out."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

from offramp.errors import DataError
from offramp.scoring.metrics import METRICS

CLASSIFICATION = [name for name, metric in METRICS.items() if metric.kind == "classification"]


def example(kind: str, count: int, seed: int, name: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Outputs and targets that are neither perfect nor hopeless."""
    rng = np.random.default_rng(seed)
    if name == "spectral_efficiency":
        targets = rng.exponential(5, (count, 6)).astype(np.float32)
        return (targets + rng.normal(0, 4, (count, 6))).astype(np.float32), targets
    if name == "mrt_efficiency":
        targets = rng.normal(0, 1, (count, 2, 3, 4, 5)).astype(np.float32)
        return (targets + rng.normal(0, 1, targets.shape)).astype(np.float32), targets
    if kind == "regression":
        targets = rng.normal(3, 10, (count, 2)).astype(np.float32)
        return (targets + rng.normal(0, 4, (count, 2))).astype(np.float32), targets
    targets = rng.choice(6, count, p=[0.5, 0.2, 0.15, 0.1, 0.04, 0.01])
    return (rng.standard_normal((count, 6)) + 1.5 * np.eye(6)[targets]).astype(np.float32), targets


@pytest.mark.parametrize("seed", range(3))
def test_classification_scores_are_those_of_scikit_learn(seed: int) -> None:
    outputs, targets = example("classification", 500, seed)
    predicted = outputs.argmax(1)
    assert METRICS["accuracy"](outputs, targets) == pytest.approx(accuracy_score(targets, predicted), abs=1e-12)
    assert METRICS["balanced_accuracy"](outputs, targets) == pytest.approx(
        balanced_accuracy_score(targets, predicted), abs=1e-12
    )
    assert METRICS["top3_accuracy"](outputs, targets) == pytest.approx(
        top_k_accuracy_score(targets, outputs, k=3, labels=range(6)), abs=1e-12
    )


def test_balanced_accuracy_leaves_out_classes_that_do_not_occur() -> None:
    outputs, targets = example("classification", 300, 0)
    outputs, targets = outputs[targets != 2], targets[targets != 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn says that class 2 is predicted but never true
        expected = balanced_accuracy_score(targets, outputs.argmax(1))
    assert METRICS["balanced_accuracy"](outputs, targets) == pytest.approx(expected, abs=1e-12)


def test_top3_of_two_classes_is_always_right() -> None:
    assert METRICS["top3_accuracy"](np.zeros((4, 2)), np.array([0, 1, 1, 0])) == 1


def test_a_tie_goes_to_the_lower_class() -> None:
    assert METRICS["accuracy"](np.zeros((4, 3)), np.array([0, 0, 1, 2])) == 0.5
    assert METRICS["top3_accuracy"](np.zeros((5, 5)), np.arange(5)) == pytest.approx(0.6)


@pytest.mark.parametrize("seed", range(3))
def test_regression_scores_are_their_formulas(seed: int) -> None:
    outputs, targets = example("regression", 400, seed)
    error = outputs.astype(np.float64) - targets
    distance = np.sqrt(error[:, 0] ** 2 + error[:, 1] ** 2)
    assert METRICS["mean_error"](outputs, targets) == pytest.approx(distance.mean(), rel=1e-9)
    assert METRICS["rmse"](outputs, targets) == pytest.approx(np.sqrt(np.mean(distance**2)), rel=1e-9)
    nmse = 10 * np.log10((error**2).sum() / (targets.astype(np.float64) ** 2).sum())
    assert METRICS["nmse_db"](outputs, targets) == pytest.approx(nmse, rel=1e-6)


def test_a_perfect_regression() -> None:
    targets = example("regression", 20, 0)[1]
    assert METRICS["mean_error"](targets, targets) == METRICS["rmse"](targets, targets) == 0
    assert METRICS["nmse_db"](targets, targets) <= -250


@given(
    name=st.sampled_from(sorted(METRICS)),
    cuts=st.lists(st.integers(0, 60), max_size=8),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=60)
def test_sums_over_any_partition_give_the_score_of_the_whole(name: str, cuts: list[int], seed: int) -> None:
    metric = METRICS[name]
    outputs, targets = example(metric.kind, 60, seed, name)
    order = np.random.default_rng(seed).permutation(60)
    parts = np.split(order, sorted(cuts))
    sums = [metric.statistics(outputs[part], targets[part]).sum(0) for part in parts]
    assert float(metric.score(np.sum(sums, axis=0))) == pytest.approx(metric(outputs, targets), rel=1e-9)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_scores_of_a_stack_of_sums(name: str) -> None:
    metric = METRICS[name]
    outputs, targets = example(metric.kind, 40, 1, name)
    statistics = metric.statistics(outputs, targets)
    halves = np.stack([statistics[:20].sum(0), statistics[20:].sum(0), np.zeros(statistics.shape[1])])
    scores = metric.score(halves.reshape(3, 1, -1))
    assert scores.shape == (3, 1)
    np.testing.assert_allclose(
        scores[:2, 0], [metric(outputs[:20], targets[:20]), metric(outputs[20:], targets[20:])], rtol=1e-9
    )
    assert np.isnan(scores[2, 0]), "nothing was counted"


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_bounded_scores_lie_between_zero_and_one(name: str) -> None:
    assert METRICS[name].bounded
    outputs, targets = np.eye(4)[[0, 1, 2, 3]], np.arange(4)
    assert METRICS[name](outputs, targets) == 1
    assert METRICS["accuracy"](-outputs, targets) == 0


@pytest.mark.parametrize(("name", "level"), [("median_error", 0.5), ("p90_error", 0.9)])
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 200),
    scale=st.sampled_from([0.1, 1, 30, 1000]),
    spread=st.sampled_from([0.0, 0.3, 2]),
)
@settings(deadline=None, max_examples=60)
def test_quantiles_lie_in_the_bin_of_the_exact_one(
    name: str, level: float, seed: int, count: int, scale: float, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    distance = scale * np.exp(spread * rng.standard_normal(count)).clip(0.08, 8)
    angle = rng.uniform(0, 2 * np.pi, count)
    targets = rng.normal(0, 10, (count, 2))
    outputs = targets + distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    exact = np.quantile(np.linalg.norm(outputs - targets, axis=1), level, method="inverted_cdf")
    assert abs(np.log2(METRICS[name](outputs, targets) / exact)) <= 1 / 8 + 1e-9


def test_quantiles_of_a_smooth_distribution_are_far_better_than_a_bin() -> None:
    """Rayleigh distances: the quantile q is sqrt(-2 ln(1 - q))."""
    targets = np.zeros((400_000, 2))
    outputs = np.random.default_rng(0).standard_normal(targets.shape)
    assert METRICS["median_error"](outputs, targets) == pytest.approx(np.sqrt(2 * np.log(2)), rel=0.01)
    assert METRICS["p90_error"](outputs, targets) == pytest.approx(np.sqrt(2 * np.log(10)), rel=0.01)


def test_distances_beyond_the_histogram() -> None:
    targets = np.zeros((3, 2))
    assert METRICS["median_error"](targets, targets) < 0.01
    assert METRICS["median_error"](targets + 1e7, targets) == 2**13


def test_spectral_efficiency_by_hand() -> None:
    gains = np.array([[1.0, 3.0, 7.0], [15.0, 0.0, 1.0]])
    chosen = np.array([[0.0, 9.0, 1.0], [0.3, 0.2, 0.1]])
    assert METRICS["spectral_efficiency"](chosen, gains) == pytest.approx((2 + 4) / (3 + 4), rel=1e-12)
    assert METRICS["spectral_efficiency"](gains, gains) == 1


def test_precoding_on_a_predicted_channel_by_hand() -> None:
    """Two antennas, one slot, one subcarrier, and a prediction at 60 degrees to the channel: a quarter of the power arrives."""
    channel = np.array([1.0, 1.0j]) * np.sqrt(0.5)
    orthogonal = np.array([1.0, -1.0j]) * np.sqrt(0.5)
    predicted = 5 * np.exp(0.7j) * (np.cos(np.pi / 3) * channel + np.sin(np.pi / 3) * orthogonal)
    shape = (1, 2, 1, 2, 1)
    outputs, targets = (np.stack([h.real, h.imag]).reshape(shape) for h in (predicted, channel))
    expected = np.log2(1 + 10 / 4) / np.log2(1 + 10)
    assert METRICS["mrt_efficiency"](outputs, targets) == pytest.approx(expected, rel=1e-5)
    assert METRICS["mrt_efficiency"](targets, targets) == pytest.approx(1, abs=1e-6)
    assert METRICS["mrt_efficiency"](np.zeros(shape), targets) == 0


def test_what_is_no_channel_and_no_gain_is_refused() -> None:
    with pytest.raises(DataError, match=r"channels \(2, \.\.\., antennas, subcarriers\) as the target, not \(6,\)"):
        METRICS["mrt_efficiency"](np.zeros((3, 6)), np.zeros((3, 6)))
    with pytest.raises(DataError, match="never negative"):
        METRICS["spectral_efficiency"](np.zeros((1, 2)), np.array([[1.0, -0.1]]))
